"""Findings: spans, diagnostics, the error that carries them, and their text and JSON forms."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]

LIMIT = 100
"""The most findings that are shown at once; the rest are counted."""


@dataclass(frozen=True)
class Span:
    """A place in a source file.

    Example:
        >>> import graphmodel
        >>> str(graphmodel.Span("spec.yaml", 3, 8, 5, "trunk: rsnet"))
        'spec.yaml:3:8'

    Attributes:
        file: the path as the user gave it, or a name in angle brackets (`<mapping>`, `<--set>`).
        line: 1-based line.
        column: 1-based column.
        length: how many characters the caret underlines, at least 1.
        text: the whole source line, without its newline.
    """

    file: str
    line: int
    column: int
    length: int = 1
    text: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Diagnostic:
    """One finding.

    Example:
        >>> import graphmodel
        >>> place = graphmodel.Span("spec.yaml", 3, 8, 5, "trunk: rsnet")
        >>> found = graphmodel.Diagnostic("GM205", "unknown trunk `rsnet`", place, "did you mean `resnet`?")
        >>> print(graphmodel.CompileError([found]))
        error[GM205]: unknown trunk `rsnet`
          --> spec.yaml:3:8
           |
         3 | trunk: rsnet
           |        ^^^^^
          help: did you mean `resnet`?

    Attributes:
        code: stable code, `GM101` to `GM699`; `graphmodel explain CODE` says more.
        message: what is wrong, in one sentence.
        span: where, or None if there is no source (a mapping built in memory).
        help: how to fix it.
        severity: `error` stops the compilation; `warning` and `note` go into the report.
        path: the dotted path of the value in the spec, for sources without positions.
    """

    code: str
    message: str
    span: Span | None = None
    help: str = ""
    severity: Severity = "error"
    path: str = ""

    def render(self) -> str:
        """The rustc-like text form, with the offending line and a caret under the span.

        Characters that are not printable are escaped: names and source lines come from files, and must not reach a
        terminal as control sequences.
        """
        lines = [f"{self.severity}[{self.code}]: {_shown(self.message)}"]
        if self.span is not None:
            lines.append(f"  --> {printable(str(self.span))}")
            if self.span.text:
                number = str(self.span.line)
                gutter = " " * len(number)
                text, caret = _window(self.span)
                lines += [f" {gutter} |", f" {number} | {text}", f" {gutter} | {caret}"]
        elif self.path:
            lines.append(f"  --> {_shown(self.path)}")
        if self.help:
            lines.append(f"  help: {_shown(self.help)}")
        return "\n".join(lines)

    @property
    def suggestion(self) -> str:
        """The name that the help proposes instead of the one that is wrong; empty if it proposes none.

        >>> Diagnostic("GM205", "unknown trunk `rsnet`", help="did you mean `resnet`?").suggestion
        'resnet'
        """
        found = re.search(r"(?:did you mean|it is now called) `([^`]+)`", self.help)
        return found[1] if found is not None else ""

    def to_dict(self) -> dict[str, Any]:
        """The form that `--format json` prints."""
        span = self.span
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "file": span.file if span else None,
            "line": span.line if span else None,
            "column": span.column if span else None,
            "path": self.path,
            "help": self.help,
        }


def _window(span: Span, width: int = 120) -> tuple[str, str]:
    """The part of a line that is shown, and its caret line; very long lines are cut around the span."""
    text = span.text.replace("\t", " ")
    start = 0
    if len(text) > width:
        start = max(0, min(span.column - 1 - width // 3, len(text) - width))
        cut = text[start : start + width]
        text = ("…" if start else "") + cut + ("…" if start + width < len(text) else "")
        start -= 1 if start else 0
    offset = max(0, span.column - 1 - start)
    # Escapes are longer than the characters that they replace: the caret line is measured on the text as it is shown.
    before, under = printable(text[:offset]), printable(text[offset : offset + span.length])
    missing = offset - len(text[:offset])
    return printable(text), " " * (len(before) + missing) + "^" * max(1, len(under))


def _shown(text: str, width: int = 2000) -> str:
    """The text as it is printed; a message that quotes a very long value is cut."""
    return printable(text if len(text) <= width else f"{text[:width]}…")


def printable(text: str) -> str:
    """The text on one line, with every character that is not printable as a Python escape (`\\x1b`, `\\u202e`)."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class CompileError(Exception):
    """A spec that cannot be compiled.

    Example:
        >>> import graphmodel
        >>> try:
        ...     graphmodel.load_spec({"inputs": {"images": [3, 64, 64]}, "trnk": "resnet"})
        ... except graphmodel.CompileError as error:
        ...     print(error.diagnostics[0].code, error.diagnostics[0].path)
        GM201 trnk

    Attributes:
        diagnostics: the findings in source order, at most `LIMIT` of them.
        omitted: how many more there are.
    """

    def __init__(self, diagnostics: Iterable[Diagnostic], omitted: int = 0) -> None:
        ordered = in_source_order(diagnostics)
        self.diagnostics: list[Diagnostic] = ordered[:LIMIT]
        self.omitted = omitted + len(ordered) - len(self.diagnostics)
        super().__init__(self.diagnostics, self.omitted)

    def __str__(self) -> str:
        lines = [d.render() for d in self.diagnostics]
        return "\n".join([*lines, more(self.omitted)] if self.omitted else lines)


def more(omitted: int) -> str:
    """The line that counts the findings that are not shown."""
    return f"… and {omitted} more finding{'s' if omitted != 1 else ''}"


def in_source_order(diagnostics: Iterable[Diagnostic]) -> list[Diagnostic]:
    """Errors first, each severity sorted by file and position; equal findings are dropped."""
    unique = list(dict.fromkeys(diagnostics))
    rank = {"error": 0, "warning": 1, "note": 2}
    files = list(dict.fromkeys(d.span.file for d in unique if d.span))

    def key(d: Diagnostic) -> tuple[int, int, int, int]:
        if d.span is None:
            return rank[d.severity], len(files), 0, 0
        return rank[d.severity], files.index(d.span.file), d.span.line, d.span.column

    return sorted(unique, key=key)


def fail(code: str, message: str, span: Span | None = None, help: str = "", path: str = "") -> CompileError:
    """A `CompileError` with one finding, to be raised: `raise fail("GM100", "no such file: a.yaml")`."""
    return CompileError([Diagnostic(code, message, span, help, "error", path)])


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, or its type's name if it has no text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@dataclass
class Collector:
    """Gathers findings so that all of them are reported at once.

    Attributes:
        found: the findings.
        omitted: how many further errors were only counted.
    """

    found: list[Diagnostic] = field(default_factory=list)
    omitted: int = 0

    def add(self, diagnostic: Diagnostic) -> None:
        self.found.append(diagnostic)

    @property
    def is_full(self) -> bool:
        """Whether there are more findings than are shown: the nearest name of a further one need not be searched."""
        return len(self.found) > LIMIT

    def error(self, code: str, message: str, span: Span | None = None, help: str = "", path: str = "") -> None:
        self.add(Diagnostic(code, message, span, help, "error", path))

    def warning(self, code: str, message: str, span: Span | None = None, help: str = "", path: str = "") -> None:
        self.add(Diagnostic(code, message, span, help, "warning", path))

    def note(self, code: str, message: str, span: Span | None = None, help: str = "", path: str = "") -> None:
        self.add(Diagnostic(code, message, span, help, "note", path))

    @property
    def errors(self) -> list[Diagnostic]:
        return [d for d in self.found if d.severity == "error"]

    def raise_errors(self) -> None:
        """Raises:
        CompileError: if any finding is an error.
        """
        if self.errors:
            raise CompileError(self.found, self.omitted)


LONGEST_NAME = 100
"""Longer names are neither compared nor listed: comparing two takes time quadratic in their lengths."""


def nearest(word: object, choices: Iterable[object]) -> str | None:
    """The name that is most similar to a word, or None if none is similar.

    Of names that are equally similar it is the one with the nearest number, or else the first. No number resembles
    another.
    """
    by_key = {str(c).lower(): str(c) for c in choices if len(str(c)) <= LONGEST_NAME}
    text = str(word).lower()
    if len(text) > LONGEST_NAME or text.lstrip("-").isdecimal():
        return None
    near = difflib.get_close_matches(text, by_key, n=8, cutoff=0.6)
    if not near:
        return None
    likeness = {name: difflib.SequenceMatcher(None, name, text).ratio() for name in near}
    near.sort(key=lambda name: (-likeness[name], _apart(name, text), list(by_key).index(name)))
    # Two neighbouring letters that changed places are one slip: `wa_` means `w_a` and not `w_m`.
    swapped = {text[:i] + text[i + 1] + text[i] + text[i + 2 :] for i in range(len(text) - 1)}
    return by_key[next((name for name in near if name in swapped), near[0])]


def _apart(name: str, other: str) -> int:
    """The difference of the numbers in two names; 0 if one of them has none."""
    first, second = ("".join(c for c in text if c in "0123456789") for text in (name, other))
    return abs(int(first) - int(second)) if first and second else 0


def did_you_mean(word: object, choices: Iterable[object]) -> str:
    """`did you mean `res5`?`, or an empty string if no name is similar."""
    near = nearest(word, choices)
    return f"did you mean `{near}`?" if near is not None else ""


def choices_help(word: object, choices: Sequence[object], what: str = "one of") -> str:
    """The nearest name and the list of valid ones, cut to a readable length."""
    names = [str(c)[:LONGEST_NAME] for c in choices]
    shown = ", ".join(names[:24]) + (f", … ({len(names)} in all)" if len(names) > 24 else "")
    near = did_you_mean(word, names)
    listed = f"{what}: {shown}" if names else ""
    return " ".join(part for part in (near, listed) if part)


def to_json(diagnostics: Iterable[Diagnostic]) -> str:
    """All findings as a JSON array."""
    return json_text([d.to_dict() for d in diagnostics])


def json_text(data: Any) -> str:
    """Indented JSON; characters that are not printable are escaped, all others stay readable."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    if text.replace("\n", "").isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
