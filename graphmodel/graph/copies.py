"""Copies among the components of a graph, such as a teacher that starts with the weights of its student."""

from __future__ import annotations

from graphmodel.graph.types import ModelGraph


def copies(graph: ModelGraph) -> dict[str, str]:
    """The original of each copy, as module paths: `{"trunks.teacher": "trunks.student"}`.

    Of a head of several modules each is listed (`heads.target.0`). Their tensors have the same names below these paths.
    All have the same shapes, except for position embeddings if a trunk's copy is built for another image size, and one
    of the two may lack stages that no output needs. A slice that has only one of them lists nothing.
    """
    found = {name: component.copy_of for name, component in graph.components.items() if component.copy_of}
    return {name: original for name, original in found.items() if original in graph.components}
