"""An output feeds a head: predictors on projectors, any directed acyclic graph, and inputs that no trunk reads."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import pytest
import torch
from torch import nn

import graphmodel
from graphmodel.build.locked_spec import resolved_spec
from graphmodel.dialects.native.dump import dump, to_yaml
from graphmodel.spec.document import read_text
from tests.reference import NarrowResNet

PROJECT = {"mlp": {"dims": ["auto", 16, 8], "use_bn": True, "use_relu": True}}
PREDICT = {"mlp": {"dims": ["auto", 4, 8], "use_relu": True}}
SIMSIAM: dict[str, Any] = {
    "inputs": {"images": [3, 32, 32]},
    "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
    "heads": {"project": PROJECT, "predict": PREDICT},
    "mapping": [
        {"from": "images.flatten", "head": "project", "as": "z"},
        {"from": "z", "head": "predict", "as": "p"},
    ],
}


def changed(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(SIMSIAM), **changes}


def finding(document: Any) -> graphmodel.Diagnostic:
    with pytest.raises(graphmodel.CompileError) as caught:
        graphmodel.compile(document, device="meta")
    (found,) = caught.value.diagnostics
    return found


class ByHand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = NarrowResNet()
        self.trunk.fc = nn.Identity()
        self.project = nn.Sequential(nn.Linear(128, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8))
        self.predict = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 8))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Projection and prediction."""
        z = self.project(self.trunk(x))
        return {"z": z, "p": self.predict(z)}


def by_hand(model: Any) -> ByHand:
    reference = ByHand()
    reference.trunk.load_state_dict(model.trunk.state_dict())
    reference.project.load_state_dict(model.heads.project.clf.state_dict())
    reference.predict.load_state_dict(model.heads.predict.clf.state_dict())
    return reference


@pytest.mark.parametrize("optimize", [True, False])
def test_a_training_step_equals_one_by_hand(optimize: bool) -> None:
    model = graphmodel.compile(changed(optimize=optimize), seed=0)
    reference, x = by_hand(model), torch.randn(4, 3, 32, 32)
    ours, theirs = model(x), reference(x)
    assert list(ours) == ["z", "p"]
    for out in (ours, theirs):
        (out["p"] * out["z"].detach()).sum().backward()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name])
    torch.testing.assert_close(model.trunk.conv1.weight.grad, reference.trunk.conv1.weight.grad)
    torch.testing.assert_close(model.heads.predict.clf[0].weight.grad, reference.predict[0].weight.grad)


@pytest.mark.parametrize(
    "mapping",
    [
        {"images": {"flatten": "project"}, "project": "predict"},
        {"project": ["predict"], "images": {"flatten": {"head": "project"}}},
        {"images": {"flatten": {"head": "project", "as": "z"}}, "z": "predict"},
        [{"from": "project", "head": "predict"}, {"from": "images.flatten", "head": "project"}],
    ],
)
def test_short_forms_and_any_order_give_the_same_model(mapping: Any) -> None:
    model = graphmodel.compile(changed(mapping=mapping), seed=0).eval()
    reference, x = by_hand(model).eval(), torch.randn(2, 3, 32, 32)
    out, expected = model(x), reference(x)
    assert len(out) == 2
    torch.testing.assert_close(out["predict"], expected["p"])


def test_outputs_selects_and_keeps_what_is_read() -> None:
    spec = graphmodel.load_spec(changed(outputs=["p"]))
    assert [n.message for n in spec.notes] == []
    model = graphmodel.compile(spec, seed=0).eval()
    reference, x = by_hand(model).eval(), torch.randn(2, 3, 32, 32)
    assert list(model(x)) == ["p"]
    torch.testing.assert_close(model(x)["p"], reference(x)["p"])
    spec = graphmodel.load_spec(changed(outputs=["z"]))
    assert list(spec.heads) == ["project"]


def test_one_tensor_of_a_head_with_several_can_be_read() -> None:
    heads = {"swav": {"swav_head": {"dims": ["auto", 8], "num_clusters": [5], "use_bn": False}}, "predict": PREDICT}
    mapping = [{"from": "images.flatten", "head": "swav"}, {"from": "swav.embedding", "head": "predict"}]
    model = graphmodel.compile(changed(heads=heads, mapping=mapping), seed=0).eval()
    out = model(torch.randn(2, 3, 32, 32))
    torch.testing.assert_close(out["predict"], model.heads.predict.clf(out["swav.embedding"]))
    mapping[1]["from"] = "swav"
    found = finding(changed(heads=heads, mapping=mapping))
    assert (found.code, found.path) == ("GM209", "mapping[1].from")
    assert "swav.prototypes0" in found.help


def test_a_diamond_joins_outputs_and_features() -> None:
    mapping = [
        {"from": ["p", "q", "images.flatten"], "head": "last"},
        {"from": "z", "head": "predict", "as": "p"},
        {"from": "z", "head": "other", "as": "q"},
        {"from": "images.flatten", "head": "project", "as": "z"},
    ]
    heads = {**SIMSIAM["heads"], "other": PREDICT, "last": {"mlp": {"dims": ["auto", 3]}}}
    model = graphmodel.compile(changed(mapping=mapping, heads=heads), seed=0).eval()
    x = torch.randn(2, 3, 32, 32)
    out, trunk = model(x), NarrowResNet()
    trunk.fc = nn.Identity()
    trunk.load_state_dict(model.trunk.state_dict())
    joined = torch.cat([out["p"], out["q"], trunk.eval()(x)], 1)
    torch.testing.assert_close(out["last"], model.heads.last.clf(joined))


def test_a_head_that_changes_its_input_leaves_the_output_alone() -> None:
    class Doubled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """In place."""
            return x.mul_(2)

    from graphmodel.components.registry import temporary_registrations

    with temporary_registrations():
        graphmodel.register_head("doubled_in_place")(Doubled)
        spec = changed(heads={"project": PROJECT, "predict": "doubled_in_place"})
        model = graphmodel.compile(spec, seed=0).eval()
        out = model(torch.randn(2, 3, 32, 32))
    torch.testing.assert_close(out["p"], 2 * out["z"])


def test_freezing_a_predictor_still_trains_what_it_reads() -> None:
    model = graphmodel.compile(changed(freeze=["heads.predict"]), seed=0)
    model(torch.randn(2, 3, 32, 32))["p"].sum().backward()
    assert model.heads.predict.clf[0].weight.grad is None
    assert model.heads.project.clf[0].weight.grad is not None


def test_slices_files_and_resolved_specs_keep_what_they_need() -> None:
    model = graphmodel.compile(SIMSIAM, seed=0).eval()
    x = torch.randn(2, 3, 32, 32)
    expected = model(x)
    assert torch.equal(model.slice(outputs=["p"])(x)["p"], expected["p"])
    assert not any("predict" in k for k in model.slice(outputs=["z"]).state_dict())
    for graph in (model.model_graph, model.slice(outputs=["p"]).model_graph, model.slice(outputs=["z"]).model_graph):
        text = to_yaml(dump(resolved_spec(graph)))
        again = graphmodel.compile(read_text(text).data, seed=0).eval()
        assert list(again.model_graph.outputs) == list(graph.outputs)
        assert all(torch.equal(v, expected[k]) for k, v in again(x).items())
    copied = pickle.loads(pickle.dumps(model))
    assert torch.equal(copied(x)["p"], expected["p"])
    spec = graphmodel.load_spec(SIMSIAM)
    assert graphmodel.load_spec(read_text(to_yaml(dump(spec))).data).model_dump() == spec.model_dump()


def test_a_teacher_has_no_predictor() -> None:
    """BYOL: the predictor reads the student's projection alone."""
    spec = changed(trunks={"student": SIMSIAM["trunk"], "teacher": {"copy": "student"}})
    del spec["trunk"]
    spec["heads"]["target"] = {"copy": "project"}
    spec["mapping"] = {"images": {"student.flatten": "project", "teacher.flatten": "target"}, "project": "predict"}
    model = graphmodel.compile({**spec, "outputs": ["predict", "target"]}, seed=0)
    out = model(torch.randn(2, 3, 32, 32))
    assert list(out) == ["predict", "target"]
    assert (out["predict"].requires_grad, out["target"].requires_grad) == (True, False)


def test_rows_of_a_sample_multiply_along_a_chain_of_heads() -> None:
    towers = {"siamese_concat_view": {"num_towers": 2}}
    heads = {"first": towers, "second": {"siamese_concat_view": {"num_towers": 4}}, "third": towers}
    mapping = {"images": {"flatten": "first"}, "first": "second", "second": "third"}
    model = graphmodel.compile(changed(heads=heads, mapping=mapping), seed=0)
    assert model(torch.randn(16, 3, 32, 32))["third"].shape == (1, 16 * 128)


def test_diff_and_pictures_show_what_a_head_reads() -> None:
    other = changed(mapping=[SIMSIAM["mapping"][0], {"from": "images.flatten", "head": "predict", "as": "p"}])
    assert "output `p` is images.flatten → predict, it was z → predict" in str(graphmodel.diff(SIMSIAM, other))
    text = graphmodel.draw(SIMSIAM, format="mmd")
    box = {name: re.search(rf'(b\d+)\["<b>{name}<', text) for name in ("project", "predict")}
    ids = [found[1] for found in box.values() if found is not None]
    assert f'{ids[0]} -->|"N×8"| {ids[1]}' in text


# -- inputs that no trunk reads ----------------------------------------------------------------------------------------


def test_a_table_beside_images_equals_the_model_by_hand() -> None:
    spec = changed(inputs={"images": [3, 32, 32], "table": {"shape": [7], "trunk": "none"}})
    spec["heads"] = {"label": {"mlp": {"dims": ["auto", 3]}}}
    spec["mapping"] = [{"from": ["images.flatten", "table"], "head": "label"}, {"from": "table", "as": "same"}]
    model = graphmodel.compile(spec, seed=0).eval()
    trunk = NarrowResNet()
    trunk.fc = nn.Identity()
    trunk.load_state_dict(model.trunk.state_dict())
    x, table = torch.randn(2, 3, 32, 32), torch.randn(2, 7)
    out = model(x, table)
    torch.testing.assert_close(out["label"], model.heads.label.clf(torch.cat([trunk.eval()(x), table], 1)))
    assert torch.equal(out["same"], table)
    again = graphmodel.compile(dump(resolved_spec(model.model_graph)), seed=0)
    assert str(again.model_graph) == str(model.model_graph)
    with pytest.raises(ValueError, match="table"):
        model(x, torch.randn(2, 8))


def test_a_spec_needs_no_trunk() -> None:
    heads = {"hidden": {"mlp": {"dims": ["auto", 8]}}, "label": {"mlp": {"dims": ["auto", 3]}}}
    spec = {"inputs": {"table": [7]}, "heads": heads, "mapping": {"table": "hidden", "hidden": "label"}}
    model = graphmodel.compile(spec, seed=0)
    table = torch.randn(5, 7)
    expected = model.heads.label.clf(model.heads.hidden.clf(table))
    torch.testing.assert_close(model(table)["label"], expected)
    assert {k.partition(".")[0] for k in model.state_dict()} == {"heads"}
    assert list(graphmodel.compile({"inputs": {"table": [7]}, "heads": heads}, seed=0)(table)) == ["hidden", "label"]
    again = graphmodel.compile(dump(resolved_spec(model.model_graph)), seed=0)
    assert torch.equal(again(table)["label"], model(table)["label"])


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [([], "int64"), ([5], "bool"), ([4, 6], "float64"), ([2, 3, 4], "int32"), ([2, 3, 4, 5], "uint8"), ([6], "int16")],
)
def test_any_rank_and_dtype_passes_through(shape: list[int], dtype: str) -> None:
    spec = {"inputs": {"x": {"shape": shape, "dtype": dtype}}, "heads": {"same": "identity"}}
    model = graphmodel.compile(spec, seed=0)
    x = torch.ones(3, *shape).to(getattr(torch, dtype))
    assert model(x)["same"] is x
    if dtype != "float64":
        with pytest.raises(ValueError, match="the input `x`"):
            model(x.float())


def test_views_of_an_input_that_no_trunk_reads_are_one_batch() -> None:
    spec = {"inputs": {"x": {"views": [{"count": 2, "shape": [4]}]}}, "heads": {"a": {"mlp": {"dims": ["auto", 3]}}}}
    model = graphmodel.compile(spec, seed=0)
    views = [torch.randn(2, 4), torch.randn(3, 4)]
    torch.testing.assert_close(model(views)["a"], model.heads.a.clf(torch.cat(views)))


# -- findings ----------------------------------------------------------------------------------------------------------


def test_a_cycle_is_shown() -> None:
    mapping = [
        {"from": "b", "head": "project", "as": "a"},
        {"from": "a", "head": "predict", "as": "b"},
        {"from": "b", "as": "c"},
    ]
    found = finding(changed(mapping=mapping))
    assert found.code == "GM307"
    assert "`a` -> `b` -> `a`" in found.message
    assert "`z` -> `z`" in finding(changed(mapping=[{"from": "z", "head": "project", "as": "z"}])).message


def test_an_unknown_name_lists_inputs_and_outputs() -> None:
    mapping = [SIMSIAM["mapping"][0], {"from": "zz", "head": "predict"}]
    found = finding(changed(mapping=mapping))
    assert (found.code, found.path) == ("GM207", "mapping[1].from")
    assert "unknown input or output `zz`" in found.message
    assert "images" in found.help
    assert "z" in found.help


def test_a_head_with_several_outputs_must_be_named_by_output() -> None:
    inputs = {"images": [3, 32, 32], "more": [3, 32, 32]}
    mapping = {"images": {"flatten": "project"}, "more": {"flatten": "project"}, "project": "predict"}
    found = finding(changed(inputs=inputs, mapping=mapping))
    assert found.code == "GM209"
    assert "`project_images`, `project_more`" in found.message


def test_an_output_that_is_read_cannot_have_the_name_of_an_input() -> None:
    mapping = [{"from": "images.flatten", "head": "project", "as": "images"}, {"from": "project", "head": "predict"}]
    assert "name of an input" in finding(changed(mapping=mapping)).message


@pytest.mark.parametrize("option", [{"tokens": "mean"}, {"layout": "nchw"}, {"norm": True}])
def test_options_of_features_do_not_apply_to_outputs(option: dict[str, Any]) -> None:
    mapping = [SIMSIAM["mapping"][0], {"from": "z", "head": "predict", **option}]
    found = finding(changed(mapping=mapping))
    assert found.code == "GM306"
    assert "`z` is another output" in found.message


def test_a_failed_head_is_reported_once_for_all_its_readers() -> None:
    heads = {**SIMSIAM["heads"], "project": {"mlp": {"dims": [99, 8]}}}
    assert finding(changed(heads=heads)).path.startswith("heads.project")


def test_a_feature_of_an_input_that_no_trunk_reads_is_refused() -> None:
    spec = changed(inputs={"images": [3, 32, 32], "table": {"shape": [7], "trunk": "none"}})
    spec["mapping"] = [{"from": "images.flatten", "head": "project"}, {"from": "table.flatten"}]
    found = finding(spec)
    assert (found.code, found.path) == ("GM205", "mapping[1].from")
    assert "`from: table`" in found.help
    found = finding({"inputs": {"x": [3, 8, 8]}, "heads": {"a": "identity"}, "mapping": {"x": {"res5": "a"}}})
    assert "the spec has no trunk" in found.message


def test_a_map_with_channels_last_stays_one_as_an_output() -> None:
    spec = {
        "inputs": {"images": [3, 64, 64]},
        "trunk": {"name": "timm:swin_tiny_patch4_window7_224", "img_size": 64, "depths": [1, 1], "embed_dim": 24},
        "heads": {"probe": {"eval_mlp": {"dims": ["auto", 3]}}},
        "mapping": [{"from": "images.res3", "as": "map"}, {"from": "map", "head": "probe"}],
    }
    assert "channels last" in finding(spec).message


@pytest.mark.parametrize(
    "options",
    [{"normalize": True, "head": "predict"}, {"resize": [1, 2]}, {"pool": {"avg_pool1d": 2}}, {"as": "z"}],
)
def test_options_in_the_place_of_features_lead_to_the_list(options: dict[str, Any]) -> None:
    found = finding(changed(mapping={"images": {"flatten": "project"}, "project": options}))
    name = next(iter(options))
    assert found.path == "mapping.project"
    assert f"option `{name}`" in found.message
    assert f"`- {{from: NAME, {name}: …}}`" in found.help


def test_a_head_with_several_outputs_names_one_to_read() -> None:
    inputs = {"images": [3, 32, 32], "more": [3, 32, 32]}
    mapping = {"images": {"flatten": "project"}, "more": {"flatten": "project"}, "project": "predict"}
    assert "`from: project_images`" in finding(changed(inputs=inputs, mapping=mapping)).help


def test_an_empty_list_of_sources_is_told_in_plain_words() -> None:
    found = finding(changed(mapping=[{"from": [], "head": "project"}]))
    assert found.message == "`mapping[0].from` needs at least 1 entry, and has 0"


@pytest.mark.parametrize(
    ("first", "second", "read"),
    [
        ({"torch.nn:GRU": {"hidden_size": 5}}, {"linear": {"out_features": 2}}, "seq.0"),
        ({"torch.nn:LSTM": {"hidden_size": 5}}, {"linear": {"out_features": 2, "in_features": 5}}, "seq.0"),
        ({"prototypes": {"num_prototypes": [3, 5]}}, {"linear": {"out_features": 2}}, "seq.prototypes0"),
    ],
)
def test_the_help_for_a_module_after_one_with_several_tensors_is_right(first: Any, second: Any, read: str) -> None:
    """What it says to write compiles."""
    spec: dict[str, Any] = {"inputs": {"x": [4, 6]}, "heads": {"seq": [first, second]}}
    found = finding({**spec, "mapping": [{"from": "x", "head": "seq"}]})
    assert found.code == "GM304"
    assert found.path.startswith("heads.seq[1].linear")
    assert f"`{{from: {read}, head: NAME}}`" in found.help
    spec["heads"] = {"seq": first, "last": second}
    spec["mapping"] = [{"from": "x", "head": "seq"}, {"from": read, "head": "last"}]
    assert graphmodel.compile(spec)(torch.randn(3, 4, 6))["last"].shape == (3, 4, 2)


def test_a_spec_may_have_neither_trunks_nor_heads() -> None:
    mapping = [
        {"from": "x", "pool": {"adaptive_avg_pool2d": 1}, "flatten": True, "as": "mean"},
        {"from": ["mean", "table"], "combine": "concat", "normalize": True, "as": "z"},
    ]
    model = graphmodel.compile({"inputs": {"x": [3, 8, 6], "table": [2]}, "mapping": mapping})
    x, table = torch.randn(4, 3, 8, 6), torch.randn(4, 2)
    found = model(x, table)
    torch.testing.assert_close(found["mean"], x.mean((2, 3)))
    parts = torch.nn.functional.normalize(found["mean"]), torch.nn.functional.normalize(table)
    torch.testing.assert_close(found["z"], torch.cat(parts, 1))
    assert not model.state_dict()


def test_a_spec_without_trunks_heads_and_mapping_says_what_is_missing() -> None:
    found = finding({"inputs": {"x": [3, 8, 6]}})
    assert "the spec has no trunk" in found.message
    assert "`mapping`" in found.help
