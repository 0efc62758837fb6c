"""`graphmodel check`: reports everything wrong with a spec, without building weights."""

from __future__ import annotations

import typer

from graphmodel.cli import options


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("check")(options.with_groups(check))


def check(
    source: options.SpecOptions,
    result: options.ResultOptions,
    form: options.FindingsOption = options.FindingsFormat.text,
) -> None:
    """Check a spec, shapes included, without building weights."""
    from graphmodel.cli import console

    kept = result.names()
    with console.findings(form.value):
        spec = source.load_to_build()
        source.import_modules()
        from graphmodel.api import compile
        from graphmodel.graph.text import info_text

        module = compile(spec, device="meta", outputs=kept, returns=result.form(), allow_imports=source.allow_imports)
        graph = module.model_graph
        notes = (*spec.notes, *graph.notes)
        shapes = {k: info_text(graph.nodes[n].info) for o in graph.outputs.values() for k, n in o.parts.items()}

    if form is options.FindingsFormat.json:
        console.print_json({"ok": True, "outputs": shapes, "diagnostics": [d.to_dict() for d in notes]})
        return
    console.print_diagnostics(notes, form.value)
    if form is options.FindingsFormat.text:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        console.print_text(f"{' + '.join(source.specs)}: ok, {len(graph.nodes)} calls; outputs: {listed}")
