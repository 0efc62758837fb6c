"""`graphmodel lsp`: the language server for editors."""

from __future__ import annotations

import typer

from graphmodel.cli import options


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("lsp")(lsp)


def lsp(imports: options.Import = None) -> None:
    """Serve an editor over standard input and output (Language Server Protocol)."""
    from graphmodel.lsp.server import serve

    serve(imports or ())
