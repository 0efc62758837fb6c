"""What notebooks show of a spec, a graph or a compiled module: its picture, beside the text."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from graphmodel.diagnostics import CompileError


def mimebundle(source: Any) -> dict[str, str]:
    """The picture that follows the reader's dark mode, and a text for shells.

    Without pygraphviz it is Mermaid, which JupyterLab draws. A spec that does not build is shown as its text: looking
    at a value must not raise.
    """
    from graphmodel.api import graph_of
    from graphmodel.visualize.api import draw, picture_of

    try:
        graph = graph_of(source)
        shown = picture_of(graph)
        if find_spec("pygraphviz") is None:
            return {"text/vnd.mermaid": str(draw(shown, "mmd")), "text/plain": _text(source, graph)}
        return {"image/svg+xml": str(draw(shown, "svg", theme="auto")), "text/plain": _text(source, graph)}
    except CompileError as error:
        return {"text/plain": f"{source!r}\n{error}"}


def _text(source: Any, graph: Any) -> str:
    return str(graph) if source is graph or hasattr(source, "model_graph") else repr(source)
