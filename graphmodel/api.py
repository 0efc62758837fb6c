"""The public functions: where the stages meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from graphmodel.build import build as graph_build
from graphmodel.components.library.guard import foreign_sources, weights_follow
from graphmodel.diagnostics import Collector, fail
from graphmodel.dialects import InputShapes
from graphmodel.dialects.loading import read_spec
from graphmodel.graph.types import ModelGraph
from graphmodel.lower import CompiledModel, lower
from graphmodel.lower.emit import FORMS
from graphmodel.lower.slicing import names_in, slice_graph
from graphmodel.passes.manager import run_passes
from graphmodel.passes.pipeline import PIPELINE
from graphmodel.passes.switches import among, chosen_passes
from graphmodel.spec.model import ModelSpec

Passes: TypeAlias = Sequence[str] | Mapping[str, bool] | bool | None
"""Switches of optimization passes, as `compile` takes them."""


def build_graph(
    spec: str | Path | Sequence[str | Path] | Mapping[str, Any] | ModelSpec,
    *,
    outputs: Sequence[str] | None = None,
    passes: Passes = None,
    trunks: Mapping[str, nn.Module] | None = None,
    allow_imports: bool = False,
) -> ModelGraph:
    """The model graph of a spec: names bound, every shape checked, no weight built, nothing optimized.

    Example:
        >>> import graphmodel
        >>> spec = graphmodel.load_spec({"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}})
        >>> list(graphmodel.build_graph(spec).outputs)
        ['features']

    Args:
        spec: what `load_spec` returned, or a path, several, or a mapping.
        outputs: names of the outputs to keep, in this order; the spec's own if None.
        passes: optimization passes, as for `compile`.
        trunks: modules to use for trunks of these names.
        allow_imports: whether the spec may name Python code to import.

    Raises:
        CompileError: everything that can be found wrong, at once.
    """
    spec, report = read_spec(spec), Collector()
    chosen = chosen_passes(spec, passes, report)
    graph = graph_build.build_graph(spec, trunks=trunks, allow_imports=allow_imports, report=report)
    if outputs is not None:
        graph = slice_graph(graph, None, outputs)
    return run_passes(graph, among(PIPELINE, chosen))


def compile(
    spec_or_path: str | Path | Sequence[str | Path] | Mapping[str, Any] | ModelSpec,
    *,
    device: str | torch.device | None = None,
    seed: int | None = None,
    outputs: Sequence[str] | None = None,
    returns: Literal["dict", "tuple", "list", "tensor"] | None = None,
    inputs: InputShapes | None = None,
    overrides: Sequence[str] = (),
    passes: Passes = None,
    trunks: Mapping[str, nn.Module] | None = None,
    allow_imports: bool = False,
    allow_extends_outside: bool = False,
    allow_downloads: bool = False,
) -> CompiledModel:
    """Compiles a spec into one module.

    Example:
        >>> import graphmodel, torch
        >>> model = graphmodel.compile(
        ...     {
        ...         "inputs": {"images": [3, 64, 64]},
        ...         "trunk": {"name": "resnet", "depth": 18},
        ...         "heads": {"label": {"mlp": {"dims": ["auto", 10]}}},
        ...     },
        ...     seed=0,
        ... )
        >>> {name: tuple(value.shape) for name, value in model(torch.randn(2, 3, 64, 64)).items()}
        {'label': (2, 10)}

    Args:
        spec_or_path: a path, several (a base and overlays), a mapping already loaded, or a `ModelSpec`.
        device: where the weights go; None is the device of the modules given in `trunks`, else torch's default
            device; `meta` builds no weights.
        seed: makes the weights reproducible. Each component draws from its own stream; a trunk gets what the
            library's own constructor gives under `torch.manual_seed(seed)`. None draws a seed from torch's global
            generator.
        outputs: names of the outputs to keep, in this order; None takes the spec's own (`outputs:`, all by default).
        returns: the form of the result: a dict by output name, a flat tuple, VISSL's nested list, or the one tensor.
            None takes the spec's own (`returns:`, a dict by default).
        inputs: per-sample shapes such as `{"images": (3, 224, 224)}`, over what the file says; a list of shapes is
            an input of views.
        overrides: `path=value` items.
        passes: optimization passes: a list of names for exactly these, `()` for none, or a mapping of names that turns
            some on or off. None takes the spec's own (`optimize:`); the default ones compute the same up to rounding.
        trunks: modules to use for the spec's trunks of these names, as they are: shared and not copied, their weights
            kept, moved only if `device` is given.
        allow_imports: whether the spec may name Python code to import.
        allow_extends_outside: whether `extends` may name files outside the directory tree of the spec.
        allow_downloads: whether the spec may name files on the Internet. Without it, the only downloads are the
            weights that torchvision and timm publish, for `pretrained: true`.

    Returns:
        The module, in training mode.

    Raises:
        CompileError: everything that is wrong with the spec, at once.
    """
    _check_outputs(outputs)
    if seed is not None and not hasattr(seed, "__index__"):
        raise fail("GM202", f"`seed` takes a whole number, not {seed!r}", help="for example `seed=0`", path="seed")
    spec = read_spec(spec_or_path, overrides, inputs=inputs, allow_extends_outside=allow_extends_outside)
    with foreign_sources(allow_downloads):
        graph = build_graph(spec, outputs=outputs, passes=passes, trunks=trunks, allow_imports=allow_imports)
        return lower(
            graph,
            device=torch.device(device) if device is not None else _device_beside(trunks or {}),
            seed=int(torch.randint(0, 2**31 - 1, (), device="cpu")) if seed is None else seed,
            returns=returns or spec.returns,
            passes=chosen_passes(spec, passes),
            move_given=device is not None,
        )


def graph_of(source: Any, *, allow_imports: bool = False) -> ModelGraph:
    """The graph of a spec (after its passes), a graph itself, or the graph that a module was lowered from.

    The weights that the spec names are not needed: they are neither read nor looked for.

    Args:
        source: a spec in any form that `load_spec` takes, a graph, or a compiled module.
        allow_imports: whether a spec may name Python code to import.

    Raises:
        CompileError: what is wrong with the spec.
    """
    if isinstance(source, ModelGraph):
        return source
    if isinstance(source, CompiledModel):
        return source.model_graph
    with weights_follow():
        return build_graph(read_spec(source), allow_imports=allow_imports)


def _check_outputs(outputs: Any) -> None:
    """Refuses a result form where names of outputs are expected, before the spec is read."""
    if isinstance(outputs, str) and outputs in FORMS:
        message = f"`outputs` takes names of outputs and `{outputs}` is a form of the result"
        raise fail("GM503", message, help=f'write `returns="{outputs}"`', path="outputs")
    names_in("outputs", outputs)


def _device_beside(trunks: Mapping[str, nn.Module]) -> torch.device:
    """The device of the first tensor of the given modules, else torch's default device."""
    tensors = (t for module in trunks.values() for t in (*module.parameters(), *module.buffers()))
    first = next(tensors, None)
    return torch.get_default_device() if first is None or first.is_meta else first.device
