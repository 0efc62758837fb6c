"""Runs trunks in the memory format that the spec gives them."""

from __future__ import annotations

from graphmodel.diagnostics import CompileError, Diagnostic
from graphmodel.graph.types import InvalidGraph, ModelGraph, trunk_path
from graphmodel.passes.channels_last import has_maps, in_channels_last, why_not
from graphmodel.passes.manager import Switch
from graphmodel.passes.result import PassResult


class SetMemoryFormat:
    """Carries out `memory_format: channels_last` of a trunk, in training and in inference.

    What the trunk's modules read is converted to channels-last format, what leaves them back, and their weights are put
    into it. As the pass `channels_last`, but for a whole trunk, frozen or not.

    Example:
        >>> from graphmodel.passes._example import example
        >>> settings = {"memory_format": "channels_last"}
        >>> graph = SetMemoryFormat().run(example({"images": {"stage1": None}}, settings=settings)).graph
        >>> print("\\n".join(str(graph).splitlines()[2:]))
          %images_channels_last: N×3×8×8 = op .contiguous(%images, memory_format=torch.channels_last)
          %conv: N×4×6×6 = trunk trunk.conv(%images_channels_last) channels_last
          %norm: N×4×6×6 = trunk trunk.norm(%conv) channels_last
          %stage1: N×4×4×4 = trunk trunk.stage1(%norm) channels_last features=('stage1',)
          %stage1_contiguous: N×4×4×4 = op .contiguous(%stage1)
          return stage1: stage1=%stage1_contiguous

    Raises:
        CompileError: GM427 if a trunk's code cannot run in that format.
    """

    name = "set_memory_format"
    switch: Switch = "always"
    requires: frozenset[str] = frozenset()

    def run(self, graph: ModelGraph) -> PassResult:
        calls: set[str] = set()
        notes: list[Diagnostic] = []
        for name, trunk in graph.spec.trunks.items():
            if trunk.memory_format != "channels_last":
                continue
            path, span = trunk_path(graph.spec, name), graph.spec.span((*trunk.at, "memory_format"))
            own = [n for n in graph.nodes.values() if n.component == path and n.call == "module" and has_maps(graph, n)]
            reason = why_not(graph, own, "convolution")
            if reason is None:
                calls |= {node.name for node in own}
                continue
            code, message = reason
            if code == "GM426":
                notes.append(
                    Diagnostic(code, f"`memory_format` of `{path}`: the trunk {message}", span, severity="note")
                )
                continue
            help = "leave `memory_format` out, or freeze and optimize a part of the trunk (`optimize: [channels_last]`)"
            raise CompileError([Diagnostic("GM427", f"the trunk `{path}` {message}", span, help)])
        if not calls:
            return PassResult(graph, changed=False, notes=tuple(notes))
        return PassResult(in_channels_last(graph, calls), changed=True, notes=tuple(notes))

    def check(self, before: ModelGraph, after: ModelGraph) -> None:
        if [name for name in after.nodes if name in before.nodes] != list(before.nodes):
            raise InvalidGraph("set_memory_format dropped calls or changed their order")
