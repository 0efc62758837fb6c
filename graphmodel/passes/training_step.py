"""Runs a training step of a graph on the meta device and counts the memory that its tensors take, by unique storage."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from graphmodel.build.freeze_patterns import frozen_modules, is_frozen
from graphmodel.components.structure import leaves
from graphmodel.graph.evaluate import evaluate
from graphmodel.graph.rows import rows_per_sample
from graphmodel.graph.types import ModelGraph, Node

_FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


@dataclass
class Section:
    """What happens between two marks of a step.

    Attributes:
        peak: the most bytes that were live at once.
        end: bytes that were live at its end.
        flops: floating-point operations.
    """

    peak: int = 0
    end: int = 0
    flops: int = 0


@dataclass(frozen=True)
class Step:
    """The memory of one training step: forward in training mode, and backward of the sum of the outputs.

    Bytes are those of unique storages of tensors that the step makes, the inputs among them. Parameters and buffers
    are counted apart. Not counted are the optimizer's state, the loss and its gradient, workspaces of kernels, and what
    the allocator wastes.

    Attributes:
        weights: bytes of the parameters and buffers that the calls use.
        kept: bytes that are live at the end of the forward pass.
        peak: the most bytes that are live at once.
        flops: floating-point operations of forward, backward and recomputation.
        sections: what happens in parts of the step, by name.
        changed_inputs: names of calls that change a value that they read in place.
    """

    weights: int
    kept: int
    peak: int
    flops: int
    sections: Mapping[Any, Section] = field(default_factory=dict)
    changed_inputs: frozenset[str] = frozenset()

    @property
    def total(self) -> int:
        """The peak together with parameters and buffers."""
        return self.weights + self.peak


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of live storages that operations make, and floating-point operations.

    Args:
        known: storages that are not counted, such as those of parameters.
    """

    def __init__(self, known: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known = [tensor.untyped_storage() for tensor in known]
        self.live: dict[int, Any] = {storage._cdata: storage for storage in self.known}
        self.now = 0
        self.sections: dict[Any, Section] = {}
        self.section = Section()
        self.enter("start")

    def enter(self, name: Any) -> None:
        """Starts a section, or continues it."""
        self.section.end = self.now
        self.section = self.sections.setdefault(name, Section())
        self.section.peak = max(self.section.peak, self.now)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        packet = func._overloadpacket
        if packet is _FUSED:
            self.section.flops += sdpa_flop_count(*(tensor.shape for tensor in args[:3]))  # type: ignore[no-untyped-call]
        elif packet in flop_registry:
            self.section.flops += flop_registry[packet](*args, **kwargs, out_val=result)
        for tensor in leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.add(tensor)
        return result

    def add(self, tensor: torch.Tensor) -> None:
        """Counts the storage of a tensor until it is freed."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.live:
            return
        self.live[key] = weakref.ref(storage, partial(self._freed, key, size))
        self.now += size
        self.section.peak = max(self.section.peak, self.now)

    def _freed(self, key: int, size: int, _: Any) -> None:
        self.now -= size
        self.live.pop(key, None)


def simulate_step(
    graph: ModelGraph,
    batch: int,
    *,
    recomputed: Collection[tuple[str, ...]] | None = None,
    units: Sequence[tuple[str, ...]] = (),
    rows: Mapping[str, int] | None = None,
) -> Step:
    """The memory of a training step.

    Args:
        graph: a graph, before or after its passes.
        batch: the number of samples.
        recomputed: consecutive calls whose activations are recomputed together; None takes them from the facts.
        units: consecutive calls that are to be told apart: the sections `("forward", i)`, `("after", i)` and
            `("backward", i)` are about the unit of that number.
        rows: the number of rows of each input for one sample; `rows_per_sample` if None.

    Raises:
        Exception: whatever a call raises that cannot be run on the meta device in training mode.
    """
    together = tuple(segments_of(graph) if recomputed is None else recomputed)
    blocks = list(_blocks(graph, (*together, *(unit for unit in units if unit not in together))))
    number = {unit: i for i, unit in enumerate(units)}
    weights = list(_weights(graph))
    live = LiveBytes(weights)
    changed: set[str] = set()
    with _training(graph), torch.device("meta"), patch.object(F, "scaled_dot_product_attention", _fused), live:
        inputs = _inputs(graph, batch, rows, live)  # alive to the end, as whoever calls a module has them
        values = dict(inputs)
        for i, names in enumerate(blocks):
            later = {r for block in blocks[i + 1 :] for name in block for r in graph.nodes[name].refs()}
            needed = later | {n for output in graph.outputs.values() for n in output.parts.values()}
            if names in number:
                live.enter(("forward", number[names]))
            versions = _versions(graph, names, values)
            made = _run(graph, names, values, needed, again=names in together)
            if any(tensor._version != version for tensor, version in versions):
                changed.update(names)
            del versions
            if names in number:
                live.enter(("after", number[names]))
                for tensor in leaves(made):
                    if isinstance(tensor, torch.Tensor) and tensor.requires_grad:
                        tensor.register_hook(partial(_enter, live, ("backward", number[names])))  # type: ignore[no-untyped-call]
            values.update(made)
            del made
            for name in [name for name in values if name not in needed]:
                del values[name]
        live.enter("heads")
        kept = live.now
        parts = {n: values[n] for output in graph.outputs.values() for n in output.parts.values()}
        losses = [t.sum() for t in leaves(parts) if isinstance(t, torch.Tensor) and t.requires_grad]
        if losses:
            torch.autograd.backward(losses)
        live.enter("end")
        del values, parts, losses, inputs
    return Step(
        weights=sum({w.untyped_storage()._cdata: w.untyped_storage().nbytes() for w in weights}.values()),
        kept=kept,
        peak=max(section.peak for section in live.sections.values()),
        flops=sum(section.flops for section in live.sections.values()),
        sections=live.sections,
        changed_inputs=frozenset(changed),
    )


def saved_by_call(graph: ModelGraph, batch: int, rows: Mapping[str, int] | None = None) -> dict[str, int]:
    """The bytes that each call saves for the backward pass: storages that no earlier call saved, weights left out.

    Args:
        graph: a graph; its checkpoint segments are not looked at.
        batch: the number of samples.
        rows: the number of rows of each input for one sample; `rows_per_sample` if None.

    Raises:
        Exception: whatever a call raises that cannot be run on the meta device in training mode.
    """
    weights = {w.untyped_storage()._cdata for w in _weights(graph)}
    seen: dict[int, Any] = {}
    saved: dict[str, int] = {}
    with _training(graph), torch.device("meta"), patch.object(F, "scaled_dot_product_attention", _fused):
        values = _inputs(graph, batch, rows)
        for node in graph.nodes.values():
            found = 0

            def pack(tensor: torch.Tensor) -> torch.Tensor:
                nonlocal found
                storage = tensor.untyped_storage()
                if storage._cdata not in weights and storage._cdata not in seen:
                    seen[storage._cdata] = storage
                    found += storage.nbytes()
                return tensor

            if node.call != "placeholder":
                with saved_tensors_hooks(pack, lambda tensor: tensor):
                    values[node.name] = evaluate(graph, node, values)
            saved[node.name] = found
    return saved


def segments_of(graph: ModelGraph) -> list[tuple[str, ...]]:
    """The names of the calls of each checkpoint segment, those included that lie between them."""
    order = list(graph.nodes.values())
    spans: dict[tuple[str, int], list[int]] = {}
    for i, node in enumerate(order):
        if node.facts.checkpoint:
            spans.setdefault((node.scope, node.facts.checkpoint), []).append(i)
    return [tuple(node.name for node in order[span[0] : span[-1] + 1]) for span in spans.values()]


def _enter(live: LiveBytes, name: Any, _: torch.Tensor) -> None:
    live.enter(name)


def _blocks(graph: ModelGraph, together: Iterable[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """The calls in order, in blocks of what belongs together."""
    first = {names[0]: names for names in together}
    done: set[str] = set()
    for name, node in graph.nodes.items():
        if name in done or node.call == "placeholder":
            continue
        block = first.get(name, (name,))
        done.update(block)
        yield block


def _run(graph: ModelGraph, names: tuple[str, ...], values: dict[str, Any], needed: set[str], again: bool) -> Any:
    """The values of a block's calls that later blocks need."""
    nodes = [graph.nodes[name] for name in names]
    reads = list(dict.fromkeys(r for node in nodes for r in node.refs() if r not in names))
    if not (again and any(m.training for node in nodes if (m := graph.module_of(node)) is not None)):
        return _evaluated(graph, nodes, needed, {name: values[name] for name in reads})

    def segment(*given: Any) -> tuple[Any, ...]:
        return tuple(_evaluated(graph, nodes, needed, dict(zip(reads, given, strict=True))).values())

    made = checkpoint(segment, *(values[r] for r in reads), use_reentrant=False, preserve_rng_state=False)
    return dict(zip((name for name in names if name in needed), made, strict=True))


def _evaluated(graph: ModelGraph, nodes: Sequence[Node], needed: set[str], values: dict[str, Any]) -> dict[str, Any]:
    last = {r: i for i, node in enumerate(nodes) for r in node.refs()}
    own = {node.name for node in nodes}
    for i, node in enumerate(nodes):
        values[node.name] = evaluate(graph, node, values)
        for name in [n for n, at in last.items() if at == i and n in own and n not in needed]:
            del values[name]
    return {node.name: values[node.name] for node in nodes if node.name in needed}


def _versions(graph: ModelGraph, names: tuple[str, ...], values: Mapping[str, Any]) -> list[tuple[torch.Tensor, int]]:
    reads = {r for name in names for r in graph.nodes[name].refs() if r in values}
    return [(t, t._version) for r in reads for t in leaves(values[r]) if isinstance(t, torch.Tensor)]


def _inputs(
    graph: ModelGraph, batch: int, rows: Mapping[str, int] | None, live: LiveBytes | None = None
) -> dict[str, Any]:
    rows = rows_per_sample(graph) if rows is None else rows
    values: dict[str, Any] = {}
    for name, item in graph.inputs.items():
        shapes = [item.shape or ()] if item.views is None else item.views
        tensors = [torch.empty((rows[name] * batch, *s), dtype=getattr(torch, item.dtype)) for s in shapes]
        values[name] = tensors[0] if item.views is None else tensors
        for tensor in tensors if live is not None else ():
            live.add(tensor)  # type: ignore[union-attr]
    return values


def _weights(graph: ModelGraph) -> Iterator[torch.Tensor]:
    """The parameters, buffers and constants that the calls use."""
    found: dict[int, torch.Tensor] = {}
    for node in graph.nodes.values():
        module, tensor = graph.module_of(node), graph.tensor_of(node)
        own = [*module.parameters(), *module.buffers()] if module is not None else []
        found |= {id(t): t for t in (*own, *([tensor] if tensor is not None else []))}
    yield from found.values()


@contextmanager
def _training(graph: ModelGraph) -> Iterator[None]:
    """Inside, every component is in training mode, what is frozen is frozen, and no parameter has a gradient."""
    roots: list[tuple[str, nn.Module]] = []
    for name, component in graph.components.items():
        roots.append((name, component.meta))
        roots += [(f"{name}.{p}", extra) for p, extra in component.extras.items() if isinstance(extra, nn.Module)]
    with ExitStack() as restore:
        for path, root in roots:
            for module in root.modules():
                restore.callback(setattr, module, "training", module.training)
                module.training = True
            for _, module in frozen_modules(root, graph.frozen, path):
                module.training = False
            for name, parameter in root.named_parameters(remove_duplicate=False):
                restore.callback(_restore, parameter, parameter.requires_grad)
                if parameter.requires_grad and is_frozen(f"{path}.{name}" if name else path, graph.frozen):
                    parameter.requires_grad_(False)
        yield


def _restore(parameter: nn.Parameter, requires_grad: bool) -> None:
    parameter.requires_grad_(requires_grad)
    parameter.grad = None


_plain_attention: Callable[..., torch.Tensor] = F.scaled_dot_product_attention


def _fused(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Attention on meta by the fused kernel, as on a CPU or GPU; torch itself takes the other one on meta."""
    names = ("attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    mask = given.get("attn_mask")
    fits = query.dim() == 4 and query.shape[-1] == key.shape[-1] == value.shape[-1] and not given.get("enable_gqa")
    if not query.is_meta or not fits or (mask is not None and mask.requires_grad):
        return _plain_attention(query, key, value, *args, **kwargs)
    if mask is not None and mask.dtype == torch.bool:
        mask = mask.to(query.dtype)
    result: torch.Tensor = _FUSED(query, key, value, 0.0, bool(given.get("is_causal")), attn_mask=mask)[0]
    return result
