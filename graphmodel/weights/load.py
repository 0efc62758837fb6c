"""Loads weights into a compiled module and says what went where."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from graphmodel.components.registry import find_trunk
from graphmodel.diagnostics import CompileError, Diagnostic, fail, printable
from graphmodel.graph.types import ModelGraph
from graphmodel.lower.module import CompiledModel, check_compiled, check_of_spec
from graphmodel.spec.model import WeightsSpec
from graphmodel.weights.choosing import Chooser, Networks, Under
from graphmodel.weights.copying import plan
from graphmodel.weights.ordering import Target, disagreement, readings_in_order
from graphmodel.weights.reading import StateDict, read_checkpoint, state_dicts
from graphmodel.weights.readings import Reader, Reading
from graphmodel.weights.report import LoadReport

BY_ORDER = 'if it has the same tensors in module order, pass `match="order"` (`--weights-match order`)'

PARTIAL = "`partial=True` (`--partial`) loads what fits"
RELATIVE = ("relative_position_bias_table", "rel_pos_h", "rel_pos_w", "attention_biases")
"""Learned tables whose size follows from the grid of patches or the window."""

Tensors = dict[str, torch.Tensor]


def load_weights(
    module: CompiledModel,
    source: str | Path | Mapping[str, Any] | None = None,
    *,
    network: Networks = None,
    match: Literal["names", "order"] = "names",
    dialect: Literal["vissl"] | None = None,
    partial: bool = False,
    interpolate: bool | tuple[int, int] = False,
    antialias: bool = False,
) -> LoadReport:
    """Loads a checkpoint into a compiled module; the translation of its keys is inferred and reported.

    A load that raises changes nothing.

    Args:
        module: the module; its tensors are changed in place.
        source: a file (safetensors, or a torch file without code), or a mapping in memory; None takes the spec's own
            `weights.file`.
        network: the network to take if the checkpoint has several, by its name or a part of it (`"teacher"`,
            `"encoder_q"`); or a mapping from networks to the trunks (or heads) that they fill, such as
            `{"student": "student", "teacher": "teacher"}`.
        match: `order` matches the tensors of a trunk one by one in module order, for layouts with foreign names;
            every shape must agree.
        dialect: `vissl` reads the keys as VISSL's and tries nothing else.
        partial: accept a checkpoint that does not cover the whole trunk, or one of a deeper network.
        interpolate: resize position embeddings to the model's grid of patches (bicubic). A pair is the checkpoint's
            own grid, `(rows, columns)`, if it is not a square.
        antialias: resize as timm's loader does, with antialiasing; VISSL and DINO do without.

    Returns:
        What was matched, what is missing or unexpected, what has another shape, and warnings.

    Raises:
        CompileError: GM510 if the file cannot be read, GM511 if nothing matches, GM512 if the trunk is not covered
            or the network of the checkpoint is deeper and `partial` is not set, GM514 if `network` is needed or names
            nothing, GM515 if a tensor cannot be copied, GM516 if the order does not agree, GM561 if the module was made
            by `optimize_for_inference`.

    Example:
        >>> import graphmodel, torchvision
        >>> spec = {"trunk": {"name": "resnet", "depth": 18}, "inputs": {"images": [3, 64, 64]}}
        >>> model = graphmodel.compile(spec, seed=0)
        >>> state = {f"module.{k}": v for k, v in torchvision.models.resnet18().state_dict().items()}
        >>> report = graphmodel.load_weights(model, {"state_dict": state})
        >>> report.matched["trunk.conv1.weight"], report.missing, report.pruned
        ('module.conv1.weight', [], ['module.fc.weight', 'module.fc.bias'])
    """
    check_compiled(module, "load_weights")
    check_of_spec(module, "weights cannot be loaded into")
    _check(match, network, interpolate)
    graph = module.model_graph
    weights = graph.spec.weights
    if source is None:
        if weights is None or not weights.file:
            raise fail("GM510", "no checkpoint was given and the spec names none", help="pass a file or a mapping")
        source = weights.file
    if match == "order" and str(source).endswith(".safetensors") and not isinstance(source, Mapping):
        message = "a safetensors file does not keep the order of its tensors"
        raise fail("GM516", message, help="match by name, or load it from the file that it was converted from")
    found = _under(state_dicts(read_checkpoint(source)), weights)
    own = _own_tensors(module)
    required = {k: v.shape for k, v in own.items() if v.is_floating_point() or v.is_complex()}
    if match == "order":
        whole, under = _by_order(found, graph, own)
    else:
        whole, under = _by_name([_split(state, graph) for state in found], Reader(graph, own, weights), dialect)
    choice = Chooser(graph, required).choose(whole, under, network)
    if choice is None:
        raise _nothing_fits(found, own)
    copies, report = plan(module, own, choice, weights.skip if weights is not None else (), interpolate, antialias)
    lacking = [k for k in report.missing if k.startswith("trunk")]
    if lacking and not partial:
        raise _not_covered(report, lacking)
    if report.deeper and not partial:
        raise _deeper(report)
    with torch.no_grad():
        for target, tensor in copies:
            if not target.is_meta:
                target.copy_(tensor)
    for finding in report.warnings:
        warnings.warn(printable(f"{finding.message}; {finding.help}"), stacklevel=2)
    return report


def _check(match: str, network: Networks, interpolate: bool | tuple[int, int]) -> None:
    if match not in ("names", "order"):
        raise fail("GM510", f"`match={match!r}` is not valid", help='use "names" or "order"')
    if network is not None and not isinstance(network, (str, Mapping)):
        raise fail("GM514", f"`network` is a name or a mapping, not {type(network).__name__}")
    pair = isinstance(interpolate, tuple) and [type(n) for n in interpolate] == [int, int] and min(interpolate) > 0
    if not (isinstance(interpolate, bool) or pair):
        raise fail("GM510", f"`interpolate={interpolate!r}` is not valid", help="use True, or (rows, columns)")


def _own_tensors(module: CompiledModel) -> Tensors:
    """The module's parameters and persistent buffers by their state-dict keys."""
    named: Tensors = dict(module.named_parameters(remove_duplicate=False))
    named |= dict(module.named_buffers(remove_duplicate=False))
    saved = module.state_dict()
    return {k: v for k, v in named.items() if k in saved}


def _under(found: list[StateDict], weights: WeightsSpec | None) -> list[StateDict]:
    """State dicts under the key that the spec names, if there are any."""
    if weights is None or not weights.key:
        return found
    return [s for s in found if weights.key in s.path] or found


def _split(state: StateDict, graph: ModelGraph) -> StateDict:
    """A state dict whose tensors the trunks' families split or reshape into the library's own form."""
    dense = {k: v for k, v in state.tensors.items() if v.layout == torch.strided and not v.is_nested}
    others = {k: v for k, v in state.tensors.items() if k not in dense}
    for component in graph.components.values():
        family = find_trunk(component.family) if component.kind == "trunk" else None
        if family is not None:
            dense = dict(family.from_vissl_tensors(dense, component.params))
    return StateDict(state.path, {**dense, **others})


def _by_name(found: list[StateDict], reader: Reader, dialect: str | None) -> tuple[list[Reading], Under]:
    """The readings of the keys: for the whole model, and for one trunk or head."""
    only_vissl = dialect == "vissl"
    whole = [r for state in found for r in reader.whole(state, only_vissl=only_vissl)]
    return whole, lambda target: [] if only_vissl else [r for state in found for r in reader.under(state, target)]


def _by_order(found: list[StateDict], graph: ModelGraph, own: Tensors) -> tuple[list[Reading], Under]:
    """The readings by the order of the tensors: for the whole model if it has heads, and for one trunk or head."""
    shapes = {f"{c.name}.{k}": v.shape for c in graph.components.values() for k, v in c.meta.state_dict().items()}
    model = {k: shape for k, shape in shapes.items() if k in own}
    whole = readings_in_order(found, Target("the model", model, frozenset(model))) if graph.spec.heads else []

    def under(target: str) -> list[Reading]:
        inner = {k: shape for k, shape in shapes.items() if k.startswith(f"{target}.")}
        wanted = Target(f"`{target}`", inner, frozenset(k for k in inner if k in own))
        readings = readings_in_order(found, wanted)
        if not readings and not whole:
            raise disagreement(found, wanted)
        return readings

    return whole, under


def _nothing_fits(found: list[StateDict], own: Tensors) -> CompileError:
    keys = [k for state in found for k in state.tensors][:4]
    if not keys:
        return fail("GM511", "the checkpoint has no tensors")
    help = f"its keys look like {', '.join(keys)}; the model's like {', '.join(list(own)[:4])}; {BY_ORDER}"
    return fail("GM511", "no tensor of the checkpoint fits the model", help=help)


def _not_covered(report: LoadReport, lacking: list[str]) -> CompileError:
    shown = ", ".join(lacking[:4]) + (", …" if len(lacking) > 4 else "")
    wrong = "".join(f"; {w.key} is {w.shape}, wanted {w.wanted}" for w in report.wrong_shape[:2])
    positions = any("pos_embed" in w.ours.rpartition(".")[2] for w in report.wrong_shape)
    tables = any(w.ours.rpartition(".")[2] in RELATIVE for w in report.wrong_shape)
    help = f"check that it is this trunk's; {PARTIAL}"
    if report.covered * 2 < report.total:
        help = f"{help}; {BY_ORDER}"
    if positions:
        help = f"`interpolate=True` (`--interpolate`) resizes position embeddings to the model's grid; {help}"
    if tables:
        help = (
            "tables of relative positions are not resized: compile for the image and window size of the checkpoint, "
            f"or, for a model of timm, name the file in the spec (`pretrained: FILE`), and timm resizes them; {help}"
        )
    message = (
        f"the checkpoint covers {report.covered} of {report.total} tensors; {len(report.missing)} are left without "
        f"weights, {len(lacking)} of them in the trunk: {shown}{wrong}"
    )
    findings = [Diagnostic("GM512", message, None, help), *report.warnings]
    return CompileError(findings)


def _deeper(report: LoadReport) -> CompileError:
    shown = ", ".join(report.deeper[:4]) + (", …" if len(report.deeper) > 4 else "")
    message = f"the checkpoint is of a deeper network: {len(report.deeper)} of its tensors come after the last layer "
    help = f"compile the trunk with the depth of the checkpoint; {PARTIAL}"
    return fail("GM512", f"{message}of a part of the trunk: {shown}", help=help)
