"""The models of timm and torchvision, read from their sources without importing them, which takes seconds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from graphmodel.diagnostics import choices_help, did_you_mean, nearest

_TIMM = re.compile(r"^@register_model\s*\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)
_TORCHVISION = re.compile(r'^@register_model\((?:name="(\w+)")?\)(?:.*\n)+?def (\w+)\(', re.MULTILINE)


@cache
def timm_models() -> tuple[str, ...]:
    """What `timm.list_models()` lists, in its order; empty if timm is not installed."""
    return tuple(sorted((name for text in _sources("timm") for name in _TIMM.findall(text)), key=_natural))


@cache
def torchvision_models() -> tuple[str, ...]:
    """What `torchvision.models.list_models(module=torchvision.models)` lists: those in the files beside it, sorted."""
    return tuple(
        sorted(named or name for text in _sources("torchvision") for named, name in _TORCHVISION.findall(text))
    )


def _natural(name: str) -> list[int | str]:
    """Numbers count as numbers: `resnet18` comes before `resnet101`."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def library_models() -> dict[str, tuple[str, ...]]:
    """The models of each library, by the name before the colon."""
    return {"timm": timm_models(), "torchvision": torchvision_models()}


def _sources(package: str) -> Iterator[str]:
    """The text of each file in a package's `models`."""
    found = find_spec(package)
    for folder in found.submodule_search_locations or () if found is not None else ():
        for file in sorted((Path(folder) / "models").glob("*.py")):
            yield file.read_text("utf-8")


def unknown_trunk_help(
    name: str, names: Callable[[], Sequence[str]], variants: Callable[[str], Sequence[str] | None]
) -> str:
    """What to write instead of the name of an unknown trunk.

    Args:
        name: the name.
        names: gives the names of all families.
        variants: gives the models of a family that is a whole library, None for any other family.
    """
    library, colon, variant = name.partition(":")
    if library == "name" and variant:  # `name:resnet` is text
        return f"write `name: {variant}`, with a space after the colon"
    found = variants(library) if colon else None
    if found is None and not colon:
        models = {f"{n}:{v}": v for n in ("timm", "torchvision") for v in variants(n) or ()}
        same = [full for full, model in models.items() if model == name.partition(".")[0]]
        if same:
            suffix = name[len(name.partition(".")[0]) :]
            return f"write {' or '.join(f'`{full}{suffix}`' for full in same)}"
        near = nearest(name, [*names(), *models.values()])
        full = next((f for f, model in models.items() if model == near), near)
        listed = "`graphmodel trunks` lists all names, `graphmodel trunks timm:` those of timm's models"
        return f"did you mean `{full}`? {listed}" if near is not None else listed
    if found is None:
        return choices_help(name, names(), "`graphmodel trunks` lists them all; some are")
    full_names = [f"{library}:{v}" for v in found]
    near = did_you_mean(name, full_names) if variant else ""
    return " ".join(part for part in (near, f"`graphmodel trunks {library}:` lists all {len(full_names)}") if part)
