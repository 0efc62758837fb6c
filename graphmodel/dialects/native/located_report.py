"""Findings about a native document, located by path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphmodel.diagnostics import Collector, choices_help
from graphmodel.spec.document import Document, KeyPath, dotted
from graphmodel.spec.names import name_problem

MAX_COMPARISONS = 50_000
"""The most names that are compared to suggest the nearest ones: with thousands of names, only the first few findings
get a suggestion."""


@dataclass(frozen=True)
class LocatedReport:
    """A report that looks up locations.

    Attributes:
        document: the native document.
        found: where findings go.
    """

    document: Document
    found: Collector

    def error(self, code: str, message: str, path: KeyPath, help: str = "", *, key: bool = False) -> None:
        """An error at a path; `key=True` points at the key and not at the value."""
        self.found.error(code, message, self.document.span(path, key=key), help, dotted(path))

    def warning(self, code: str, message: str, path: KeyPath) -> None:
        """A warning at a path."""
        self.found.warning(code, message, self.document.span(path))

    def note(self, code: str, message: str) -> None:
        """A note about the whole spec."""
        self.found.note(code, message)

    def choices(self, word: object, names: Sequence[object], what: str = "one of") -> str:
        """The nearest of the valid names and their list; empty if that takes too long or would not be shown anyway."""
        too_many = self.found.is_full or len(self.found.found) * len(names) > MAX_COMPARISONS
        return "" if too_many else choices_help(word, names, what)

    def check_name(self, name: str, what: str, path: KeyPath) -> None:
        """Reports a name that cannot name an input, a head, a trunk or an output."""
        problem = name_problem(name, what)
        if problem is not None and not (what == "a trunk" and name == "trunk"):
            self.error("GM204", problem[0], path, problem[1], key=True)
