"""`graphmodel show`: the spec as the compiler reads it."""

from __future__ import annotations

from typing import Annotated

import typer

from graphmodel.cli import options


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("show")(show)


def show(
    specs: options.Specs,
    resolved: Annotated[
        bool,
        typer.Option("--resolved", help="As a native spec with every default spelled out and every `auto` filled in."),
    ] = False,
    set_: options.Set = None,
    input_: options.Input = None,
    allow_imports: options.AllowImports = False,
    imports: options.Import = None,
    form: options.FormatOption = options.Format.text,
) -> None:
    """Print a spec as it is read; with --resolved in full."""
    from graphmodel.cli import console
    from graphmodel.dialects.native.dump import dump, to_yaml

    with console.findings(form.value):
        spec = options.load(specs, set_, input_)
        if resolved:
            options.import_modules(imports)
            from graphmodel.api import build_graph
            from graphmodel.build.locked_spec import resolved_spec

            data = dump(resolved_spec(build_graph(spec, allow_imports=allow_imports)))
        else:
            data = spec.origin.data
    if form is options.Format.json:
        console.print_json(data)
    else:
        typer.echo(to_yaml(data), nl=False)
    if form is options.Format.text:
        console.print_diagnostics(spec.notes)
