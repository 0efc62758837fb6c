"""Pictures of model graphs: one view model, drawn as SVG, PNG, PDF, HTML, Mermaid, DOT, JSON or a terminal tree."""

from __future__ import annotations

from graphmodel.visualize.api import FORMS, draw, picture, save
from graphmodel.visualize.compose import Options
from graphmodel.visualize.picture import Arrow, Box, Frame, Picture

__all__ = ["FORMS", "Arrow", "Box", "Frame", "Options", "Picture", "draw", "picture", "save"]
