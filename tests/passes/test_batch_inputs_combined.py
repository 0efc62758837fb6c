"""Shared passes combined with the other features of a model, each compared with the model without any pass."""

from __future__ import annotations

import copy
import io
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graphmodel
from graphmodel.passes import folding
from tests.passes.conftest import calls
from tests.passes.test_batch_inputs import Across, assert_equal, batches, spec, trunk

Models = tuple[Any, Any]


def compared(document: dict[str, Any], passes: Any, **trunks: nn.Module) -> Models:
    """A model with some passes and the same without any."""
    with_passes, without = (
        graphmodel.compile(document, seed=0, passes=p, trunks=copy.deepcopy(trunks) or None) for p in (passes, ())
    )
    assert list(with_passes.state_dict()) == list(without.state_dict())
    without.load_state_dict(with_passes.state_dict())
    return with_passes, without


@cache
def _small() -> Models:
    return compared(spec(), {"batch_inputs": True}, trunk=trunk(nn.GroupNorm(2, 4)))


def small() -> Models:
    """A model of two inputs that share every call."""
    models: Models = copy.deepcopy(_small())
    assert len(calls(models[0].optimized_graph, "trunk.s0")) == 1
    return models


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    inputs = [x.to(dtype) for x in batches(2, 3)]
    shared, separate = (model.to(dtype)(*inputs) for model in small())
    for name, output in separate.items():
        assert shared[name].dtype == dtype
        torch.testing.assert_close(shared[name], output, rtol=2e-2, atol=2e-2)


def test_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        shared, separate = (model(*batches(2, 3)) for model in small())
    torch.testing.assert_close(dict(shared), dict(separate), rtol=2e-2, atol=2e-2)


def test_a_hook_on_a_stage_sees_the_joined_batch() -> None:
    models = small()
    seen: list[list[int]] = [[], []]
    for model, sizes in zip(models, seen, strict=True):
        model.get_submodule("trunk.s0").register_forward_hook(lambda m, args, out, to=sizes: to.append(len(out)))
        model(*batches(2, 3))
    assert seen == [[5], [2, 3]]


def test_copies_tracing_and_files() -> None:
    shared, separate = small()
    expected = dict(separate(*batches(2, 3)))
    file = io.BytesIO()
    torch.save(shared.state_dict(), file)
    file.seek(0)
    loaded = copy.deepcopy(shared)
    loaded.load_state_dict(torch.load(file))
    made = [copy.deepcopy(shared), pickle.loads(pickle.dumps(shared)), torch.fx.symbolic_trace(shared), loaded]
    for model in made:
        torch.testing.assert_close(dict(model(*batches(2, 3))), expected)


def test_a_slice_to_one_input_reads_that_alone() -> None:
    shared, separate = small()
    part = shared.slice(inputs=["a"])
    torch.testing.assert_close(part(batches(1)[0])["a_flatten"], separate(*batches(1, 3))["a_flatten"])
    assert not [name for name in part.optimized_graph.nodes if name.startswith("batched_")]


def test_a_partly_frozen_trunk_shares_its_frozen_stages() -> None:
    given = trunk(nn.BatchNorm2d(4), nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    models = compared(spec(freeze=["trunk.conv", "trunk.s0"]), {"batch_inputs": True}, trunk=given)
    graph = models[0].optimized_graph
    assert [len(calls(graph, f"trunk.{name}")) for name in ("conv", "s0", "s1")] == [1, 1, 2]
    assert_equal(models, *batches(2, 3))


def test_random_stages_are_taken_in_the_same_order() -> None:
    models = compared(spec(), {"batch_inputs": True}, trunk=trunk(nn.GroupNorm(2, 4), Across("random")))
    assert [len(calls(models[0].optimized_graph, f"trunk.{name}")) for name in ("s0", "s1")] == [1, 2]
    assert_equal(models, *batches(2, 3))


class Masked(nn.Module):
    """A trunk that takes a mask of the pixels beside an image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.GELU())
        self.hide = Hide()
        self.norm = nn.GroupNorm(2, 4)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        x = self.conv(x)
        return self.pool(self.norm(x if mask is None else self.hide(x, mask))).flatten(1)


class Hide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(4, 1, 1))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.where(mask.unsqueeze(1), self.token, x)


def test_inputs_with_a_mask() -> None:
    inputs = {name: {"shape": [3, 8, 8], "with": ["mask"]} for name in "ab"}
    inputs["mask"] = {"shape": [8, 8], "dtype": "bool"}
    mapping = {name: {"norm": None, "output": None} for name in "ab"}
    models = compared(spec(inputs=inputs, mapping=mapping), {"batch_inputs": True}, trunk=Masked())
    assert [len(calls(models[0].optimized_graph, f"trunk.{name}")) for name in ("conv", "hide", "norm")] == [1, 1, 1]
    mask = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.5
    assert_equal(models, *batches(3, 3), mask)
    # A mask that would broadcast over the images of its own input alone is refused, not broadcast over all of them.
    with pytest.raises(RuntimeError):
        models[0](*batches(2, 3), mask[:1])


def test_only_one_of_two_inputs_has_a_mask() -> None:
    inputs = {"a": {"shape": [3, 8, 8], "with": ["mask"]}, "b": [3, 8, 8], "mask": {"shape": [8, 8], "dtype": "bool"}}
    mapping = {name: {"norm": None, "output": None} for name in "ab"}
    models = compared(spec(inputs=inputs, mapping=mapping), {"batch_inputs": True}, trunk=Masked())
    assert [len(calls(models[0].optimized_graph, f"trunk.{name}")) for name in ("conv", "norm")] == [1, 2]
    mask = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.5
    assert_equal(models, *batches(2, 3), mask)


ALL = {"merge_calls": True, "batch_inputs": True, "fuse_heads": True, "channels_last": True, "fold_batchnorm": True}


def many_heads(**changes: Any) -> dict[str, Any]:
    """Three inputs that share a frozen ResNet and 12 heads."""
    names = [f"h{i}" for i in range(12)]
    return {
        "inputs": {name: [3, 32, 32] for name in "abc"},
        "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25, "freeze": True},
        "heads": {name: {"mlp": {"dims": ["auto", 3]}} for name in names},
        "mapping": {name: {"flatten": names} for name in "abc"},
        **changes,
    }


def images(*sizes: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, 3, 32, 32, generator=generator) for size in sizes]


@pytest.mark.slow
def test_all_optimizations_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(folding, "MIN_POSITIONS", 0)
    monkeypatch.setattr(folding, "MIN_ELEMENTS", {"cpu": 0})
    shared, separate = compared(many_heads(), ALL)
    done = [line.partition(":")[0] for line in shared.optimized_graph.summary]
    assert done == ["batch_inputs", "fuse_heads", "channels_last", "fold_batchnorm"]
    assert_equal((shared, separate), *images(2, 3, 1))
    part, other = (model.slice(inputs=["a", "c"]) for model in (shared, separate))
    torch.testing.assert_close(dict(part(*images(2, 3))), dict(other(*images(2, 3))), rtol=1e-4, atol=1e-5)
    graphmodel.save(shared, tmp_path / "model")
    loaded = graphmodel.load(tmp_path / "model")
    assert loaded.code == shared.code
    torch.testing.assert_close(dict(loaded(*images(2, 3, 1))), dict(shared(*images(2, 3, 1))), rtol=0, atol=0)


@pytest.mark.slow
def test_all_optimizations_on_a_partly_frozen_trunk_with_checkpoints() -> None:
    frozen = ["trunk.conv1", "trunk.bn1", "trunk.layer1"]
    models = compared(
        many_heads(trunk={"name": "resnet", "depth": 18, "width_multiplier": 0.25}, freeze=frozen, checkpoint=2), ALL
    )
    assert [len(calls(models[0].optimized_graph, f"trunk.layer{i}")) for i in (1, 2)] == [1, 3]
    # BatchNorm over a few values enlarges rounding: in double precision there is none to speak of.
    assert_equal((models[0].double(), models[1].double()), *(x.double() for x in images(2, 3, 2)))


VIT = {
    "name": "timm:vit_tiny_patch16_224",
    "num_classes": 0,
    "img_size": 32,
    "depth": 4,
    "embed_dim": 24,
    "num_heads": 2,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "drop_path", "together"),
    [
        ({"checkpoint": {"every": 2}}, 0.0, [1, 1]),
        ({"checkpoint": True}, 0.3, [1, 2]),
        ({"checkpoint": True, "freeze": ["trunk"]}, 0.3, [1, 1]),
    ],
    ids=["every other block", "drop path", "frozen"],
)
def test_a_vision_transformer_with_checkpoints(changes: dict[str, Any], drop_path: float, together: list[int]) -> None:
    document = {
        "inputs": {"a": [3, 32, 32], "b": [3, 32, 32]},
        "trunk": {**VIT, "drop_path_rate": drop_path},
        "mapping": {"a": {"flatten": None}, "b": {"flatten": None}},
        **changes,
    }
    models = compared(document, {"batch_inputs": True})
    graph = models[0].optimized_graph
    last = max(str(n.target) for n in graph.nodes.values() if str(n.target).startswith("trunk.blocks"))
    assert [len(calls(graph, "trunk.patch_embed")), len(calls(graph, last))] == together
    assert_equal(models, *images(2, 3))


def test_constants_of_one_pass_alone_are_not_a_segment_of_their_own() -> None:
    document = {
        "inputs": {"a": [3, 32, 32], "b": [3, 32, 32]},
        "trunk": {
            "name": "vision_transformer",
            "image_size": 32,
            "patch_size": 16,
            "num_layers": 1,
            "num_heads": 2,
            "hidden_dim": 16,
            "mlp_dim": 16,
        },
        "mapping": {"a": {"lastCLS": None}, "b": {"lastCLS": None}},
        "checkpoint": True,
    }
    models = compared(document, ("batch_inputs",))  # without `merge_calls` each pass reads its own class token
    graph = models[0].optimized_graph
    unread = graph.nodes.keys() - {r for node in graph.nodes.values() for r in node.refs()}
    assert unread == {n for output in graph.outputs.values() for n in output.parts.values()}
    assert_equal(models, *images(2, 3))


@pytest.mark.slow
def test_crops_with_a_pass_each_share_the_heads_of_swav() -> None:
    head = {"swav_head": {"dims": ["auto", 16, 8], "use_bn": False, "num_clusters": [6]}}
    document = {
        "inputs": {"crops": {"views": [{"count": 3, "shape": [3, 32, 32]}], "grouping": "crop"}},
        "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25, "freeze": True},
        "heads": {"swav": head},
    }
    models = compared(document, {"batch_inputs": True})
    assert len(calls(models[0].optimized_graph, "trunk.conv1")) == 1
    assert_equal(models, images(2, 2, 2))
