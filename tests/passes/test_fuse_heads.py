"""Many small heads run as one computation, and nothing else about the model changes."""

from __future__ import annotations

import copy
import io
import json
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphmodel
from graphmodel.components.fused import joined_result, run_heads
from graphmodel.components.heads.mlp import Mlp
from graphmodel.graph.types import ModelGraph
from graphmodel.passes.fuse_heads import MIN_HEADS, FuseHeads

X = torch.randn(8, 3, 8, 8)
COUNT = MIN_HEADS


class Trunk(nn.Module):
    """A trunk with features of 12, 16 and 16 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, stride=2)
        self.act = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.last = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.flatten(self.pool(self.act(self.conv(x)))))


def spec(heads: dict[str, Any], mapping: Any = None, **more: Any) -> dict[str, Any]:
    mapping = {"images": {"last": list(heads)}} if mapping is None else mapping
    return {"inputs": {"images": [3, 8, 8]}, "trunk": "resnet", "heads": heads, "mapping": mapping, **more}


def linear(count: int = COUNT, classes: Any = 3) -> dict[str, Any]:
    return {
        f"h{i}": {"mlp": {"dims": ["auto", classes if isinstance(classes, int) else classes(i)]}} for i in range(count)
    }


def deep(count: int = COUNT) -> dict[str, Any]:
    return {f"h{i}": {"mlp": {"dims": ["auto", 8, 6, 3], "use_relu": True}} for i in range(count)}


def compiled(document: dict[str, Any], passes: Any = None, **more: Any) -> graphmodel.CompiledModel:
    torch.manual_seed(0)
    return graphmodel.compile(document, seed=0, passes=passes, trunks={"trunk": Trunk()}, **more)


@cache
def compiled_once(document: str) -> tuple[graphmodel.CompiledModel, graphmodel.CompiledModel]:
    spec = json.loads(document)
    return compiled(spec), compiled(spec, ())


def pair(document: dict[str, Any]) -> tuple[graphmodel.CompiledModel, graphmodel.CompiledModel]:
    """The model with the pass and without any."""
    fused, loop = copy.deepcopy(compiled_once(json.dumps(document)))
    assert is_fused(fused)
    assert not is_fused(loop)
    return fused, loop


def is_fused(model: graphmodel.CompiledModel) -> bool:
    return any(node.target is run_heads for node in model.optimized_graph.nodes.values())


def gradients(model: nn.Module, *, without: Any = (), x: torch.Tensor = X) -> dict[str, torch.Tensor | None]:
    model.zero_grad()
    sum(out.pow(2).sum() for name, out in model(x).items() if name not in without).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def same(first: Any, second: Any, tolerance: float = 1e-5) -> None:
    assert list(first) == list(second)
    for name in first:
        assert (first[name] is None) == (second[name] is None), name
        if first[name] is not None:
            torch.testing.assert_close(first[name], second[name], atol=tolerance, rtol=tolerance)


MODELS = {
    "linear": spec(linear()),
    "classes": spec(linear(classes=lambda i: 2 + i % 3)),
    "deep": spec(deep()),
    "no_bias": spec({n: {"mlp": {"dims": ["auto", 3], "use_bias": False}} for n in linear()}),
    "two_features": spec(linear(2 * COUNT), {"images": {f: [f"h{2 * i + k}" for i in range(COUNT)] for k, f in enumerate(("flatten", "last"))}}),
    "maps": spec(linear(), {"images": {"pool": list(linear())}}),
    "frozen": spec(linear(), freeze=["trunk", "heads.h1"]),
    "checkpoint": spec(linear(), checkpoint=True),
    "tuple": spec(linear(), returns="tuple"),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_outputs_gradients_and_keys_are_those_of_the_loop(name: str) -> None:
    fused, loop = pair({**MODELS[name], "returns": "dict"})
    assert list(fused.state_dict()) == list(loop.state_dict())
    same(dict(fused.named_parameters()), dict(loop.named_parameters()), 0)
    same(fused(X), loop(X))
    same(gradients(fused), gradients(loop))
    with torch.no_grad():
        same(fused(X), loop(X))
        same(fused(X[:1]), loop(X[:1]))
        same(fused(X[:0]), loop(X[:0]))
    same(gradients(fused, x=X[:1]), gradients(loop, x=X[:1]))


def test_heads_that_read_a_value_each_are_one_batched_multiplication() -> None:
    chain = [{"mlp": {"dims": ["auto", 7]}}, {"mlp": {"dims": ["auto", 5, 3], "use_relu": True}}]
    fused, loop = pair(spec({f"h{i}": chain for i in range(COUNT)}))
    assert sum(n.target is run_heads for n in fused.optimized_graph.nodes.values()) == 2
    same(fused(X), loop(X))
    same(gradients(fused), gradients(loop))
    without = ["h1", "h3"]
    same(gradients(fused, without=without), gradients(loop, without=without))


@pytest.mark.parametrize("name", ["linear", "classes", "deep"])
def test_heads_whose_outputs_are_not_used_get_no_gradient(name: str) -> None:
    fused, loop = pair(MODELS[name])
    without = ["h0", "h3", f"h{COUNT - 1}"]
    found = gradients(fused, without=without)
    same(found, gradients(loop, without=without))
    assert {found[n] is None for n in found if n.startswith("heads.h3.")} == {True}
    same(gradients(fused), gradients(loop))  # in the next step they do


def test_unused_heads_are_told_for_each_backward_pass_of_one_graph() -> None:
    fused, loop = pair(MODELS["linear"])
    results = {}
    for model in (fused, loop):
        out = model(X)
        out["h0"].sum().backward(retain_graph=True)
        first = [model.heads.h0.clf[0].weight.grad is None, model.heads.h1.clf[0].weight.grad is None]
        sum(v.sum() for v in out.values()).backward()
        results[model is fused] = (first, {n: p.grad for n, p in model.named_parameters()})
    assert results[True][0] == results[False][0] == [False, True]
    same(results[True][1], results[False][1])


def test_steps_of_an_optimizer_with_a_group_for_each_head_stay_the_same() -> None:
    fused, loop = pair(MODELS["linear"])
    for model in (fused, loop):
        groups = [{"params": head.parameters(), "lr": 0.01 * (i + 1)} for i, head in enumerate(model.heads.values())]
        optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=0.1)
        for step in range(3):
            optimizer.zero_grad()
            # The heads take turns: one that is not used must not decay.
            sum(out.pow(2).sum() for i, out in enumerate(model(X).values()) if i % 3 != step).backward()
            optimizer.step()
    same(fused.state_dict(), loop.state_dict())


def test_a_head_that_is_frozen_later_gets_no_gradient() -> None:
    fused, loop = pair(MODELS["linear"])
    for model in (fused, loop):
        model.heads.h2.requires_grad_(False)
    found = gradients(fused)
    same(found, gradients(loop))
    assert [n for n, g in found.items() if g is None] == ["heads.h2.clf.0.weight", "heads.h2.clf.0.bias"]


def test_second_derivatives() -> None:
    found = []
    for model in pair(MODELS["deep"]):
        x = X.clone().requires_grad_()
        (grad,) = torch.autograd.grad(model(x)["h1"].pow(2).sum(), x, create_graph=True)
        grad.pow(2).sum().backward()
        found.append({n: p.grad for n, p in model.named_parameters()})
    same(*found)


@pytest.mark.slow
def test_results_are_contiguous_and_may_be_changed_in_place() -> None:
    for name in ("linear", "classes", "deep"):
        fused, loop = pair(MODELS[name])
        outs = fused(X), loop(X)
        for out in outs:
            assert all(value.is_contiguous() for value in out.values())
            out["h0"].mul_(2)
            out["h1"][:, 0] = 0
            sum(value.pow(2).sum() for value in out.values()).backward()
        same(*outs)
        grads = [{n: p.grad for n, p in model.named_parameters()} for model in (fused, loop)]
        same(*grads)


# -- heads that changed after compiling --------------------------------------------------------------------------------


class Lora(nn.Module):
    """A layer with an adapter beside it, as peft puts in the place of a linear layer."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down, self.up = nn.Linear(base.in_features, 2, bias=False), nn.Linear(2, base.out_features, bias=False)

    @property
    def weight(self) -> torch.Tensor:
        return self.base.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.up(self.down(x))


def hook(model: nn.Module) -> None:
    model.heads.h1.register_forward_hook(lambda module, args, out: out + 1)


def hook_of_a_layer(model: nn.Module) -> None:
    model.heads.h1.clf[0].register_forward_pre_hook(lambda module, args: (args[0] * 2,))


def adapter(model: nn.Module) -> None:
    torch.manual_seed(1)
    model.heads.h1.clf[0] = Lora(model.heads.h1.clf[0])


def another_head(model: nn.Module) -> None:
    torch.manual_seed(1)
    model.heads["h1"] = nn.Sequential(nn.Linear(16, 3), nn.Tanh())


def wider_hidden_layers(model: nn.Module) -> None:
    torch.manual_seed(1)
    model.heads["h1"].clf = nn.Sequential(nn.Linear(16, 9), nn.ReLU(), nn.Linear(9, 3))


def spectral_norm(model: nn.Module) -> None:
    torch.manual_seed(1)
    nn.utils.spectral_norm(model.heads.h1.clf[0])


def parametrization(model: nn.Module) -> None:
    nn.utils.parametrizations.weight_norm(model.heads.h1.clf[0])
    with torch.no_grad():
        model.heads.h1.clf[0].parametrizations.weight.original0.mul_(3)


def patched_forward(model: nn.Module) -> None:
    layer = model.heads.h1.clf[0]
    layer.forward = lambda x: F.linear(x, layer.weight)


def other_classes(model: nn.Module) -> None:
    torch.manual_seed(1)
    model.heads.h1.clf[0] = nn.Linear(16, 5)


@pytest.mark.parametrize(
    "change",
    [hook, hook_of_a_layer, adapter, another_head, wider_hidden_layers, spectral_norm, parametrization, patched_forward, other_classes],
)  # fmt: skip
def test_a_head_that_was_changed_after_compiling_runs_as_it_is(change: Any) -> None:
    fused, loop = pair(MODELS["linear"])
    for model in (fused, loop):
        before = model(X)["h1"]
        change(model)
        assert not torch.equal(model(X)["h1"][:, :1], before[:, :1])
        model.eval()
    same(fused(X), loop(X))
    same(gradients(fused), gradients(loop))


def test_a_hook_that_is_removed_again_leaves_the_heads_fused() -> None:
    fused, loop = pair(MODELS["linear"])
    seen: list[Any] = []
    handle = fused.heads.h1.register_forward_hook(lambda module, args, out: seen.append(out))
    same(fused(X), loop(X))
    handle.remove()
    same(fused(X), loop(X))
    assert len(seen) == 1
    assert joined_result(list(fused(X).values())) is not None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_quantized_heads_run_quantized() -> None:
    fused, loop = pair(MODELS["linear"])
    quantized = [torch.ao.quantization.quantize_dynamic(m.eval(), {nn.Linear}) for m in (fused, loop)]
    with torch.no_grad():
        found, expected = (model(X) for model in quantized)
    same(found, expected)
    assert not torch.equal(found["h0"], fused(X)["h0"])


def test_loaded_weights_are_used() -> None:
    fused, loop = pair(MODELS["deep"])
    state = {k: 0.2 * torch.randn_like(v) for k, v in loop.state_dict().items()}
    fused.load_state_dict(state)
    loop.load_state_dict(state, assign=True)
    same(fused(X), loop(X))


# -- transformations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["linear", "classes", "deep"])
def test_copies_and_slices(name: str) -> None:
    fused, loop = pair(MODELS[name])
    file = io.BytesIO()
    torch.save(fused, file)
    file.seek(0)
    expected = loop(X)
    for model in (copy.deepcopy(fused), torch.load(file, weights_only=False)):
        same(model(X), expected)
        gradients(model)
        assert fused.heads.h0.clf[0].weight.grad is None, "a copy has weights of its own"
    half = [f"h{i}" for i in range(COUNT // 2)]
    part = fused.slice(outputs=half)
    assert not is_fused(part), "too few heads are left"
    same(part(X), {n: expected[n] for n in half})
    rest = fused.slice(outputs=list(fused.heads))
    assert is_fused(rest)
    same(gradients(rest), gradients(loop))
    assert fused.heads.h0.clf[0].weight.grad is not None, "a slice shares them"


@pytest.mark.parametrize("form", ["dict", "tuple", "list"])
def test_forms_of_the_result(form: str) -> None:
    fused, loop = pair({**MODELS["linear"], "returns": form})
    found, expected = fused(X), loop(X)
    assert type(found) is type(expected)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(dtype: torch.dtype) -> None:
    fused, loop = (model.to(dtype) for model in pair(MODELS["deep"]))
    tolerance = 1e-12 if dtype is torch.float64 else 0.05
    same(fused(X.to(dtype)), loop(X.to(dtype)), tolerance)
    same(gradients(fused, x=X.to(dtype)), gradients(loop, x=X.to(dtype)), tolerance)


def test_autocast() -> None:
    fused, loop = pair(MODELS["linear"])
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = fused(X), loop(X)
        assert found["h0"].dtype == expected["h0"].dtype == torch.bfloat16
        same(found, expected, 0.02)
        same(gradients(fused), gradients(loop), 0.05)


def test_functorch() -> None:
    fused, loop = pair(MODELS["linear"])

    def loss(model: nn.Module) -> Any:
        def of(parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
            return sum(v.pow(2).sum() for v in torch.func.functional_call(model, parameters, (x,)).values())

        return of

    found, expected = (torch.func.grad(loss(m))(dict(m.named_parameters()), X) for m in (fused, loop))
    same(found, expected)


def test_symbolic_traces_see_the_heads() -> None:
    fused, loop = pair(MODELS["linear"])

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, module: nn.Module, path: str) -> bool:
            return path.startswith("heads.") or super().is_leaf_module(module, path)

    traced = torch.fx.GraphModule(fused, Tracer().trace(fused))
    assert sum(n.op == "call_module" and str(n.target).startswith("heads.") for n in traced.graph.nodes) == COUNT
    same(traced(X), loop(X))


def test_symbolic_trace_goes_through_the_heads() -> None:
    fused, loop = pair(MODELS["linear"])
    same(torch.fx.symbolic_trace(fused)(X), loop(X))


@pytest.mark.parametrize("kind", [Mlp, nn.Linear])
def test_another_forward_of_a_class_is_called(kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    fused, loop = pair(MODELS["linear"])
    before, forward = loop(X)["h0"], kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, x: forward(self, x) * 2)
    same(fused(X), loop(X))
    same(gradients(fused), gradients(loop))
    assert not torch.allclose(loop(X)["h0"], before)


def test_a_head_of_another_dtype_fails_as_it_does_by_itself() -> None:
    for model in pair(MODELS["linear"]):
        model.heads.h1.bfloat16()
        with pytest.raises(RuntimeError, match="dtype"):
            model(X)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear", "classes", "deep"])
def test_torch_compile_makes_one_graph(name: str) -> None:
    fused, loop = pair(MODELS[name])
    model = torch.compile(fused, fullgraph=True, backend="aot_eager")
    same(model(X), loop(X))
    sum(out.pow(2).sum() for out in model(X).values()).backward()
    same({n: p.grad for n, p in fused.named_parameters()}, gradients(loop))
    hook(fused)
    hook(loop)
    torch.compiler.reset()
    same(model(X), loop(X))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear", "classes", "deep"])
def test_torch_export_with_a_dynamic_batch(name: str) -> None:
    fused, loop = pair(MODELS[name])
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(fused.eval(), (X,), dynamic_shapes=({0: batch},))
    linears = [n for n in exported.graph.nodes if "linear" in str(n.target)]
    assert len(linears) == 2, "the trunk's and one for all heads"
    same(exported.module()(X[:3]), loop.eval()(X[:3]))


def test_heads_on_batches_of_two_inputs_are_not_joined() -> None:
    mapping = {name: {"last": [f"{name}{i}" for i in range(1)]} for name in "ab"}
    heads = {f"{name}0": {"mlp": {"dims": ["auto", 3]}} for name in "ab"}
    document = {**spec(heads, mapping), "inputs": {"a": [3, 8, 8], "b": [3, 8, 8]}}
    assert not is_fused(compiled(document))


# -- what is declined --------------------------------------------------------------------------------------------------


def notes(document: dict[str, Any]) -> list[tuple[str, str]]:
    model = compiled(document)
    assert not is_fused(model)
    return [(n.code, n.message) for n in model.optimized_graph.notes]


def test_heads_with_other_layers_are_declined() -> None:
    for family, params in (
        ("mlp", {"dims": ["auto", 4, 3], "use_bn": True}),
        ("mlp", {"dims": ["auto", 4, 3], "use_dropout": True}),
        ("eval_mlp", {"dims": ["auto", 3]}),
        ("mlp_res", {"dims": ["auto", 16, 3]}),
    ):
        heads = {f"h{i}": {family: params} for i in range(COUNT)}
        ((code, message),) = notes(spec(heads))
        assert code == "GM415"
        assert message == (
            f"the heads `h0`, `h1`, `h2` and {COUNT - 3} more on `last` are not fused: "
            f"a head of the kind `{family}` is more than linear layers and ReLUs"
        )


@pytest.mark.parametrize(
    ("heads", "reason"),
    [
        (linear(COUNT - 1), f"joining the weights of {COUNT - 1} saves nothing, {COUNT} are needed"),
        (linear(52, 1000), "a layer of 16×1000 weights is as fast by itself (up to 32 outputs are joined)"),
        (linear(52, 4000), "joining a layer of 16×4000 weights costs more than calling it (up to 32768 are joined here)"),
    ],
)  # fmt: skip
def test_heads_that_are_not_worth_it_are_declined(heads: dict[str, Any], reason: str) -> None:
    ((code, message),) = notes(spec(heads))
    assert code == "GM416"
    assert message.endswith(f"are not fused: {reason}")


def test_a_note_points_at_the_line_of_the_first_head(tmp_path: Any) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(
        "inputs: {images: [3, 64, 64]}\ntrunk: {name: resnet, depth: 18, width_multiplier: 0.25}\nheads:\n"
        "  a: {mlp: {dims: [auto, 9]}}\n  b: {mlp: {dims: [auto, 9]}}\nmapping: {images: {flatten: [a, b]}}\n"
    )
    (note,) = graphmodel.compile(path, device="meta").optimized_graph.notes
    assert (note.code, note.severity, note.span.line) == ("GM416", "note", 4)


def test_a_head_that_another_one_leads_to_does_not_wait_for_it() -> None:
    ((code, message),) = notes(spec({"h": [{"mlp": {"dims": ["auto", 16]}} for _ in range(COUNT)]}))
    assert code == "GM415"
    assert message.endswith("are not fused: `h_1` needs one of them before all of them can run")


def test_the_pass_can_be_turned_off_and_says_what_it_did() -> None:
    model = compiled(MODELS["linear"])
    assert "fuse_heads" in model.passes
    assert model.optimized_graph.summary[-1] == f"fuse_heads: {COUNT} heads run as 1 computation"
    assert not is_fused(compiled(MODELS["linear"], {"fuse_heads": False}))


def test_the_graph_of_the_model_stays_as_it_is() -> None:
    model = compiled(MODELS["linear"])
    before: ModelGraph = model.model_graph
    result = FuseHeads().run(before)
    assert result.changed
    assert not any(node.target is run_heads for node in before.nodes.values())
    assert before.outputs == result.graph.outputs
