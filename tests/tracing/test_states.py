"""A trunk's code may ask torch for its state, or a tensor for what it is: the library's answer, or an error."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy
import pytest
import torch
import torch.utils.checkpoint
from torch import is_autocast_enabled, nn

import graphmodel
from graphmodel.diagnostics.input_error import InputError

Rule = Callable[[Any, torch.Tensor], Any]
SPEC = {
    "inputs": {"images": [3, 8, 8]},
    "trunk": "given",
    "mapping": [{"from": "images.stem", "as": "stem"}, {"from": "images.output", "as": "output"}],
}
CHANNELS_LAST = torch.channels_last


class Asking(nn.Module):
    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self.rule = rule
        self.stem, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        out: torch.Tensor = self.head(x * self.rule(self, x))
        return out


def matches_tensor(x: Any) -> bool:
    match x:
        case torch.Tensor():
            return True
    return False


@functools.singledispatch
def dispatched(x: Any) -> bool:
    return False


@dispatched.register
def _(x: torch.Tensor) -> bool:
    return True


CONTEXTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "plain": nullcontext,
    "no gradients": torch.no_grad,
    "float16": lambda: torch.autocast("cpu", torch.float16),
    "bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
}
RULES: dict[str, tuple[Rule, tuple[str, ...]]] = {
    "autocast by name": (lambda m, x: 2 if is_autocast_enabled("cpu") else 3, ("float16", "bfloat16")),
    "dtype of autocast": (lambda m, x: 2 if torch.get_autocast_dtype("cpu") == torch.float16 else 3, ("float16",)),
    "grad mode": (lambda m, x: 2 if torch.is_grad_enabled() else 3, ("plain", "float16", "bfloat16")),
    "requires_grad": (lambda m, x: 2 if x.requires_grad else 3, ("plain", "float16", "bfloat16")),
    "device index": (lambda m, x: 2 if x.get_device() >= 0 else 3, ()),
    "isinstance": (lambda m, x: 2 if isinstance(x, torch.Tensor) else 3, ()),
    "type": (lambda m, x: 2 if type(x) is torch.Tensor and isinstance(type(x), type) else 3, ()),
    "is_tensor": (lambda m, x: 2 if torch.is_tensor(x) else 3, ()),
    "class": (lambda m, x: 2 if x.__class__ is torch.Tensor and x.__class__.__name__ == "Tensor" else 3, ()),
    "match": (lambda m, x: 2 if matches_tensor(x) else 3, ()),
    "dispatch": (lambda m, x: 2 if dispatched(x) else 3, ()),
    "callable": (lambda m, x: 2 if callable(x) or hasattr(x, "__call__") or hasattr(x, "keys") else 3, ()),  # noqa: B004
    "abstract": (lambda m, x: 2 if isinstance(x, Callable) or not isinstance(x.shape[1], int) else 3, ()),
    "batch": (lambda m, x: 2 if isinstance(x.shape[0], int) and type(x.shape[0]) is int else 3, ()),
    "class of the batch": (lambda m, x: 2 if x.shape[0].__class__ is int else 3, ()),
    "is_meta": (lambda m, x: 2 if x.is_meta or m.stem.weight.is_meta else 3, ()),
    "fx": (lambda m, x: 2 if torch.fx._symbolic_trace.is_fx_tracing() else 3, ()),
    "hasattr": (lambda m, x: 2 if hasattr(x, "tensors") else 3, ()),
    "torch.Size": (lambda m, x: x.new_full(torch.Size(x.shape), 2).reshape(torch.Size([*x.shape])), ()),
    "parameters": (lambda m, x: next(m.parameters()).sum() + 2, ()),
    "checkpoint": (lambda m, x: torch.utils.checkpoint.checkpoint(torch.sigmoid, x, use_reentrant=False), ()),
}
"""Rules, and the contexts in which the answer is not that of the trace."""


def both(rule: Rule) -> tuple[nn.Module, graphmodel.CompiledModel]:
    torch.manual_seed(0)
    module = Asking(rule).eval()
    return module, graphmodel.compile(SPEC, trunks={"trunk": copy.deepcopy(module)}).eval()


@pytest.mark.parametrize("name", RULES)
def test_an_answer_that_is_another_one_at_run_time_is_refused(name: str) -> None:
    rule, refused = RULES[name]
    module, model = both(rule)
    x = torch.randn(2, 3, 8, 8)
    for context, enter in CONTEXTS.items():
        with enter():
            if context in refused:
                with pytest.raises(InputError, match="GM543"):
                    model(x)
            else:
                assert torch.equal(model(x)["output"], module(x))


@pytest.mark.parametrize(
    "rule",
    [
        lambda m, x: 2 if x.is_contiguous() else 3,
        lambda m, x: 2 if x.is_contiguous(memory_format=CHANNELS_LAST) else 3,
        lambda m, x: 2 if x.stride(1) == 1 else 3,
    ],
)
def test_a_branch_on_the_memory_format_is_checked(rule: Rule) -> None:
    module, model = both(rule)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(model(x)["output"], module(x))
    with pytest.raises(InputError, match="decides by the memory format"):
        model.to(memory_format=CHANNELS_LAST)(x.to(memory_format=CHANNELS_LAST))


def test_a_branch_on_the_dtype_of_some_parameter_is_checked() -> None:
    _, model = both(lambda m, x: 2 if next(m.parameters()).dtype == torch.float32 else 3)
    with pytest.raises(InputError, match="decides by the dtype"):
        model.double()(torch.randn(2, 3, 8, 8).double())


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, lambda: torch.set_grad_enabled(False)])
def test_code_that_turns_gradients_off_is_refused(context: Callable[[], Any]) -> None:
    class Frozen(Asking):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with context():
                x = self.stem(x)
            out: torch.Tensor = self.head(x)
            return out

    module = Frozen(lambda m, x: 1)
    with pytest.raises(graphmodel.CompileError, match=r"turns gradients off.*\n.*\n.*freeze these parts"):
        graphmodel.compile(SPEC, trunks={"trunk": module})
    if context is torch.inference_mode:  # whose tensors torch does not save for a backward pass
        return
    whole = graphmodel.compile({**SPEC, "mapping": {"images": {"output": {"as": "o"}}}}, trunks={"trunk": module})
    whole(torch.randn(2, 3, 8, 8))["o"].sum().backward()
    assert module.stem.weight.grad is None
    assert module.head.weight.grad is not None


@pytest.mark.parametrize("name", ["grad_fn", "data_ptr", "_base", "_version"])
def test_what_a_tensor_says_of_its_memory_is_refused(name: str) -> None:
    with pytest.raises(graphmodel.CompileError, match=f"reads `{name}` of a tensor"):
        both(lambda m, x: 2 if getattr(x, name) is None else 3)


def put_back(m: Any, x: torch.Tensor) -> int:
    m.stem.eval()
    m.stem.train(m.training)
    return 2


class Counting(Asking):
    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        out: torch.Tensor = self.head(self.stem(x)) * self.calls
        return out


REFUSED: dict[str, tuple[Rule, str]] = {
    "mode of a part": (lambda m, x: m.head.train() and 2, "puts a Conv2d into training mode while it runs"),
    "mode that is put back": (put_back, "puts a Conv2d into eval mode"),
    "assigned mode": (lambda m, x: setattr(m, "training", True) or 2, "puts a Asking into training mode"),
    "random": (lambda m, x: 2 if random.random() < 0.5 else 3, "random numbers with Python or numpy"),
    "numpy": (lambda m, x: 2 if numpy.random.rand() < 0.5 else 3, "random numbers with Python or numpy"),
    "parameter": (lambda m, x: 2 if isinstance(x, nn.Parameter) else 3, "asks if `trunk_stem` is a parameter"),
    "text of a tensor": (lambda m, x: len(str(x)), "text of `trunk_stem`"),
    "repr of a tensor": (lambda m, x: len(repr(x)), "text of `trunk_stem`"),
    "format of a tensor": (lambda m, x: len(f"{x}"), "text of `trunk_stem`"),
}
"""Rules whose answer may be another one in each call, and what is said of them."""


def assert_drawn_alike(model: graphmodel.CompiledModel, module: nn.Module) -> None:
    """Both give the same with the same generators of Python and numpy."""
    x, found = torch.randn(2, 3, 8, 8), []
    for made in (model, module):
        random.seed(0)
        numpy.random.seed(0)
        found.append(made(x))
    assert torch.equal(found[0]["output"], found[1])


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_graph_cannot_follow_is_refused_unless_the_trunk_is_one_call(name: str) -> None:
    rule, words = REFUSED[name]
    state = random.getstate()
    with pytest.raises(graphmodel.CompileError, match=words):
        both(rule)
    assert random.getstate() == state
    module = Asking(rule).eval()
    spec = {**SPEC, "mapping": {"images": {"output": {"as": "output"}}}}
    model = graphmodel.compile(spec, trunks={"trunk": copy.deepcopy(module)}).eval()
    assert_drawn_alike(model, module)


def test_a_number_that_counts_the_calls_is_refused() -> None:
    module = Counting(lambda m, x: 1)
    with pytest.raises(graphmodel.CompileError, match="changes the number `calls` in every call"):
        graphmodel.compile(SPEC, trunks={"trunk": module})


def test_closed_modules_may_draw_and_count() -> None:
    class Drawing(nn.Module):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return x * random.random() * numpy.random.rand()

    module = Asking(lambda m, x: 1)
    module.head = nn.Sequential(module.head, Drawing())
    model = graphmodel.compile(SPEC, trunks={"trunk": copy.deepcopy(module)})
    assert_drawn_alike(model, module)


def test_nothing_stays_replaced() -> None:
    names = ("is_grad_enabled", "is_autocast_enabled", "get_autocast_dtype", "is_tensor", "Size")
    before = [getattr(torch, name) for name in names]
    both(lambda m, x: 2)
    assert [getattr(torch, name) for name in names] == before
    assert "isinstance" not in globals()
    assert "type" not in globals()
    assert isinstance(torch.zeros(2).shape, torch.Size)
    assert nn.Module.__setattr__.__module__ == "torch.nn.modules.module"
