"""`graphmodel heads`: the heads that a spec may name, and one head's parameters."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from graphmodel.cli import options
from graphmodel.stored import stored


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("heads")(heads)


def heads(
    name: Annotated[str | None, typer.Argument(help="A head, such as mlp.")] = None,
    imports: options.Import = None,
    form: options.FormatOption = options.Format.text,
) -> None:
    """List heads, or show one's parameters."""
    from graphmodel.cli import console

    with console.findings(form.value, usage=True):
        options.import_modules(imports)
        if name is None:
            _print_list(form)
        else:
            _print_page(name, form)


def _catalogue() -> dict[str, Any]:
    """All heads; from the stored catalogue if it has all of them, since importing torch takes seconds."""
    found = stored("catalogue.json")
    if found is not None:
        return dict(found)
    from graphmodel.cli.catalogue import document

    return document()


def _print_list(form: options.Format) -> None:
    from graphmodel.cli import console

    found = _catalogue()
    rows = found["heads"]
    if form is options.Format.json:
        console.print_json([{key: row[key] for key in ("name", "aliases", "summary")} for row in rows])
        return
    console.print_table(("name", "also", "what"), [(r["name"], ", ".join(r["aliases"]), r["summary"]) for r in rows])
    typer.echo()
    console.print_wrapped("`graphmodel heads NAME` shows parameters.")
    console.print_wrapped(f"Layers of {', '.join(found['layers'])} are heads too, such as torch.nn:Conv2d.")


def _print_page(name: str, form: options.Format) -> None:
    from graphmodel.cli import console
    from graphmodel.cli.tables import parameter_table

    rows = _catalogue()["heads"]
    head = next((row for row in rows if name == row["name"] or name in row["aliases"]), None) or _layer(name)
    if form is options.Format.json:
        console.print_json({"name": name, "summary": head["summary"], "parameters": head["parameters"]})
        return
    console.print_wrapped(f"{name}: {head['summary']}")
    typer.echo()
    parameter_table(head["parameters"])


def _layer(name: str) -> dict[str, Any]:
    """A layer of a library, which no catalogue lists.

    Raises:
        CompileError: GM206 if there is no head of that name.
    """
    from graphmodel.cli.catalogue import head_row
    from graphmodel.components.registry import find_head, unknown_head
    from graphmodel.diagnostics import fail

    entry = find_head(name)
    if entry is None:
        message, help = unknown_head(name)
        raise fail("GM206", message, help=help)
    return head_row(entry)
