"""The notebook display of specs, graphs and modules: they offer it, and whoever can draw them registers how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_formatters: list[Callable[[Any], dict[str, str]]] = []


def register_display(formatter: Callable[[Any], dict[str, str]]) -> None:
    """Sets how notebooks show a spec, a graph or a module; the last registration wins.

    Args:
        formatter: takes the object and returns its representations by MIME type, as for `_repr_mimebundle_`.
    """
    _formatters[:] = [formatter]


class Displayed:
    """Mixin of what notebooks can show."""

    __slots__ = ()

    def _repr_mimebundle_(self, **options: Any) -> dict[str, str]:
        return _formatters[0](self) if _formatters else {"text/plain": repr(self)}
