"""The module that users get: a GraphModule that survives copying and pickling and can be sliced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import fx, nn

from graphmodel.graph.types import ModelGraph
from graphmodel.spec.display import Displayed


class CompiledModel(fx.GraphModule, Displayed):
    """A compiled spec.

    `forward` takes one argument per input, in the order of the spec; an input with views takes a list or tuple of
    tensors. State-dict keys are `trunk.<the library's own key>` and `heads.<head>.<key>`.

    Attributes:
        model_graph: the graph it was lowered from.
        returns: `dict`, `tuple`, `list` or `tensor`.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> CompiledModel:
        """fx makes a class for each module, named after its own helper: give it this class's name."""
        module = super().__new__(cls, *args, **kwargs)
        type(module).__name__ = type(module).__qualname__ = CompiledModel.__name__
        type(module).__module__ = CompiledModel.__module__
        return module

    @property
    def model_graph(self) -> ModelGraph:
        """The graph this module was lowered from."""
        graph: ModelGraph = self.meta["graphmodel"]["graph"]
        return graph

    @property
    def returns(self) -> str:
        """The form of the result: `dict`, `tuple`, `list` or `tensor`."""
        return str(self.meta["graphmodel"]["returns"])

    def slice(
        self, inputs: Sequence[str] | None = None, outputs: Sequence[str] | None = None, returns: str | None = None
    ) -> CompiledModel:
        """A module for some of the inputs and outputs that shares these parameters.

        Args:
            inputs: inputs that it takes; outputs that need another are left out. All where None.
            outputs: names of outputs. All that the inputs allow where None.
            returns: the form of the result; this module's own where None.

        Returns:
            A new module; nothing is copied.

        Raises:
            CompileError: GM502 where a name is unknown or an output needs an input that is left out.
        """
        from graphmodel.lower.slicing import slice_module

        return slice_module(self, inputs, outputs, returns)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        # fx's own pickling traces the code again and loses `meta`; this keeps the modules and emits the code again.
        state = {k: v for k, v in self.__dict__.items() if k in ("_modules", "_parameters", "_buffers", "training")}
        extra = {k: v for k, v in self.__dict__.items() if k.endswith("_hooks") and v}
        return _rebuilt, (self.meta["graphmodel"], state, extra)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__reduce__()

    def recompile(self) -> Any:
        code = super().recompile()
        # fx wraps `__call__` to print the generated line of an error; nn.Module's own is a third faster.
        type(self).__call__ = nn.Module.__call__  # type: ignore[method-assign]
        return code

    def _deepcopy_init(self) -> Callable[..., None]:
        def init(target: Any, root: Any, graph: fx.Graph) -> None:
            _initialise(target, graph, root.__dict__)

        return init


def _initialise(target: CompiledModel, graph: fx.Graph, state: dict[str, Any]) -> None:
    fx.GraphModule.__init__(target, nn.Module(), fx.Graph(), class_name="CompiledModel")
    target.__dict__["_modules"] = state["_modules"]
    target.__dict__["_parameters"] = state.get("_parameters", {})
    target.__dict__["_buffers"] = state.get("_buffers", {})
    target.training = state["training"]
    target.graph = graph


def assemble(graph: fx.Graph, root: nn.Module, record: dict[str, Any]) -> CompiledModel:
    """A module around `root`'s children; `record` goes into `meta`, where it survives deepcopy."""
    module = CompiledModel.__new__(CompiledModel, nn.Module(), fx.Graph())
    _initialise(module, graph, root.__dict__)
    module.meta["graphmodel"] = record
    return module


def _rebuilt(record: dict[str, Any], state: dict[str, Any], extra: dict[str, Any]) -> CompiledModel:
    from graphmodel.lower.emit import emit_code

    root = nn.Module()
    root.__dict__.update(state)
    module = assemble(emit_code(record["graph"], record["returns"]), root, record)
    for name, hooks in extra.items():
        module.__dict__[name].update(hooks)
    return module
