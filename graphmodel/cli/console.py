"""What commands print: tables and text on stdout, diagnostics on stderr, exit codes."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import typer

from graphmodel.diagnostics import LIMIT, CompileError, Diagnostic, in_source_order, json_text, more, printable

if TYPE_CHECKING:
    from rich.console import Console

WRONG_SPEC = 1
WRONG_USAGE = 2
USAGE_CODES = frozenset({"GM100", "GM108", "GM520", "GM530", "GM580", "GM581", "GM600", "GM601", "GM614", "GM620"})
"""Findings about the command line and not the spec: no such file, a bad `--set`, an output in use, an export format."""


@contextmanager
def findings(form: str, *, usage: bool = False, events: bool = False) -> Iterator[None]:
    """Turns a `CompileError` inside into diagnostics and an exit code.

    Text goes to stderr; the machine formats go to stdout, which then holds nothing else. As JSON an error is
    `{"ok": false, "diagnostics": […]}`.

    Args:
        form: `text`, `json`, `github` or `sarif`.
        usage: any error is one of the command line, not of a spec.
        events: whether the command prints an event a line as JSON; an error is then one line, too.
    """
    try:
        yield
    except CompileError as error:
        if form == "json":
            found: dict[str, Any] = {"ok": False, "diagnostics": [d.to_dict() for d in error.diagnostics]}
            found |= {"omitted": error.omitted} if error.omitted else {}
            if events:
                print_event(found)
            else:
                print_json(found)
        else:
            print_diagnostics(error.diagnostics, form, error.omitted)
        raise typer.Exit(WRONG_USAGE if usage else exit_code(error.diagnostics)) from None


def exit_code(diagnostics: Iterable[Diagnostic]) -> int:
    """0 without errors, 2 if all errors concern the command line, else 1."""
    codes = {d.code for d in diagnostics if d.severity == "error"}
    if not codes:
        return 0
    return WRONG_USAGE if codes <= USAGE_CODES else WRONG_SPEC


def print_diagnostics(diagnostics: Iterable[Diagnostic], form: str = "text", omitted: int = 0) -> None:
    """Prints findings in source order in the given form.

    Args:
        diagnostics: the findings.
        form: `text`, `json`, `github` or `sarif`.
        omitted: how many more there are; beyond `LIMIT` findings are counted, not shown.
    """
    ordered = in_source_order(diagnostics)
    omitted += max(0, len(ordered) - LIMIT)
    ordered = ordered[:LIMIT]
    if form == "text":
        if ordered:
            colour = _stderr_colours()
            texts = [_coloured(d) if colour else d.render() for d in ordered]
            typer.echo("\n\n".join([*texts, more(omitted)] if omitted else texts), err=True, color=colour)
    else:
        from graphmodel.cli.findings import render

        typer.echo(render(ordered, form))


def print_text(text: str) -> None:
    """Text on stdout; characters that are not printable are escaped, so that a name cannot control the terminal."""
    typer.echo("\n".join(map(printable, text.split("\n"))))


def print_json(data: Any) -> None:
    """One JSON document on stdout."""
    typer.echo(json_text(data))


def print_event(data: Any) -> None:
    """One JSON document on one line of stdout."""
    import json

    typer.echo(json.dumps(data, ensure_ascii=False))


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Shows Python's warnings on stderr like diagnostics, without the line of code that gave them; each once."""
    import warnings

    shown: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        text = " ".join(str(message).split())
        if text not in shown:
            shown.add(text)
            typer.echo(f"warning: {text}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _stderr_colours() -> bool:
    import os

    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or sys.stderr.isatty()


_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


def _coloured(diagnostic: Diagnostic) -> str:
    first, *rest = diagnostic.render().split("\n")
    mark, colon, message = first.partition(":")
    lines = [typer.style(mark, fg=_COLOURS[diagnostic.severity], bold=True) + typer.style(colon + message, bold=True)]
    for line in rest:
        start = line.lstrip()
        if start.startswith("| ") and set(start[2:].strip()) == {"^"}:
            line = typer.style(line, fg=_COLOURS[diagnostic.severity])
        elif start.startswith(("-->", "help:")):
            word, _, tail = start.partition(" ")
            line = line[: len(line) - len(start)] + typer.style(word, fg="blue", bold=True) + f" {tail}"
        lines.append(line)
    return "\n".join(lines)


def _has_width() -> bool:
    """Whether text on stdout has to fit: in a file or a pipe only if `COLUMNS` says how wide it may be."""
    import os

    return sys.stdout.isatty() or bool(os.environ.get("COLUMNS"))


def console() -> Console:
    """Rich's console on stdout."""
    from rich.console import Console

    fits = _has_width()
    return Console(highlight=False, width=None if fits else 10_000, soft_wrap=not fits)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = (), title: str = ""
) -> None:
    """A plain table: a header, a rule, columns two spaces apart; empty columns are left out.

    Args:
        columns: the headers.
        rows: texts; a line break makes a cell of several lines.
        right: headers of columns that align right.
        title: a line above.
    """
    body = [list(row) for row in rows]
    used = [i for i, _ in enumerate(columns) if not body or any(row[i] for row in body)]
    if not _has_width():  # Rich takes 0.1 s to import
        cells = [[columns[i] for i in used], *([_cell(row[i]) for i in used] for row in body)]
        lines = [printable(title)] if title else []
        typer.echo("\n".join([*lines, *_aligned(cells, [columns[i] in right for i in used])]))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
    for i in used:
        table.add_column(columns[i], justify="right" if columns[i] in right else "left", overflow="fold")
    for row in body:
        table.add_row(*(Text(_cell(row[i])) for i in used))
    out = console()
    with out.capture() as captured:
        if title:
            out.print(Text(printable(title), style="bold"))
        out.print(table)
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()), color=out.is_terminal)


def _aligned(rows: Sequence[Sequence[str]], right: Sequence[bool]) -> Iterator[str]:
    """The lines of a table whose columns are as wide as they need."""
    widths = [max(len(line) for row in rows for line in row[i].split("\n")) for i, _ in enumerate(right)]
    for row in rows:
        for parts in zip_longest(*(cell.split("\n") for cell in row), fillvalue=""):
            texts = zip(parts, widths, right, strict=True)
            yield "  ".join(t.rjust(w) if to_right else t.ljust(w) for t, w, to_right in texts).rstrip()


def print_wrapped(text: str) -> None:
    """A sentence, in several lines if the terminal is narrow."""
    shown = printable(text)
    typer.echo("\n".join(textwrap.wrap(shown, console().width)) if _has_width() else shown)


def _cell(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))
