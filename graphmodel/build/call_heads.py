"""Calls the modules of heads: widths are inferred from what they read, and what goes wrong is told apart."""

from __future__ import annotations

import dis
import os
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from graphmodel.build import edge_ops as ops
from graphmodel.build.bind import BoundEdge, BoundModule
from graphmodel.build.graph_writer import GraphWriter, Value, version
from graphmodel.components.construct import build_on_meta
from graphmodel.components.head import HeadMismatch, HeadParams
from graphmodel.components.structure import children
from graphmodel.components.tensors import TensorInfo
from graphmodel.diagnostics import Collector, first_line
from graphmodel.graph.types import Component, Info, head_name, head_path, tensor_infos
from graphmodel.spec.document import KeyPath, dotted
from graphmodel.spec.model import ModelSpec


@dataclass(frozen=True)
class HeadCaller:
    """Writes calls of heads.

    Attributes:
        spec: the spec.
        writer: where the calls go.
        report: where findings go.
        components: the modules of heads that were called so far, by path; a head that is called twice is one component.
    """

    spec: ModelSpec
    writer: GraphWriter
    report: Collector
    components: dict[str, Component] = field(default_factory=dict)

    def chain(self, edge: BoundEdge, value: Value, layouts: Sequence[str]) -> Value | None:
        """The result of a head's modules, or None with the reason reported.

        Args:
            edge: the output that the head gives.
            value: what its first module reads.
            layouts: how the sources of the output are arranged.
        """
        result: Value | None = value
        for position in range(len(edge.chain)):
            assert result is not None
            call = _HeadCall(self, edge, position, result, tuple(layouts))
            result = call.write()
            if result is None:
                return None
            if position < len(edge.chain) - 1 and edge.chain[position + 1].params.reads == "tensor":
                result = self.single(result)
        return result

    def check_copies(self) -> None:
        """Reports copies of heads that read other widths than their originals."""
        for component in self.components.values():
            original = self.components.get(component.copy_of)
            if original is None or original.params == component.params:
                continue
            field, theirs = next((k, v) for k, v in original.params if v != getattr(component.params, k))
            copy, head = (head_name(c.name) for c in (component, original))
            self.report.error(
                "GM304",
                f"the head `{copy}` is a copy of `{head}` and reads features of another width: its `{field}` is "
                f"{getattr(component.params, field)}, that of `{head}` is {theirs}",
                component.span,
                f"give `{copy}` a feature of the same width, or modules of its own",
                f"heads.{copy}",
            )

    def single(self, value: Value) -> Value:
        """The tensor that the next module of a chain reads; a list of one tensor is that tensor, as in VISSL."""
        if isinstance(value.info, (list, tuple)) and len(value.info) == 1:
            return self.writer.function("getitem", ops.getitem, (value, 0), name=f"{value.node}_value", kind="head")
        return value


def inferred(params: HeadParams, info: Info) -> HeadParams:
    """The parameters of a head with what they infer of a tensor, a list or a dict.

    Raises:
        HeadMismatch: if the head cannot read it.
    """
    if isinstance(info, TensorInfo):
        return params.infer(info)
    if isinstance(info, dict) and all(isinstance(each, TensorInfo) for each in info.values()):
        return params.infer_named(info)
    return params.infer_all(list(tensor_infos(info)))


@dataclass(frozen=True)
class _HeadCall:
    """One call of one module of a head."""

    caller: HeadCaller
    edge: BoundEdge
    position: int
    value: Value
    layouts: tuple[str, ...]

    @property
    def module(self) -> BoundModule:
        return self.edge.chain[self.position]

    def error(self, message: str, at: KeyPath, help: str = "", *, key: bool = False) -> None:
        self.caller.report.error("GM304", message, self.caller.spec.span(at, key=key), help, dotted(at))

    def write(self) -> Value | None:
        """The call's result, or None with the reason reported."""
        spec, module, value = self.caller.spec, self.module, self.value
        assert self.edge.spec.head is not None
        path = head_path(spec.heads[self.edge.spec.head], self.position)
        info = value.info
        # A module that treats all dimensions alike leaves the channels where they were.
        untouched = all(earlier.params.any_layout for earlier in self.edge.chain[: self.position])
        if untouched and ops.is_channels_last(value, [s.spec for s in self.edge.sources], self.layouts):
            if not module.params.any_layout and not any(s.spec.layout == "nhwc" for s in self.edge.sources):
                self.report_channels_last()
                return None
            info = replace(info, layout="nhwc")
        try:
            params = inferred(module.params, info)
        except HeadMismatch as error:
            self.report_mismatch(error)
            return None
        component = self.component(path, params)
        return None if component is None else self.call(component)

    def component(self, path: str, params: Any) -> Component | None:
        """The module as a component, built on the meta device at its first call."""
        module, known = self.module, self.caller.components.get(path)
        if known is not None and known.params != params:
            gives = f"{self.sources} gives {self.value.text}"
            message = f"the head `{module.call.name}` is shared and its inputs differ: {gives}"
            self.error(message, self.edge.spec.at, "give each feature its own head")
            return None
        if known is not None:
            return known

        def build() -> torch.nn.Module:
            return module.build(params)

        try:
            meta = build_on_meta(build)
        except HeadMismatch as error:
            self.report_mismatch(error)
            return None
        except Exception as error:  # the constructor's own refusal of its arguments is the user's error
            message = f"the head `{module.call.name}` cannot be built: {_described(error)}"
            self.error(message, module.call.at, key=True)
            return None
        head = self.caller.spec.heads[str(self.edge.spec.head)]
        span = self.caller.spec.span(head.at if head.copy_of else module.call.at, key=True)
        original = head_path(self.caller.spec.heads[head.copy_of], self.position) if head.copy_of else ""
        return Component(path, "head", module.entry.name, params, build, meta, span=span, copy_of=original)

    def call(self, component: Component) -> Value | None:
        """The result of running the module on the meta device."""
        value, writer = self.value, self.caller.writer
        last = self.position == len(self.edge.chain) - 1
        label = self.edge.spec.output if last else f"{self.edge.spec.output}_{component.name.rsplit('.', 1)[-1]}"
        before = version(value)
        try:
            with _same_dtypes(value):
                result = writer.module(label, component.meta, component.name, value, component.span)
        except HeadMismatch as error:
            self.report_mismatch(error)
            return None
        except Exception as error:  # a head's forward is the user's code, or refuses the feature
            self.report_failure(error)
            return None
        self.caller.components[component.name] = component
        return writer.protect_last(value) if version(value) != before else result

    # -- findings -----------------------------------------------------------------------------------------------------

    @property
    def sources(self) -> str:
        """`images.res5`, or several."""
        return ", ".join(f"`{s.text}`" for s in self.edge.sources)

    def layout_help(self) -> str:
        return ops.layout_help(self.value, self.layouts)

    def several_help(self) -> str:
        """What to write if this module reads one tensor and gets several, and nothing says that it can read them."""
        params = type(self.module.params)
        if isinstance(self.value.info, TensorInfo) or params.reads != "tensor":
            return ""
        if params.infer_all is not HeadParams.infer_all or params.infer_named is not HeadParams.infer_named:
            return ""
        if not self.position:
            return "leave out `combine`: the features are then joined to one tensor"
        before, name = self.edge.chain[self.position - 1], self.edge.spec.output
        items = children(self.value.info) or []
        names = before.params.outputs() or [str(key) for key, _ in items]
        first = next((part for part, (_, info) in zip(names, items, strict=False) if isinstance(info, TensorInfo)), "0")
        return (
            f"end the head after `{before.call.name}`, which gives several tensors, and read one of them with another "
            f"head: `{{from: {name}.{first}, head: NAME}}`"
        )

    def report_mismatch(self, error: HeadMismatch) -> None:
        """Reports a head that itself explains why it cannot read the feature."""
        module = self.module
        self.error(
            f"the head `{module.call.name}` {error.message} (it reads {self.sources}, of shape {self.value.text})",
            (*module.call.at, *error.path),
            (self.position and self.several_help()) or error.help or self.layout_help(),
        )

    def report_channels_last(self) -> None:
        """Reports a channels-last map that was not requested and that the head would mistake for channels first."""
        at, key = self.edge.sources[0].place()
        self.error(
            f"the head `{self.module.call.name}` reads {self.sources} of shape {self.value.text}, "
            "a map with channels last",
            at,
            "write `layout: nchw` beside the feature, or `layout: nhwc` if the head expects channels last",
            key=key,
        )

    def report_failure(self, error: Exception) -> None:
        """Reports an exception in a head's forward: the head's own, or an operation that refuses the shape."""
        module, value = self.module, self.value
        if is_mismatch(error):
            message = f"cannot read {self.sources} of shape {value.text}: {_located(error)}"
        else:
            message = f"fails in its own code on {self.sources} of shape {value.text}: {_described(error)}"
        help = self.several_help() or self.layout_help()
        self.error(f"the head `{module.call.name}` {message}", module.call.at, help, key=True)


# -- dtypes, which torch does not compare on the meta device -----------------------------------------------------------

_PRODUCTS = {F.linear, F.bilinear, torch.matmul, torch.mm, torch.addmm, torch.bmm, torch.Tensor.matmul}
_PRODUCTS |= {F.conv1d, F.conv2d, F.conv3d, F.batch_norm, F.layer_norm, F.group_norm}


class _Products(TorchFunctionMode):
    """Refuses products of integers with floating-point weights."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _PRODUCTS:
            dtypes = {t.dtype for t in (*args, *(kwargs or {}).values()) if isinstance(t, torch.Tensor)}
            whole = [d for d in dtypes if not (d.is_floating_point or d.is_complex)]
            if whole and len(dtypes) > 1:
                text = str(whole[0]).removeprefix("torch.")
                help = "give the input a floating-point `dtype`, or read it with an `embedding` first"
                raise HeadMismatch(f"has floating-point weights and reads numbers of type {text}", help=help)
        return func(*args, **(kwargs or {}))


def _same_dtypes(value: Value) -> AbstractContextManager[Any]:
    """Inside, a head that reads integers may not multiply them by its weights."""
    integers = any(not info.dtype.startswith(("float", "bfloat", "complex")) for info in tensor_infos(value.info))
    return _Products() if integers else nullcontext()


# -- exceptions of other people's code ---------------------------------------------------------------------------------

_LIBRARY = os.path.dirname(torch.__file__) + os.sep
_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def is_mismatch(error: Exception) -> bool:
    """Whether an operation of torch refused what it was called with, rather than the head's own code failing.

    Torch's operations raise `RuntimeError`, and its modules `ValueError` and the like in torch's own files; a `raise`
    in the head's code, or an exception of Python's own such as `AttributeError`, is the head's.
    """
    last = _last(error.__traceback__)
    if last is None:
        return False
    if last.tb_frame.f_code.co_filename.startswith(_LIBRARY):
        return isinstance(error, (RuntimeError, ValueError, TypeError, IndexError, AssertionError))
    code = last.tb_frame.f_code.co_code
    raised = dis.opname[code[last.tb_lasti]] in ("RAISE_VARARGS", "RERAISE")
    return isinstance(error, RuntimeError) and type(error) in (RuntimeError, NotImplementedError) and not raised


def _last(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace


def _described(error: Exception) -> str:
    """`KeyError: 'x' (heads.py:12 in forward)`."""
    return f"{type(error).__name__}: {_located(error)}"


def _located(error: Exception) -> str:
    """The first line of an exception with the last line of the head's own code, if it is not this package's."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if not f.filename.startswith((_LIBRARY, _OWN))]
    place = f" ({theirs[-1].filename}:{theirs[-1].lineno} in {theirs[-1].name})" if theirs else ""
    text = first_line(error)
    if theirs and isinstance(error, AssertionError) and not str(error):  # the condition says more than the type's name
        text = theirs[-1].line or text
    return text + place
