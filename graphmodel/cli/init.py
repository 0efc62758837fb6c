"""`graphmodel init`: writes a first spec from three answers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from graphmodel.cli import options

T = TypeVar("T")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("init")(init)


def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")] = Path("model.yaml"),
    trunk: Annotated[
        str | None, typer.Option("--trunk", help="The trunk, such as resnet or timm:vit_small_patch16_224.")
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", min=1, max=100_000, help="Height and width of an image.")
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option("--classes", min=0, max=10_000_000, help="Classes of a linear classifier; 0 for features alone."),
    ] = None,
    form: options.FormatOption = options.Format.text,
) -> None:
    """Write a first spec: asks for the trunk, the image size and the classes.

    Nothing is asked for that an option answers. The spec is checked before it is written, and a file that exists is
    never replaced.
    """
    from graphmodel.cli import console

    with console.findings(form.value, usage=True):
        from graphmodel.writing import refuse_existing, write_new_file

        refuse_existing(file)
        missing = [name for name, value in (("trunk", trunk), ("size", size), ("classes", classes)) if value is None]
        if missing and not _is_terminal():
            flags = ", ".join(f"--{name}" for name in missing)
            raise typer.BadParameter(f"the answers cannot be asked for without a terminal: pass {flags}")
        trunk = _trunk(trunk) if trunk is not None else _asked("Trunk", "resnet", _trunk)
        size = size if size is not None else _asked("Image size", "224", _number(1, 100_000))
        if classes is None:
            classes = _asked("Classes (0 for features alone)", "10", _number(0, 10_000_000))
        text = _checked(file, trunk, size, classes)
        write_new_file(file, text)
    if form is options.Format.json:
        console.print_json({"files": [str(file)]})
        return
    console.print_text(f"wrote {file}; next: graphmodel compile {file}")


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _asked(question: str, default: str, read: Callable[[str], T]) -> T:
    """An answer from the terminal; one that is not valid is asked for again."""
    while True:
        answer = typer.prompt(question, default=default, err=True)
        try:
            return read(str(answer).strip())
        except typer.BadParameter as error:
            typer.echo(f"  {error.message}", err=True)


def _number(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or len(text) > 10 or not low <= int(text) <= high:
            raise typer.BadParameter(f"`{text}` is not a whole number from {low} to {high}")
        return int(text)

    return read


def _trunk(name: str) -> str:
    """The name of a trunk.

    Raises:
        typer.BadParameter: if there is no such trunk.
    """
    from graphmodel.build.bind_trunks import unknown_help
    from graphmodel.components.library.model_names import library_models
    from graphmodel.stored import stored

    catalogue = stored("catalogue.json") or {"trunks": []}
    families = {n for row in catalogue["trunks"] for n in (row["name"], *row["aliases"]) if not row["library"]}
    library, colon, model = name.partition(":")
    if name in families or (colon and model.partition(":")[0] in library_models().get(library, ())):
        return name
    from graphmodel.components.registry import find_trunk

    family = find_trunk(name)
    if family is None or (family.variants() is not None and not colon):
        raise typer.BadParameter(f"no trunk `{name}`; {unknown_help(name)}")
    return name


def _checked(file: Path, trunk: str, size: int, classes: int) -> str:
    """The text of a spec that compiles.

    Raises:
        CompileError: what is wrong with it.
    """
    from graphmodel.api import build_graph
    from graphmodel.diagnostics import CompileError
    from graphmodel.dialects.loading import load_spec
    from graphmodel.spec.document import read_text

    def built(parameters: dict[str, Any]) -> str:
        text = spec_text(file.stem, trunk, parameters, size, classes)
        build_graph(load_spec(read_text(text, str(file)).data))
        return text

    try:
        return built({})
    except CompileError:
        try:  # many transformers of timm are made for one size, unless they are told another
            return built({"img_size": size})
        except CompileError:
            return built({})


def spec_text(name: str, trunk: str, parameters: dict[str, Any], size: int, classes: int) -> str:
    """The spec of a trunk with a linear classifier, or with no head.

    Args:
        name: of the model.
        trunk: a registered name, or a library's model.
        parameters: of the trunk.
        size: height and width of the images.
        classes: of the classifier; 0 makes none.
    """
    from graphmodel.dialects.native.dump import to_yaml

    spec: dict[str, Any] = {
        "graphmodel": 1,
        "name": name or "model",
        "inputs": {"images": {"shape": [3, size, size]}},
        "trunk": {"name": trunk, **parameters},
    }
    comments: dict[tuple[str | int, ...], str] = {("trunk", "name"): "`freeze: true` beside it trains the heads alone"}
    if classes:
        spec["heads"] = {"label": {"mlp": {"dims": ["auto", classes]}}}
        comments["heads", "label"] = "auto: the width of the trunk's feature"
    else:
        comments["trunk", "name"] = "without heads, the output is its default feature"
    return to_yaml(spec, lambda path: comments.get(path, ""))
