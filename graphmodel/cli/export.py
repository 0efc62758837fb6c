"""`graphmodel export`: a spec or a saved model as a file that runs without graphmodel."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphmodel.cli import options
from graphmodel.cli.weight_options import WeightOptions

if TYPE_CHECKING:
    from graphmodel.lower.module import CompiledModel


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("export")(options.with_groups(export_command))


def export_command(
    source: options.SpecOptions,
    weights: WeightOptions,
    result: options.ResultOptions,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="The file to write: .pt2 (pt2, aoti) or .onnx.")
    ],
    to: Annotated[
        str | None,
        typer.Option("--to", help="pt2, onnx or aoti; the file's suffix names it if left out (.pt2 is pt2)."),
    ] = None,
    train: Annotated[bool, typer.Option("--train", help="Export the training mode (pt2 alone).")] = False,
    fold: Annotated[bool, typer.Option("--fold", help="Fold BatchNorm into the weights before it.")] = False,
    form: options.FormatOption = options.Format.text,
) -> None:
    """Export a spec, or a directory that `compile -o` wrote, to torch.export, ONNX or AOTInductor.

    The file is loaded again and compared with the module before it takes its place.
    """
    from graphmodel.cli import console

    with console.findings(form.value):
        from graphmodel.exporters import export, find_format

        find_format(output, to)
        module, notes = compiled_or_saved(source, weights, result)
        report = export(module, output, to=to, training=train, fold=fold)
    if form is options.Format.json:
        console.print_json({"ok": True, **asdict(report), "diagnostics": [d.to_dict() for d in notes]})
        return
    console.print_diagnostics(notes)
    for title, names in (("inputs", report.inputs), ("outputs", dict.fromkeys(report.outputs, ()))):
        shown = (f"{name} [{', '.join(map(str, dims))}]" if dims else name for name, dims in names.items())
        console.print_text(f"{title:8} {', '.join(shown)}")
    batches = ", ".join(map(str, report.batches))
    console.print_text(f"checked  at batch {batches}: at most {report.difference:.1e} (relative) from the module")
    for file in report.files:
        console.print_text(f"wrote {file}")


def compiled_or_saved(
    source: options.SpecOptions, weights: WeightOptions, result: options.ResultOptions
) -> tuple[CompiledModel, list[Any]]:
    """The module with its weights: of a saved model, or compiled from specs."""
    from graphmodel.spec.names import LOCKED_SPEC

    saved = len(source.specs) == 1 and (Path(source.specs[0]) / LOCKED_SPEC).is_file()
    notes: list[Any] = []
    if saved:
        from graphmodel.artifact import load

        source.import_modules()
        module = load(source.specs[0], allow_imports=source.allow_imports)
        if result.names() is not None or result.form() is not None:
            module = module.slice(outputs=result.names(), returns=result.form())
    else:
        spec = source.load_to_build()
        source.import_modules()
        from graphmodel.api import compile

        module = compile(
            spec,
            device="cpu",
            seed=weights.seed,
            outputs=result.names(),
            returns=result.form(),
            allow_imports=source.allow_imports,
            allow_downloads=weights.allow_downloads,
        )
        notes += spec.notes
    if weights.weights is not None:
        notes += weights.load(module).warnings
    return module, notes
