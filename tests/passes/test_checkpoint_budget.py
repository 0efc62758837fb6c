"""Checkpoint by names, by `every`, and within a memory budget that a measured training step keeps."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import graphmodel
from graphmodel.graph.types import ModelGraph
from graphmodel.passes.checkpoint_plan import Row, cheapest, smallest_peak
from graphmodel.passes.training_step import saved_by_call, simulate_step
from graphmodel.spec.sizes import parse_size, size_text


def built(spec: dict[str, Any], **changes: Any) -> ModelGraph:
    return graphmodel.build_graph(graphmodel.load_spec({**spec, **changes}))


def recomputed(graph: ModelGraph) -> list[str]:
    return [str(n.target).removeprefix("trunk.") for n in graph.nodes.values() if n.facts.checkpoint]


def failure(spec: dict[str, Any], checkpoint: Any) -> graphmodel.Diagnostic:
    with pytest.raises(graphmodel.CompileError) as caught:
        built(spec, checkpoint=checkpoint)
    (found,) = caught.value.diagnostics
    return found


def step(model: nn.Module, x: torch.Tensor) -> None:
    model(x)["head"].sum().backward()


class Blocks(nn.Module):
    """A trunk of six blocks whose activations are larger than its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        for i in range(6):
            layers = [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)]
            self.add_module(f"block{i}", nn.Sequential(*layers, nn.Conv2d(8, 8, 1), nn.Dropout(0.1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for i in range(6):
            x = x + self.get_submodule(f"block{i}")(x)
        return x.mean((2, 3))


BLOCKS = {
    "inputs": {"images": [3, 32, 32]},
    "trunk": {"module": "tests:Blocks"},
    "heads": {"head": {"mlp": {"dims": ["auto", 10]}}},
    "mapping": {"images": {"block5": {"pool": {"adaptive_avg_pool2d": 1}, "flatten": True, "head": "head"}}},
}


def compiled(checkpoint: Any = 0, **changes: Any) -> Any:
    torch.manual_seed(0)
    return graphmodel.compile({**BLOCKS, "checkpoint": checkpoint, **changes}, trunks={"trunk": Blocks()}, seed=0)


class Allocations(TorchDispatchMode):
    """The bytes of live storages that operations on real tensors make."""

    def __init__(self, known: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.alive: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                storage = tensor.untyped_storage()
                if storage._cdata not in self.alive:
                    self.alive[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self.alive.pop, storage._cdata)
        self.peak = max(self.peak, sum(self.alive.values()))
        return result


def measured(model: nn.Module, x: torch.Tensor) -> int:
    """The peak of a training step on real tensors, above the parameters."""
    with Allocations([*model.parameters(), *model.buffers(), x]) as found:
        step(model, x)
    return found.peak + x.nbytes


def profiled(model: nn.Module, x: torch.Tensor) -> int:
    """The same as torch's own profiler sees it, with the workspaces of CPU kernels."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        step(model, x)
    now = peak = x.nbytes
    events = (e for e in found.profiler.kineto_results.events() if e.name() == "[memory]")
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


# -- names and every ---------------------------------------------------------------------------------------------------


def test_named_stages_are_recomputed_each_on_its_own(small: dict[str, Any]) -> None:
    graph = built(small, checkpoint=["layer3", "trunk.layer1"])
    assert recomputed(graph) == ["layer1", "layer3"]
    assert [n.facts.checkpoint for n in graph.nodes.values() if n.facts.checkpoint] == [1, 2]


def test_a_block_inside_of_a_stage_can_be_named(small: dict[str, Any]) -> None:
    graph = built(small, checkpoint=["layer2.1"])
    assert recomputed(graph) == ["layer2.1"]
    assert "layer2.0" in [str(n.target).removeprefix("trunk.") for n in graph.nodes.values()]


def test_an_unknown_stage_is_an_error_with_the_nearest_name(small: dict[str, Any]) -> None:
    found = failure(small, ["layer1", "layer7"])
    assert (found.code, found.path) == ("GM407", "checkpoint[1]")
    assert found.message == "`layer7` is not a stage of a trunk"
    assert "layer1" in found.help


def test_a_stage_and_its_part_cannot_both_be_named(small: dict[str, Any]) -> None:
    found = failure(small, ["layer2", "layer2.1"])
    assert (found.code, found.path) == ("GM407", "checkpoint[0]")
    assert found.message == "`layer2` is named together with its part `layer2.1`"


def test_a_named_stage_that_is_frozen_keeps_no_activations(small: dict[str, Any]) -> None:
    graph = built(small, checkpoint=["layer1", "layer2"], freeze=["trunk.conv1", "trunk.bn1", "trunk.layer1"])
    assert recomputed(graph) == ["layer2"]
    assert [n.code for n in graph.notes] == ["GM404"]


@pytest.mark.parametrize(("step", "stages"), [
    (1, ["layer1", "layer2", "layer3", "layer4"]), (2, ["layer2", "layer4"]), (3, ["layer3"]), (5, []),
])  # fmt: skip
def test_every_nth_stage(small: dict[str, Any], step: int, stages: list[str]) -> None:
    graph = built(small, checkpoint={"every": step})
    assert recomputed(graph) == stages
    assert [n.code for n in graph.notes] == ([] if stages else ["GM403"])


# -- the format --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("checkpoint", "text"), [
    ({"memory_budget": "4GiB"}, "has a `memory_budget` and no `batch`"),
    ({"memory_budget": 4, "batch": 8}, "`4` has no unit"),
    ({"memory_budget": "4Gib", "batch": 8}, "`Gib` is not a valid unit"),
    ({"memory_budget": "four GiB", "batch": 8}, "`four GiB` is not a valid size"),
    ({"memory_budget": "0GiB", "batch": 8}, "`0GiB` is not a valid size"),
    ({"every": 0}, "should be greater than 0"),
    ({"every": 2, "batch": 8}, "has `every` and `batch`"),
    ({"batch": 8}, "needs one of `every` and `memory_budget`"),
    ([], "at least 1 entry"),
])  # fmt: skip
def test_a_malformed_rule_is_one_error(small: dict[str, Any], checkpoint: Any, text: str) -> None:
    found = failure(small, checkpoint)
    assert found.code == "GM202"
    assert text in found.message


def test_bytes_without_a_unit_are_written_with_one(small: dict[str, Any]) -> None:
    found = failure(small, {"memory_budget": 12_000_000, "batch": 8})
    assert found.help == "write a unit, such as 12000000B or 11.45MiB"


@pytest.mark.parametrize("size", [1, 1000, 1_500_000_000, 4 * 2**30, 123_456_789, 2**50])
def test_a_size_is_read_back_as_no_less(size: int) -> None:
    assert size <= parse_size(size_text(size)) <= 1.02 * size


# -- the planner -------------------------------------------------------------------------------------------------------


def brute_force(table: list[Row], room: int) -> int | None:
    """The least cost over all choices."""
    costs = []
    for bits in range(2 ** len(table)):
        kept = cost = 0
        fits = True
        for i, row in enumerate(table):
            again = bool(bits >> i & 1)
            fits &= kept + (row.recompute if again else row.keep) <= room  # type: ignore[operator]
            kept += 0 if again else row.kept
            cost += row.flops if again else 0
            fits &= kept + row.after <= room
        costs += [cost] if fits else []
    return min(costs, default=None)


def test_the_choice_is_the_cheapest_of_all() -> None:
    draw = torch.Generator().manual_seed(0)

    def number(high: int) -> int:
        return int(torch.randint(1, high, (), generator=draw))

    for _ in range(30):
        table = []
        before = 0
        for _ in range(7):
            kept = number(40)
            table.append(Row(kept, before, kept + number(20), kept + number(30), number(10), number(9)))
            before += kept
        least = smallest_peak(table)
        assert brute_force(table, least) is not None
        assert brute_force(table, least - 1) is None
        for room in (least, least + 20, least + 60):
            chosen = cheapest(table, room)
            assert chosen is not None
            assert sum(table[i].flops for i in chosen) == brute_force(table, room)


def test_saved_tensors_are_counted_by_unique_storage(small: dict[str, Any]) -> None:
    model = graphmodel.compile(small, seed=0)
    weights = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    found: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = model(torch.randn(4, 3, 64, 64))
    saved = saved_by_call(model.model_graph, 4)
    assert sum(saved.values()) == sum(t.untyped_storage().nbytes() for t in found.values())
    assert saved["layer1"] > saved["layer4"] > 0
    assert out["head"].requires_grad


@pytest.mark.parametrize("checkpoint", [0, 2, True, ["block1"], {"every": 2}])
def test_a_simulated_step_is_a_measured_one(checkpoint: Any) -> None:
    model = compiled(checkpoint)
    predicted = simulate_step(model.model_graph, 8)
    assert predicted.peak == pytest.approx(measured(model, torch.randn(8, 3, 32, 32)), rel=0.01)


@pytest.mark.parametrize("frozen", [False, True])
def test_inputs_that_no_activation_needs_still_take_memory(frozen: bool) -> None:
    """Crops are joined into another tensor and a frozen trunk saves none, but the caller holds them through the step."""
    trunk = {"name": "timm:vit_tiny_patch16_224", "img_size": 32, "depth": 2, "freeze": frozen}
    inputs = {"crops": {"views": [{"count": 4, "shape": [3, 32, 32]}]}}
    spec = {"inputs": inputs, "trunk": trunk, "heads": {"head": {"mlp": {"dims": ["auto", 4]}}}, "checkpoint": True}
    model, crops = graphmodel.compile(spec, seed=0), [torch.randn(64, 3, 32, 32) for _ in range(4)]
    with Allocations([*model.parameters(), *model.buffers(), *crops]) as found:
        model(crops)["head"].sum().backward()
    predicted = simulate_step(model.model_graph, 64)
    size = sum(crop.nbytes for crop in crops)
    assert predicted.peak == pytest.approx(found.peak + size, rel=0.01)
    assert size <= predicted.kept <= predicted.peak


@pytest.mark.parametrize("part", [0.9, 0.6, 0.45])
def test_a_budget_is_met_and_nothing_else_changes(part: float) -> None:
    x = torch.randn(8, 3, 32, 32)
    plain = compiled()
    budget = size_text(int(simulate_step(plain.model_graph, 8).total * part))
    model = compiled({"memory_budget": budget, "batch": 8})
    predicted = simulate_step(model.model_graph, 8)
    torch.manual_seed(1)
    peak = measured(model, x)
    assert predicted.total <= parse_size(budget)
    assert predicted.peak == pytest.approx(peak, rel=0.01)
    assert "instead of" in model.model_graph.summary[-1]
    torch.manual_seed(1)
    step(plain, x)
    assert list(plain.state_dict()) == list(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), model.buffers(), strict=True))
    for p, q in zip(plain.parameters(), model.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("part", [0.8, 0.65])
@pytest.mark.parametrize("trunk", ["torchvision:resnet50", "timm:vit_small_patch16_224", "timm:convnext_tiny"])
def test_large_models_keep_their_budgets_within_five_percent(trunk: str, part: float) -> None:
    spec = {"inputs": {"images": [3, 224, 224]}, "trunk": trunk, "heads": {"head": {"mlp": {"dims": ["auto", 10]}}}}
    plain = simulate_step(built(spec), 8)
    budget = size_text(int(plain.total * part))
    model = graphmodel.compile({**spec, "checkpoint": {"memory_budget": budget, "batch": 8}}, seed=0)
    predicted = simulate_step(model.model_graph, 8)
    assert predicted.total <= parse_size(budget)
    assert predicted.peak == pytest.approx(profiled(model, torch.randn(8, 3, 224, 224)), rel=0.05)


def test_a_budget_that_is_met_anyway_is_declined() -> None:
    graph = compiled({"memory_budget": "4GiB", "batch": 8}).model_graph
    assert recomputed(graph) == []
    (note,) = graph.notes
    assert (note.code, note.severity) == ("GM406", "note")
    assert "within 4GiB" in note.message
    assert list(graph.nodes) == list(compiled().model_graph.nodes)


def test_a_budget_that_cannot_be_met_names_the_smallest_that_can() -> None:
    def refused(budget: str) -> graphmodel.Diagnostic:
        with pytest.raises(graphmodel.CompileError) as caught:
            compiled({"memory_budget": budget, "batch": 8})
        (found,) = caught.value.diagnostics
        return found

    found = refused("10KiB")
    assert (found.code, found.path) == ("GM405", "checkpoint.memory_budget")
    smallest = found.help.split("`")[1].removeprefix("memory_budget: ")
    graph = compiled({"memory_budget": smallest, "batch": 8}).model_graph
    assert simulate_step(graph, 8).total <= parse_size(smallest)
    assert refused(f"{parse_size(smallest) * 9 // 10}B").code == "GM405"


def test_two_inputs_share_a_budget() -> None:
    inputs = {"images": [3, 32, 32], "more": [3, 16, 16]}
    edge = BLOCKS["mapping"]["images"]  # type: ignore[index]
    spec = {"inputs": inputs, "mapping": {"images": edge, "more": {"block3": None}}}
    plain = simulate_step(compiled(**spec).model_graph, 8)
    graph = compiled({"memory_budget": size_text(plain.total // 2), "batch": 8}, **spec).model_graph
    assert simulate_step(graph, 8).total <= 1.01 * (plain.total // 2)


def test_dropout_draws_the_same_numbers_again() -> None:
    spec = {"inputs": {"images": [3, 32, 32]}, "trunk": {"name": "timm:vit_tiny_patch16_224", "img_size": 32,
            "proj_drop_rate": 0.5}}  # fmt: skip
    x = torch.randn(4, 3, 32, 32)
    grads = []
    for checkpoint in (0, ["blocks.1", "blocks.7"]):
        model = graphmodel.compile({**spec, "checkpoint": checkpoint}, seed=0, returns="tensor")
        torch.manual_seed(1)
        model(x).sum().backward()
        grads.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_a_stage_that_changes_its_input_in_place_is_left_alone() -> None:
    class Trunk(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3)
            self.block1 = nn.Sequential(nn.SiLU(inplace=True), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
            self.block2 = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.block2(self.block1(self.stem(x))).flatten(1)  # type: ignore[no-any-return]

    spec = {
        "inputs": {"images": [3, 16, 16]},
        "trunk": {"module": "somewhere:Trunk"},
        "checkpoint": ["block1", "block2"],
    }
    model = graphmodel.compile({**spec, "mapping": {"images": {"block2": None}}}, trunks={"trunk": Trunk()}, seed=0)
    assert recomputed(model.model_graph) == ["block2"]
    assert [n.code for n in model.model_graph.notes] == ["GM409"]
    model(torch.randn(2, 3, 16, 16))["block2"].sum().backward()


@pytest.mark.slow
def test_it_compiles_into_one_graph() -> None:
    torch._dynamo.reset()
    model = compiled({"memory_budget": "4MiB", "batch": 8})
    assert recomputed(model.model_graph)
    step(torch.compile(model, fullgraph=True, backend="aot_eager"), torch.randn(8, 3, 32, 32))  # type: ignore[arg-type]
    assert int(model.trunk.block0[1].num_batches_tracked) == 1


def test_the_resolved_spec_keeps_the_rule(small: dict[str, Any]) -> None:
    from graphmodel.dialects.native.dump import dump

    for checkpoint in (["layer1"], {"every": 2}, {"memory_budget": "4GiB", "batch": 8}):
        spec = graphmodel.load_spec({**small, "checkpoint": checkpoint})
        assert dump(spec)["checkpoint"] == checkpoint
        assert graphmodel.load_spec(dump(spec)).checkpoint == spec.checkpoint


@pytest.mark.parametrize(("one", "other", "text"), [
    (["layer1"], ["layer2"], "activation checkpointing: layer2, it was layer1"),
    (["layer1"], {"every": 2}, "activation checkpointing: 2 segments, it was 1 segment"),
    (["layer2", "layer4"], {"every": 2}, "no difference"),
])  # fmt: skip
def test_diff_tells_which_stages_are_recomputed(small: dict[str, Any], one: Any, other: Any, text: str) -> None:
    assert text in str(graphmodel.diff(built(small, checkpoint=one), built(small, checkpoint=other)))
