"""A trunk's code may branch on a dtype, a device, autocast or the batch: the same result as the trunk's, or an error."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphmodel
from graphmodel.diagnostics.input_error import InputError

Rule = Callable[[nn.Conv2d, torch.Tensor], Any]
LOW = (torch.float16, torch.bfloat16)
SPEC = {
    "inputs": {"images": [3, 8, 8]},
    "trunk": "given",
    "mapping": [{"from": "images.stem", "as": "stem"}, {"from": "images.output", "as": "output"}],
}


class Choosing(nn.Module):
    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self.rule = rule
        self.stem, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        out: torch.Tensor = self.head(x * self.rule(self.head, x))
        return out


def is_full(dtype: torch.dtype) -> bool:
    return dtype is torch.float32


BY_DTYPE: dict[str, tuple[Rule, tuple[torch.dtype, ...]]] = {
    "equal": (lambda m, x: 2 if x.dtype == torch.float32 else 3, (torch.float32,)),
    "in": (lambda m, x: 2 if x.dtype in LOW else 3, (torch.float32, torch.float64)),
    "set": (lambda m, x: 2 if x.dtype in set(LOW) else 3, (torch.float32,)),
    "table": (lambda m, x: {torch.float32: 2}.get(x.dtype, 3), (torch.float32,)),
    "is": (lambda m, x: 2 if x.dtype is torch.float32 else 3, (torch.float32,)),
    "is elsewhere": (lambda m, x: 2 if is_full(x.dtype) else 3, (torch.float32,)),
    "text": (lambda m, x: 2 if str(x.dtype) == "torch.float32" else 3, (torch.float32,)),
    "type": (lambda m, x: 2 if x.type() == "torch.FloatTensor" else 3, (torch.float32,)),
    "itemsize": (lambda m, x: 2 if x.dtype.itemsize > 2 else 3, (torch.float32, torch.float64)),
    "element_size": (lambda m, x: 2 if x.element_size() > 2 else 3, (torch.float32, torch.float64)),
    "weight": (lambda m, x: 2 if m.weight.dtype == torch.float32 else 3, (torch.float32,)),
    "finfo": (lambda m, x: 2 if torch.finfo(x.dtype).eps < 1e-4 else 3, (torch.float32, torch.float64)),
}
"""Rules that differ by dtype, and the dtypes for which the answer is that of the trace."""
FOLLOWS: dict[str, Rule] = {
    "finfo": lambda m, x: torch.finfo(x.dtype).eps,
    "floating": lambda m, x: 2 if x.is_floating_point() and x.dtype.is_floating_point else 3,
    "same": lambda m, x: 2 if x.dtype == m.weight.dtype and x.device == m.weight.device else 3,
    "factory": lambda m, x: torch.ones(1, dtype=x.dtype, device=x.device),
    "size": lambda m, x: 2 if x.dtype.itemsize else 3,
    "device": lambda m, x: 2 if x.device.type != "meta" else 3,
    "batch": lambda m, x: 2 if x.shape[0] > 0 else 3,
}
"""Rules that no dtype, device or batch size changes, or whose value follows them."""
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def both(rule: Rule) -> tuple[nn.Module, graphmodel.CompiledModel]:
    torch.manual_seed(0)
    return both_of(Choosing(rule))


def both_of(module: nn.Module) -> tuple[nn.Module, graphmodel.CompiledModel]:
    module.eval()
    return module, graphmodel.compile(SPEC, trunks={"trunk": copy.deepcopy(module)}).eval()


@pytest.mark.parametrize("name", BY_DTYPE)
def test_a_branch_on_the_dtype_is_never_taken_for_another_dtype(name: str) -> None:
    rule, served = BY_DTYPE[name]
    module, model = both(rule)
    for dtype in DTYPES:
        x = torch.randn(2, 3, 8, 8, dtype=dtype)
        if dtype in served:
            assert torch.equal(copy.deepcopy(model).to(dtype)(x)["output"], copy.deepcopy(module).to(dtype)(x))
        else:
            with pytest.raises(InputError, match=r"GM543.*decides by the dtype: with \S+ it does something else than"):
                copy.deepcopy(model).to(dtype)(x)


@pytest.mark.parametrize("name", FOLLOWS)
def test_what_is_the_same_for_every_dtype_is_not_checked(name: str) -> None:
    module, model = both(FOLLOWS[name])
    assert ("check_choice" in model.code) == (name == "same")
    for dtype in DTYPES:
        for batch in (1, 2, 5):
            x = torch.randn(batch, 3, 8, 8, dtype=dtype)
            assert torch.equal(model.to(dtype)(x)["output"], module.to(dtype)(x))


def test_dtypes_that_autocast_sets_apart_are_compared() -> None:
    _, model = both(FOLLOWS["same"])
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(InputError, match="GM543"):
        model(torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize("arguments", [(), ("cpu",)])
def test_a_branch_on_autocast_is_checked(arguments: tuple[str, ...]) -> None:
    module, model = both(lambda m, x: 3 if torch.is_autocast_enabled(*arguments) else 2)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(model(x)["output"], module(x))
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(InputError, match="decides by autocast"):
        model(x)


def test_code_that_turns_autocast_off_is_not_run_in_autocast() -> None:
    class Exact(Choosing):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            with torch.autocast(device_type=x.device.type, enabled=False):
                out: torch.Tensor = self.head(x.float())
            return out

    module = Exact(lambda m, x: 1).eval()
    model = graphmodel.compile(SPEC, trunks={"trunk": copy.deepcopy(module)}).eval()
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(model(x)["output"], module(x))
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(InputError, match="decides by autocast"):
        model(x)


def test_code_that_turns_autocast_on_is_refused() -> None:
    class Mixed(Choosing):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            with torch.autocast("cpu", torch.bfloat16):
                out: torch.Tensor = self.head(x)
            return out

    with pytest.raises(graphmodel.CompileError, match="turns autocast on"):
        both_of(Mixed(lambda m, x: 1))


@pytest.mark.parametrize(
    "rule",
    [lambda m, x: 3 if x.is_cuda else 2, lambda m, x: 2 if x.device.type == "cpu" else 3],
    ids=["is_cuda", "type"],
)
def test_a_branch_on_the_device_is_that_of_a_cpu(rule: Rule) -> None:
    module, model = both(rule)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(model(x)["output"], module(x))
    assert "check_choice" in model.code
    assert model.to("meta")(x.to("meta"))["output"].shape == (2, 2, 8, 8)


def test_a_branch_on_the_batch_size_is_checked() -> None:
    module, model = both(lambda m, x: 3 if x.shape[0] == 1 else 2)
    x = torch.randn(7, 3, 8, 8)
    assert torch.equal(model(x)["output"], module(x))
    with pytest.raises(InputError, match=r"decides by the batch size: with 1 it does"):
        model(x[:1])


def test_a_trunk_of_another_dtype_is_compiled_for_it() -> None:
    module = Choosing(BY_DTYPE["equal"][0]).eval().half()
    spec = {**SPEC, "inputs": {"images": {"shape": [3, 8, 8], "dtype": "float16"}}}
    model = graphmodel.compile(spec, trunks={"trunk": copy.deepcopy(module)}).eval()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float16)
    assert torch.equal(model(x)["output"], module(x))
    with pytest.raises(InputError, match="GM543"):
        model.float()(x.float())


def test_checks_survive_compilers_and_copies() -> None:
    module, model = both(BY_DTYPE["equal"][0])
    x = torch.randn(2, 3, 8, 8)
    batch = torch.export.Dim("batch", min=2, max=64)
    ways: list[Callable[[], Any]] = [
        lambda: torch.compile(model, fullgraph=True, backend="eager"),
        lambda: torch.export.export(model, (x,), dynamic_shapes=({0: batch},)).module(),
        lambda: torch.fx.symbolic_trace(model),
        lambda: copy.deepcopy(model),
        lambda: model.slice(outputs=["output"]),
    ]
    for way in ways:
        assert torch.equal(way()(x)["output"], module(x))
    for way in ways[2:]:
        with pytest.raises(InputError, match="GM543"):
            way().double()(x.double())
    with pytest.raises(Exception, match="GM543"):
        torch.compile(copy.deepcopy(model).double(), fullgraph=True, backend="eager")(x.double())
    # What reads the stem alone takes no branch.
    assert model.slice(outputs=["stem"]).double()(x.double())["stem"].dtype == torch.float64


@pytest.mark.parametrize(
    "rule",
    [
        lambda x: F.pad(x, (0, max(x.shape[2:]) - x.shape[3], 0, max(x.shape[2], x.shape[3]) - x.shape[2])),
        lambda x: x[:, :, : divmod(x.shape[2], 3)[0], : min(6, x.shape[3])],
    ],
    ids=["max", "divmod"],
)
def test_functions_of_sizes_follow_the_size(rule: Callable[[torch.Tensor], torch.Tensor]) -> None:
    class Sized(Choosing):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.head(rule(self.stem(x)))
            return out

    module = Sized(lambda m, x: 1).eval()
    model = graphmodel.compile(SPEC, trunks={"trunk": copy.deepcopy(module)}).eval()
    for size in ((8, 8), (12, 10), (5, 9)):
        x = torch.randn(2, 3, *size)
        assert torch.equal(model(x)["output"], module(x))
    assert torch.equal(torch.fx.symbolic_trace(model)(x)["output"], module(x))
