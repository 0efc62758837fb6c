"""Pictures of model graphs: one view model, written as SVG, PNG, PDF, HTML, Mermaid, DOT, JSON or a terminal tree.

A graph is sorted into groups of calls (`group`), which become the boxes, arrows and frames of a picture (`compose`,
`cards`); every format is written from the picture alone. What needs torch or Graphviz is imported on use.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from graphmodel.diagnostics import CompileError
from graphmodel.visualize.compare import compare_pictures
from graphmodel.visualize.picture import FORMATS, Arrow, Box, Frame, Options, Orientation, Picture, check_format
from graphmodel.writing import write_file

if TYPE_CHECKING:
    from graphmodel.graph.types import ModelGraph
    from graphmodel.lower.module import CompiledModel
    from graphmodel.spec.model import ModelSpec

Theme = Literal["light", "dark", "auto"]

__all__ = [
    "FORMATS",
    "Arrow",
    "Box",
    "Frame",
    "Options",
    "Picture",
    "compare_pictures",
    "draw",
    "mimebundle",
    "picture_of",
    "save",
]


def picture_of(
    source: str | Path | Sequence[str | Path] | Mapping[str, Any] | ModelSpec | ModelGraph | CompiledModel,
    options: Options | None = None,
    *,
    allow_imports: bool = False,
) -> Picture:
    """The picture of a model, which every format is written from.

    Args:
        source: a spec in any form that `load_spec` takes, a graph, or a compiled module.
        options: what to show.
        allow_imports: whether a spec may name Python code to import.

    Raises:
        CompileError: everything that is wrong with the spec.
    """
    from graphmodel.api import graph_of
    from graphmodel.visualize.compose import compose
    from graphmodel.visualize.optimizations import optimizations_of

    graph = graph_of(source, allow_imports=allow_imports)
    # A compiled module may have been made with other passes than its spec asks for.
    return compose(graph, options, optimizations=optimizations_of(graph, getattr(source, "passes", None)))


def draw(
    source: str | Path | Sequence[str | Path] | Mapping[str, Any] | ModelSpec | ModelGraph | CompiledModel | Picture,
    format: str,
    options: Options | None = None,
    *,
    theme: Theme = "light",
    orientation: Orientation | None = None,
    legend: bool = True,
    title: bool = True,
    dpi: int = 200,
    width: float | None = None,
    allow_imports: bool = False,
) -> str | bytes:
    """Draws a model, for example `draw("spec.yaml", "svg")`.

    Example:
        >>> import graphmodel
        >>> spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
        >>> "flowchart TB" in graphmodel.draw(spec, "mmd")
        True

    Args:
        source: as for `picture_of`, or a picture.
        format: one of `FORMATS`.
        options: what to show; ignored for a picture.
        theme: `light`, `dark`, or `auto`: an SVG or page follows the reader's system; other formats are light.
        orientation: `portrait` draws from top to bottom, `landscape` from left to right; None is `portrait`, and for a
            page what suits the window.
        legend: whether to explain colours and badges.
        title: whether to write the model's name and totals above.
        dpi: the resolution of a PNG.
        width: the width of an SVG, PDF or PNG in points, for print: `portrait` suits a column, `landscape` a page. The
            smallest text has at least 6 points.
        allow_imports: whether a spec may name Python code to import.

    Returns:
        Text, or bytes for `png` and `pdf`.

    Raises:
        CompileError: everything that is wrong with the spec; GM530 if the picture cannot be drawn.
    """
    format = check_format(format)
    if format == "html":
        from graphmodel.api import graph_of
        from graphmodel.visualize.page import page_of

        shown = source if isinstance(source, Picture) else graph_of(source, allow_imports=allow_imports)
        return page_of(shown, options or Options(), theme=theme, orientation=orientation)
    picture = source if isinstance(source, Picture) else picture_of(source, options, allow_imports=allow_imports)
    if format == "json":
        return json.dumps(picture.to_dict(), indent=2, ensure_ascii=False) + "\n"
    if format == "mmd":
        from graphmodel.visualize.mermaid import to_mermaid

        return to_mermaid(picture, orientation=orientation or "portrait")
    palette = "light" if theme == "auto" else theme
    if format == "dot":
        from graphmodel.visualize.dot import to_dot

        return to_dot(picture, theme=palette, orientation=orientation or "portrait", legend=legend, title=title)
    from graphmodel.visualize.fit import draw_placed
    from graphmodel.visualize.graphviz import kept_running
    from graphmodel.visualize.render import render, to_svg

    with kept_running():
        drawing = draw_placed(picture, theme=palette, orientation=orientation, legend=legend, title=title, width=width)
        size = None if width is None else (drawing.width, drawing.height)
        if format != "svg":
            return render(drawing.dot, format, dpi=dpi, size=size)
        return to_svg(drawing.dot, picture, follow=theme == "auto", size=size)


def save(source: Any, path: str | Path, options: Options | None = None, **settings: Any) -> Path:
    """Draws a model into a file whose suffix names the format; an existing file is replaced atomically.

    Args:
        source: as for `draw`.
        path: the file.
        options: as for `draw`.
        **settings: further arguments of `draw`.

    Raises:
        CompileError: as `draw`; GM530 if the file cannot be written.
    """
    return write_file(path, draw(source, check_format(Path(path).suffix), options, **settings), code="GM530")


def mimebundle(source: ModelSpec | ModelGraph | CompiledModel) -> dict[str, str]:
    """What notebooks show: an SVG that follows the reader's dark mode, and text for shells.

    Without pygraphviz it is Mermaid, which JupyterLab draws. A spec that does not build is shown as text with its
    diagnostics, since looking at a value must not raise.
    """
    from graphmodel.api import graph_of

    try:
        graph = graph_of(source)
        picture = picture_of(graph)
        text = repr(source) if source is not graph and not hasattr(source, "model_graph") else str(graph)
        if find_spec("pygraphviz") is None:
            return {"text/vnd.mermaid": str(draw(picture, "mmd")), "text/plain": text}
        return {"image/svg+xml": str(draw(picture, "svg", theme="auto")), "text/plain": text}
    except CompileError as error:
        return {"text/plain": f"{source!r}\n{error}"}
