"""A slice shares tensors with its parent and nothing else: what is done to one leaves the other's behaviour alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import graphmodel
from graphmodel import CompiledModel, CompileError

X, PATCHES = torch.randn(4, 3, 64, 64), torch.randn(18, 3, 32, 32)


@pytest.fixture
def model(two_inputs: dict[str, Any]) -> CompiledModel:
    return graphmodel.compile(two_inputs, seed=0)


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(self.conv(x)).flatten(1)


@pytest.fixture
def tiny() -> CompiledModel:
    heads = {"a": {"mlp": {"dims": ["auto", 8]}}, "b": {"mlp": {"dims": ["auto", 4]}}}
    spec = {
        "inputs": {"images": [3, 8, 8]},
        "trunk": "tiny",
        "heads": heads,
        "mapping": {"images": {"output": ["a", "b"]}},
    }
    return graphmodel.compile(spec, trunks={"trunk": Tiny()})


def modes(module: nn.Module) -> dict[str, bool]:
    return {name: part.training for name, part in module.named_modules()}


def tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def test_modes_are_independent_in_both_directions(model: CompiledModel) -> None:
    part = model.slice(outputs=["image"])
    part.eval()
    assert all(modes(model).values())
    assert not any(modes(part).values())
    model.eval()
    part.train()
    assert not any(modes(model).values())
    assert all(modes(part).values())


def test_an_online_probe_in_eval_mode_lets_the_parents_statistics_move(model: CompiledModel) -> None:
    probe = model.slice(outputs=["image"]).eval()
    before = model.trunk.bn1.running_mean.clone()
    model(X, PATCHES)
    probe(X)
    assert not torch.equal(model.trunk.bn1.running_mean, before)
    assert int(model.trunk.bn1.num_batches_tracked) == 2, "two inputs went through the trunk"
    assert torch.equal(probe.trunk.bn1.running_mean, model.trunk.bn1.running_mean)


def test_all_tensors_are_the_parents(model: CompiledModel) -> None:
    part, own = model.slice(outputs=["image"]), tensors(model)
    assert all(tensor is own[name] for name, tensor in tensors(part).items())
    assert not set(map(id, part.modules())) & set(map(id, model.modules()))


@pytest.mark.parametrize("which", ["parent", "slice"])
def test_what_happens_to_tensors_happens_in_both(model: CompiledModel, which: str) -> None:
    part = model.slice(outputs=["image"])
    acting = model if which == "parent" else part
    acting.to(torch.float64)
    assert {t.dtype for n, t in tensors(part).items() if not n.endswith("num_batches_tracked")} == {torch.float64}
    assert model.trunk.bn1.running_mean is part.trunk.bn1.running_mean
    assert model.trunk.conv1.weight.dtype is torch.float64
    state = {key: torch.zeros_like(value) for key, value in acting.state_dict().items()}
    acting.load_state_dict(state)
    assert not any(t.any() for t in tensors(part).values())
    acting.load_state_dict({key: value + 1 for key, value in state.items()}, assign=True)
    assert part.trunk.conv1.weight is model.trunk.conv1.weight
    assert part.trunk.conv1.weight.all()


def test_gradients_and_optimizer_steps_are_shared(model: CompiledModel) -> None:
    part = model.slice(outputs=["image"])
    part(X)["image"].sum().backward()
    assert model.trunk.conv1.weight.grad is part.trunk.conv1.weight.grad
    before = model.trunk.conv1.weight.detach().clone()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert not torch.equal(part.trunk.conv1.weight, before)


def test_a_slice_of_a_slice_is_a_view_of_the_same_tensors(two_inputs: dict[str, Any]) -> None:
    model = graphmodel.compile(two_inputs, seed=0)
    middle = model.slice(inputs=["images", "patches"])
    inner = middle.slice(outputs=["image"]).eval()
    assert all(modes(middle).values())
    assert all(modes(model).values())
    model.to(torch.float64)
    assert inner.trunk.bn1.running_var.dtype is torch.float64
    assert torch.equal(inner(X.double())["image"], model.eval()(X.double(), PATCHES.double())["image"])


def test_frozen_parts_stay_frozen_in_the_slice(two_inputs: dict[str, Any]) -> None:
    model = graphmodel.compile({**two_inputs, "freeze": ["trunk.bn1", "trunk.layer1"]}, seed=0)
    part = model.slice(outputs=["image"]).train()
    part.trunk.train()
    assert not part.trunk.bn1.training
    assert not any(m.training for m in part.trunk.layer1.modules())
    assert part.trunk.layer2.training
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(part).train()
    assert not synced.trunk.bn1.training
    assert type(model.trunk.bn1) is nn.BatchNorm2d, "the parent keeps its modules"


def test_checkpointed_stages_recompute_in_the_slice(two_inputs: dict[str, Any]) -> None:
    plain = graphmodel.compile(two_inputs, seed=0).slice(outputs=["image"])
    part = graphmodel.compile({**two_inputs, "checkpoint": 2}, seed=0).slice(outputs=["image"])
    assert "recompute(" in part.code
    for each in (plain, part):
        each(X)["image"].sum().backward()
    for (name, p), q in zip(plain.named_parameters(), part.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad), name
    assert int(part.trunk.bn1.num_batches_tracked) == 1


def test_hooks_that_are_there_come_along_and_later_ones_stay_on_their_side(model: CompiledModel) -> None:
    seen: list[str] = []
    model.trunk.layer1.register_forward_hook(lambda *_: seen.append("early"))
    part = model.slice(outputs=["image"])
    part.trunk.layer2.register_forward_hook(lambda *_: seen.append("slice"))
    model.trunk.layer3.register_forward_hook(lambda *_: seen.append("parent"))
    part(X)
    assert seen == ["early", "slice"]
    seen.clear()
    model(X, PATCHES)
    assert seen == ["early", "parent"] * 2


def test_attributes_of_the_model_and_of_its_containers_are_carried_over(model: CompiledModel) -> None:
    model.note, model.trunk.origin = {"epoch": 3}, "somewhere"
    part = model.slice(outputs=["image"])
    assert part.note is model.note
    assert part.trunk.origin == "somewhere"


def test_a_partial_trunk_has_only_the_parameters_that_it_needs() -> None:
    spec = {
        "inputs": {"images": [3, 32, 32]},
        "trunk": {"name": "timm:vit_tiny_patch16_224", "img_size": 32},
        "mapping": {"images": {"patch_embed": None, "blocks.0": None}},
    }
    model = graphmodel.compile(spec, seed=0)
    assert "trunk.pos_embed" in model.state_dict()
    assert not any("pos_embed" in key for key in model.slice(outputs=["patch_embed"]).state_dict())


def test_the_slice_of_a_copy_belongs_to_the_copy(model: CompiledModel) -> None:
    part = copy.deepcopy(model).slice(outputs=["image"])
    model.to(torch.float64)
    assert part.trunk.conv1.weight.dtype is torch.float32


def test_an_edited_graph_cannot_be_sliced(model: CompiledModel) -> None:
    next(n for n in model.graph.nodes if n.name == "images_layer4").target = "trunk.layer4.0"
    model.recompile()
    with pytest.raises(CompileError, match="edited") as caught:
        model.slice(outputs=["image"])
    assert [d.code for d in caught.value.diagnostics] == ["GM504"]


def test_a_part_that_cannot_be_copied_is_named_with_a_way_out(model: CompiledModel) -> None:
    import threading

    model.trunk.layer1.lock = threading.Lock()
    with pytest.raises(CompileError, match="slice first") as caught:
        model.slice(outputs=["image"])
    assert [d.code for d in caught.value.diagnostics] == ["GM505"]


def test_edits_of_a_slice_are_its_own(model: CompiledModel) -> None:
    part = model.slice(outputs=["image"])
    want = part.eval()(X)["image"]
    part.graph.find_nodes(op="output")[0].args = ({"image": part.graph.find_nodes(op="call_module")[0]},)
    part.recompile()
    assert part(X)["image"].shape[1] == 16
    assert torch.equal(model.slice(outputs=["image"]).eval()(X)["image"], want)


# -- parametrizations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["parent", "slice"])
@pytest.mark.parametrize(
    "change",
    [
        nn.utils.weight_norm,
        nn.utils.parametrizations.weight_norm,
        nn.utils.spectral_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
def test_a_layer_without_its_tensor_is_named_and_a_later_slice_follows(
    tiny: CompiledModel, change: Any, side: str
) -> None:
    model, x = tiny, torch.randn(2, 3, 8, 8)
    part = model.slice(outputs=["a"])
    changed, other = (model, part) if side == "parent" else (part, model)
    change(changed.heads.a.clf.get_submodule("0"))
    with pytest.raises(CompileError) as caught:
        other(x)
    assert caught.value.diagnostics[0].code == "GM506"
    assert "`heads.a.clf.0` has no `weight` any more" in caught.value.diagnostics[0].message
    later = changed.slice(outputs=["a"]).eval()
    torch.testing.assert_close(later(x)["a"], changed.eval()(x)["a"], rtol=0, atol=0)


def test_another_missing_attribute_is_no_finding(tiny: CompiledModel) -> None:
    del tiny.trunk.pool.output_size
    with pytest.raises(AttributeError, match="output_size"):
        tiny(torch.randn(2, 3, 8, 8))
