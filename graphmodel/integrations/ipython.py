"""The cell magic `%%graphmodel`: a notebook cell with a spec becomes a model, with its picture or its diagnostics."""

from __future__ import annotations

import html
import keyword
import shlex
import unicodedata
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.magic_arguments import MagicArgumentParser
from IPython.display import display

from graphmodel.devices import problem_of_device
from graphmodel.diagnostics import CompileError, Diagnostic, first_line, in_source_order, more

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from graphmodel.lower.module import CompiledModel
    from graphmodel.spec.model import ModelSpec

HEIGHT = 600
"""The height of the picture in pixels."""
_COLOURS = {"error": "#c0392b", "warning": "#a86a00", "note": "#2b74b3"}


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Adds the magic; `%load_ext graphmodel` calls it."""

    def magic(line: str, cell: str) -> None:
        compile_cell(shell, line, cell)

    magic.__doc__ = _parser().format_help()
    register: Any = shell.register_magic_function  # whose decorator hides its signature
    register(magic, "cell", "graphmodel")


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Takes the magic away; `%unload_ext graphmodel` calls it."""
    shell.magics_manager.magics["cell"].pop("graphmodel", None)


class FailedCell(CompileError):
    """The spec of a cell cannot be compiled: its diagnostics have been shown, so IPython prints one line only."""

    note = ""

    def __str__(self) -> str:
        return self.note

    def _render_traceback_(self) -> list[str]:
        return [self.note]


class Shown:
    """What a cell shows, by MIME type."""

    def __init__(self, bundle: dict[str, str]) -> None:
        self.bundle = bundle

    def _repr_mimebundle_(self, **options: Any) -> dict[str, str]:
        return self.bundle


def compile_cell(shell: InteractiveShell, line: str, cell: str) -> None:
    """Compiles a cell, shows what was found and the picture, and binds the model to its name.

    Args:
        shell: where the name is bound.
        line: the arguments after `%%graphmodel`.
        cell: the YAML.

    Raises:
        FailedCell: if anything is wrong with the spec; the name keeps what it was bound to.
        UsageError: if the arguments cannot be read, or there is no such device.
    """
    options = _options(line)
    try:
        spec = _spec(cell, options)
        model, notes = _model(spec, options)
    except CompileError as error:
        display(Shown(diagnostics_bundle(error.diagnostics, error.omitted)))
        count = sum(d.severity == "error" for d in error.diagnostics) + error.omitted
        failed = FailedCell(error.diagnostics, error.omitted)
        kept = "keeps its value" if options.name in shell.user_ns else "is not bound"
        failed.note = f"the spec has {count} error{'s' if count != 1 else ''}, and {options.name} {kept}"
        raise failed from None
    shell.push({options.name: model})
    if notes:
        display(Shown(diagnostics_bundle(notes)))
    if not options.no_picture:
        display(Shown(picture_bundle(model, options.height)))


def _parser() -> MagicArgumentParser:
    parser = MagicArgumentParser(
        prog="%%graphmodel", description="Compile the spec in the cell and bind the model to NAME.", add_help=False
    )
    parser.add_argument("name", metavar="NAME", help="the variable")
    parser.add_argument("--seed", type=int, help="make the weights reproducible")
    parser.add_argument("--device", help="where the weights go; `meta` builds none")
    parser.add_argument("--weights", metavar="FILE", help="load a checkpoint")
    parser.add_argument("--set", metavar="PATH=VALUE", action="append", default=[], help="change a value of the spec")
    parser.add_argument("--allow-imports", action="store_true", help="let the spec name Python code to import")
    parser.add_argument("--no-picture", action="store_true", help="show diagnostics only")
    parser.add_argument("--height", type=int, default=HEIGHT, metavar="PIXELS", help="the height of the picture")
    return parser


def _options(line: str) -> Namespace:
    try:
        options = _parser().parse_args(shlex.split(line))
    except ValueError as error:
        raise UsageError(f"%%graphmodel: {first_line(error)}") from None
    # Python reads names of variables in this form: under another one the variable could not be read.
    options.name = unicodedata.normalize("NFKC", options.name)
    if not options.name.isidentifier() or keyword.iskeyword(options.name):
        raise UsageError(f"%%graphmodel: `{options.name}` is not a valid name of a variable")
    if options.height <= 0:
        raise UsageError(f"%%graphmodel: --height is a number of pixels, not {options.height}")
    if options.device is not None and (problem := problem_of_device(options.device)):
        raise UsageError(f"%%graphmodel: --device: {problem}")
    found: Namespace = options
    return found


def _spec(cell: str, options: Namespace) -> ModelSpec:
    from graphmodel.dialects.loading import read_spec

    name = f"<{options.name}>"
    # The line with the magic counts, so that findings have the numbers that the notebook shows beside its lines.
    texts = {Path(name).resolve(): f"\n{cell}"}
    spec = read_spec(name, options.set, texts=texts)
    if spec.name == type(spec).model_fields["name"].default:
        spec = read_spec(name, [*options.set, f"name={options.name}"], texts=texts)
    return spec


def _model(spec: ModelSpec, options: Namespace) -> tuple[CompiledModel, list[Diagnostic]]:
    from graphmodel.api import compile
    from graphmodel.weights.load import load_weights

    model = compile(spec, seed=options.seed, device=options.device, allow_imports=options.allow_imports)
    notes = [*spec.notes, *model.model_graph.notes]
    if options.weights is not None:
        notes += load_weights(model, options.weights).warnings
    return model, notes


def picture_bundle(model: CompiledModel, height: int = HEIGHT) -> dict[str, str]:
    """The interactive page in a frame of its own, which cannot reach the notebook, and a drawing for other readers."""
    from importlib.util import find_spec

    from graphmodel.visualize import Options, mimebundle
    from graphmodel.visualize.page import page_of

    bundle = mimebundle(model)
    if find_spec("pygraphviz") is not None:
        page = page_of(model.model_graph, Options(), theme="auto", before=False)
        bundle["text/html"] = (
            f'<iframe srcdoc="{html.escape(page)}" sandbox="allow-scripts" title="Picture of the model" '
            f'style="width: 100%; height: {height}px; border: 1px solid #8884; border-radius: 6px"></iframe>'
        )
    return bundle


def diagnostics_bundle(found: Sequence[Diagnostic], omitted: int = 0) -> dict[str, str]:
    """Findings with their carets, as HTML and as text."""
    ordered = in_source_order(found)
    texts = [d.render() for d in ordered]
    tail = [more(omitted)] if omitted else []
    entries = [_entry(d, text) for d, text in zip(ordered, texts, strict=True)]
    entries += [f"<p>{html.escape(text)}</p>" for text in tail]
    return {"text/html": "\n".join(entries), "text/plain": "\n\n".join([*texts, *tail])}


def _entry(diagnostic: Diagnostic, text: str) -> str:
    """A finding as HTML: the code and the carets in colour; what helps may wrap."""
    colour = _COLOURS[diagnostic.severity]
    first, *rest = text.split("\n")
    mark, colon, message = first.partition(":")
    style = "white-space: pre-wrap; overflow-wrap: anywhere"
    head = f'<b style="color: {colour}">{html.escape(mark)}</b><b>{html.escape(colon + message)}</b>'
    source = "\n".join(_source_line(line, colour) for line in rest if not line.startswith("  help: "))
    helps = [f'<div style="{style}">{html.escape(line)}</div>' for line in rest if line.startswith("  help: ")]
    return (
        f'<div style="border-left: 3px solid {colour}; padding: 2px 0 2px 12px; margin: 8px 0; font-family: monospace">'
        f'<div style="{style}">{head}</div><pre style="margin: 0; overflow-x: auto">{source}</pre>'
        f"{''.join(helps)}</div>"
    )


def _source_line(line: str, colour: str) -> str:
    bar, caret = line.rpartition("| ")[::2]
    if bar and caret.strip() and set(caret.strip()) == {"^"}:
        return f'{html.escape(bar)}| <b style="color: {colour}">{caret}</b>'
    return html.escape(line)
