"""What a trunk family is to the compiler: how to build a trunk and what its features are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import torch
from pydantic import BaseModel
from torch import nn

from graphmodel.components.construct import load_file
from graphmodel.components.features import Feature
from graphmodel.components.params import Params

ParamsT = TypeVar("ParamsT", bound=BaseModel)


class TrunkParams(Params):
    """Parameters of a trunk family. Subclasses add fields."""


class InvalidTrunkParams(Exception):
    """Parameters or weights that a trunk family does not accept.

    Attributes:
        message: what is wrong.
        path: the parameter, relative to the trunk's parameters.
        help: how to fix it.
        code: the diagnostic's code.
    """

    def __init__(self, message: str, path: Sequence[str | int] = (), help: str = "", code: str = "GM201") -> None:
        super().__init__(message)
        self.message, self.path, self.help, self.code = message, tuple(path), help, code


RGB, BGR, LAB = "rgb", "bgr", "lab"


class TrunkFamily(Generic[ParamsT]):
    """A family of trunks: how to build one and what its features are called.

    Subclass it, set `Params`, and decorate it with `@register_trunk(name)`.

    Example:
        >>> import graphmodel
        >>> from pydantic import BaseModel
        >>> from torch import nn
        >>> class Small(BaseModel):
        ...     width: int = 8
        >>> @graphmodel.register_trunk("two_layers")
        ... class TwoLayers(graphmodel.TrunkFamily[Small]):
        ...     Params = Small
        ...     def build(self, params, input_type):
        ...         return nn.Sequential(nn.Conv2d(3, params.width, 3), nn.ReLU())
        ...     def features(self, params, trunk):
        ...         return [graphmodel.Feature("conv", ("0",)), graphmodel.Feature("relu", ("1",))]
        >>> spec = {"inputs": {"images": [3, 8, 8]}, "trunk": {"name": "two_layers", "width": 4}}
        >>> list(graphmodel.compile(spec, seed=0).model_graph.outputs)
        ['features']
    """

    Params: ClassVar[type[BaseModel]]
    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""

    def __init__(self, name: str) -> None:
        self.name = name

    def build(self, params: ParamsT, input_type: str) -> nn.Module:
        """The trunk, with the library's own initialisation.

        Args:
            params: validated parameters.
            input_type: `rgb`, `bgr` or `lab`; a `lab` trunk gets one channel.
        """
        raise NotImplementedError

    def input_types(self) -> tuple[str, ...]:
        """The values of `input_type` that the trunk accepts; the compiler refuses any other before `build`."""
        return RGB, BGR, LAB

    def check_input_type(self, input_type: str) -> None:
        """Refuses an `input_type` that the trunk does not accept.

        Raises:
            InvalidTrunkParams: names those that it accepts.
        """
        accepted = self.input_types()
        if input_type not in accepted:
            wants = "takes three channels" if RGB in accepted else "takes the luminance alone"
            help = f"write {' or '.join(f'`input_type: {kind}`' for kind in accepted)}"
            raise InvalidTrunkParams(
                f"`{self.name}` {wants}, not those of `input_type: {input_type}`", ("input_type",), help, "GM202"
            )

    def features(self, params: ParamsT, trunk: nn.Module) -> Sequence[Feature]:
        """The named features in the order of the trunk; the last is the default unless `default` says otherwise."""
        raise NotImplementedError

    def default(self, params: ParamsT, trunk: nn.Module) -> str:
        """The name of the feature that a head reads if the spec names none."""
        return self.features(params, trunk)[-1].name

    def find(self, name: str, params: ParamsT, trunk: nn.Module) -> Feature | None:
        """The feature of that name or alias; families with open-ended names (`concatCLS4`) extend this."""
        for feature in self.features(params, trunk):
            if name == feature.name or name in feature.aliases:
                return feature
        return None

    def check_input(self, params: ParamsT, shape: Sequence[int], trunk: nn.Module) -> str | None:
        """Why the trunk does not accept inputs of this per-sample shape, or None."""
        return None

    def input_help(
        self, params: ParamsT, shape: Sequence[int], trunk: nn.Module, shapes: Sequence[Sequence[int]] = ()
    ) -> str:
        """What to write so that the trunk accepts inputs of this per-sample shape, on which it failed.

        `shapes` are those of all inputs that go through the trunk.
        """
        return ""

    def for_resolutions(self, params: ParamsT, shapes: Sequence[Sequence[int]]) -> ParamsT:
        """The parameters with which the trunk accepts inputs of all these per-sample shapes."""
        return params

    def normed(self, feature: Feature, params: ParamsT, trunk: nn.Module, norm: bool) -> Feature | None:
        """The feature with or without the trunk's final norm, or None if the trunk has no such feature."""
        return None

    def pretrained(self, params: ParamsT, input_type: str, weights: bool | str, skeleton: bool = False) -> nn.Module:
        """The trunk with the library's published weights (True), those of a file in its layout, or its initial ones.

        Args:
            params: validated parameters.
            input_type: as for `build`.
            weights: what the spec's `pretrained` says.
            skeleton: build the same module and load nothing.

        Raises:
            InvalidTrunkParams: if no weights are published, or the trunk does not accept the input type.
        """
        self.check_input_type(input_type)
        if weights is True:
            raise InvalidTrunkParams(
                f"no weights are published for `{self.name}`",
                ("pretrained",),
                "name a file, or take the library's model: `torchvision:NAME` or `timm:NAME`",
            )
        module = self.build(params, input_type)
        return load_file(module, weights) if isinstance(weights, str) and not skeleton else module

    def is_published(self, weights: str) -> bool:
        """Whether the library publishes weights of that name for this trunk."""
        return False

    def bind(self, variant: str) -> TrunkFamily[Any] | None:
        """The trunk `FAMILY:VARIANT` of a family that is a whole library, or None if there is no such model."""
        return None

    def variants(self) -> list[str] | None:
        """The models of a family that is a whole library; None for any other family."""
        return None

    def keywords(self) -> dict[str, Any]:
        """Further arguments with their defaults, if the library and not `Params` says what there is."""
        return {}

    def from_vissl_key(self, key: str, params: ParamsT) -> str | None:
        """This library's key for a key of VISSL's trunk (without `trunk.` and `base_model.`), or None to drop it."""
        return key.removeprefix("_feature_blocks.")

    def to_vissl_key(self, key: str, params: ParamsT) -> str | None:
        """VISSL's key for one of this library's, the inverse of `from_vissl_key`; None if VISSL has no such tensor."""
        return f"_feature_blocks.{key}"

    def from_vissl_tensors(self, tensors: Mapping[str, torch.Tensor], params: ParamsT) -> dict[str, torch.Tensor]:
        """VISSL's tensors under VISSL's keys, in the shapes of this library."""
        return dict(tensors)

    def to_vissl_tensors(self, tensors: Mapping[str, torch.Tensor], params: ParamsT) -> dict[str, torch.Tensor]:
        """This library's tensors under VISSL's keys, in the shapes of VISSL."""
        return dict(tensors)
