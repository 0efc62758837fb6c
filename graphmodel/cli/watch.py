"""`graphmodel watch`: a page on this machine that draws specs again whenever they are saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphmodel.cli import options

if TYPE_CHECKING:
    from graphmodel.watching.board import Shown

Watched = Annotated[
    list[str], typer.Argument(metavar="SPEC", help="A spec file; each further one is a model of its own, in a tab.")
]
Overlay = Annotated[
    list[str] | None, typer.Option("--overlay", metavar="FILE", help="Merge FILE over every spec. Repeatable.")
]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="The port of the page; 0 takes a free one.")]
Open = Annotated[bool, typer.Option("--open", help="Open the page in the browser.")]
Depth = Annotated[
    int, typer.Option("--depth", min=0, max=3, help="The level of detail that is shown first, as for `visualize`.")
]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("watch")(watch)


def watch(
    specs: Watched,
    overlays: Overlay = None,
    port: Port = 0,
    open_: Open = False,
    depth: Depth = 1,
    set_: options.Set = None,
    input_: options.Input = None,
    allow_extends_outside: options.AllowExtendsOutside = False,
    allow_imports: options.AllowImports = False,
    imports: options.Import = None,
    form: options.FormatOption = options.Format.text,
) -> None:
    """Show specs on a page that draws them again on every save.

    The page is served on this machine alone, at an address with a random token. Ctrl-C ends it. With `--format json`
    every line of output is a JSON document: the address, then one for each picture.
    """
    from importlib.util import find_spec

    from graphmodel.cli import console
    from graphmodel.diagnostics import fail
    from graphmodel.watching import Settings, Watch

    is_json = form is options.Format.json
    shapes = options.shapes(input_) or None
    with console.findings(form.value):
        if find_spec("pygraphviz") is None:
            raise fail("GM530", "pygraphviz is not installed", help="pip install 'graphmodel[visualize]'")
    options.import_modules(imports)
    settings = Settings(tuple(overlays or ()), tuple(set_ or ()), shapes, allow_extends_outside, allow_imports, depth)
    try:
        page = Watch(specs, settings, port=port, report=_report_json if is_json else _report)
    except OSError as error:
        raise typer.BadParameter(f"port {port} cannot be used: {error.strerror}", param_hint="--port") from None
    if is_json:
        _print_line({"event": "serving", "url": page.url})
    else:
        typer.echo(f"watching {' and '.join(specs)} on {page.url}\nCtrl-C ends it")
    if open_:
        import webbrowser

        webbrowser.open(page.url)
    try:
        page.run()
    except KeyboardInterrupt:
        typer.echo("", err=True)


def _report(shown: Shown) -> None:
    import time

    from graphmodel.diagnostics import printable

    if not shown.complete:  # the same again will follow with all its numbers
        return
    counts = [sum(d["severity"] == severity for d in shown.diagnostics) for severity in ("error", "warning", "note")]
    named = zip(counts, ("error", "warning", "note"), strict=True)
    found = ", ".join(f"{n} {name}{'s' if n > 1 else ''}" for n, name in named if n)
    done = "drawn" if shown.state == "valid" else "not drawn"
    what = f"{done} in {shown.seconds:.1f} s{f'; {found}' if found else ''}"
    typer.echo(f"{time.strftime('%H:%M:%S')} {printable(shown.name)}: {what}")
    for diagnostic in shown.diagnostics:
        typer.echo(f"\n{diagnostic['text']}", err=True)


def _report_json(shown: Shown) -> None:
    found = [{k: v for k, v in d.items() if k not in ("text", "link")} for d in shown.diagnostics]
    seconds = round(shown.seconds, 3)
    event = {"event": "drawn", "spec": shown.name, "ok": shown.state == "valid", "complete": shown.complete}
    _print_line({**event, "seconds": seconds, "diagnostics": found})


def _print_line(data: dict[str, Any]) -> None:
    import json

    typer.echo(json.dumps(data))
