"""The report of a model as data: a row for each call, totals of parameters and operations, what passes did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from graphmodel.components.registry import find_trunk
from graphmodel.diagnostics import Diagnostic
from graphmodel.graph.rows import rows_per_sample
from graphmodel.graph.text import info_text, target_text
from graphmodel.graph.types import ModelGraph, head_name
from graphmodel.profiling.flops import count_flops
from graphmodel.profiling.parameters import Parameters, joined, total
from graphmodel.spec.grids import grid_of


@dataclass(frozen=True)
class Row:
    """One call.

    Attributes:
        node: its name in the graph and in the emitted code.
        kind: `input`, `trunk`, `op` or `head`.
        calls: the path of the module it calls, or the function's name; empty for inputs.
        feature: names of the trunk's features that its value is.
        shape: its value; the batch is N.
        parameters: parameters behind the call, those of an earlier row not counted again.
        frozen: how many of them do not train.
        shared: it has parameters that an earlier row counts.
        flops: floating-point operations at batch size 1, a multiply-add counted as two.
        line: where the spec asks for it, `file:line:column`.
        grid: the grid whose head it belongs to.
    """

    node: str
    kind: str
    calls: str
    feature: tuple[str, ...]
    shape: str
    parameters: int
    frozen: int
    shared: bool
    flops: int
    line: str
    grid: str = ""

    @property
    def is_frozen(self) -> bool:
        """Whether it has parameters and none of them trains."""
        return 0 < self.parameters == self.frozen


@dataclass(frozen=True)
class Report:
    """What a graph computes and what it costs.

    Attributes:
        name: the model's name.
        dialect: the dialect of its spec.
        inputs: shape text by input.
        outputs: shape text by the key of the module's result.
        rows: the calls in execution order.
        trained: parameters that train.
        frozen: parameters that do not.
        pruned: parameters of the named trunks and heads that no output needs and that are never built.
        bytes: memory of parameters and buffers.
        flops: floating-point operations of one forward pass in eval mode at batch size 1.
        batch_rows: rows of each input at that batch size: nine patches of a sample may be nine rows.
        passes: names of the passes that ran.
        summary: what each of them did.
        notes: what they declined to do and why.
    """

    name: str
    dialect: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    rows: tuple[Row, ...]
    trained: int
    frozen: int
    pruned: int
    bytes: int
    flops: int
    batch_rows: dict[str, int]
    passes: tuple[str, ...]
    summary: tuple[str, ...]
    notes: tuple[Diagnostic, ...]

    def to_dict(self) -> dict[str, Any]:
        """The form that `--format json` prints."""
        return {
            "name": self.name,
            "dialect": self.dialect,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "nodes": [
                {
                    "name": r.node,
                    "kind": r.kind,
                    "calls": r.calls,
                    "features": list(r.feature),
                    "shape": r.shape,
                    "parameters": r.parameters,
                    "frozen_parameters": r.frozen,
                    "shared": r.shared,
                    "flops": r.flops,
                    "source": r.line or None,
                    "grid": r.grid or None,
                }
                for r in self.rows
            ],
            "totals": {
                "parameters": {
                    "total": self.trained + self.frozen,
                    "trained": self.trained,
                    "frozen": self.frozen,
                    "pruned": self.pruned,
                },
                "bytes": self.bytes,
                "flops_per_sample": self.flops,
                "rows_per_sample": self.batch_rows,
            },
            "passes": list(self.passes),
            "summary": list(self.summary),
        }


def report(graph: ModelGraph) -> Report:
    """The report of a graph after its passes."""
    flops = count_flops(graph)
    features = _features(graph)
    parameters = Parameters(graph)
    counted: set[int] = set()
    rows = []
    for node in graph.nodes.values():
        used = parameters.used_by(node)
        own = total({key: size for key, size in used.items() if key not in counted})
        shared = not counted.isdisjoint(used)
        counted |= used.keys()
        rows.append(
            Row(
                node=node.name,
                kind=node.kind,
                calls="" if node.call == "placeholder" else target_text(node.target),
                feature=features.get(node.name, ()),
                shape=info_text(node.info),
                parameters=own.total,
                frozen=own.frozen,
                shared=shared,
                flops=flops[node.name],
                line=str(node.span) if node.span else "",
                grid=grid_of(graph.spec, [head_name(node.component)]) if node.kind == "head" and node.component else "",
            )
        )
    built = parameters.of(graph.nodes.values())
    named = total(joined(parameters.below(name, name) for name in graph.components))
    return Report(
        name=graph.spec.name,
        dialect=graph.spec.dialect,
        inputs={name: info_text(graph.nodes[name].info) for name in graph.inputs},
        outputs={k: info_text(graph.nodes[n].info) for o in graph.outputs.values() for k, n in o.parts.items()},
        rows=tuple(rows),
        trained=built.trainable,
        frozen=built.frozen,
        pruned=named.total - built.total,
        bytes=_memory(graph),
        flops=sum(flops.values()),
        batch_rows=rows_per_sample(graph),
        passes=graph.history,
        summary=graph.summary,
        notes=graph.notes,
    )


def _memory(graph: ModelGraph) -> int:
    """Bytes of the parameters and buffers that the calls use, each once."""
    tensors: dict[int, torch.Tensor] = {}
    for node in graph.nodes.values():
        module, tensor = graph.module_of(node), graph.tensor_of(node)
        found = [*module.parameters(), *module.buffers()] if module is not None else []
        tensors |= {id(t): t for t in (*found, *([tensor] if tensor is not None else []))}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _features(graph: ModelGraph) -> dict[str, tuple[str, ...]]:
    """Feature names by node: those that the spec reads, and those that are the value of one stage."""
    names: dict[str, tuple[str, ...]] = {}
    stages: dict[str, list[str]] = {}
    for component in graph.components.values():
        family = find_trunk(component.family) if component.kind == "trunk" and not component.given else None
        for feature in family.features(component.params, component.meta) if family is not None else ():
            if len(feature.taps) == 1 and feature.compute is None:
                stages.setdefault(f"{component.name}.{feature.taps[0]}", []).append(feature.name)
    for node in graph.nodes.values():
        own = stages.get(str(node.target), []) if node.call == "module" else []
        names[node.name] = tuple(dict.fromkeys([*node.facts.features, *own]))
    return names
