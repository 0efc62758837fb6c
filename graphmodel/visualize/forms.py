"""The forms of a picture; imports nothing heavy, so that a wrong ending is refused at once."""

from __future__ import annotations

from graphmodel.diagnostics import choices_help, fail

FORMS = ("svg", "png", "pdf", "html", "mmd", "dot", "json")
"""Forms of a picture, by the ending of its file."""
LEVELS = ("overview", "stages", "all stages", "everything")
"""Levels of detail of the page, by `depth`."""


def check(ending: str) -> str:
    """The form that a file's ending names.

    Raises:
        CompileError: GM530 where it names none.
    """
    form = ending.removeprefix(".").lower()
    if form not in FORMS:
        what = f"`.{form}` is no form of a picture" if form else "the file's ending must name a form of a picture"
        raise fail("GM530", what, help=choices_help(form, FORMS, "forms"))
    return form
