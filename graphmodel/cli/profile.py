"""`graphmodel profile`: what each stage of a model costs, as a sorted table and a bar chart."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphmodel.cli import options

if TYPE_CHECKING:
    from graphmodel.profiling.stages import ModelProfile, StageCost


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("profile")(options.with_groups(profile_command))


class Sort(str, Enum):
    """The order of the rows."""

    activations = "activations"
    flops = "flops"
    parameters = "parameters"
    time = "time"
    order = "order"


def profile_command(
    source: options.SpecOptions,
    batch: Annotated[int, typer.Option(min=1, help="The number of samples of a training step.")] = 2,
    measure: Annotated[
        bool, typer.Option("--measure", help="Build the weights, run training steps, and measure time and peak memory.")
    ] = False,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="DEVICE", help="Where to measure; CUDA if there is any, else the CPU."),
    ] = None,
    sort: Annotated[
        Sort | None, typer.Option(help="The order of the rows; by time if measured, else by activations.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Draw a bar chart: svg or png.")
    ] = None,
    expand: Annotated[bool, typer.Option("--expand", help="List every head of a grid in a row of its own.")] = False,
    form: options.FormatOption = options.Format.text,
) -> None:
    """Profile a spec: operations, parameters and activation memory of each stage."""
    from graphmodel.cli import console

    key = (sort or (Sort.time if measure else Sort.activations)).value
    if key == "time" and not measure:
        raise typer.BadParameter("`--sort time` needs `--measure`")
    if device is not None:
        options.check_device(device)
    with console.findings(form.value):
        spec = source.load_to_build()
        from graphmodel.profiling.chart import check_chart_format, draw_chart

        format = check_chart_format(output.suffix) if output is not None else ""
        source.import_modules()
        from graphmodel.stage_profile import profile

        found = profile(spec, batch=batch, measure=measure, device=device, allow_imports=source.allow_imports)
        shown = found if expand else found.without_grids()
        stages = shown.stages if key == "order" else shown.sorted(key)
        if output is not None:
            from graphmodel.writing import write_file

            write_file(output, draw_chart(found, stages, format))
    if form is options.Format.json:
        console.print_json({"ok": True, **found.to_dict(), "files": [str(output)] if output is not None else []})
        return
    console.print_table(
        ("stage", "calls", "output shape", "FLOPs", "parameters", "activations", "", "forward", "backward"),
        table(stages),
        right=("FLOPs", "parameters", "activations", "forward", "backward"),
        title=f"{found.name}, batch {found.batch}",
    )
    typer.echo("")
    for line in totals(found):
        console.print_text(line)
    console.print_diagnostics(spec.notes)
    if output is not None:
        console.print_text(f"wrote {output}")


def table(stages: tuple[StageCost, ...]) -> Iterator[tuple[str, ...]]:
    """The rows as text."""
    from graphmodel.profiling.chart import milliseconds
    from graphmodel.profiling.units import count, memory, si

    for stage in stages:
        yield (
            stage.name,
            stage.calls,
            stage.shape,
            si(stage.flops) if stage.flops else "",
            count(stage.parameters) if stage.parameters else "",
            memory(stage.activations) if stage.activations else "",
            "recomputed" if stage.recomputed else "",
            milliseconds(stage.forward),
            milliseconds(stage.backward),
        )


def totals(found: ModelProfile) -> Iterator[str]:
    """The totals, one per line."""
    from graphmodel.profiling.chart import milliseconds
    from graphmodel.profiling.units import count, memory, si

    yield f"parameters   {count(found.parameters)}"
    yield f"FLOPs        {si(found.flops)} (forward, a multiply-add is two)"
    yield f"activations  {memory(found.activations)} kept at the end of the forward pass"
    peak = f", {memory(found.measured_peak)} measured" if found.measured_peak is not None else ""
    yield f"peak         {memory(found.peak)}{peak} (parameters, gradients, activations; no optimizer)"
    if found.forward is not None:
        times = f"{milliseconds(found.forward)} forward, {milliseconds(found.backward)} backward"
        yield f"time         {times} on {found.device}"
