"""Pictures of model graphs: one view model, drawn as SVG, PNG, PDF, HTML, Mermaid, DOT, JSON or a terminal tree."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from graphmodel.visualize.forms import FORMS

if TYPE_CHECKING:
    from graphmodel.visualize.api import draw, picture_of, save
    from graphmodel.visualize.compare import compare_pictures
    from graphmodel.visualize.compose import Options
    from graphmodel.visualize.picture import Arrow, Box, Frame, Picture

# Loaded on first use: a wrong file name must not wait for torch.
_LAZY = {
    "Arrow": "graphmodel.visualize.picture",
    "Box": "graphmodel.visualize.picture",
    "Frame": "graphmodel.visualize.picture",
    "Options": "graphmodel.visualize.compose",
    "Picture": "graphmodel.visualize.picture",
    "compare_pictures": "graphmodel.visualize.compare",
    "draw": "graphmodel.visualize.api",
    "picture_of": "graphmodel.visualize.api",
    "save": "graphmodel.visualize.api",
}

__all__ = ["FORMS", "Arrow", "Box", "Frame", "Options", "Picture", "compare_pictures", "draw", "picture_of", "save"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module `graphmodel.visualize` has no attribute `{name}`")
