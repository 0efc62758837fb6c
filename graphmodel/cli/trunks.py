"""`graphmodel trunks`: the trunks that a spec may name, and one trunk's features and parameters."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphmodel.cli import options
from graphmodel.components.library.model_names import library_models
from graphmodel.stored import stored

if TYPE_CHECKING:
    from graphmodel.cli.catalogue import TrunkPage


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("trunks")(trunks)


def trunks(
    name: Annotated[
        str | None,
        typer.Argument(help="A trunk, such as resnet or timm:convnext_tiny; a pattern such as 'timm:vit_*' lists."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PARAM=VALUE", help="A parameter of the trunk, such as depth=18. Repeatable."),
    ] = None,
    input_: Annotated[
        str | None,
        typer.Option("--input", metavar="SHAPE", help="The input, such as 3x224x224; the trunk's own if out."),
    ] = None,
    imports: options.Import = None,
    form: options.FormatOption = options.Format.text,
) -> None:
    """List trunks, or show one's features and parameters."""
    from graphmodel.cli import console

    with console.findings(form.value, usage=True):
        options.import_modules(imports)
        if name is None:
            _print_list(form, _families())
        elif name.endswith(":") or any(c in name for c in "*?["):
            _print_names(form, name)
        else:
            _print_page(name, set_ or (), input_, form)


def _families() -> list[dict[str, Any]]:
    """All families; from the stored catalogue if it has all of them, since importing torch takes seconds."""
    found = stored("catalogue.json")
    if found is not None:
        rows = found["trunks"]
    else:
        from graphmodel.cli.catalogue import trunk_rows

        rows = trunk_rows()
    listed = {name: len(models) for name, models in library_models().items()}
    return [{**{k: v for k, v in row.items() if k != "library"}, "models": listed.get(row["name"])} for row in rows]


def _print_list(form: options.Format, families: list[dict[str, Any]]) -> None:
    from graphmodel.cli import console

    if form is options.Format.json:
        console.print_json(families)
        return
    console.print_table(
        ("name", "also", "what", "from"),
        [
            (
                f["name"] + (":NAME" if f["models"] is not None else ""),
                ", ".join(f["aliases"]),
                f["summary"] + (f" ({f['models']} models)" if f["models"] is not None else ""),
                f["source"],
            )
            for f in families
        ],
    )
    typer.echo("\n`graphmodel trunks NAME` shows features and parameters.")


def _print_names(form: options.Format, pattern: str) -> None:
    from graphmodel.cli import console

    library, colon, _ = pattern.partition(":")
    models = library_models().get(library) if colon else None
    if models is not None:
        names = [f"{library}:{model}" for model in models]
    else:
        names = sorted(n for row in _families() for n in (row["name"], *row["aliases"]))
    found = names if pattern == f"{library}:" else [n for n in names if fnmatchcase(n, pattern)]
    if form is options.Format.json:
        console.print_json(found)
    else:
        typer.echo("\n".join(found))


def _print_page(name: str, items: Any, size: str | None, form: options.Format) -> None:
    from dataclasses import asdict

    from graphmodel.build.bind_trunks import unknown_help
    from graphmodel.cli import console
    from graphmodel.cli.catalogue import trunk_page
    from graphmodel.cli.tables import parameter_table
    from graphmodel.components.registry import find_trunk
    from graphmodel.diagnostics import fail
    from graphmodel.spec.merge import apply_overrides, from_mapping

    shape = options.shapes([f"input={size}"])["input"] if size else None
    family = find_trunk(name)
    if family is None or (family.variants() is not None and ":" not in name):
        message = f"unknown trunk `{name}`" if family is None else f"`{name}` needs a model: `{name}:NAME`"
        raise fail("GM205", message, help=unknown_help(name if family is None else f"{name}:"))
    given = apply_overrides(from_mapping({}), items).data
    page = trunk_page(name, family, given, shape)  # type: ignore[arg-type]
    if form is options.Format.json:
        console.print_json(page.to_dict())
        return
    typer.echo(f"{name}: {page.summary}" + (f" [{page.source}]" if page.source else ""))
    if page.needed:
        typer.echo(f"{page.needed}; add --set PARAM=VALUE to see its features\n")
    else:
        _print_features(page)
    rows = [asdict(p) for p in page.options]
    parameter_table(
        [{**row, "default": given[row["name"]], "required": False} if row["name"] in given else row for row in rows]
    )


def _print_features(page: TrunkPage) -> None:
    from graphmodel.cli import console
    from graphmodel.profiling.units import count

    size = "×".join(map(str, page.input))
    typer.echo(f"{count(page.parameters)} parameters, its own classifier included; its features of {size}:\n")
    console.print_table(
        ("feature", "also", "shape", "layout", "channels", "stride", "module", ""),
        [
            (
                f.name,
                ", ".join(f.aliases),
                f.shape,
                f.layout,
                str(f.channels or ""),
                str(f.stride or ""),
                f.module,
                ", ".join(("default",) * f.default + f.disagrees),
            )
            for f in page.features
        ],
        right=("channels", "stride"),
    )
    typer.echo("any dotted module path is a feature too\n")
