"""Draws a spec, a graph or a compiled module in any form."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from graphmodel.api import graph_of
from graphmodel.graph.types import ModelGraph
from graphmodel.visualize.compose import Options, compose, count
from graphmodel.visualize.dot import Orientation, to_dot
from graphmodel.visualize.forms import LEVELS, check
from graphmodel.visualize.picture import Picture
from graphmodel.writing import write_file

if TYPE_CHECKING:
    from graphmodel.lower.module import CompiledModel
    from graphmodel.spec.model import ModelSpec

Theme = Literal["light", "dark", "auto"]


def picture_of(
    source: str | Path | Sequence[str | Path] | Mapping[str, Any] | ModelSpec | ModelGraph | CompiledModel,
    options: Options | None = None,
    *,
    allow_imports: bool = False,
) -> Picture:
    """What a picture of a model shows, before it has a form.

    Args:
        source: a spec in any form that `load_spec` takes, a graph, or a compiled module.
        options: what to show.
        allow_imports: whether a spec may name Python code to import.

    Raises:
        CompileError: what is wrong with the spec.
    """
    return compose(graph_of(source, allow_imports=allow_imports), options)


def draw(
    source: str | Path | Sequence[str | Path] | Mapping[str, Any] | ModelSpec | ModelGraph | CompiledModel | Picture,
    form: str,
    options: Options | None = None,
    *,
    theme: Theme = "light",
    orientation: Orientation = "portrait",
    legend: bool = True,
    title: bool = True,
    dpi: int = 200,
    allow_imports: bool = False,
) -> str | bytes:
    """A picture in one of the `FORMS`.

    Args:
        source: as for `picture_of`, or a picture.
        form: the ending of the file that it is for.
        options: what to show; a picture shows what it shows.
        theme: `light`, `dark`, or `auto`: an SVG or page that follows the reader's system; other forms are light then.
        orientation: `portrait` draws from top to bottom, `landscape` from left to right.
        legend: whether to explain colours and badges.
        title: whether the model's name and sums stand above.
        dpi: the resolution of a PNG.
        allow_imports: whether a spec may name Python code to import.

    Returns:
        Text, or bytes for `png` and `pdf`.

    Raises:
        CompileError: what is wrong with the spec; GM530 where the picture cannot be drawn.
    """
    form = check(form)
    if form == "html":
        return _page(source, options or Options(), theme, orientation, allow_imports)
    shown = source if isinstance(source, Picture) else picture_of(source, options, allow_imports=allow_imports)
    if form == "json":
        return json.dumps(shown.to_dict(), indent=2, ensure_ascii=False) + "\n"
    if form == "mmd":
        from graphmodel.visualize.mermaid import to_mermaid

        return to_mermaid(shown, orientation=orientation)
    palette = "light" if theme == "auto" else theme
    dot = to_dot(shown, theme=palette, orientation=orientation, legend=legend, title=title)
    if form == "dot":
        return dot
    from graphmodel.visualize.layout import lay_out, svg_of

    if form == "svg":
        from graphmodel.visualize.svg import finish

        return finish(svg_of(dot), shown, follow=theme == "auto")
    return lay_out(dot, form, dpi=dpi)


def save(source: Any, path: str | Path, options: Options | None = None, **how: Any) -> Path:
    """Writes a picture to a file whose ending says the form; a file that was there is replaced as a whole.

    Args:
        source: as for `draw`.
        path: the file.
        options: as for `draw`.
        **how: further arguments of `draw`.

    Raises:
        CompileError: as `draw`; GM530 where the file cannot be written.
    """
    made = draw(source, check(Path(path).suffix), options, **how)
    return write_file(path, made, code="GM530")


def _page(source: Any, options: Options, theme: Theme, orientation: Orientation, allow_imports: bool) -> str:
    """The page of a spec, which shows it before and after the passes, or of what is there of a model."""
    from graphmodel.visualize.page import Level, View, to_page

    asked = LEVELS[max(0, min(options.depth, len(LEVELS) - 1))]
    if isinstance(source, Picture):
        return to_page([View("", [Level(asked, source)])], level=asked, theme=theme, orientation=orientation)
    graph = graph_of(source, allow_imports=allow_imports)

    def levels(of: ModelGraph) -> list[Level]:
        flops = count(of)
        found = []
        for depth, name in enumerate(LEVELS):
            stack = 0 if name == "everything" else options.stack
            found.append(Level(name, compose(of, replace(options, depth=depth, stack=stack), flops)))
        return found

    views = [View("after passes", levels(graph))]
    before = _before(graph, allow_imports)
    if before is not None:
        views.insert(0, View("before", levels(before)))
    return to_page(views, level=asked, theme=theme, orientation=orientation)


def _before(graph: ModelGraph, allow_imports: bool) -> ModelGraph | None:
    """The graph of the same spec before its passes; None where it can no longer be built (a module was given)."""
    if not graph.history or any(c.given for c in graph.components.values()):
        return None
    from graphmodel.build.build import build_graph

    build: Callable[..., ModelGraph] = build_graph
    return build(graph.spec, allow_imports=allow_imports or any(t.imports for t in graph.spec.trunks.values()))
