"""What is said of a diagnostic code."""

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
        title: what is wrong, in a few words.
        meaning: why it is wrong and what to do, in a few sentences.
        bad: an example that gets the code.
        good: the same, right; empty where there is nothing to show.
        language: what the examples are written in.
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
    """An entry of the table, its texts without their indentation in the source."""
    meaning = " ".join(dedent(meaning).split())
    return name, Code(
        name, title, meaning, dedent(bad).strip() + "\n", dedent(good).strip() + "\n" * bool(good), language
    )
