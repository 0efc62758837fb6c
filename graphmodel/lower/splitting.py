"""Splits a module at the line between what is frozen and what trains, so that frozen features can be computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import nn

from graphmodel.build.freeze_patterns import frozen_modules, is_frozen
from graphmodel.components.structure import leaves
from graphmodel.components.tensors import Batch, TensorInfo
from graphmodel.diagnostics import fail
from graphmodel.graph.evaluate import evaluate
from graphmodel.graph.facts import NO_FACTS
from graphmodel.graph.types import ModelGraph, Node, Output, Ref
from graphmodel.lower.module import CompiledModel, check_compiled, check_unedited
from graphmodel.lower.slicing import part_of
from graphmodel.passes.on_meta import batch_size, filled
from graphmodel.passes.prune import Prune
from graphmodel.passes.purity import draws_random_numbers, why_impure
from graphmodel.passes.stages import opened, sequentials
from graphmodel.spec.model import Dtype, InputSpec

_DTYPES = get_args(Dtype)
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def split_frozen(module: CompiledModel) -> tuple[CompiledModel, CompiledModel]:
    """Splits a module into its frozen features and what is computed from them.

    `heads(**features(images))` gives the module's own results, in training and in eval mode. Features do not change
    while the rest trains, so they can be computed once, stored, and read in every epoch. Both parts share the module's
    parameters: what the heads learn, the module has learned.

    The line is drawn as late as possible, inside of a trunk that is frozen in part (between the blocks of a ViT too),
    and after the frozen part of the heads. An input that something trainable reads directly is passed on. Values are
    named after features (`flatten`) or calls (`layer2`, `images_layer2`).

    Example:
        >>> import graphmodel, torch
        >>> spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18, "freeze": True}}
        >>> model = graphmodel.compile({**spec, "heads": {"label": {"mlp": {"dims": ["auto", 10]}}}}, seed=0)
        >>> features, heads = graphmodel.split_frozen(model)
        >>> images = torch.randn(2, 3, 64, 64)
        >>> stored = features(images)
        >>> {name: tuple(value.shape) for name, value in stored.items()}
        {'flatten': (2, 512)}
        >>> torch.equal(heads(**stored)["label"], model(images)["label"])
        True
        >>> list(heads.state_dict())
        ['heads.label.clf.0.weight', 'heads.label.clf.0.bias']

    Args:
        module: what `compile` returned, or a slice of it.

    Returns:
        The features, which take the module's inputs and return a dict of tensors, and the heads, which take these by
        name and return what the module returns, in its form.

    Raises:
        CompileError: GM504 if the module's graph was edited, GM565 if the spec freezes nothing or everything, GM566 if
            a parameter of the frozen part requires a gradient.
    """
    check_compiled(module, "split_frozen")
    check_unedited(module, "a split")
    frozen = module.model_graph.frozen
    first, second = split_graph(opened_graph(module, lambda path, part: _is_frozen_in_part(path, part, frozen)))
    features = part_of(module, first, "dict")
    thawed = [name for name, parameter in features.named_parameters() if parameter.requires_grad]
    if thawed:
        message = f"`{thawed[0]}` is frozen in the spec and requires a gradient: stored features would not follow it"
        raise fail("GM566", message, help="split the module first, or leave it out of `freeze`")
    return features, part_of(module, second, module.returns)


def opened_graph(
    module: CompiledModel,
    wanted: Callable[[str, nn.Module], bool] = lambda path, part: True,
    graph: ModelGraph | None = None,
) -> ModelGraph:
    """A module's graph with the blocks of each `nn.Sequential` called one by one, such as those of a ViT.

    One that has hooks, or that was changed, stays as it is.

    Args:
        module: the module.
        wanted: tells by the path and the module which are opened.
        graph: the graph; None for the model graph.
    """
    graph = module.model_graph if graph is None else graph
    while True:
        known = {str(node.target): graph.module_of(node) for node in graph.nodes.values() if node.call == "module"}
        found = {target: module.get_submodule(target) for target in sequentials(graph)}
        wider = opened(graph, {t for t, own in found.items() if _can_open(own, known[t]) and wanted(t, own)})
        if wider is graph:
            return graph
        graph = wider


def _can_open(own: nn.Module, known: nn.Module | None) -> bool:
    hooks = (own._forward_hooks, own._forward_pre_hooks, own._backward_hooks, own._backward_pre_hooks)
    same = type(own) is nn.Sequential and known is not None and own._modules.keys() == known._modules.keys()
    return same and not any(hooks)


def _is_frozen_in_part(path: str, module: nn.Module, frozen: tuple[str, ...]) -> bool:
    found = {is_frozen(f"{path}.{name}", frozen) for name, _ in module.named_parameters()}
    return len(found) > 1


def split_graph(graph: ModelGraph) -> tuple[ModelGraph, ModelGraph]:
    """The graph of the frozen features, and the graph of everything else, which takes them as its inputs.

    Raises:
        CompileError: GM565 if nothing or everything is frozen.
    """
    fixed = fixed_calls(graph)
    needed = graph.needed_by(n for output in graph.outputs.values() for n in output.parts.values())
    if not any(_has_parameters(graph, graph.nodes[name]) for name in fixed & needed):
        message = "the module has no frozen part in front of what trains"
        raise fail(
            "GM565", message, help="freeze the trunk (`freeze: true`), or its first stages (`freeze: [trunk.layer1]`)"
        )
    if needed <= fixed:
        message = "everything in the module is frozen, so there is nothing to train on stored features"
        raise fail("GM565", message, help="leave the heads out of `freeze`; for inference use `optimize_for_inference`")
    crossing = _crossing(graph, fixed)
    names = _names(graph, crossing)
    first = replace(
        graph,
        nodes={name: node for name, node in graph.nodes.items() if name in fixed},
        outputs={name: Output(name, {name: node}) for node, name in names.items()},
        structure=tuple(names.values()),
    )
    return _pruned(first), _second(graph, names)


def fixed_calls(graph: ModelGraph) -> set[str]:
    """Names of the calls whose values depend on the inputs alone, in both modes and while the rest trains."""
    frozen = {
        path
        for name, component in graph.components.items()
        for path, _ in frozen_modules(component.meta, graph.frozen, name)
    }
    fixed: set[str] = set()
    seen: set[str] = set()
    known: dict[tuple[str, int], Any] = {}
    for name, node in graph.nodes.items():
        changers = {c for ref in node.refs() for c in graph.nodes[ref].facts.changed_by if c in seen}
        if {*node.refs(), *changers} <= fixed and _is_fixed(graph, node, frozen, known):
            fixed.add(name)
        seen.add(name)
    return fixed


def _is_fixed(graph: ModelGraph, node: Node, frozen: set[str], known: dict[tuple[str, int], Any]) -> bool:
    if node.call == "placeholder":
        return True
    path = str(node.target)
    if node.call == "attribute":
        return is_frozen(path, graph.frozen) or not isinstance(graph.tensor_of(node), nn.Parameter | nn.Buffer)
    module = graph.module_of(node)
    if module is None:
        return not draws_random_numbers(graph, node, known)
    if not all(is_frozen(f"{path}.{name}", graph.frozen) for name, _ in module.named_parameters()):
        return False
    free = [part for name, part in module.named_modules() if f"{path}.{name}".rstrip(".") not in frozen]
    free = [] if is_frozen(path, graph.frozen) else free
    return all(_ignores_mode(part) for part in free) and why_impure(graph, node, known) is None


def _ignores_mode(module: nn.Module) -> bool:
    """Whether a module that is not frozen has nothing that training changes, and does the same in both modes."""
    if type(module) in _DROPOUTS and module.p == 0:
        return True
    code = getattr(type(module).forward, "__code__", None)
    plain = not module._parameters and not any(b is not None for b in module._buffers.values())
    return plain and code is not None and "training" not in code.co_names


def _has_parameters(graph: ModelGraph, node: Node) -> bool:
    module = graph.module_of(node)
    if module is None:
        return isinstance(graph.tensor_of(node), nn.Parameter)
    return any(True for _ in module.parameters())


def can_cross(node: Node) -> bool:
    """Whether a value can be stored: one tensor with a row for each sample."""
    info = node.info
    if not isinstance(info, TensorInfo) or not info.shape or info.dtype not in _DTYPES:
        return False
    return isinstance(info.shape[0], Batch) and all(isinstance(d, int) for d in info.shape[1:])


def _crossing(graph: ModelGraph, fixed: set[str]) -> list[str]:
    """Names of the fixed values that everything else is computed from, in order.

    A fixed value that cannot be stored, such as a size, is computed again from one that can.
    """
    found: set[str] = set()
    wanted = [n for output in graph.outputs.values() for n in output.parts.values()]
    seen: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        node = graph.nodes[name]
        if name in fixed and (can_cross(node) or node.call == "placeholder"):
            found.add(name)
        else:
            wanted += [*node.refs(), *(c for c in node.facts.changed_by if c not in fixed)]
    return [name for name in graph.nodes if name in found]


def _names(graph: ModelGraph, crossing: list[str]) -> dict[str, str]:
    """What each value is called outside: its feature's name if that is free, or its call's."""
    features = [f for name in crossing for f in graph.nodes[name].facts.features[:1]]
    names = {}
    for name in crossing:
        feature = next(iter(graph.nodes[name].facts.features), "")
        free = feature.isidentifier() and features.count(feature) == 1 and feature not in graph.nodes
        names[name] = feature if free and graph.nodes[name].call != "placeholder" else name
    return names


def _second(graph: ModelGraph, names: dict[str, str]) -> ModelGraph:
    """The graph behind the crossing values, which are its inputs."""
    nodes: dict[str, Node] = {}
    inputs: dict[str, InputSpec] = {}
    accepts: dict[str, tuple[tuple[int | None, ...], ...]] = {}
    free = any(size is None for shapes in graph.accepts.values() for shape in shapes for size in shape)
    for old, name in names.items():
        node = graph.nodes[old]
        if node.call == "placeholder":
            nodes[old], inputs[old] = replace(node, facts=NO_FACTS), graph.inputs[old]
            if old in graph.accepts:
                accepts[old] = graph.accepts[old]
            continue
        nodes[name], inputs[name] = as_input(node, name)
        shape = tuple(node.info.shape[1:])
        accepts[name] = (tuple(None for _ in shape) if free else shape,)
    rest = [node for name, node in graph.nodes.items() if name not in names and node.call != "placeholder"]
    nodes.update({node.name: node.reading(names) for node in rest})
    outputs = {
        name: replace(output, parts={key: names.get(n, n) for key, n in output.parts.items()})
        for name, output in graph.outputs.items()
    }
    made = _pruned(replace(graph, nodes=nodes, inputs=inputs, accepts=accepts, outputs=outputs))
    changed = changed_inputs(made)
    return with_copies(made, changed) if changed else made


def as_input(node: Node, name: str) -> tuple[Node, InputSpec]:
    """An input in the place of a call whose value comes from another graph.

    Args:
        node: the call, of which `can_cross` is true.
        name: the name of the input.
    """
    placeholder = Node(name, "input", "placeholder", name, info=node.info, span=node.span)
    return placeholder, InputSpec(name=name, shape=tuple(node.info.shape[1:]), dtype=node.info.dtype)


def _pruned(graph: ModelGraph) -> ModelGraph:
    """The graph without what its outputs do not need."""
    made = Prune().run(graph).graph
    read = {ref for node in made.nodes.values() for ref in node.refs()}
    read |= {n for output in made.outputs.values() for n in output.parts.values()}
    used = {name: item for name, item in made.inputs.items() if name in read}
    nodes = {k: n for k, n in made.nodes.items() if n.call != "placeholder" or k in used}
    return replace(made, inputs=used, nodes=nodes, accepts={k: v for k, v in made.accepts.items() if k in used})


def changed_inputs(graph: ModelGraph) -> list[str]:
    """Inputs that a call changes in place; stored features must not change. All if that cannot be found out."""
    modules = [m for c in graph.components.values() for m in (c.meta, *c.extras.values()) if isinstance(m, nn.Module)]
    modes = [(part, part.training) for module in modules for part in module.modules()]
    changed: set[str] = set()
    try:
        for training in (True, False):  # dropout makes a new value in one mode, and hands its input on in the other
            for module in modules:
                module.train(training)
            changed |= _changed_on_meta(graph)
    except Exception:  # a module's own code may raise anything
        return list(graph.inputs)
    finally:
        for part, mode in modes:
            part.training = mode
    return [name for name in graph.inputs if name in changed]


def _changed_on_meta(graph: ModelGraph) -> set[str]:
    batch = batch_size(graph)
    values: dict[str, Any] = {name: filled(graph, Ref(name), batch) for name in graph.inputs}
    given = {name: [(tensor, tensor._version) for tensor in leaves(value)] for name, value in values.items()}
    with torch.no_grad(), torch.device("meta"):
        for node in graph.nodes.values():
            if node.call != "placeholder":
                values[node.name] = evaluate(graph, node, values)
    return {name for name, tensors in given.items() if any(t._version != old for t, old in tensors)}


def with_copies(graph: ModelGraph, names: Iterable[str]) -> ModelGraph:
    """The graph with copies of some inputs in their place."""
    nodes: dict[str, Node] = {}
    rename: dict[str, str] = {}
    for node in graph.nodes.values():
        nodes[node.name] = node.reading(rename)
        if node.name in names and isinstance(node.info, TensorInfo):
            copy = f"{node.name}_copy"
            while copy in graph.nodes:
                copy += "_"
            facts = replace(node.facts, copied="changed in place")
            nodes[copy] = Node(copy, "op", "function", torch.clone, (Ref(node.name),), info=node.info, facts=facts)
            rename[node.name] = copy
    return replace(graph, nodes=nodes)
