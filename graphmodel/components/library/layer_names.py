"""The layers of torch, torchvision and timm that a spec can name: `nn.Module` classes, and no other code."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping
from functools import cache

from torch import nn

from graphmodel.diagnostics import choices_help

_SEGMENTATION = "torchvision.models.segmentation"
PACKAGES: Mapping[str, tuple[str, ...]] = {
    "torch.nn": ("torch.nn",),
    "torchvision.ops": ("torchvision.ops", "torchvision.ops.feature_pyramid_network", "torchvision.ops.misc"),
    _SEGMENTATION: tuple(f"{_SEGMENTATION}.{name}" for name in ("fcn", "deeplabv3", "lraspp")),
    "timm.layers": ("timm.layers",),
}
"""The packages whose layers may be heads, and the modules where their classes are looked up."""

_NAME = re.compile(r"[A-Za-z]\w*")


class InvalidLayer(Exception):
    """A name that is not a layer which can be a head.

    Attributes:
        help: what to write instead.
    """

    def __init__(self, message: str, help: str = "") -> None:
        super().__init__(message)
        self.help = help


def layer_class(name: str) -> type[nn.Module]:
    """The class of that name.

    Raises:
        InvalidLayer: if the package is not allowed, or has no such layer.
    """
    package, _, wanted = name.partition(":")
    if package not in PACKAGES:
        help = f"{choices_help(package, list(PACKAGES), 'packages')}; a head of your own is registered by its module: "
        raise InvalidLayer(f"`{package}` is not a package whose layers can be heads", f"{help}`--import MODULE`")
    found = classes(package)
    if wanted in found:
        return found[wanted]
    value = next(
        (v for m in PACKAGES[package] if (v := vars(importlib.import_module(m)).get(wanted)) is not None), None
    )
    own = next((known for known, layer in found.items() if layer is value), None)
    if own is not None:
        raise InvalidLayer(f"`{name}` is another name of `{own}`", f"write `{package}:{own}`")
    if value is not None and _NAME.fullmatch(wanted):
        raise InvalidLayer(f"`{name}` is not an `nn.Module` class", choices_help(wanted, list(found), "layers"))
    raise InvalidLayer(f"`{package}` has no layer `{wanted}`", choices_help(wanted, list(found), "layers"))


@cache
def classes(package: str) -> dict[str, type[nn.Module]]:
    """The `nn.Module` classes of a package by name."""
    found: dict[str, type[nn.Module]] = {}
    for module in PACKAGES[package]:
        for name, value in vars(importlib.import_module(module)).items():
            own = inspect.isclass(value) and value.__module__.startswith(f"{package}.") and not name.startswith("_")
            if own and issubclass(value, nn.Module) and name == value.__name__:
                found.setdefault(name, value)
    return dict(sorted(found.items()))
