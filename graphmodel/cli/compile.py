"""`graphmodel compile`: prints the graph as a table with totals, and writes the compiled model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphmodel.cli import options
from graphmodel.cli.weight_options import WeightOptions

if TYPE_CHECKING:
    from graphmodel.profiling.report import Report, Row
    from graphmodel.spec.model import ModelSpec
    from graphmodel.weights.report import LoadReport


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("compile")(options.with_groups(compile_command))


@dataclass(frozen=True)
class Compiled:
    """What the command has to print."""

    report: Report
    loaded: LoadReport | None
    files: list[Path]


def compile_command(
    source: options.SpecOptions,
    weights: WeightOptions,
    result: options.ResultOptions,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="DIR", help="Write the model: its spec, weights, graph, code and a manifest."
        ),
    ] = None,
    standalone: Annotated[
        bool, typer.Option("--standalone", help="With -o: write a model.py that runs without graphmodel.")
    ] = False,
    expand: Annotated[bool, typer.Option("--expand", help="List every head of a grid in a row of its own.")] = False,
    form: options.FindingsOption = options.FindingsFormat.text,
) -> None:
    """Compile a spec: print its graph, write the model."""
    from graphmodel.cli import console

    with console.findings(form.value):
        spec = source.load_to_build()
        made = _compile(spec, source, weights, result, output, standalone)

    loaded = made.loaded
    notes = [*spec.notes, *made.report.notes, *(loaded.warnings if loaded is not None else ())]
    if form is options.FindingsFormat.json:
        data = {"ok": True, **made.report.to_dict(), "diagnostics": [d.to_dict() for d in notes]}
        if loaded is not None:
            data["weights"] = {**asdict(loaded), "warnings": [d.to_dict() for d in loaded.warnings]}
        console.print_json({**data, "seed": weights.seed, "files": [str(f) for f in made.files]})
        return
    if form is options.FindingsFormat.text:
        print_report(made.report, expand)
        if loaded is not None:
            console.print_text(f"\nweights     {loaded.summary}")
    console.print_diagnostics(notes, form.value)
    if form is options.FindingsFormat.text:
        for file in made.files:
            console.print_text(f"wrote {file}")


def _compile(
    spec: ModelSpec,
    source: options.SpecOptions,
    weights: WeightOptions,
    result: options.ResultOptions,
    output: Path | None,
    standalone: bool,
) -> Compiled:
    """Compiles the spec, loads the checkpoint and writes the model, as far as the options ask for it."""
    if output is not None:
        from graphmodel.artifact import refuse_foreign

        refuse_foreign(output)
    elif standalone:
        raise typer.BadParameter("`--standalone` is about the files of `-o`: name a directory with `-o DIR`")
    source.import_modules()
    from graphmodel.api import compile
    from graphmodel.profiling.report import report

    module = compile(
        spec,
        device="cpu" if output is not None and not weights.no_weights else "meta",
        seed=weights.seed,
        outputs=result.names(),
        returns=result.form(),
        allow_imports=source.allow_imports,
        allow_downloads=weights.allow_downloads,
    )
    loaded = None
    if weights.weights is not None:
        loaded = weights.load(module)
    files: list[Path] = []
    if output is not None:
        from graphmodel.artifact import save

        files = save(
            module, output, weights=not weights.no_weights, standalone=standalone, imports=source.imports or ()
        )
    done = replace(report(module.model_graph), summary=module.optimized_graph.summary)
    return Compiled(done, loaded, files)


def print_report(result: Report, expand: bool = False) -> None:
    """The table and the totals."""
    from graphmodel.cli import console

    console.print_table(
        ("node", "calls", "feature", "output shape", "parameters", "frozen", "FLOPs"),
        table(result, expand),
        right=("parameters", "FLOPs"),
        title=f"{result.name} ({result.dialect})",
    )
    typer.echo("")
    for line in totals(result):
        console.print_text(line)


def table(result: Report, expand: bool = False) -> Iterator[tuple[str, ...]]:
    """The rows as text, without those that only take a view out of a list."""
    from graphmodel.profiling.units import count, si

    for row in result.rows if expand else without_grids(result.rows):
        if row.kind == "input" and row.calls:
            continue
        yield (
            row.node,
            row.calls,
            ", ".join(row.feature),
            runs(row.shape),
            count(row.parameters) if row.parameters else ("shared" if row.shared else ""),
            _frozen(row),
            si(row.flops) if row.flops else "",
        )


def without_grids(rows: Sequence[Row]) -> list[Row]:
    """The rows with one for the heads of each grid, in the place of the first."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(f"grid {row.grid}" if row.grid else f"node {row.node}", []).append(row)
    return [together[0] if len(together) == 1 else _as_one(together) for together in found.values()]


def _as_one(rows: list[Row]) -> Row:
    grid, heads = rows[0].grid, {row.calls.split(".")[1] for row in rows if row.calls.startswith("heads.")}
    last = {row.calls.split(".")[1]: row.shape for row in rows if row.calls.startswith("heads.")}
    shapes = list(dict.fromkeys(last.values()))
    return replace(
        rows[0],
        node=f"{grid} ({len(heads)} heads)",
        calls=f"heads.{grid}_*",
        shape=shapes[0] if len(shapes) == 1 else f"{len(shapes)} shapes",
        parameters=sum(row.parameters for row in rows),
        frozen=sum(row.frozen for row in rows),
        flops=sum(row.flops for row in rows),
    )


def runs(shape: str) -> str:
    """Consecutive equal shapes as one: `[2 of N×3×224×224, 6 of N×3×96×96]`."""
    if not shape.startswith("["):
        return shape
    grouped = [(text, len(list(same))) for text, same in groupby(shape[1:-1].split(", "))]
    return "[" + ", ".join(text if count == 1 else f"{count} of {text}" for text, count in grouped) + "]"


def _frozen(row: Row) -> str:
    from graphmodel.profiling.units import count

    if row.is_frozen:
        return "frozen"
    return count(row.frozen) if row.frozen else ""


def totals(result: Report) -> Iterator[str]:
    """Totals of parameters, memory and operations, one per line."""
    from graphmodel.profiling.flops import rows_text
    from graphmodel.profiling.units import count, memory, si

    pruned = f", {count(result.pruned)} pruned" if result.pruned else ""
    yield (
        f"parameters  {count(result.trained)} trained, {count(result.frozen)} frozen{pruned}; "
        f"{memory(result.bytes)} with buffers"
    )
    yield f"FLOPs       {si(result.flops)} at {rows_text(result.batch_rows)} (forward, a multiply-add is two)"
    for done in result.summary:
        yield f"pass        {done}"
