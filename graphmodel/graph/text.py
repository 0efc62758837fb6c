"""The graph's own text form: one line per call, stable across torch versions; snapshots and `print(graph)` use it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from graphmodel.components.tensors import TensorInfo
from graphmodel.graph.types import Info, ModelGraph, Node, Ref


def info_text(info: Info) -> str:
    """`N×2048`, or `[N×128, N×3000]` for several tensors."""
    if isinstance(info, TensorInfo):
        return str(info) if info.dtype == "float32" else f"{info} {info.dtype}"
    if isinstance(info, (list, tuple)):
        return f"[{', '.join(info_text(i) for i in info)}]"
    if isinstance(info, Mapping):
        return "{" + ", ".join(f"{k}: {info_text(v)}" for k, v in info.items()) + "}"
    return "·"


def target_text(target: str | Callable[..., Any]) -> str:
    """A path as it is, a function by its qualified name."""
    if isinstance(target, str):
        return target
    module = getattr(target, "__module__", "") or ""
    if module in ("_operator", "builtins", ""):
        return str(getattr(target, "__name__", target))
    return (
        f"{module.replace('torch._C._nn', 'torch').replace('torch._C', 'torch')}.{getattr(target, '__name__', target)}"
    )


def _argument(value: Any) -> str:
    if isinstance(value, Ref):
        return f"%{value.node}"
    if isinstance(value, (list, tuple)):
        inner = ", ".join(_argument(v) for v in value)
        return f"[{inner}]" if isinstance(value, list) else f"({inner})"
    return repr(value)


def node_text(node: Node) -> str:
    """One call as one line."""
    arguments = ", ".join([_argument(a) for a in node.args] + [f"{k}={_argument(v)}" for k, v in node.kwargs.items()])
    facts = "".join(f" {k}={v}" if v is not True else f" {k}" for k, v in sorted(node.facts.stated().items()))
    called = "" if node.call == "placeholder" else f" {target_text(node.target)}({arguments})"
    if node.call == "method":
        called = f" .{node.target}({arguments})"
    return f"%{node.name}: {info_text(node.info)} = {node.kind}{called}{facts}"


def to_text(graph: ModelGraph) -> str:
    """The whole graph."""
    lines = [f"graph {graph.spec.name}({', '.join(graph.inputs)})"]
    lines += [f"  {node_text(node)}" for node in graph.nodes.values()]
    for output in graph.outputs.values():
        parts = ", ".join(f"{key}=%{node}" for key, node in output.parts.items())
        lines.append(f"  return {output.name}: {parts}")
    return "\n".join(lines)
