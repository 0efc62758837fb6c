"""`graphmodel schema`: JSON Schemas, with which editors complete and check specs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from graphmodel.cli import options
from graphmodel.stored import stored, stored_path

STORED = ("native", "vissl")
"""Dialects whose schemas are shipped with the package."""
OUTPUT = "output"
"""The schema of what commands print; it is written by hand."""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("schema")(schema)


def schema(
    dialect: Annotated[
        str | None, typer.Argument(help="native or vissl; both if left out. Or output: what --format json prints.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Write DIR/NAME.schema.json instead.")
    ] = None,
    imports: options.Import = None,
    form: options.FormatOption = options.Format.json,
) -> None:
    """Print or write JSON Schemas for editors.

    With --import they include your own heads and trunks.
    """
    from graphmodel.cli import console

    if dialect == OUTPUT and output is None:
        console.print_json(json.loads(stored_path(f"{OUTPUT}.schema.json").read_text("utf-8")))
        return
    options.import_modules(imports)
    found = {name: stored(f"{name}.schema.json") for name in STORED}
    if output is None and dialect in (None, *STORED) and None not in found.values():
        console.print_json(found if dialect is None else found[dialect])
        return
    from graphmodel.schema import SCHEMAS, schema_text, write_schemas

    if dialect is not None and dialect not in SCHEMAS:
        raise typer.BadParameter(f"`{dialect}` is not a dialect; choose {' or '.join(SCHEMAS)}")
    names = [dialect] if dialect is not None else list(SCHEMAS)
    if output is not None:
        with console.findings(form.value, usage=True):
            files = [str(f) for f in write_schemas(output, names)]
        if form is options.Format.json:
            console.print_json({"files": files})
        else:
            typer.echo("\n".join(f"wrote {f}" for f in files))
    elif dialect is not None:
        typer.echo(schema_text(dialect), nl=False)
    else:
        console.print_json({name: SCHEMAS[name]() for name in names})
