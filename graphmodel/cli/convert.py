"""`graphmodel convert`: a VISSL configuration as a native spec."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphmodel.cli import options

if TYPE_CHECKING:
    from graphmodel.equivalence import Equivalence
    from graphmodel.spec.model import ModelSpec


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("convert")(options.with_groups(convert))


def convert(
    source: options.SpecFiles,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file to write; stdout without it.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compile both specs and compare graphs, tensors and outputs.")
    ] = False,
    form: options.FormatOption = options.Format.text,
) -> None:
    """Write a spec in the native format, each line with a comment that says where it comes from.

    With --check, both specs are compiled, and nothing is written if they are not the same model. Without -o, the result
    of the comparison is then printed instead of the spec.
    """
    from graphmodel.cli import console
    from graphmodel.dialects.convert import convert as native_text

    with console.findings(form.value):
        spec = source.load()
        text = native_text(spec)
        found = _compared(spec, text) if check else None
        if output is not None and (found is None or found.same):
            from graphmodel.writing import cannot_write, write_file

            if output.resolve() in [Path(file).resolve() for file in spec.origin.files]:
                raise cannot_write(output, "it is the source", "name a new file")
            write_file(output, text)
    if form is options.Format.json:
        if found is not None:
            files = [str(output)] if output is not None and found.same else []
            console.print_json({"ok": found.same, **found.to_dict(), "files": files})
        else:
            console.print_json(spec.document.data if output is None else {"files": [str(output)]})
    else:
        if found is not None:
            _print_comparison(found)
        elif output is None:
            typer.echo(text, nl=False)
        console.print_diagnostics(spec.notes)
    if found is not None and not found.same:
        raise typer.Exit(1)


def _compared(spec: ModelSpec, text: str) -> Equivalence:
    """The comparison of a spec with what its native text is read as."""
    from graphmodel.dialects.loading import load_spec
    from graphmodel.equivalence import equivalence
    from graphmodel.spec.document import read_text

    return equivalence(spec, load_spec(read_text(text).data))


def _print_comparison(found: Equivalence) -> None:
    from graphmodel.cli import console
    from graphmodel.profiling.units import count, memory

    if not found.same:
        console.print_text("\n".join(["not the same model:", *(f"  {line}" for line in found.differences)]))
        return
    outputs = (
        f"{count(found.outputs)} output{'s' * (found.outputs != 1)} equal bit by bit"
        if found.outputs
        else f"outputs not compared ({memory(found.bytes)} of weights)"
    )
    console.print_text(f"same model: {count(found.calls)} calls, {count(found.tensors)} tensors, {outputs}")
