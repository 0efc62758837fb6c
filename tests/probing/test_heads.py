"""Heads on stored features: equal to a loop written by hand, and at home in the whole model afterwards."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import graphmodel
from graphmodel import CompileError, FeatureDataset, probe
from graphmodel.probing.heads import groups_of
from graphmodel.probing.samples import stratified
from graphmodel.probing.target import heads_of
from tests.probing.helpers import CLASSES, HEADS, LR, SPEC, extracted, images, model

pytest.importorskip("zarr")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Features of 60 training and 30 test samples."""
    place = tmp_path_factory.mktemp("stores")
    return extracted(place / "train"), extracted(place / "test", images(30, seed=2))


def by_hand(module, data, rows, epochs, size, lr, decay=0.0, seed=0, optimizer=None):
    """One head after the other, each with an optimizer and torch's own schedule."""
    _, heads = graphmodel.split_frozen(module)
    heads.train()
    for name in heads.model_graph.outputs:
        head = heads.slice(outputs=[name], returns="dict")
        head.train()
        made = torch.optim.SGD(
            [
                {"params": [p], "weight_decay": decay if p.dim() > 1 else 0.0}
                for p in head.parameters()
                if p.requires_grad
            ],
            lr=lr[name],
            momentum=0.9,
        )
        generator = torch.Generator().manual_seed(seed)
        steps = epochs * math.ceil(len(rows) / size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(made, steps)
        for _ in range(epochs):
            for part in torch.randperm(len(rows), generator=generator).split(size):
                values, labels = data.take(rows[part])
                loss = F.cross_entropy(head(**{n: values[n] for n in head.model_graph.inputs})[name], labels)
                made.zero_grad()
                loss.backward()
                made.step()
                schedule.step()
    return heads.eval()


def test_training_equals_a_loop_written_by_hand(stores):
    ours, theirs = model(), model()
    report = probe(ours, stores[0], test=stores[1], epochs=4, batch_size=16, lr=LR, weight_decay=0.1, seed=3)
    data, other = FeatureDataset(stores[0]), FeatureDataset(stores[1])
    heads = by_hand(theirs, data, torch.arange(60), 4, 16, LR, decay=0.1, seed=3)
    trained = ours.state_dict()
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(trained[key], value, rtol=1e-4, atol=1e-5, msg=key)
    values, labels = other.tensors()
    with torch.no_grad():
        logits = heads(**values)
    found = {result.name: result for result in report.results}
    assert found.keys() == HEADS.keys()
    for name, scores in logits.items():
        assert found[name].accuracy == (scores.argmax(1) == labels).double().mean().item()
        assert found[name].loss == pytest.approx(F.cross_entropy(scores, labels).item(), rel=1e-4)
        near = (scores.topk(5).indices == labels[:, None]).any(1).double().mean().item()
        assert found[name].top5 == pytest.approx(near)
        assert found[name].settings == {"lr": LR[name], "weight_decay": 0.1}
    assert [r.accuracy for r in report.results] == sorted((r.accuracy for r in report.results), reverse=True)
    assert report.best.accuracy > 2 / CLASSES


def test_twelve_heads_that_run_as_one_learn_as_they_would_alone(tmp_path):
    names = [f"h{i}" for i in range(12)]
    spec = {**SPEC, "heads": dict.fromkeys(names, HEADS["slow"]), "mapping": {"images": {"flatten": names}}}
    ours, theirs = model(spec), model(spec)
    assert "fuse_heads" in ours.passes
    store = extracted(tmp_path / "store", module=ours)
    rates = {name: 0.01 * (i + 1) for i, name in enumerate(names)}
    probe(ours, store, epochs=2, batch_size=16, lr=rates)
    data = FeatureDataset(store)
    by_hand(theirs, data, stratified(data.labels, 0.2, 0)[0], 2, 16, rates)
    trained = ours.state_dict()
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(trained[key], value, rtol=1e-4, atol=1e-5, msg=key)


def test_each_head_has_a_group_with_its_rate():
    module = model()
    heads, _, _ = heads_of(module, None)
    groups = groups_of(heads, LR, dict.fromkeys(LR, 0.0))
    assert {g["name"]: (g["lr"], g["weight_decay"]) for g in groups} == {
        f"heads.{n}": (lr, 0.0) for n, lr in LR.items()
    }
    for group in groups:
        own = module.get_submodule(group["name"]).parameters()
        assert {id(p) for p in group["params"]} == {id(p) for p in own}
    decaying = groups_of(heads, LR, {**dict.fromkeys(LR, 0.0), "fast": 0.5})
    assert [(g["name"], g["weight_decay"]) for g in decaying if "fast" in g["name"]] == [
        ("heads.fast", 0.5),
        ("heads.fast, no decay", 0.0),
    ]


def test_biases_never_decay_whatever_the_spec_says():
    """A head of which the spec turns weight decay off, and the call turns it on again, decays its matrix alone."""
    spec = {**SPEC, "head_settings": {"fast": {"weight_decay": 0.0}}}
    module = graphmodel.compile(spec, seed=0)
    heads, _, _ = heads_of(module, None)
    groups = groups_of(heads, LR, {**dict.fromkeys(LR, 0.0), "fast": 0.5})
    fast = module.get_submodule("heads.fast")
    decays = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    assert {n: decays[id(p)] for n, p in fast.named_parameters()} == {"clf.0.weight": 0.5, "clf.0.bias": 0.0}


def test_the_rate_of_a_head_alone_moves_it(stores):
    """With a rate of 0 a head stays as it is while the others learn."""
    module = model()
    before = copy.deepcopy(module.state_dict())
    probe(module, stores[0], epochs=1, lr={"": 0.01, "slow": 0, "f*": 0.1})
    after = module.state_dict()
    assert torch.equal(after["heads.slow.clf.0.weight"], before["heads.slow.clf.0.weight"])
    assert not torch.equal(after["heads.fast.clf.0.weight"], before["heads.fast.clf.0.weight"])
    assert all(torch.equal(after[key], before[key]) for key in before if key.startswith("trunk."))


def test_equal_calls_write_equal_bytes_and_another_seed_does_not(stores, tmp_path):
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        probe(model(), stores[0], epochs=2, seed=seed, out=tmp_path / name)
    one, two, three = ((tmp_path / n / "results.json").read_bytes() for n in ("one", "two", "three"))
    assert one == two != three
    assert (tmp_path / "one" / "best_head.safetensors").read_bytes() == (
        tmp_path / "two" / "best_head.safetensors"
    ).read_bytes()


def test_weights_of_the_best_head_give_the_whole_model_the_reported_accuracy(stores, tmp_path):
    held = images(30, seed=2)
    report = probe(model(), stores[0], test=stores[1], lr=LR, epochs=8, out=tmp_path / "out")
    fresh = model()
    loaded = graphmodel.load_weights(fresh, tmp_path / "out" / "best_head.safetensors", partial=True)
    assert loaded.matched.keys() == load_file(tmp_path / "out" / "best_head.safetensors").keys()
    with torch.no_grad():
        logits = fresh.eval()(held.tensors[0])[report.best.name]
    assert report.best.accuracy == (logits.argmax(1) == held.tensors[1]).double().mean().item()


def test_results_file_holds_what_the_report_holds(stores, tmp_path):
    report = probe(model(), stores[0], epochs=1, out=tmp_path / "out")
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found == report.to_dict()
    assert found["results"][0]["name"] == found["best"] == report.best.name
    assert (report.train_samples, report.test_samples, report.holdout) == (48, 12, 0.2)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "results.json", "best_head.safetensors", "accuracy.svg", "accuracy.png",
    }  # fmt: skip
    svg = (tmp_path / "out" / "accuracy.svg").read_text()
    assert all(f">{name}</text>" in svg for name in HEADS)
    assert (tmp_path / "out" / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_stored_feature_is_found_by_what_computes_it(tmp_path):
    """A store may call another layer by the name of the feature, and the feature by another name."""
    mapping = {
        "images": {
            "res2": {"pool": {"adaptive_avg_pool2d": 1}, "flatten": True, "as": "pre_logits"},
            "flatten": {"as": "other"},
        }
    }
    spec = {key: value for key, value in SPEC.items() if key != "heads"} | {"mapping": mapping}
    graphmodel.extract(model(spec), images(), tmp_path / "named")
    plain = extracted(tmp_path / "plain")
    one, other = (probe(model(), store, outputs=["fast"], epochs=2).results for store in (tmp_path / "named", plain))
    assert one == other


def test_some_outputs_alone_train_and_need_only_their_features(stores):
    module = model()
    before = copy.deepcopy(module.state_dict())
    report = probe(module, stores[0], outputs=["early"], epochs=1)
    assert [result.name for result in report.results] == ["early"]
    assert report.digests.keys() == {report.best.features[0]}
    after = module.state_dict()
    assert [k for k in before if not torch.equal(before[k], after[k])] == [
        "heads.early.clf.0.weight",
        "heads.early.clf.0.bias",
    ]


def test_store_of_features_without_heads_serves_any_heads(tmp_path):
    """Names and checksums of a feature do not depend on the spec's heads, its freezing or its other outputs."""
    spec = {**SPEC, "trunk": "timm:test_resnet", "mapping": {"images": {"res2": None, "flatten": None}}}
    del spec["heads"]
    graphmodel.extract(graphmodel.compile(spec, seed=0), images(), tmp_path / "store")
    assert probe(model(), tmp_path / "store", outputs=["fast"], epochs=1).best.name == "fast"


def test_stores_that_do_not_fit_in_memory_give_the_same(stores, monkeypatch):
    reports = []
    for limit in (2 << 30, 0):
        monkeypatch.setattr("graphmodel.probing.samples.IN_MEMORY", limit)
        reports.append(probe(model(), stores[0], test=stores[1], epochs=2, batch_size=16))
    assert reports[0].to_dict() == reports[1].to_dict()


def test_diverged_head_comes_last_and_is_reported(stores):
    report = probe(model(), stores[0], lr={"": 0.01, "slow": 1e38}, epochs=6)
    assert [d.code for d in report.notes] == ["GM616"]
    assert report.results[-1].name == "slow"
    assert (report.results[-1].loss, report.results[-1].accuracy) == (None, 0.0)


def test_one_sample_at_a_time(stores):
    """BatchNorm cannot learn from one sample, other heads can."""
    with pytest.raises(CompileError, match="one sample at a time"):
        probe(model(), stores[0], epochs=1, batch_size=1)
    assert probe(model(), stores[0], epochs=1, batch_size=1, outputs=["fast"]).best.name == "fast"


@pytest.mark.parametrize(
    ("labels", "options", "text"),
    [
        (torch.arange(6), {"epochs": 1}, "no class in the store .* has two samples"),
        (torch.arange(6), {"method": "knn", "k": 1}, "no class in the store .* has two samples"),
        (torch.zeros(6, dtype=torch.int64), {"method": "logistic"}, "are all of one class"),
    ],
)
def test_too_few_samples_or_classes(tmp_path, labels, options, text):
    store = extracted(tmp_path / "store", torch.utils.data.TensorDataset(images(6).tensors[0], labels))
    with pytest.raises(CompileError, match=text) as error:
        probe(model(), store, **options)
    assert {d.code for d in error.value.diagnostics} == {"GM612"}


def test_other_modules_are_refused(stores):
    with pytest.raises(CompileError, match="`probe` takes a compiled model, not Identity"):
        probe(torch.nn.Identity(), stores[0])


def test_partly_frozen_trunk_trains_behind_the_line(tmp_path):
    spec = {
        **SPEC,
        "trunk": "timm:test_resnet",
        "freeze": ["trunk.conv1", "trunk.bn1", "trunk.layer[1-3]"],
    }
    spec |= {"heads": {"fast": HEADS["fast"]}, "mapping": {"images": {"flatten": "fast"}}}
    module = model(spec)
    store = extracted(tmp_path / "store", module=module)
    probe(module, store, epochs=2, lr=0.05, out=tmp_path / "out")
    fresh = model(spec)
    graphmodel.load_weights(fresh, tmp_path / "out" / "best_head.safetensors", partial=True)
    for key, value in module.state_dict().items():
        assert torch.equal(fresh.state_dict()[key], value), key
    assert any(k.startswith("trunk.layer4") for k in load_file(tmp_path / "out" / "best_head.safetensors"))


def test_split_is_stratified_and_drawn_with_the_seed():
    labels = torch.tensor([0] * 10 + [1] * 5 + [2])
    train, held = stratified(labels, 0.2, 0)
    assert sorted(torch.cat([train, held]).tolist()) == list(range(16))
    assert labels[held].tolist() == [0, 0, 1]
    assert torch.equal(held, stratified(labels, 0.2, 0)[1])
    assert not torch.equal(held, stratified(labels, 0.2, 1)[1])
    assert [labels[part].bincount().tolist() for part in stratified(labels, 0.99, 0)] == [[1, 1, 1], [9, 4]]
