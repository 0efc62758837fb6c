"""`graphmodel heads`: the heads that a spec may name, and one head's parameters."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from graphmodel.cli import options
from graphmodel.cli.trunks import print_parameters


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


def _print_list(form: options.Format) -> None:
    from graphmodel.cli import console
    from graphmodel.components.library.layers import PACKAGES
    from graphmodel.components.registry import find_head, head_names

    groups: dict[Any, dict[str, Any]] = {}
    for name in head_names():
        entry = find_head(name)
        assert entry is not None
        key = getattr(entry.build, "origin", entry.build)
        if key in groups:
            groups[key]["aliases"].append(name)
        else:
            groups[key] = {"name": name, "aliases": [], "summary": entry.summary}
    rows = list(groups.values())
    if form is options.Format.json:
        console.print_json(rows)
        return
    console.print_table(("name", "also", "what"), [(r["name"], ", ".join(r["aliases"]), r["summary"]) for r in rows])
    typer.echo("\n`graphmodel heads NAME` shows parameters.")
    typer.echo(f"Layers of {', '.join(PACKAGES)} are heads too, such as torch.nn:Conv2d.")


def _print_page(name: str, form: options.Format) -> None:
    from dataclasses import asdict

    from graphmodel.cli import console
    from graphmodel.cli.catalogue import parameters
    from graphmodel.components.registry import find_head, unknown_head
    from graphmodel.diagnostics import fail

    entry = find_head(name)
    if entry is None:
        message, help = unknown_head(name)
        raise fail("GM206", message, help=help)
    rows = parameters(entry.params)
    if form is options.Format.json:
        console.print_json({"name": name, "summary": entry.summary, "parameters": [asdict(p) for p in rows]})
        return
    typer.echo(f"{name}: {entry.summary}\n")
    print_parameters(rows)
