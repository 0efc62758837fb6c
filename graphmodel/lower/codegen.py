"""Python code for an emitted graph: containers looked up once, and a local function for each checkpoint segment."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx
from torch.fx.graph import _format_target

from graphmodel.lower.checkpointing import recompute

CONTAINERS = ("trunk", "trunks", "heads")
"""The root's own children; no node or input takes these names."""

_COUNTER = re.compile(r"^# COUNTER: (\d+)$")
_CHECK = re.compile(
    r"^\w+ = ((?:graphmodel_(?:lower_guards|tracing_choices)_check_\w+|self\.shared_stages)\(.*\));  (?:\w+ = )+None$",
    re.M,
)
_DELETED = re.compile(r";  ((?:\w+ = )+)None(?=\s*(?:#|$))")


class ModelCode(fx.graph.CodeGen):
    """Generates the code of a compiled model.

    The fx graph itself stays flat, one node per call. Calls of one checkpoint segment (`meta["graphmodel"]["segment"]`)
    become a local function that is run by `recompute`; whatever is inserted between them belongs to the segment too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[fx.Node] = []
        self._body_transformer = self.transform

    def __deepcopy__(self, memo: dict[int, Any]) -> ModelCode:
        return ModelCode()

    def additional_globals(self) -> list[tuple[str, Any]]:
        return [("recompute", recompute)] if any(_segment(node) for node in self.nodes) else []

    def _gen_python_code(self, nodes: Any, *args: Any, **kwargs: Any) -> Any:
        self.nodes = list(nodes)
        try:
            return super()._gen_python_code(nodes, *args, **kwargs)
        finally:
            self.nodes = []

    def transform(self, body: list[str]) -> list[str]:
        """The body of `forward` as it is to be written."""
        return look_up_once(self.in_segments(checks_as_statements(body)))

    def in_segments(self, body: list[str]) -> list[str]:
        """The lines with each segment as a local function."""
        segments = list(segments_of(self.nodes))
        if not segments:
            return body
        lines = _by_node("".join(body).splitlines())
        taken = {node.name for node in self.nodes}
        out: list[str] = lines.pop(-1, [])
        done = 0
        for segment in segments:
            out += _flat(lines, done, segment.start)
            out += _function(segment, _flat(lines, segment.start, segment.stop), self.nodes, taken)
            done = segment.stop
        out += _flat(lines, done, len(self.nodes))
        return ["\n".join(out) + "\n"]


@dataclass(frozen=True)
class Segment:
    """Calls that are recomputed as one: `nodes[start:stop]` of the graph."""

    name: str
    start: int
    stop: int


def segments_of(nodes: Sequence[fx.Node]) -> Iterator[Segment]:
    """The segments in order; each spans from its first call to its last."""
    spans: dict[str, list[int]] = {}
    for i, node in enumerate(nodes):
        name = _segment(node)
        if name:
            spans.setdefault(name, []).append(i)
    end = 0
    for name, found in spans.items():
        start = max(found[0], end)
        if start <= found[-1]:
            end = found[-1] + 1
            yield Segment(name, start, end)


def _segment(node: fx.Node) -> str:
    return str(node.meta.get("graphmodel", {}).get("segment", ""))


def _by_node(lines: list[str]) -> dict[int, list[str]]:
    """Lines by the position of their node, from fx's counter comments, which are kept; -1 for what is before."""
    found: dict[int, list[str]] = {-1: []}
    at = -1
    for line in lines:
        counter = _COUNTER.match(line.strip())
        if counter is not None:
            at = int(counter[1])
        found.setdefault(at, []).append(line)
    return found


def _flat(lines: dict[int, list[str]], start: int, stop: int) -> list[str]:
    return [line for i in range(start, stop) for line in lines.get(i, ())]


def _function(segment: Segment, lines: list[str], nodes: list[fx.Node], taken: set[str]) -> list[str]:
    """The definition and the call of a segment's function."""
    inside = nodes[segment.start : segment.stop]
    own = set(inside)
    takes = list(dict.fromkeys(n.name for node in inside for n in node.all_input_nodes if n not in own))
    gives = [node.name for node in inside if any(user not in own for user in node.users)]
    modules = list(
        dict.fromkeys(_format_target("self", str(node.target)) for node in inside if node.op == "call_module")
    )
    name = segment.name
    while name in taken:
        name += "_"
    taken.add(name)
    result, over = ", ".join(gives), []
    body = []
    for line in lines:
        # What the segment reads is let go after the call, where `forward` holds it; its own values where they end.
        for match in _DELETED.finditer(line):
            over += [n for n in match[1].split(" = ") if n in takes]
        body.append(line if _COUNTER.match(line.strip()) else "    " + _DELETED.sub(_without(takes), line))
    drop = f";  {' = '.join([*over, 'None'])}" if over else ""
    listed = ", ".join(modules) + ("," if len(modules) == 1 else "")
    call = f"recompute({', '.join([name, f'({listed})', *takes])})"
    return [f"def {name}({', '.join(takes)}):", *body, f"    return {result}", f"{result} = {call}{drop}"]


def _without(names: Sequence[str]) -> Callable[[re.Match[str]], str]:
    """Replaces a deletion of several names by one that leaves these out."""

    def kept(match: re.Match[str]) -> str:
        own = [name for name in match[1].removesuffix(" = ").split(" = ") if name not in names]
        return f";  {' = '.join([*own, 'None'])}" if own else ""

    return kept


def checks_as_statements(body: list[str]) -> list[str]:
    """The lines with checks of inputs as statements; fx assigns their result to a name, and they have no result."""
    return [_CHECK.sub(r"\1", "".join(body))]


def look_up_once(lines: list[str]) -> list[str]:
    """Generated code that looks each container of the root up once: `trunk = self.trunk`, then `trunk.layer1(x)`.

    A module's attribute costs about a microsecond, which shows in models of a few layers.
    """
    body = "".join(lines)
    used = [name for name in CONTAINERS if f"self.{name}." in body]
    if not used:
        return lines
    for name in used:
        body = body.replace(f"self.{name}.", f"{name}.")
    names, values = ", ".join(used), ", ".join(f"self.{name}" for name in used)
    return [f"{names} = {values}\n", body]
