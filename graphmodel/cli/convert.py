"""`graphmodel convert`: a VISSL configuration as a native spec."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphmodel.cli import options


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("convert")(options.with_groups(convert))


def convert(
    source: options.SpecFiles,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file to write; stdout without it.")] = None,
    form: options.FormatOption = options.Format.text,
) -> None:
    """Write a spec in the native format, each line with a comment that says where it comes from."""
    from graphmodel.cli import console
    from graphmodel.dialects.convert import convert as native_text

    with console.findings(form.value):
        spec = source.load()
        text = native_text(spec)
        if output is not None:
            from graphmodel.writing import cannot_write, write_file

            if output.resolve() in [Path(file).resolve() for file in spec.origin.files]:
                raise cannot_write(output, "it is the source", "name a new file")
            write_file(output, text)
    if form is options.Format.json:
        console.print_json(spec.document.data if output is None else {"files": [str(output)]})
    elif output is None:
        typer.echo(text, nl=False)
    if form is options.Format.text:
        console.print_diagnostics(spec.notes)
