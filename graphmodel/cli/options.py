"""Arguments and options that several commands share, groups of them, and the reading of `--input`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from graphmodel.devices import problem_of_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from graphmodel.dialects import InputShapes
    from graphmodel.spec.model import ModelSpec


class Format(str, Enum):
    """The output format of data."""

    text = "text"
    json = "json"


class FindingsFormat(str, Enum):
    """The output format of data and diagnostics."""

    text = "text"
    json = "json"
    github = "github"
    sarif = "sarif"


class Returns(str, Enum):
    """The form of the module's result."""

    dict = "dict"
    tuple = "tuple"
    list = "list"
    tensor = "tensor"


Specs = Annotated[
    list[str],
    typer.Argument(metavar="SPEC", help="A spec file; further files are overlays, later ones take precedence."),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="PATH=VALUE", help="Change a value of the spec, such as trunk.depth=101. Repeatable."
    ),
]
Input = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME=SHAPE",
        help="The shape of an input, such as images=3x224x224; for a list of views "
        "crops=2:3x224x224,6:3x96x96 (two of one shape, six of the other). Repeatable.",
    ),
]
Outputs = Annotated[
    str | None,
    typer.Option(
        "--outputs", metavar="NAMES", help="The outputs to keep, separated by commas; the spec's own if left out."
    ),
]
ResultForm = Annotated[
    Returns | None, typer.Option("--returns", help="The form of the module's result; the spec's own if left out.")
]
AllowExtendsOutside = Annotated[
    bool,
    typer.Option("--allow-extends-outside", help="Let `extends` name files outside the directory of the spec."),
]
AllowImports = Annotated[
    bool, typer.Option("--allow-imports", help="Let the spec name Python code to import (`trunk: {module: …}`).")
]
Import = Annotated[
    list[str] | None,
    typer.Option(
        "--import", metavar="MODULE", help="Import a Python module that registers heads or trunks. Repeatable."
    ),
]
FormatOption = Annotated[Format, typer.Option("--format", help="The output format.")]
FindingsOption = Annotated[
    FindingsFormat, typer.Option("--format", help="The output format; github and sarif print only diagnostics.")
]


@dataclass(frozen=True)
class SpecFiles:
    """The spec files of a command, and the options that change their contents."""

    specs: Specs
    set_: Set = None
    input_: Input = None
    allow_extends_outside: AllowExtendsOutside = False

    def load(self) -> ModelSpec:
        """The spec of the command line, without mistakes that a reader finds; see `load`."""
        spec = load(self.specs, self.set_, self.input_, allow_extends_outside=self.allow_extends_outside)
        spec.errors.raise_errors()
        return spec


@dataclass(frozen=True)
class SpecOptions(SpecFiles):
    """A spec that is compiled: its files, and the Python code that it may use."""

    allow_imports: AllowImports = False
    imports: Import = None

    def load_to_build(self) -> ModelSpec:
        """The spec of the command line; the build raises its mistakes with those that it finds itself."""
        return load(self.specs, self.set_, self.input_, allow_extends_outside=self.allow_extends_outside)

    def import_modules(self) -> None:
        """Imports the modules of `--import`; after `load`, so that a malformed file is reported at once."""
        import_modules(self.imports)


@dataclass(frozen=True)
class ResultOptions:
    """What the module returns."""

    outputs: Outputs = None
    returns: ResultForm = None

    def names(self) -> list[str] | None:
        """`--outputs` as the API takes it.

        Raises:
            typer.BadParameter: if it names a form of the result, which is `--returns`.
        """
        if self.outputs is None:
            return None
        names = [name.strip() for name in self.outputs.split(",") if name.strip()]
        if len(names) == 1 and names[0] in Returns.__members__:
            raise typer.BadParameter(
                f"`--outputs` takes names of outputs; for the form of the result write --returns {names[0]}"
            )
        return names

    def form(self) -> Literal["dict", "tuple", "list", "tensor"] | None:
        """`--returns` as the API takes it."""
        return None if self.returns is None else self.returns.value


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """A command that Typer can register, made from one that takes groups of options.

    A parameter whose type is a dataclass, such as `spec: SpecOptions`, becomes one parameter for each field.

    Args:
        command: a function that takes options and dataclasses of options.

    Returns:
        The same command with a flat list of options, required ones first.
    """
    hints = {name: _as_written(hint) for name, hint in get_type_hints(command, include_extras=True).items()}
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    flat: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        group = groups.get(parameter.name)
        if group is None:
            flat.append(parameter.replace(annotation=hints[parameter.name], kind=parameter.KEYWORD_ONLY))
            continue
        of_group = get_type_hints(group, include_extras=True)
        for option in fields(group):
            default = parameter.empty if option.default is MISSING else option.default
            annotation = of_group[option.name]
            flat.append(inspect.Parameter(option.name, parameter.KEYWORD_ONLY, default=default, annotation=annotation))

    @wraps(command)
    def run(**values: Any) -> None:
        made = {n: g(**{f.name: values.pop(f.name) for f in fields(g)}) for n, g in groups.items()}
        command(**made, **values)

    flat.sort(key=lambda p: p.default is not p.empty)
    run.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in flat}
    return run


def _as_written(hint: Any) -> Any:
    """An annotation as in the source: Python 3.10 wraps that of a parameter whose default is None in `Optional`."""
    inside = get_args(hint) if get_origin(hint) is Union else ()
    return next((part for part in inside if get_origin(part) is Annotated), hint)


def load(
    specs: Sequence[str],
    overrides: Sequence[str] | None,
    inputs: Sequence[str] | None,
    *,
    allow_extends_outside: bool = False,
) -> ModelSpec:
    """The spec of the command line with its mistakes in `errors`; imports no torch.

    Raises:
        CompileError: if the files or the overrides cannot be read at all.
        typer.BadParameter: if `--input` cannot be read.
    """
    given = shapes(inputs)
    from graphmodel.dialects.loading import read_spec

    return read_spec(specs, overrides or (), inputs=given or None, allow_extends_outside=allow_extends_outside)


def shapes(items: Sequence[str] | None) -> InputShapes:
    """Parses `--input` items.

    `NAME=3x224x224` is one tensor. A comma or a colon makes a list of views: `NAME=3x224x224,3x96x96`, or with counts
    `NAME=2:3x224x224,6:3x96x96`.

    Raises:
        typer.BadParameter: if an item has another form.
    """
    found: dict[str, tuple[int, ...] | list[tuple[int, ...]]] = {}
    for item in items or ():
        name, equals, text = item.partition("=")
        if not equals or not name or not text:
            raise typer.BadParameter(f"`{item}` is not of the form NAME=SHAPE, such as images=3x224x224")
        if name in found:
            raise typer.BadParameter(f"the input `{name}` is given twice")
        if "," not in text and ":" not in text:
            found[name] = _shape(text, item)
            continue
        sizes = text.split(",")
        if len(sizes) > 2 and all(size.strip().isdecimal() for size in sizes):
            raise typer.BadParameter(
                f"`{item}` has commas between sizes; write {name}={'x'.join(size.strip() for size in sizes)}"
            )
        views: list[tuple[int, ...]] = []
        for part in text.split(","):
            count, colon, shape = part.rpartition(":")
            if colon and not (count.isdecimal() and len(count) <= 4 and 0 < int(count) <= 1000):
                raise typer.BadParameter(f"`{count}` in `{item}` is not a valid number of views; write COUNT:SHAPE")
            views += [_shape(shape, item)] * (int(count) if colon else 1)
        found[name] = views
    return found


def _shape(text: str, item: str) -> tuple[int, ...]:
    parts = text.lower().replace("×", "x").split("x")
    if not all(p.isdecimal() and len(p) <= 10 and 0 < int(p) < 2**31 for p in parts):
        raise typer.BadParameter(
            f"`{text}` in `{item}` is not a valid shape; write sizes separated by x, such as 3x224x224"
        )
    return tuple(int(p) for p in parts)


def import_modules(names: Sequence[str] | None) -> None:
    """Imports modules that register heads or trunks; the current directory is searched too, as by `python -m`.

    Raises:
        typer.BadParameter: if one cannot be imported.
    """
    import sys

    if names and "" not in sys.path:
        sys.path.insert(0, "")
    for name in names or ():
        try:
            import_module(name)
        except Exception as error:  # the user's own code may raise anything
            raise typer.BadParameter(f"cannot import `{name}`: {type(error).__name__}: {error}") from error


def check_device(name: str) -> None:
    """Refuses a device that does not exist, before anything is read or built.

    Raises:
        typer.BadParameter: it is not a valid device, or the machine has none.
    """
    if problem := problem_of_device(name):
        raise typer.BadParameter(problem, param_hint="--device")
