"""Draws one spec for the page: its picture, or what is wrong with it, and the files that it was read from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from graphmodel.diagnostics import CompileError, Diagnostic, first_line, in_source_order
from graphmodel.dialects import InputShapes
from graphmodel.watching.board import Shown

if TYPE_CHECKING:
    from graphmodel.build.remembered import TracedTrunks
    from graphmodel.spec.model import ModelSpec

MISSING_FILES = frozenset({"GM100", "GM107", "GM109"})
"""Findings that a file which is not watched may resolve: one that does not exist yet."""


@dataclass(frozen=True)
class Settings:
    """What holds for every spec of a watch.

    Attributes:
        overlays: files that are merged over each spec.
        overrides: `path=value` items.
        inputs: shapes of inputs, over what the files say.
        allow_extends_outside: whether `extends` may name files outside the directory tree of the spec.
        allow_imports: whether a spec may name Python code to import.
        depth: the level of detail that is shown first.
    """

    overlays: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    inputs: InputShapes | None = None
    allow_extends_outside: bool = False
    allow_imports: bool = False
    depth: int = 1


def drawn(before: Shown, settings: Settings, trunks: TracedTrunks | None = None) -> Iterator[Shown]:
    """What the page shows of a spec as it is now, as soon as it is known.

    First the picture at the level of detail that is shown first, then with the other levels and the operations counted.
    If the spec has mistakes, the last picture stays beside them.

    Args:
        before: what is shown of it now.
        settings: how to read it.
        trunks: those that were traced for the last picture, which saves most of the time if they have not changed.
    """
    paths = [before.name, *settings.overlays]
    known = dict.fromkeys((*paths, *(file["name"] for file in before.files)))
    try:
        from graphmodel.dialects.loading import read_spec

        spec = read_spec(
            paths, settings.overrides, inputs=settings.inputs, allow_extends_outside=settings.allow_extends_outside
        )
        known = dict.fromkeys((*paths, *spec.origin.files))
        for page, found, is_complete in _pages(spec, settings, {} if trunks is None else trunks, before.levels):
            yield replace(
                before,
                state="valid",
                title=_title(page.title),
                page=page.text,
                levels=page.levels,
                picture=before.picture + 1 + is_complete,
                complete=is_complete,
                diagnostics=_told(found),
                files=_files(known, found),
            )
    except CompileError as error:
        yield _invalid(before, error.diagnostics, known)
    except Exception as error:  # the watch goes on, whatever a spec or the code that it names brings about
        message = f"the spec cannot be drawn: {type(error).__name__}: {first_line(error)}"
        yield _invalid(before, [Diagnostic("GM530", message)], known)


def _invalid(before: Shown, found: Sequence[Diagnostic], known: Iterable[str]) -> Shown:
    return replace(before, state="invalid", diagnostics=_told(found), files=_files(known, found))


@dataclass(frozen=True)
class _Page:
    text: str
    title: str
    levels: tuple[str, ...]


def _pages(
    spec: ModelSpec, settings: Settings, trunks: TracedTrunks, levels: Sequence[str]
) -> Iterator[tuple[_Page, Sequence[Diagnostic], bool]]:
    from graphmodel.api import build_graph
    from graphmodel.build.remembered import remembering
    from graphmodel.components.library.guard import weights_follow
    from graphmodel.profiling.flops import count_flops
    from graphmodel.visualize.compose import compose
    from graphmodel.visualize.optimizations import optimizations_of
    from graphmodel.visualize.page import Level, View, to_page, worth_showing
    from graphmodel.visualize.picture import LEVELS, Options

    with weights_follow(), remembering(trunks):
        graph = build_graph(spec, allow_imports=settings.allow_imports)
    found = (*spec.notes, *graph.notes)
    optimizations = optimizations_of(graph)
    asked = LEVELS[settings.depth]

    def level(depth: int, flops: Mapping[str, int]) -> Level:
        options = Options(depth=depth, stack=0) if depth >= 2 else Options(depth=depth)
        return Level(LEVELS[depth], compose(graph, options, flops, optimizations))

    def page(shown: Sequence[Level]) -> _Page:
        title = next(item.picture.title for item in shown if item.name == asked)
        names = tuple(item.name for item in shown)
        return _Page(to_page([View("", shown)], level=asked, theme="auto"), title, names)

    first = level(settings.depth, {})
    yield (
        page([first if n == asked else replace(first, name=n, is_drawn=False) for n in levels or [asked]]),
        found,
        False,
    )
    flops = count_flops(graph)
    complete = worth_showing([level(depth, flops) for depth in range(max(3, settings.depth + 1))], asked)
    yield page(complete), found, True


def _title(text: str) -> str:
    return " ".join(text.split())


def _told(found: Sequence[Diagnostic]) -> tuple[dict[str, Any], ...]:
    """Findings as the page shows them: the text with its carets, and the position."""
    ordered = in_source_order(found)
    return tuple(d.to_dict() | {"text": d.render(), "link": _link(d)} for d in ordered)


def _link(diagnostic: Diagnostic) -> str:
    span = diagnostic.span
    return "" if span is None or span.file.startswith("<") else f"{editor_link(span.file)}:{span.line}:{span.column}"


def editor_link(path: str) -> str:
    """What opens a file in VS Code; `:LINE` or `:LINE:COLUMN` may follow."""
    return f"vscode://file/{quote(Path(path).absolute().as_posix().lstrip('/'), safe='/:')}"


def _files(names: Iterable[str], found: Sequence[Diagnostic]) -> tuple[dict[str, str], ...]:
    """The text of the files that a spec was read from, and of those that have findings; the spec itself first."""
    spans = [d.span.file for d in found if d.span is not None and not d.span.file.startswith("<")]
    shown = []
    for name in dict.fromkeys((*names, *spans)):
        try:
            text = Path(name).read_text("utf-8-sig")
        except (OSError, ValueError):
            text = ""
        shown.append({"name": name, "path": str(Path(name).absolute()), "link": editor_link(name), "text": text})
    return tuple(shown)
