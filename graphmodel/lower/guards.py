"""Checks of what a compiled module is called with: one line for each input in the emitted code.

A graph may depend on more than its code shows: a constant derived from the compiled image size, the order and number
of views. A wrong input then gives a wrong result without an error, so each input is checked first.

Under `torch.compile` and `torch.export` the checks run while tracing and leave nothing in the traced code; they never
read the batch size. `torch.fx` records each as one call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.node import has_side_effect
from torch.overrides import handle_torch_function, has_torch_function, has_torch_function_unary

from graphmodel.build.view_groups import groups_of
from graphmodel.diagnostics.input_error import InputError
from graphmodel.graph.types import ModelGraph, head_name
from graphmodel.lower.shared_stages import SHARED_STAGES

Accepts = tuple[int | None, ...]
"""A per-sample shape; None marks a dimension that may have any size."""

FLOATS = ("float32", "float16", "bfloat16", "float64")


@has_side_effect
def check_input(x: Any, name: str, shape: Accepts, dtype: torch.dtype | None = None) -> None:
    """Checks a tensor.

    Args:
        x: what was given.
        name: the input's name.
        shape: its per-sample shape; None marks a dimension that may have any size.
        dtype: its dtype; None for any floating-point dtype.

    Raises:
        InputError: GM540 if it is not a tensor, GM541 if its shape is another, GM542 if its dtype is.
    """
    if has_torch_function_unary(x):  # a proxy of torch.fx, or another type that records calls
        handle_torch_function(check_input, (x,), x, name, shape, dtype)
        return
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]  # sizes are tensors then, and would be recorded
        return
    if not isinstance(x, torch.Tensor):
        raise _wrong_kind(_what(name, None), "a tensor", x)
    _check_tensor(x, name, None, shape, dtype)


@has_side_effect
def check_views(
    views: Any, name: str, groups: tuple[tuple[tuple[int, ...], Accepts], ...], dtype: torch.dtype | None = None
) -> None:
    """Checks a list of views.

    Args:
        views: what was given.
        name: the input's name.
        groups: positions of the views that go through the model as one batch, with their per-sample shape.
        dtype: the dtype of all; None for any floating-point dtype.

    Raises:
        InputError: GM540 if it is not a list of as many tensors, GM541 if a shape is another, or differs within a
            group, GM542 if a dtype is another.
    """
    if has_torch_function_unary(views) or (isinstance(views, (list, tuple)) and has_torch_function(views)):
        handle_torch_function(check_views, (views, *_items(views)), views, name, groups, dtype)
        return
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return
    count = 0
    for positions, _ in groups:
        count += len(positions)
    if not isinstance(views, (list, tuple)):
        raise _wrong_kind(_what(name, None), f"a list of {count} tensors, one for each view", views)
    if len(views) != count:
        raise InputError(
            "GM540",
            f"the input `{name}` has {len(views)} views and the model takes {count}",
            f"pass {count} views, or compile for {len(views)}: `inputs: {{{name}: {{views: …}}}}`",
        )
    for positions, shape in groups:
        for i in positions:
            x = views[i]
            if not isinstance(x, torch.Tensor):
                raise _wrong_kind(_what(name, i), "a tensor", x)
            _check_tensor(x, name, i, shape, dtype)
            first = views[positions[0]]
            if x is not first and x.shape[1:] != first.shape[1:]:
                raise InputError(
                    "GM541",
                    f"{_what(name, i)} is {_given(x)} and view {positions[0]} is {_given(first)}: they "
                    "go through the model as one batch",
                    "views of one group have one size; the spec's `views` lists the groups in order",
                )


@has_side_effect
def check_multiple(x: Any, name: str, multiple: int, head: str) -> None:
    """Checks the batch of an input of which a head joins several samples into one.

    Args:
        x: what was given.
        name: the input's name.
        multiple: how many samples the head joins.
        head: the head's name.

    Raises:
        InputError: GM541 if the batch is not a multiple of that.
    """
    if has_torch_function_unary(x):
        handle_torch_function(check_multiple, (x,), x, name, multiple, head)
        return
    if torch.jit.is_tracing() or torch.compiler.is_compiling():  # type: ignore[attr-defined, no-untyped-call]
        return
    if x.shape[0] % multiple:
        raise InputError(
            "GM541",
            f"the input `{name}` has {x.shape[0]} samples and the head `{head}` joins {multiple} into one",
            f"pass a multiple of {multiple}",
        )


@has_side_effect
def check_one_batch(inputs: tuple[tuple[Any, str, int | None], ...]) -> None:
    """Checks that inputs which are joined into one batch have one size and dtype.

    Args:
        inputs: for each what was given, the input's name, and the position of its view, if it has views.

    Raises:
        InputError: GM541 if a size differs from the first, GM542 if a dtype does.
    """
    given = tuple(item for value, _, _ in inputs for item in (value, *_items(value)))
    if has_torch_function(given):
        handle_torch_function(check_one_batch, given, inputs)
        return
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return
    (first, of_first), *others = _tensors(inputs)
    for x, of_other in others:
        same_shape = x.shape[1:] == first.shape[1:]
        if same_shape and x.dtype == first.dtype:
            continue
        a, b = _what(*of_other), _what(*of_first)
        what = f"{_given(x)} and {b} is {_given(first)}" if not same_shape else f"{x.dtype} and {b} is {first.dtype}"
        raise InputError(
            "GM542" if same_shape else "GM541",
            f"{a} is {what}: `batch_inputs` joins them into one batch",
            "give both one size and dtype, or compile with `optimize: {batch_inputs: false}`",
        )


@has_side_effect
def check_samples(inputs: tuple[tuple[Any, str, int | None], ...], output: str) -> None:
    """Checks that inputs whose samples the model joins have one batch size.

    Args:
        inputs: for each what was given, the input's name, and the position of its view, if it has views.
        output: the name of an output that reads all of them.

    Raises:
        InputError: GM541 if a batch size differs from the first.
    """
    given = tuple(item for value, _, _ in inputs for item in (value, *_items(value)))
    if has_torch_function(given):
        handle_torch_function(check_samples, given, inputs, output)
        return
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return
    (first, of_first), *others = _tensors(inputs)
    for x, of_other in others:
        if x.shape[0] != first.shape[0]:
            raise InputError(
                "GM541",
                f"{_what(*of_first)} has batch size {first.shape[0]} and {_what(*of_other)} has {x.shape[0]}: the "
                f"output `{output}` joins their samples",
                "give both the same number of samples",
            )


def _tensors(inputs: tuple[tuple[Any, str, int | None], ...]) -> list[tuple[Any, tuple[str, int | None]]]:
    """The tensor of each input or view, with its name and position."""
    return [(value if view is None else value[view], (name, view)) for value, name, view in inputs]


def _what(name: str, view: int | None) -> str:
    return f"the input `{name}`" if view is None else f"view {view} of the input `{name}`"


def _check_tensor(x: torch.Tensor, name: str, view: int | None, shape: Accepts, dtype: torch.dtype | None) -> None:
    if x.is_floating_point() if dtype is None else x.dtype == dtype:
        sizes = x.shape
        if len(sizes) == len(shape) + 1:
            for i, expected in enumerate(shape, 1):
                if expected is not None and sizes[i] != expected:
                    break
            else:
                return
        raise _wrong_shape(x, name, view, shape)
    expected_dtype = "a floating-point dtype" if dtype is None else f"{dtype}"
    raise InputError(
        "GM542",
        f"{_what(name, view)} is {x.dtype} and the model takes {expected_dtype}",
        "convert it first: `images.float() / 255` for images of bytes"
        if dtype is None
        else f"convert it first, or name its dtype in the spec: `inputs: {{{name}: {{dtype: …}}}}`",
    )


def _wrong_shape(x: torch.Tensor, name: str, view: int | None, shape: Accepts) -> InputError:
    message = f"{_what(name, view)} is {_given(x)} and the model takes {_taken(shape)}"
    if x.ndim != len(shape) + 1:
        return InputError("GM541", message, "the first dimension is the batch")
    sizes = [f"{size}" for size in x.shape][1:]
    channels = len(shape) > 2 and x.shape[1] != shape[0]
    if channels and shape[0] is not None and x.shape[-1] == shape[0]:
        dims = ", ".join(str(d) for d in (0, x.ndim - 1, *range(1, x.ndim - 1)))
        return InputError("GM541", message, f"the channels come first: `{name}.permute({dims})`")
    sized = len(shape) > 2 and not channels
    reason = "its graph depends on the image size: compile" if sized else "compile"
    if view is not None:
        return InputError("GM541", message, f"{reason} for views of this shape: `inputs: {{{name}: {{views: …}}}}`")
    spec = f"inputs: {{{name}: {{shape: [{', '.join(sizes)}]}}}}"
    return InputError("GM541", message, f"{reason} for this shape: `--input {name}={'x'.join(sizes)}`, or `{spec}`")


def _wrong_kind(what: str, expected: str, given: object) -> InputError:
    return InputError("GM540", f"{what} is of type {type(given).__name__} and the model takes {expected}", "")


def _given(x: torch.Tensor) -> str:
    return "×".join([f"{size}" for size in x.shape])


def _taken(shape: Accepts) -> str:
    """`N×3×H×W`, `N×3×224×224`."""
    letters = ("C", "H", "W") if len(shape) == 3 else ("any size",) * len(shape)
    return "×".join(["N"] + [letters[i] if shape[i] is None else f"{shape[i]}" for i in range(len(shape))])


def _items(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else ()


def add_guards(out: fx.Graph, graph: ModelGraph, placeholders: Mapping[str, fx.Node]) -> None:
    """Writes the check of each input.

    Args:
        out: the emitted code, so far the inputs alone.
        graph: the graph that is emitted.
        placeholders: its inputs.
    """
    for name, shapes in graph.accepts.items():
        item = graph.inputs.get(name)
        if item is None:
            continue
        checked: Any = shapes[0] if item.views is None else _groups(graph, name, shapes)
        dtype = () if item.dtype in FLOATS else (getattr(torch, item.dtype),)
        check = check_input if item.views is None else check_views
        out.call_function(check, (placeholders[name], name, checked, *dtype))
    for name, multiple, head in _multiples(graph):
        out.call_function(check_multiple, (placeholders[name], name, multiple, head))
    if graph.shared_stages:
        holders = dict.fromkeys(path.partition(".")[0] for path in graph.shared_stages)
        parts = tuple(out.create_node("get_attr", name, name=f"{name}_stages") for name in holders)
        out.call_module(SHARED_STAGES, parts)
    for group in graph.one_batch:
        out.call_function(check_one_batch, (tuple((placeholders[name], name, view) for name, view in group),))
    for group, output in graph.read_together:
        if all(name in placeholders for name, _ in group):
            out.call_function(check_samples, (tuple((placeholders[name], name, view) for name, view in group), output))


def _multiples(graph: ModelGraph) -> Iterator[tuple[str, int, str]]:
    """Inputs of one tensor of which a head joins several samples: the name, how many, and the head's."""
    for node in graph.nodes.values():
        component = graph.components.get(node.component)
        joins = component is not None and component.kind == "head" and hasattr(component.params, "batch_multiple")
        multiple = component.params.batch_multiple() if component is not None and joins else 1
        if multiple > 1:
            needed = graph.needed_by([node.name])
            inputs = [name for name in graph.inputs if name in needed]
            if len(inputs) == 1 and graph.inputs[inputs[0]].views is None and inputs[0] in graph.accepts:
                yield inputs[0], multiple, head_name(node.component)


def _groups(graph: ModelGraph, name: str, shapes: Sequence[Accepts]) -> tuple[tuple[tuple[int, ...], Accepts], ...]:
    return tuple((group.indices, shapes[group.indices[0]]) for group in groups_of(graph.inputs[name]))
