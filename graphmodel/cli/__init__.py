"""The command line. Each command is one file here with a `register(app)`; heavy imports happen only when needed."""

from __future__ import annotations

import errno
import gc
import io
import os
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

# Pydantic looks for plugins in every installed package before the first model; none of ours has one.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

COMMANDS = (
    "init",
    "examples",
    "compile",
    "check",
    "show",
    "export",
    "extract",
    "probe",
    "convert",
    "explain",
    "profile",
    "visualize",
    "watch",
    "trunks",
    "heads",
    "schema",
    "lsp",
)
"""Files of this package in the order of `--help`; a new command is one file and one entry."""


class Group(TyperGroup):
    """A group that answers an unknown command with the list of commands, and whose help shortens nothing."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        found = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        rows = [(name, " ".join((c.help or "").split("\n\n")[0].split())) for name, c in found.items() if c is not None]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")  # of Typer's own choices
            raise

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            from graphmodel.diagnostics import choices_help

            ctx.fail(f"no such command `{args[0]}`; {choices_help(args[0], self.list_commands(ctx), 'commands')}")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="graphmodel",
    cls=Group,
    help="Compile a YAML description of a vision model into one torch.fx.GraphModule.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # Rich takes 50 ms to import; `--help` does without
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from graphmodel import __version__

        typer.echo(f"graphmodel {__version__}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Compile a YAML description of a vision model into one torch.fx.GraphModule."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help(), err=True)
        raise typer.Exit(2)


for _name in COMMANDS:
    import_module(f"graphmodel.cli.{_name}").register(app)


def main() -> None:
    """The entry point `graphmodel`."""
    # Importing torch allocates a million objects that live until the end. Looking for garbage among them again and
    # again takes a fifth of a command's time, so it is done less often.
    gc.set_threshold(200_000, 20, 20)
    from graphmodel.cli.loading import announce_libraries

    announce_libraries()
    sys.stdout = sys.stdout or io.StringIO()  # closed by the shell: `>&-`
    sys.stderr = sys.stderr or io.StringIO()
    try:
        try:
            app(prog_name="graphmodel")
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO) or error.filename is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left in the buffer is not written again at exit
        typer.echo(f"error: cannot write the output: {error.strerror}", err=True)
        raise SystemExit(1) from None
