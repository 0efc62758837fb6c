"""The models of timm and torchvision, read from their sources without importing them, which takes seconds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

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
