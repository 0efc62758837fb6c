"""`graphmodel compile`: the graph as a table, totals, and the compiled model as files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphmodel.cli import options

if TYPE_CHECKING:
    from graphmodel.profile.report import Report, Row


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("compile")(compile_command)


def compile_command(
    specs: options.Specs,
    set_: options.Set = None,
    input_: options.Input = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="Write model.py, weights.safetensors and spec.lock.yaml."),
    ] = None,
    no_weights: Annotated[
        bool, typer.Option("--no-weights", help="Build no weights: they stay on the meta device and none are written.")
    ] = False,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", metavar="FILE", help="Load a checkpoint; how its keys map is inferred and printed."),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Accept a checkpoint that does not cover the whole trunk.")
    ] = False,
    interpolate: Annotated[
        bool, typer.Option("--interpolate", help="Resize position embeddings of another size (bicubic).")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The seed of the initial weights.")] = 0,
    outputs: options.Outputs = None,
    returns: options.ResultForm = None,
    allow_imports: options.AllowImports = False,
    imports: options.Import = None,
    form: options.FindingsOption = options.FindingsFormat.text,
) -> None:
    """Compile a spec: print its graph, write the model."""
    from graphmodel.cli import console

    kept = options.names_of(outputs)
    with console.findings(form.value):
        spec = options.load(specs, set_, input_)
        if output is not None:
            from graphmodel.artifact import refuse_foreign

            refuse_foreign(output)
        options.import_modules(imports)
        from graphmodel.api import compile
        from graphmodel.profile.report import report

        module = compile(
            spec,
            device="cpu" if output is not None and not no_weights else "meta",
            seed=seed,
            outputs=kept,
            returns=options.form_of(returns),
            allow_imports=allow_imports,
        )
        result = report(module.model_graph)
        loaded = None
        if weights is not None:
            from graphmodel.weights.load import load_weights

            loaded = load_weights(module, weights, partial=partial, interpolate=interpolate)
        files: list[Path] = []
        if output is not None:
            from graphmodel.artifact import save

            files = save(module, output, weights=not no_weights, imports=imports or ())

    if form is options.FindingsFormat.json:
        data = {"ok": True, **result.to_dict(), "diagnostics": [d.to_dict() for d in spec.notes]}
        if loaded is not None:
            data["weights"] = asdict(loaded)
        console.print_json({**data, "seed": seed, "files": [str(f) for f in files]})
        return
    if form is options.FindingsFormat.text:
        print_report(result)
        if loaded is not None:
            typer.echo(f"\nweights     {loaded}")
    console.print_diagnostics(spec.notes, form.value)
    if form is options.FindingsFormat.text:
        for file in files:
            typer.echo(f"wrote {file}")


def print_report(result: Report) -> None:
    """The table and the totals."""
    from graphmodel.cli import console

    console.print_table(
        ("node", "calls", "feature", "output shape", "parameters", "frozen", "FLOPs"),
        table(result),
        right=("parameters", "FLOPs"),
        title=f"{result.name} ({result.dialect})",
    )
    typer.echo("")
    for line in totals(result):
        typer.echo(line)


def table(result: Report) -> Iterator[tuple[str, ...]]:
    """The rows as text; what only takes a view out of a list is left out."""
    from graphmodel.cli.console import amount

    for row in result.rows:
        if row.kind == "input" and row.calls:
            continue
        yield (
            row.node,
            row.calls,
            ", ".join(row.feature),
            runs(row.shape),
            amount(row.parameters) if row.parameters else ("shared" if row.shared else ""),
            _frozen(row),
            amount(row.flops) if row.flops else "",
        )


def runs(shape: str) -> str:
    """Equal shapes in a row as one: `[2 of N×3×224×224, 6 of N×3×96×96]`."""
    if not shape.startswith("["):
        return shape
    grouped = [(text, len(list(same))) for text, same in groupby(shape[1:-1].split(", "))]
    return "[" + ", ".join(text if count == 1 else f"{count} of {text}" for text, count in grouped) + "]"


def _frozen(row: Row) -> str:
    from graphmodel.cli.console import amount

    if row.is_frozen:
        return "frozen"
    return amount(row.frozen) if row.frozen else ""


def totals(result: Report) -> Iterator[str]:
    """What the model costs, a line each."""
    from graphmodel.cli.console import amount, memory

    pruned = f", {amount(result.pruned)} pruned" if result.pruned else ""
    yield (
        f"parameters  {amount(result.trained)} trained, {amount(result.frozen)} frozen{pruned}; "
        f"{memory(result.bytes)} with buffers"
    )
    yield f"FLOPs       {amount(result.flops)} per sample (forward, a multiply-add is two)"
    for saved in result.saved:
        yield f"pass        {saved}"
