"""`graphmodel show`: the spec as the compiler reads it."""

from __future__ import annotations

from typing import Annotated

import typer

from graphmodel.cli import options


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("show")(options.with_groups(show))


def show(
    source: options.SpecOptions,
    resolved: Annotated[
        bool,
        typer.Option("--resolved", help="As a native spec with every default spelled out and every `auto` filled in."),
    ] = False,
    form: options.FormatOption = options.Format.text,
) -> None:
    """Print a spec as the compiler reads it; with --resolved, in full."""
    from graphmodel.cli import console
    from graphmodel.dialects.native.dump import dump, to_yaml

    with console.findings(form.value):
        spec = source.load_to_build() if resolved else source.load()
        if resolved:
            source.import_modules()
            from graphmodel.api import build_graph
            from graphmodel.build.locked_spec import resolved_spec

            data = dump(resolved_spec(build_graph(spec, allow_imports=source.allow_imports)))
        else:
            data = spec.origin.data
    if form is options.Format.json:
        console.print_json(data)
    else:
        typer.echo(to_yaml(data), nl=False)
    if form is options.Format.text:
        console.print_diagnostics(spec.notes)
