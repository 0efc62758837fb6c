"""Builds a trunk's copy: the same architecture and initial weights, with parameters of its own if it overrides any."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn

from graphmodel.components.construct import meta_copy
from graphmodel.components.positions import fitted
from graphmodel.diagnostics import Span
from graphmodel.graph.types import Component


def why_not_copied(copy: Component, original: Component) -> str | None:
    """Why a component cannot hold the weights of another; None if it can.

    Position embeddings for another grid of patches are resampled.
    """
    own, theirs = copy.meta.state_dict(), original.meta.state_dict()
    for name in (*own, *theirs):
        if name not in theirs:
            return f"`{name}` is not in the original"
        if name not in own:
            return f"`{name}` of the original is not in the copy"
        if (
            own[name].shape != theirs[name].shape
            and fitted(theirs[name], name, own[name].shape, copy.meta, original.meta) is None
        ):
            shapes = ("×".join(map(str, t.shape)) for t in (own[name], theirs[name]))
            return "`{}` is {} and {} in the original".format(name, *shapes)
    return None


def copied(component: Component, original: Component, path: str, span: Span | None) -> Component:
    """The component of a copy.

    Args:
        component: the component as its own parameters build it.
        original: the component whose weights it starts with.
        path: where the copy is in the module.
        span: where the spec names it.
    """

    def build() -> nn.Module:
        # Both draw the same numbers: what follows from them alone, such as random buffers, is equal too.
        state = torch.get_rng_state()
        source = original.build()
        if original.given:
            return copy.deepcopy(source)
        if component.params == original.params:
            return source
        torch.set_rng_state(state)
        made = component.build()
        shapes = {name: tensor.shape for name, tensor in made.state_dict().items()}
        found = {k: fitted(v, k, shapes[k], component.meta, original.meta) for k, v in source.state_dict().items()}
        made.load_state_dict(found)
        return made

    meta = meta_copy(component.meta) if original.given else component.meta
    return replace(component, name=path, build=build, meta=meta, span=span, copy_of=original.name)
