"""`graphmodel visualize` and `graphmodel diff`: pictures of a model, and what differs between two."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphmodel.cli import options
from graphmodel.spec.names import LOCKED_SPEC

if TYPE_CHECKING:
    from graphmodel.graph.types import ModelGraph
    from graphmodel.visualize import Options, Picture


class Sharing(str, Enum):
    """How passes through one trunk are drawn."""

    MERGE = "merge"
    SPLIT = "split"


class Theme(str, Enum):
    """Colours."""

    light = "light"
    dark = "dark"
    auto = "auto"


class Orientation(str, Enum):
    """The direction of a picture."""

    portrait = "portrait"
    landscape = "landscape"


Output = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        help="Its suffix names the format: svg, png, pdf, html, mmd (Mermaid), dot, json.",
    ),
]
SharingOption = Annotated[
    Sharing, typer.Option("--sharing", help="Draw a trunk once for all its passes, or each pass on its own.")
]
Depth = Annotated[
    int,
    typer.Option(
        "--depth",
        min=0,
        max=3,
        help="0: a trunk is one box; 1: its stages, equal ones in a row folded; 2: every stage; 3: the layers of each.",
    ),
]
Stack = Annotated[
    int,
    typer.Option(
        "--stack", min=0, help="Draw equal heads on one feature as a stack if there are at least this many; 0: never."
    ),
]
Ghosts = Annotated[bool, typer.Option("--ghosts", help="Also show the parts of trunks that the model leaves out.")]
ThemeOption = Annotated[
    Theme | None,
    typer.Option(
        "--theme",
        help="Colours; auto follows the reader's system in svg and html.  [default: auto for html, else light]",
        show_default=False,
    ),
]
OrientationOption = Annotated[
    Orientation | None,
    typer.Option(
        "--orientation",
        help="From top to bottom or left to right.  [default: landscape for widths of 120mm or more, else portrait]",
        show_default=False,
    ),
]
Width = Annotated[
    str | None,
    typer.Option(
        "--width",
        metavar="LENGTH",
        help="Width of a figure for print, such as 84mm (a column) or 178mm (a page); also cm, in, pt. Its text has at "
        "least 6 points.",
    ),
]
NoLegend = Annotated[bool, typer.Option("--no-legend", help="Leave out the legend.")]
NoTitle = Annotated[bool, typer.Option("--no-title", help="Leave out the name and totals.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("visualize")(visualize)
    app.command("diff")(diff)


def visualize(
    specs: options.Specs,
    output: Output = None,
    sharing: SharingOption = Sharing.MERGE,
    depth: Depth = 1,
    stack: Stack = 4,
    ghosts: Ghosts = False,
    theme: ThemeOption = None,
    orientation: OrientationOption = None,
    width: Width = None,
    no_legend: NoLegend = False,
    no_title: NoTitle = False,
    set_: options.Set = None,
    input_: options.Input = None,
    allow_imports: options.AllowImports = False,
    imports: options.Import = None,
    form: options.FormatOption = options.Format.text,
) -> None:
    """Draw a spec: a tree in the terminal, or a picture with -o.

    With `--format json` the picture itself is printed as JSON, or the name of the file that -o wrote.
    """
    from graphmodel.cli import console
    from graphmodel.visualize import Options, picture_of
    from graphmodel.visualize.picture import check_format, in_points

    with console.findings(form.value):
        spec = options.load(specs, set_, input_)
        if output is not None:
            check_format(output.suffix)
        points = in_points(width) if width is not None else None
        options.import_modules(imports)
        from graphmodel.api import graph_of

        graph = graph_of(spec, allow_imports=allow_imports)
        wanted = Options(sharing.value, depth, stack, ghosts)
        if output is not None:
            _save(graph, wanted, output, theme, orientation, points, not no_legend, not no_title)
        else:
            picture = picture_of(graph, wanted)
    if form is options.Format.json:
        result = {"files": [str(output)]} if output is not None else picture.to_dict()
        console.print_json({"ok": True, **result, "diagnostics": [d.to_dict() for d in spec.notes]})
        return
    if output is not None:
        typer.echo(f"wrote {output}", err=True)
    else:
        from graphmodel.visualize.terminal import to_tree

        console.console().print(to_tree(picture))
    console.print_diagnostics(spec.notes)


def diff(
    before: Annotated[str, typer.Argument(metavar="A", help="A spec, or the directory of a compiled model.")],
    after: Annotated[str, typer.Argument(metavar="B", help="The same, to compare with.")],
    output: Output = None,
    sharing: SharingOption = Sharing.MERGE,
    depth: Depth = 1,
    stack: Stack = 4,
    theme: ThemeOption = None,
    orientation: OrientationOption = None,
    width: Width = None,
    no_legend: NoLegend = False,
    no_title: NoTitle = False,
    set_: options.Set = None,
    input_: options.Input = None,
    allow_imports: options.AllowImports = False,
    imports: options.Import = None,
    form: options.FormatOption = options.Format.text,
) -> None:
    """Print the differences between two models; with -o also draw them.

    The exit code is 0 if they are the same, 1 if they differ, 2 if one cannot be read. `--set` and `--input` apply to
    both.
    """
    from graphmodel.cli import console
    from graphmodel.visualize import Options, compare_pictures, picture_of
    from graphmodel.visualize.picture import check_format, in_points

    with console.findings(form.value, usage=True):
        specs = [options.load([_spec_of(path)], set_, input_) for path in (before, after)]
        if output is not None:
            check_format(output.suffix)
        points = in_points(width) if width is not None else None
        options.import_modules(imports)
        from graphmodel.api import graph_of
        from graphmodel.comparison import diff as differ

        graphs = [graph_of(spec, allow_imports=allow_imports) for spec in specs]
        found = differ(*graphs)
        if output is not None:
            wanted = Options(sharing.value, depth, stack)
            both = compare_pictures(*(picture_of(graph, wanted) for graph in graphs))
            _save(both, wanted, output, theme, orientation, points, not no_legend, not no_title)
    if output is not None:
        typer.echo(f"wrote {output}", err=True)
    if form is options.Format.json:
        console.print_json(found.to_dict())
    else:
        typer.echo(str(found))
    raise typer.Exit(0 if found.same else 1)


def _spec_of(path: str) -> str:
    """A spec file, or the locked spec in a directory that `graphmodel compile -o` wrote.

    Raises:
        CompileError: GM100 for another directory.
    """
    from graphmodel.diagnostics import fail

    if not Path(path).is_dir():
        return path
    lock = Path(path) / LOCKED_SPEC
    if not lock.is_file():
        raise fail(
            "GM100", f"{path} is a directory without {LOCKED_SPEC}", help="name a spec, or what `compile -o` wrote"
        )
    return str(lock)


def _save(
    source: ModelGraph | Picture,
    wanted: Options,
    output: Path,
    theme: Theme | None,
    orientation: Orientation | None,
    width: float | None,
    legend: bool,
    title: bool,
) -> None:
    """Draws into a file."""
    from graphmodel.visualize import save
    from graphmodel.visualize.picture import PAGE

    default = "auto" if output.suffix.lower() == ".html" else "light"
    save(
        source,
        output,
        wanted,
        theme=theme.value if theme else default,
        orientation=orientation.value if orientation else "landscape" if width is not None and width >= PAGE else None,
        width=width,
        legend=legend,
        title=title,
    )
