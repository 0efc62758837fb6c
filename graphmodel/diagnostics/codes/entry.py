"""The documentation of one diagnostic code."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from textwrap import dedent
from typing import Any, Literal

Language = Literal["yaml", "python", "shell"]


@dataclass(frozen=True)
class Code:
    """A diagnostic code.

    Attributes:
        code: `GM101`.
        title: the problem in a few words.
        meaning: why it is a problem and how to fix it, in a few sentences.
        bad: an example that triggers the code.
        good: the corrected example; empty if there is none.
        language: the language of the examples.
    """

    code: str
    title: str
    meaning: str
    bad: str
    good: str = ""
    language: Language = "yaml"

    def to_dict(self) -> dict[str, Any]:
        """The form that `--format json` prints."""
        return asdict(self)


def code(
    name: str, title: str, meaning: str, bad: str, good: str = "", language: Language = "yaml"
) -> tuple[str, Code]:
    """An entry of the table, with the source's indentation removed from its texts."""
    meaning = " ".join(dedent(meaning).split())
    return name, Code(
        name, title, meaning, dedent(bad).strip() + "\n", dedent(good).strip() + "\n" * bool(good), language
    )
