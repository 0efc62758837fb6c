"""The module that users get: a GraphModule that survives copying and pickling and can be sliced."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import Any, ClassVar

import torch
from torch import fx, nn

from graphmodel.diagnostics import CompileError, fail
from graphmodel.graph.types import ModelGraph
from graphmodel.lower.emit import emit_code
from graphmodel.lower.input_dtypes import dtype_error
from graphmodel.lower.packing import check_picklable, pack, unpack
from graphmodel.spec.display import Displayed

COMPILED = ("_compiled_call_impl", "compile_report")
"""Attributes that `torch_compile` sets; copies and slices are not compiled."""


class CompiledModel(fx.GraphModule, Displayed):
    """A compiled spec.

    `forward` takes one argument per input, in the order of the spec; an input with views takes a list or tuple of
    tensors. It returns the outputs in the form that `returns` names: by default a dict by output name. State-dict keys
    are `trunk.<the library's own key>` and `heads.<head>.<key>`.

    Copies (deepcopy, pickle, `torch.save`) keep edits of `graph`, hooks, and attributes that you set.

    Example:
        >>> import graphmodel, torch
        >>> spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
        >>> model = graphmodel.compile({**spec, "heads": {"label": {"mlp": {"dims": ["auto", 10]}}}}, seed=0)
        >>> model(torch.randn(2, 3, 64, 64))["label"].shape
        torch.Size([2, 10])
        >>> list(model.state_dict())[:2]
        ['trunk.conv1.weight', 'trunk.bn1.weight']

    Attributes:
        model_graph: the graph it was lowered from.
        optimized_graph: the same after the optimizations, from which its code is written.
        passes: names of the optimization passes that were on.
        returns: `dict`, `tuple`, `list` or `tensor`.
        for_inference: whether it was made by `optimize_for_inference`, so that its weights are not those of its spec.
    """

    for_inference: ClassVar[bool] = False

    def __new__(cls, *args: Any, **kwargs: Any) -> CompiledModel:
        """fx makes a class for each module, named after its own helper: give it this class's name."""
        base = vars(cls).get("_made_for", cls)
        module: CompiledModel = super().__new__(base, *args, **kwargs)
        own: Any = type(module)
        own._made_for = base
        own.__name__, own.__qualname__, own.__module__ = base.__name__, base.__qualname__, base.__module__
        return module

    @property
    def model_graph(self) -> ModelGraph:
        """The graph this module was lowered from."""
        graph: ModelGraph = self.meta["graphmodel"]["graph"]
        return graph

    @property
    def optimized_graph(self) -> ModelGraph:
        """The model graph after the optimizations: what the code is written from, and what each pass did."""
        graph: ModelGraph = self.meta["graphmodel"]["optimized"]
        return graph

    @property
    def passes(self) -> tuple[str, ...]:
        """Names of the optimization passes that were on."""
        return tuple(self.meta["graphmodel"]["passes"])

    @property
    def returns(self) -> str:
        """The form of the result: `dict`, `tuple`, `list` or `tensor`."""
        return str(self.meta["graphmodel"]["returns"])

    def slice(
        self, inputs: Sequence[str] | None = None, outputs: Sequence[str] | None = None, returns: str | None = None
    ) -> CompiledModel:
        """A module for some of the inputs and outputs that shares these parameters and buffers.

        What happens to the tensors happens in both: optimizer steps, `.to()`, `load_state_dict`, BatchNorm statistics.
        Everything else is the slice's own: its modules have their own mode, so `slice().eval()` leaves this module in
        training, and hooks that are registered later. Attributes set on the module are carried over, its own hooks are
        not, since they were written for its inputs and outputs.

        Example:
            >>> import graphmodel
            >>> spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
            >>> heads = {"label": {"mlp": {"dims": ["auto", 10]}}, "embedding": {"mlp": {"dims": ["auto", 64]}}}
            >>> model = graphmodel.compile({**spec, "heads": heads}, seed=0)
            >>> probe = model.slice(outputs=["label"]).eval()
            >>> probe.trunk.bn1.weight is model.trunk.bn1.weight, model.trunk.bn1.training
            (True, True)

        Args:
            inputs: inputs that it takes; outputs that need another are left out. All if None.
            outputs: names of outputs. All that the inputs allow if None.
            returns: the form of the result; this module's own if None.

        Returns:
            A new module; no tensor is copied.

        Raises:
            CompileError: GM502 if a name is unknown or an output needs an input that is left out, GM503 if a bare
                string is given instead of a list of names, GM504 if the module's `graph` was edited, GM505 if a part
                cannot be copied, such as one that FSDP has sharded, GM561 if it is a module for inference.
        """
        from graphmodel.lower.slicing import slice_module

        return slice_module(self, inputs, outputs, returns)

    def recompile(self) -> Any:
        code = super().recompile()
        # fx wraps `__call__` to print the generated line of an error; nn.Module's own is a third faster.
        type(self).__call__ = _call  # type: ignore[method-assign]
        return code

    # fx's own copying drops hooks and attributes; its pickling traces the code again and loses `meta`.

    def __copy__(self) -> CompiledModel:
        copied = _blank(type(self))
        copied.__dict__.update({k: copy.copy(v) if isinstance(v, dict) else v for k, v in self._state().items()})
        copied.graph = self.graph
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledModel:
        copied = _blank(type(self))
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self._state(), memo))
        copied.graph = copy.deepcopy(self.graph)
        for hook in getattr(copied, "_deepcopy_hooks", ()):  # torch 2.6 has none
            hook(copied)
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        cls = vars(type(self)).get("_made_for")
        if cls is None:  # FSDP2 gives a module another class, which no other process has
            raise pickle.PicklingError(
                f"a module of the class `{type(self).__name__}` cannot be pickled; save the state of a sharded module "
                "instead, for example with `torch.distributed.checkpoint`"
            )
        nodes = pack(self.graph)
        check_picklable(nodes)
        return from_pickle, (cls.__module__, cls.__qualname__), {"nodes": nodes, "state": self._state()}

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__reduce__()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state["state"])
        self.graph = unpack(state["nodes"])

    def _state(self) -> dict[str, Any]:
        """Everything but the graph and its code: modules, hooks, `meta`, attributes that users set."""
        return {key: value for key, value in self.__dict__.items() if key not in _of_code() and key not in COMPILED}


_module_call = nn.Module.__call__
"""As it was at import: tools that trace calls replace it for a while, and the model itself is not a layer."""


def _call(self: CompiledModel, *args: Any, **kwargs: Any) -> Any:
    try:
        return _module_call(self, *args, **kwargs)
    except AttributeError as error:
        found = _lost_tensor(self, error)
        if found is None:
            raise
        raise found from error
    except (RuntimeError, TypeError) as error:
        found = dtype_error(self, error, args, kwargs)
        if found is None:
            raise
        raise found from error


def _lost_tensor(module: CompiledModel, error: AttributeError) -> CompileError | None:
    """The finding if a layer has lost a tensor that it was compiled with; None if the error is another one.

    A slice and its parent register their tensors in the same dicts. What takes a tensor out on one side, and changes
    the layer's class or adds a hook to compute it anew (a parametrization, `weight_norm`, pruning), leaves the layer of
    the other side without it.
    """
    path = next((name for name, part in module.named_modules() if part is error.obj), None)
    for component in module.model_graph.components.values() if path is not None else ():
        meta = dict(component.meta.named_modules(prefix=component.name)).get(str(path))
        if meta is not None and (error.name in meta._parameters or error.name in meta._buffers):
            message = f"`{path}` has no `{error.name}` any more: it was taken out of the layer that a slice shares"
            help = "apply parametrizations (`weight_norm`, pruning) before you slice, or slice again after it"
            return fail("GM506", message, help=help)
    return None


def assemble(
    graph: fx.Graph, root: nn.Module, record: dict[str, Any], cls: type[CompiledModel] | None = None
) -> CompiledModel:
    """A module around `root`'s children.

    Args:
        graph: the code.
        root: the module that holds what the code calls.
        record: goes into `meta["graphmodel"]`: the model graph, the optimized one, the passes that were on, the form of
            the result, the seed.
        cls: the class of the module; None for `CompiledModel`.
    """
    module = _blank(cls or CompiledModel)
    module.__dict__["_modules"] = root._modules
    module.training = root.training
    module.graph = graph
    module.meta["graphmodel"] = record
    return module


def check_compiled(module: Any, what: str) -> None:
    """Refuses anything but a compiled model, which `torch.compile` may have wrapped.

    Args:
        module: what was given.
        what: the function that it was given to.

    Raises:
        CompileError: GM590.
    """
    if not hasattr(getattr(module, "_orig_mod", module), "model_graph"):
        message = f"`{what}` takes a compiled model, not {type(module).__name__}"
        raise fail("GM590", message, help="pass what `graphmodel.compile` returned, before it is wrapped (DDP)")


def check_of_spec(module: CompiledModel, what: str) -> None:
    """Refuses what needs the weights of the spec if the module was made by `optimize_for_inference`.

    Args:
        module: the module.
        what: what cannot be done, as a sentence without its end.

    Raises:
        CompileError: GM561.
    """
    if module.for_inference:
        message = f"{what} a module for inference, whose weights are not those of its spec"
        help = "take the module that it was made from, and call `optimize_for_inference` last"
        raise fail("GM561", message, help=f"{help}; `torch.save` keeps it as it is")


def check_unedited(module: CompiledModel, what: str) -> None:
    """Refuses what is made from the model graph if the module's code or weights are no longer what the graph says.

    Args:
        module: the module.
        what: what cannot be made, to be named in the message.

    Raises:
        CompileError: GM504 if its fx graph was edited, GM561 if it was made by `optimize_for_inference`.
    """
    check_of_spec(module, f"{what} cannot be made from")
    if pack(module.graph) != pack(emit_code(module.optimized_graph, module.returns)):
        message = f"{what} is made from the spec, and the graph of this module was edited after it was compiled"
        help = "edit the graph afterwards, or keep the module with `copy.deepcopy` or `torch.save`"
        raise fail("GM504", message, help=help)


def from_pickle(module: str, name: str) -> CompiledModel:
    """An empty module of a class, for `pickle` and `torch.load` to fill.

    Raises:
        CompileError: GM524 if `torch.load` reads weights only, which is its default.
    """
    if sys._getframe(1).f_globals.get("__name__") == "torch._weights_only_unpickler":
        message = "the file is a pickled module, and `torch.load` reads weights only unless it is told otherwise"
        help = (
            "save the model with `graphmodel.save`, or its `state_dict()`; `torch.load(file, weights_only=False)` runs "
            "code of the file, so use it only for files that you trust"
        )
        raise fail("GM524", message, help=help)
    return _blank(getattr(import_module(module), name))


# `torch.load` then calls the function, which refuses with an explanation; it does not build anything.
torch.serialization.add_safe_globals([from_pickle])


def _blank(cls: type[CompiledModel]) -> CompiledModel:
    made: type[CompiledModel] = vars(cls).get("_made_for", cls)
    module = made.__new__(made, nn.Module(), fx.Graph())
    fx.GraphModule.__init__(module, nn.Module(), fx.Graph(), class_name="CompiledModel")
    return module


@cache
def _of_code() -> frozenset[str]:
    """Attributes of a GraphModule that hold its graph and code."""
    kept = {"meta", "_replace_hooks", "_create_node_hooks", "_erase_node_hooks", "_deepcopy_hooks"}
    graph_module: Callable[..., nn.Module] = fx.GraphModule
    return frozenset(graph_module(nn.Module(), fx.Graph()).__dict__) - frozenset(nn.Module().__dict__) - kept
