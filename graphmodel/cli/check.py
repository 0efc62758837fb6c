"""`graphmodel check`: everything that can be said of a spec without a weight."""

from __future__ import annotations

import typer

from graphmodel.cli import options


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("check")(check)


def check(
    specs: options.Specs,
    set_: options.Set = None,
    input_: options.Input = None,
    outputs: options.Outputs = None,
    returns: options.ResultForm = None,
    allow_imports: options.AllowImports = False,
    imports: options.Import = None,
    form: options.FindingsOption = options.FindingsFormat.text,
) -> None:
    """Check a spec, shapes included, and build no weights."""
    from graphmodel.cli import console

    kept = options.names_of(outputs)
    with console.findings(form.value):
        spec = options.load(specs, set_, input_)
        options.import_modules(imports)
        from graphmodel.api import compile
        from graphmodel.graph.text import info_text

        form_of = options.form_of(returns)
        module = compile(spec, device="meta", outputs=kept, returns=form_of, allow_imports=allow_imports)
        graph = module.model_graph
        shapes = {k: info_text(graph.nodes[n].info) for o in graph.outputs.values() for k, n in o.parts.items()}

    if form is options.FindingsFormat.json:
        console.print_json({"ok": True, "outputs": shapes, "diagnostics": [d.to_dict() for d in spec.notes]})
        return
    console.print_diagnostics(spec.notes, form.value)
    if form is options.FindingsFormat.text:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        typer.echo(f"{' + '.join(specs)}: fine, {len(graph.nodes)} calls; outputs: {listed}")
