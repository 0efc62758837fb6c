"""Frozen BatchNorm is folded into the layer before it: same numbers, keys, hooks and gradients, whatever happens."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

import graphmodel
from graphmodel.passes import folding
from graphmodel.passes._example import example
from graphmodel.passes.fold_batchnorm import FoldBatchnorm
from graphmodel.passes.foldable import pairs_in
from graphmodel.passes.freeze import Freeze
from tests.passes.conftest import lines

TOLERANCE = 1e-5
"""Of the largest value: folding rounds in another order."""


class Block(nn.Module):
    """A residual block; `shared` calls one convolution twice, with a BatchNorm of its own each time."""

    def __init__(self, shared: bool = False) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = (self.conv1 if shared else nn.Conv2d(4, 4, 1, groups=2)), nn.BatchNorm2d(4)
        self.shared = shared

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return x + self.bn2(self.conv1(y) if self.shared else self.conv2(y))


def trunk(block: nn.Module | None = None) -> nn.Sequential:
    """A convolution with BatchNorm, a block with two, and a transposed convolution."""
    up = nn.Sequential(nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), nn.BatchNorm2d(6, affine=False), nn.ReLU())
    parts = [("conv", nn.Conv2d(3, 4, 3)), ("norm", nn.BatchNorm2d(4)), ("block", block or Block()), ("up", up)]
    made = nn.Sequential(OrderedDict(parts))
    with torch.no_grad():
        for name, tensor in made.state_dict().items():
            if name.endswith(("running_var", "weight")):
                tensor.add_(torch.rand_like(tensor))
            elif name.endswith(("running_mean", "bias")):
                tensor.normal_()
    return made


SPEC: dict[str, Any] = {
    "inputs": {"images": [3, 8, 8]},
    "trunk": {"name": "resnet", "freeze": True},
    "heads": {"head": {"mlp": {"dims": [864, 5]}}},
    "mapping": {"images": {"up": {"flatten": True, "heads": ["head"]}}},
}


@pytest.fixture(autouse=True)
def _fold_small_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folds whether or not it pays, since the models here are tiny."""
    monkeypatch.setattr(folding, "pays", lambda *_: True)


@pytest.fixture
def folds(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The layers that ran folded."""
    ran: list[nn.Module] = []
    compute = folding.folded_tensors

    def counted(layer: nn.Module, norm: nn.Module) -> Any:
        ran.append(norm)
        return compute(layer, norm)

    monkeypatch.setattr(folding, "folded_tensors", counted)
    return ran


def both(spec: dict[str, Any] = SPEC, given: nn.Module | None = None) -> tuple[Any, Any, torch.Tensor]:
    """The same model without and with the pass, and an input."""
    own = given or trunk()
    models = [
        graphmodel.compile(spec, seed=0, passes=passes, trunks={"trunk": copy.deepcopy(own)})
        for passes in ((), ("fold_batchnorm",))
    ]
    return models[0], models[1], torch.randn(3, *spec["inputs"]["images"])


def assert_close(result: Any, expected: Any, tolerance: float = TOLERANCE) -> None:
    for name, value in expected.items():
        scale = float(value.detach().abs().max())
        torch.testing.assert_close(result[name], value, rtol=0, atol=tolerance * scale)


def test_the_text_before_and_after() -> None:
    graph = Freeze().run(example({"images": {"up": None}}, trunk=trunk(), freeze=["trunk"])).graph
    result = FoldBatchnorm().run(graph)
    assert lines(result.graph, "norm", "block", "up") == [
        "%norm: N×4×6×6 = trunk trunk.conv_norm(%images) frozen",
        "%block: N×4×6×6 = trunk trunk.block(%norm) folded=2 frozen",
        "%up: N×6×12×12 = trunk trunk.up(%block) features=('up',) folded=1 frozen",
        "return up: up=%up",
    ]
    assert result.summary == "4 frozen BatchNorm layers are folded into the layer before"
    assert result.notes == ()


@pytest.mark.parametrize("training", [True, False])
def test_outputs_gradients_and_buffers_are_those_of_the_model_as_written(
    training: bool, folds: list[nn.Module]
) -> None:
    plain, folded, x = both()
    gradients = []
    for model in (plain, folded):
        given = x.clone().requires_grad_()
        model.train(training)(given)["head"].square().sum().backward()
        gradients.append({"x": given.grad, **{n: p.grad for n, p in model.named_parameters() if p.grad is not None}})
    assert len(folds) == 4
    assert_close(folded(x), plain(x))
    assert gradients[0].keys() == gradients[1].keys() == {"x", "heads.head.clf.0.weight", "heads.head.clf.0.bias"}
    assert_close(gradients[1], gradients[0])
    assert list(folded.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(folded.buffers(), plain.buffers(), strict=True))


def test_what_happens_to_the_weights_later_counts(folds: list[nn.Module]) -> None:
    plain, folded, x = both()
    folded(x)
    for model in (plain, folded):
        model.trunk.norm.weight.data.mul_(3)  # moves no version counter
        with torch.no_grad():
            model.trunk.block.bn1.running_mean.add_(2)
        model.trunk.up[0].weight.data = model.trunk.up[0].weight.data * 2
    assert_close(folded(x), plain(x))
    other = both(given=trunk())[0].state_dict()
    for model in (plain, folded):
        model.load_state_dict(other, assign=True)
    assert_close(folded(x), plain(x))
    for model in (plain, folded):
        model.double()
    assert_close(folded(x.double()), plain(x.double()), 1e-13)
    assert len(folds) == 16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_no_worse(dtype: torch.dtype) -> None:
    plain, folded, x = both()
    exact = plain(x)["head"]
    errors = [(m.to(dtype)(x.to(dtype))["head"].float() - exact).abs().max() for m in (plain, folded)]
    assert errors[1] <= 2 * errors[0]


def test_autocast(folds: list[nn.Module]) -> None:
    plain, folded, x = both()
    with torch.autocast("cpu", torch.bfloat16):
        results = [model(x)["head"] for model in (plain, folded)]
    assert results[0].dtype == results[1].dtype
    assert_close({"head": results[1]}, {"head": results[0]}, 2e-2)
    assert len(folds) == 4


def test_a_part_that_is_thawed_or_put_in_training_mode_runs_as_written(folds: list[nn.Module]) -> None:
    plain, folded, x = both()
    for model in (plain, folded):
        model.trunk.norm.weight.requires_grad_(True)
        nn.Module.train(model.trunk.block.bn1)  # past what keeps it in eval mode
        model(x)["head"].sum().backward()
    assert len(folds) == 2
    torch.testing.assert_close(folded.trunk.norm.weight.grad, plain.trunk.norm.weight.grad, rtol=1e-4, atol=1e-4)
    assert torch.equal(folded.trunk.block.bn1.running_mean, plain.trunk.block.bn1.running_mean)
    assert int(folded.trunk.block.bn1.num_batches_tracked) == 1


def test_hooks_see_what_they_see_in_the_model_as_written(folds: list[nn.Module]) -> None:
    plain, folded, x = both()
    seen: list[list[torch.Tensor]] = []
    for model in (plain, folded):
        seen.append([])
        for part in (model.trunk.conv, model.trunk.norm, model.trunk.block.conv1, model.trunk.block, model.trunk.up):
            part.register_forward_hook(lambda _, __, y, to=seen[-1]: to.append(y))
        model(x)
    assert len(folds) == 2
    for a, b in zip(*seen, strict=True):
        assert_close({"": b}, {"": a})


def test_parts_that_are_called_alone_act_as_ever() -> None:
    plain, folded, x = both()
    y = torch.randn(2, 4, 6, 6)
    assert torch.equal(folded.trunk.conv(x), plain.trunk.conv(x))
    assert torch.equal(folded.trunk.block.conv1(y), plain.trunk.block.conv1(y))
    assert torch.equal(folded.trunk.block.bn1(y), plain.trunk.block.bn1(y))


class Adapter(nn.Module):
    """As a LoRA layer: a frozen layer and something beside it that trains."""

    def __init__(self, base: nn.Conv2d) -> None:
        super().__init__()
        self.base, self.scale = base, nn.Parameter(torch.tensor(0.5))

    @property
    def weight(self) -> torch.Tensor:
        return self.base.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) * (1 + self.scale)


def test_what_takes_the_place_of_a_layer_or_norm_is_called(folds: list[nn.Module]) -> None:
    plain, folded, x = both()
    for model in (plain, folded):
        model.trunk.conv = Adapter(model.trunk.conv)
        model.trunk.block.conv1 = Adapter(model.trunk.block.conv1)
        model.trunk.block.bn2 = nn.Identity()
        model(x)["head"].sum().backward()
    assert len(folds) == 1
    assert_close(folded(x), plain(x))
    torch.testing.assert_close(folded.trunk.conv.scale.grad, plain.trunk.conv.scale.grad, rtol=1e-4, atol=1e-4)


def test_a_parametrized_layer_is_not_folded(folds: list[nn.Module]) -> None:
    plain, folded, x = both()
    for model in (plain, folded):
        torch.manual_seed(0)
        nn.utils.parametrizations.weight_norm(model.trunk.block.conv1)
    assert_close(folded(x), plain(x))
    assert len(folds) == 3


def test_converted_norms_are_folded_too(folds: list[nn.Module]) -> None:
    plain, folded, x = both()
    assert_close(nn.SyncBatchNorm.convert_sync_batchnorm(folded)(x), plain(x))
    assert len(folds) == 4


def test_copies_and_slices_fold_their_own_weights(folds: list[nn.Module]) -> None:
    plain, folded, x = both()
    copies = [copy.deepcopy(folded), pickle.loads(pickle.dumps(folded))]
    part = folded.slice(outputs=["head"])
    for model in (plain, folded):
        model.trunk.norm.weight.data.mul_(2)
        model.trunk.block.bn1.weight.data.mul_(3)
    for made in copies:
        with pytest.raises(AssertionError):
            assert_close(made(x), plain(x))
        made.load_state_dict(plain.state_dict())
        assert_close(made(x), plain(x))
    assert_close(part(x), plain(x))
    assert len(folds) == 5 * 4


def test_the_batch_size_is_free() -> None:
    plain, folded, x = both()
    for size in (1, 2, 3):
        assert_close(folded(x[:size]), plain(x[:size]))


@pytest.mark.slow
@pytest.mark.parametrize("strict", [True, False])
def test_export_records_the_model_as_written(strict: bool) -> None:
    plain, folded, x = both()
    plain.eval(), folded.eval()
    program = torch.export.export(folded, (x,), dynamic_shapes=({0: Dim("n", min=1, max=64)},), strict=strict)
    assert torch.equal(program.module()(x[:2])["head"], plain(x[:2])["head"])
    assert set(program.state_dict) == set(plain.state_dict())


@pytest.mark.slow
def test_compile_makes_one_graph_without_breaks() -> None:
    plain, folded, x = both()
    compiled = torch.compile(folded, fullgraph=True, backend="aot_eager")
    for size in (3, 2):
        assert_close(compiled(x[:size]), plain(x[:size]))


def test_symbolic_trace_follows_the_calls_and_keeps_the_numbers() -> None:
    spec = {**SPEC, "heads": {}, "mapping": {"images": {"up": None}}}
    plain, folded, x = both(spec)
    traced = torch.fx.symbolic_trace(folded)
    assert torch.equal(traced(x)["up"], plain(x)["up"])


def test_several_inputs_and_several_trunks() -> None:
    trunks = {"one": trunk(), "two": trunk()}
    spec = {
        "inputs": {
            "images": [3, 8, 8],
            "crops": {"views": [{"count": 2, "shape": [3, 8, 8]}, {"count": 1, "shape": [3, 6, 6]}]},
        },
        "trunks": {"one": {"name": "resnet", "freeze": True}, "two": {"name": "resnet"}},
        "mapping": [
            {"from": "images.one.up", "as": "a"},
            {"from": "crops.one.block", "pool": {"adaptive_avg_pool2d": 1}, "as": "b"},
            {"from": "images.two.up", "as": "c"},
        ],
        "freeze": ["trunks.two.block"],
    }
    models = [
        graphmodel.compile(spec, seed=0, passes=passes, trunks=copy.deepcopy(trunks))
        for passes in ((), ["fold_batchnorm"])
    ]
    graph = models[1].optimized_graph
    assert graph.summary[-1] == "fold_batchnorm: 6 frozen BatchNorm layers are folded into the layer before"
    x = torch.randn(2, 3, 8, 8)
    views = [torch.randn(2, 3, s, s) for s in (8, 8, 6)]
    expected, result = (model(x, views) for model in models)
    assert_close(result, expected)


def test_with_checkpointing(folds: list[nn.Module]) -> None:
    spec = {**SPEC, "trunk": {"name": "resnet"}, "freeze": ["trunk.block", "trunk.up"], "checkpoint": 2}
    plain, folded, x = both(spec)
    gradients = []
    for model in (plain, folded):
        model(x)["head"].square().sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        gradients[-1].pop("trunk.conv.bias")  # BatchNorm removes a bias: its gradient is rounding
    assert folds
    assert_close(gradients[1], gradients[0], 1e-4)
    assert torch.equal(folded.trunk.norm.running_mean, plain.trunk.norm.running_mean)


def test_what_is_not_folded_is_explained() -> None:
    def notes(block: nn.Module, freeze: list[str]) -> list[str]:
        graph = example({"images": {"up": None}}, trunk=trunk(block), freeze=freeze)
        return [f"{n.code} {n.message}" for n in FoldBatchnorm().run(Freeze().run(graph).graph).notes]

    assert notes(Block(shared=True), ["trunk"]) == [
        "GM420 not folded: `trunk.block.bn1` and 1 more: `conv1` is called several times"
    ]
    assert notes(Block(), ["trunk.norm"]) == [
        "GM420 not folded: `trunk.norm`: the layer before it, `trunk.conv`, is not frozen"
    ]
    assert notes(Block(), []) == ["GM421 nothing to fold: the model has no frozen BatchNorm layer"]
    before = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
    assert "does not read the result of a convolution" in notes(before, ["trunk"])[0]


class Deciding(Block):
    """Reads one convolution in training and another in eval mode."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn1(self.conv1(x) if self.training else self.conv2(x))


def test_code_that_depends_on_the_mode_or_on_values_is_left_alone() -> None:
    assert pairs_in(Deciding()).declined == {
        "bn1": "it reads another layer in training mode than in eval mode",
        "bn2": "it is called 0 times",
    }

    class Branching(Block):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if x.sum() > 0 else x

    assert set(pairs_in(Branching()).declined.values()) == {"the code of the module around it cannot be followed"}


def test_folding_pays_for_large_maps_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    layer, norm = nn.Conv2d(64, 64, 3), nn.BatchNorm2d(64)
    assert [folding.pays(layer, norm, torch.empty(8, 64, size, size)) for size in (7, 112)] == [False, True]
