"""A compiled module as a `torch.export` program with named inputs and outputs and dynamic batches, and its check."""

from __future__ import annotations

import copy
import logging
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._sympy.value_ranges import ValueRanges

from graphmodel.diagnostics import fail, first_line
from graphmodel.graph.rows import shared_batches
from graphmodel.graph.types import ModelGraph
from graphmodel.lower.emit import ordered
from graphmodel.lower.inference import optimize_for_inference
from graphmodel.lower.module import CompiledModel
from graphmodel.lower.random_inputs import random_inputs, weights_of

_SEVERAL_ROWS = re.compile(r"\.size\(\)\[0\] (> 1|>= 2|!= 1)$")
"""A check of an exported program that its batch has several rows."""


@dataclass(frozen=True)
class Sample:
    """Arguments of a forward, and what the module returns for them.

    Attributes:
        batch: the batch size; an input of nine rows per sample has nine times as many rows.
        args: the arguments.
        expected: the outputs by name.
    """

    batch: int
    args: tuple[Any, ...]
    expected: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Program:
    """A module as a program of `torch.export`.

    Attributes:
        exported: the program.
        dimensions: the dimensions of each input tensor by its name: `images`, `crops_0`.
        outputs: the names of the outputs in order.
        samples: inputs and outputs of the module at several batch sizes, to compare a file with.
        dtype: the dtype of the weights.
        device: their device.
    """

    exported: torch.export.ExportedProgram
    dimensions: dict[str, list[str | int]]
    outputs: tuple[str, ...]
    samples: tuple[Sample, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the input tensors in order."""
        return tuple(self.dimensions)


def make_program(module: CompiledModel, *, training: bool, fold: bool = False, to: str) -> Program:
    """Traces a module with a dynamic batch size for each input.

    Args:
        module: the module; its mode and tensors are left as they are.
        training: whether to trace the training mode.
        fold: whether to trace the module with its BatchNorm folded into the weights.
        to: the format, for the message of an error.

    Raises:
        CompileError: GM580 if the module has no weights, GM582 if `torch.export` cannot trace it.
    """
    graph = module.model_graph
    tensors = [*module.parameters(), *module.buffers()]
    if any(t.is_meta for t in tensors):
        raise fail("GM580", "the module is on the meta device and has no weights", help="compile it on `cpu` first")
    weights = weights_of(module)
    batches = shared_batches(graph)
    outputs = tuple(key for output in ordered(graph) for key in output.parts)
    fewest = 2 if training else 1  # BatchNorm in training mode refuses a single row
    with _in_mode(module, training), _quiet():
        # Other sizes than 0 and 1, and another one for each group: `torch.export` takes equal sizes for one.
        rows = {n: number * (i + 2) for i, group in enumerate(batches) for n, number in group.items()}
        args = random_inputs(module, graph, rows)
        traced = optimize_for_inference(module, memory_format="contiguous") if fold else module
        with torch.no_grad() if fold else nullcontext():
            exported = _exported(traced, args, partial(_dynamic, graph, batches, _most(weights.device)), fewest, to)
        sizes: tuple[int, ...] = (fewest, 2, 5) if fewest < 2 else (2, 3, 5)
        if to == "aoti":
            sizes = (*sizes, 17)  # torch chooses another kernel for convolutions of 16 rows and more
        samples = [_sample(module, graph, batch, outputs, training) for batch in sizes]
    return Program(exported, dict(_dimensions(graph, batches)), outputs, tuple(samples), weights.dtype, weights.device)


def _exported(
    module: nn.Module, args: tuple[Any, ...], dynamic: Callable[[int], dict[str, Any]], fewest: int, to: str
) -> torch.export.ExportedProgram:
    """Traces a module for batches of `fewest` rows and more.

    Raises:
        CompileError: GM582.
    """
    for least in (fewest, 2):
        try:
            with _batch_one_is_like_others():
                exported = torch.export.export(module, args, dynamic_shapes=dynamic(least), strict=False)
        except Exception as error:  # torch.export raises many kinds of errors
            if least == 1:
                continue  # it asks whether there are several rows, as recurrent layers do
            raise fail("GM582", f"this model cannot be exported to {to}: {first_line(error)}") from error
        if fewest == 1:
            _accept_one_row(exported)
        return exported
    raise AssertionError("two rows were tried")


def difference(program: Program, run: Any, sample: Sample) -> float:
    """The largest difference between a loaded file and the module, relative to each output's largest value."""
    torch.manual_seed(0)
    with torch.no_grad():
        result = _named(run(sample.args), program.outputs)
    worst = 0.0
    for name, expected in sample.expected.items():
        found = result[name].to(expected.device)
        if found.shape != expected.shape:
            shapes = f"{tuple(found.shape)} and not {tuple(expected.shape)}"
            raise ValueError(f"the output `{name}` has the shape {shapes} at batch {sample.batch}")
        if expected.numel() == 0:
            continue
        same = (found == expected) | (found.isnan() & expected.isnan())
        gap = torch.where(same, 0, (found.double() - expected.double()).abs()).nan_to_num(nan=math.inf).max().item()
        largest = expected.double().abs().nan_to_num(0, posinf=0).max().item()
        worst = max(worst, gap / max(largest, 1e-6))
    return worst


def _named(result: Any, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    if isinstance(result, Mapping):
        return {name: result[name] for name in names}
    return dict(zip(names, pytree.tree_leaves(result), strict=True))


def _sample(
    module: nn.Module,
    graph: ModelGraph,
    batch: int,
    outputs: tuple[str, ...],
    training: bool,
) -> Sample:
    rows = {name: batch * n for group in shared_batches(graph) for name, n in group.items()}
    args = random_inputs(module, graph, rows)
    # A forward in training mode moves running statistics; those of the module stay where they are.
    run = copy.deepcopy(module) if training else module
    torch.manual_seed(0)
    with torch.no_grad():
        expected = _named(run(*args), outputs)
    return Sample(batch, args, {name: value.detach().clone() for name, value in expected.items()})


def _most(device: torch.device) -> int | None:
    """The largest batch of a call on a device: on a GPU, `torch.export` of torch 2.11 asked for this bound."""
    return 65_535 if device.type == "cuda" else None


def _dynamic(graph: ModelGraph, batches: list[dict[str, int]], most: int | None, fewest: int) -> dict[str, Any]:
    """The dynamic dimensions of the inputs, as `torch.export` takes them.

    Args:
        graph: the graph.
        batches: the inputs that share a batch size, each with its rows per sample.
        most: how many rows there are at most if all inputs and views go through a layer together.
        fewest: the smallest batch.
    """
    rows_of_all = sum(
        rows * len(graph.inputs[item].views or (None,)) for group in batches for item, rows in group.items()
    )
    bounds = {"min": fewest} if most is None else {"min": fewest, "max": most // max(rows_of_all, 1)}
    found: dict[str, Any] = {}
    for name, group in zip(batch_names(batches), batches, strict=True):
        batch = torch.export.Dim(name, **bounds)
        for item, rows in group.items():
            dim = {0: rows * batch if rows > 1 else batch}
            views = graph.inputs[item].views
            found[item] = dim if views is None else [dim] * len(views)
    return {name: found[name] for name in graph.inputs}


def batch_names(batches: list[dict[str, int]]) -> list[str]:
    """A name for each batch size: `batch`, or after the first input if there are several."""
    return ["batch"] if len(batches) == 1 else [f"{next(iter(group))}_batch" for group in batches]


def _dimensions(graph: ModelGraph, batches: list[dict[str, int]]) -> Iterator[tuple[str, list[str | int]]]:
    rows = {
        item: f"{number}*{name}" if number > 1 else name
        for name, group in zip(batch_names(batches), batches, strict=True)
        for item, number in group.items()
    }
    for name, item in graph.inputs.items():
        if item.views is None:
            yield name, [rows[name], *(item.shape or ())]
        for i, shape in enumerate(item.views or ()):
            yield f"{name}_{i}", [rows[name], *shape]


@contextmanager
def _in_mode(module: nn.Module, training: bool) -> Iterator[None]:
    """The module in a mode, and each part of it in its own mode again afterwards."""
    before = {part: part.training for part in module.modules()}
    module.train(training)
    try:
        yield
    finally:
        for part, mode in before.items():
            part.training = mode


@contextmanager
def _batch_one_is_like_others() -> Iterator[None]:
    """Without it, `torch.export` makes a batch of 1 a case of its own and refuses it."""
    from torch.fx.experimental import _config

    if not hasattr(_config, "backed_size_oblivious"):  # before torch 2.7
        yield
        return
    with _config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        yield


def _accept_one_row(exported: torch.export.ExportedProgram) -> None:
    """Drops checks that there are several rows.

    torch leaves them when it asks for the memory format of a depthwise convolution's result, or of a transposed tensor;
    no number depends on it. The comparison at batch 1 shows that the program serves a single row.
    """
    for symbol, found in exported.range_constraints.items():
        if found.lower == 2:
            exported.range_constraints[symbol] = ValueRanges(1, found.upper)
    if hasattr(exported, "_guards_code"):
        exported._guards_code = [code for code in exported._guards_code if not _SEVERAL_ROWS.search(code)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of tracing, which are about torch's own code."""
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
