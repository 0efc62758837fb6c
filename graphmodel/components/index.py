"""Which file registers which built-in head or trunk, read from the sources without importing them.

Importing one file costs what its library costs (timm alone takes two seconds), so a spec imports only what it names.
The decorators are the table: a new head or trunk is a new file, and nothing else lists it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Literal

from graphmodel.diagnostics import choices_help

Kind = Literal["head", "trunk"]

FOLDERS = ("heads", "trunks", "library")
_DECORATOR = re.compile(r"^@register_(head|trunk)\(([^()]*)\)", re.MULTILINE)
_NAME = re.compile(r'(?<!=)"([^"]+)"')


@cache
def builtin(kind: Kind) -> dict[str, str]:
    """The names of built-in heads or trunks, and the module whose import registers each.

        >>> builtin("head")["dino_head_fsdp"]
        'graphmodel.components.heads.dino_head'

    Decorators must spell their names out: `@register_trunk("regnet", "regnet_v2")`.
    """
    names: dict[str, str] = {}
    for folder in FOLDERS:
        for file in resources.files(f"graphmodel.components.{folder}").iterdir():
            if not file.name.endswith(".py") or file.name.startswith("_"):
                continue
            module = f"graphmodel.components.{folder}.{file.name.removesuffix('.py')}"
            for found, arguments in _DECORATOR.findall(file.read_text("utf-8")):
                if found == kind:
                    names |= dict.fromkeys(_NAME.findall(arguments), module)
    return names


def unknown_head_text(name: str, names: Sequence[str]) -> tuple[str, str]:
    """What is wrong with a name that no head has, and how to fix it; `names` are those of all heads."""
    known = choices_help(name, names, "heads")
    return f"unknown head `{name}`", f"{known}; a head of your own is registered by its module: `--import MODULE`"
