"""`graphmodel examples`: the specs that come with the package, and a copy of one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphmodel.cli import options
from graphmodel.stored import Example, stored_examples


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("examples")(examples)


def examples(
    name: Annotated[str | None, typer.Argument(help="An example, such as simclr or native/pirl.")] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="The directory of the copy.", show_default="here")
    ] = Path(),
    form: options.FormatOption = options.Format.text,
) -> None:
    """List the example specs, or copy one.

    A file that exists is never replaced.
    """
    from graphmodel.cli import console

    found = stored_examples()
    if name is None:
        if form is options.Format.json:
            console.print_json([{"name": e.name, "summary": e.summary} for e in found])
        else:
            console.print_table(("name", "what"), [(e.name, e.summary) for e in found])
            typer.echo()
            console.print_wrapped("`graphmodel examples NAME` copies one to the current directory, or to that of -o.")
        return
    with console.findings(form.value, usage=True):
        example = _named(name, found)
        from graphmodel.writing import write_new_file

        file = write_new_file(output / f"{example.name.rpartition('/')[2]}.yaml", example.text())
    if form is options.Format.json:
        console.print_json({"files": [str(file)]})
    else:
        console.print_text(f"wrote {file}")


def _named(name: str, found: list[Example]) -> Example:
    """The example of a name, with or without its folder and ending.

    Raises:
        typer.BadParameter: if there is none, or several.
    """
    wanted = name.removesuffix(".yaml")
    matches = [e for e in found if wanted in (e.name, e.name.rpartition("/")[2])]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise typer.BadParameter(f"several examples are called `{name}`: {', '.join(e.name for e in matches)}")
    from graphmodel.diagnostics import did_you_mean

    near = did_you_mean(wanted, [e.name.rpartition("/")[2] for e in found])
    raise typer.BadParameter(f"no example `{name}`; {near or '`graphmodel examples` lists them'}")
