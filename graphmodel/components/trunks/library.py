"""What the trunks of timm and torchvision have in common: open parameters, one naming of features, input sizes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict
from torch import nn

from graphmodel.components.base import Feature, TrunkFamily, TrunkRefusal
from graphmodel.components.construct import build_on_meta
from graphmodel.components.library_features import default_of, features_of, naming_of
from graphmodel.diagnostics import choices_help

UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")


class LibraryParams(BaseModel):
    """Whatever keyword arguments the library's constructor takes."""

    model_config = ConfigDict(extra="allow", frozen=True)

    def keywords(self) -> dict[str, Any]:
        """The arguments as written."""
        return dict(self.model_extra or {})


class LibraryTrunk(TrunkFamily[LibraryParams]):
    """A model of a library by name; subclasses say how it is made."""

    Params = LibraryParams
    takes_channels = False
    """Whether the library builds its models for any number of input channels (`in_chans`)."""

    def __init__(self, name: str, variant: str = "") -> None:
        super().__init__(name)
        self.variant = variant

    def make(self, keywords: dict[str, Any], input_type: str) -> nn.Module:
        """The library's own constructor."""
        raise NotImplementedError

    def build(self, params: LibraryParams, input_type: str) -> nn.Module:
        return self.constructed(lambda: self.make(params.keywords(), input_type), params)

    def constructed(self, make: Callable[[], nn.Module], params: LibraryParams) -> nn.Module:
        """What `make` returns; an unknown argument becomes a refusal that names the near ones."""
        try:
            return make()
        except TypeError as error:
            unknown = UNEXPECTED.search(str(error))
            if unknown is None or unknown[1] not in params.keywords():
                raise
            help = choices_help(unknown[1], list(self.keywords()), "the library takes")
            raise TrunkRefusal(f"`{self.name}` takes no `{unknown[1]}`", (unknown[1],), help) from error

    def keywords(self) -> dict[str, Any]:
        """The arguments that the library's model takes, with the defaults of its class."""
        return keywords_of(type(build_on_meta(lambda: self.make({}, "rgb"))))

    def features(self, params: LibraryParams, trunk: nn.Module) -> Sequence[Feature]:
        return features_of(trunk)

    def default(self, params: LibraryParams, trunk: nn.Module) -> str:
        return default_of(trunk)

    def normed(self, feature: Feature, params: LibraryParams, trunk: nn.Module, norm: bool) -> Feature | None:
        naming = naming_of(trunk)
        return naming.normed(feature, trunk, norm) if naming is not None else None

    def input_help(self, params: LibraryParams, shape: Sequence[int], trunk: nn.Module) -> str:
        names = keywords_of(type(trunk))
        size = self.built_for(params, trunk)
        if len(shape) != 3 or size is None or tuple(shape) == tuple(size):
            return ""
        channels, height, width = shape
        helps = []
        if channels != size[0]:
            helps.append(
                f"it takes {size[0]} channels" + (f"; write `in_chans: {channels}`" if self.takes_channels else "")
            )
        if (height, width) != tuple(size[1:]):
            pair = f"[{height}, {width}]"
            single = str(height) if height == width else pair
            values = {"img_size": single, "image_size": single, "input_size": pair}
            options = [f"`{n}: {value}` for this size alone" for n, value in values.items() if n in names]
            options += ["`dynamic_img_size: true` for any size"] if "dynamic_img_size" in names else []
            helps += [f"it is built for {size[1]}×{size[2]} pixels; write {' or '.join(options)}"] if options else []
        return "; ".join(helps)

    def built_for(self, params: LibraryParams, trunk: Any) -> Sequence[int] | None:
        """The input shape that the model is built for, where it is known."""
        return None


def keywords_of(model: type[Any]) -> dict[str, Any]:
    """The keyword arguments of a class with their defaults, those that it passes on to its bases included."""
    found: dict[str, Any] = {}
    for owner in model.__mro__:
        if owner is nn.Module or "__init__" not in vars(owner):
            continue
        parameters = list(inspect.signature(vars(owner)["__init__"]).parameters.values())[1:]
        for parameter in parameters:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                default = None if parameter.default is parameter.empty else parameter.default
                found.setdefault(parameter.name, default)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found
