"""What a trunk family and a head are to the compiler: features, parameters, tensor descriptions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict
from torch import nn
from typing_extensions import Self

from graphmodel.components.construct import load_file

Auto = Literal["auto"]
"""A width that is read off the feature."""
Layout = Literal["nchw", "nhwc", "nlc", "nc", "other"]


@dataclass(frozen=True)
class Batch:
    """A dimension that grows with the batch size N: `scale * N + offset`."""

    scale: Fraction
    offset: int = 0

    def __str__(self) -> str:
        top = "N" if self.scale.numerator == 1 else f"{self.scale.numerator}N"
        text = top if self.scale.denominator == 1 else f"{top}/{self.scale.denominator}"
        return text if not self.offset else f"{text}{self.offset:+d}"

    def at(self, batch: int) -> int:
        """The dimension's size for a batch of `batch` samples."""
        return int(self.scale * batch) + self.offset


Dim = int | Batch


@dataclass(frozen=True)
class TensorInfo:
    """The shape and dtype of a tensor in the graph; dimensions that grow with the batch are symbolic."""

    shape: tuple[Dim, ...]
    dtype: str = "float32"
    layout: str = field(default="", compare=False)
    """`nhwc` where the last dimension of four holds the channels, as far as is known."""

    def __str__(self) -> str:
        return "×".join(str(d) for d in self.shape) or "scalar"

    @property
    def sample(self) -> tuple[int, ...]:
        """The fixed dimensions behind the batch."""
        return tuple(d for d in self.shape[1:] if isinstance(d, int))


class HeadMismatch(Exception):
    """A head that cannot read the feature it is mapped to.

    Attributes:
        message: what the head wanted and what it got.
        path: the parameter that disagrees, relative to the head's parameters.
        help: how to fix it.
    """

    def __init__(self, message: str, path: Sequence[str | int] = (), help: str = "") -> None:
        super().__init__(message)
        self.message, self.path, self.help = message, tuple(path), help


class HeadParams(BaseModel):
    """Parameters of a head. Subclasses add fields; widths may be `auto`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    any_layout: ClassVar[bool] = False
    """Whether the head treats all dimensions alike, so that it does not matter where the channels are."""

    def infer(self, feature: TensorInfo) -> Self:
        """These parameters with every `auto` read off the feature.

        Raises:
            HeadMismatch: where a width that is written out disagrees with the feature.
        """
        return self

    def outputs(self) -> tuple[str, ...] | None:
        """Names of the tensors that the head returns (for some features only the first ones), or None for one."""
        return None

    def batch_multiple(self) -> int:
        """What the batch size must be a multiple of."""
        return 1


def width(feature: TensorInfo) -> int:
    """The number of features per sample (or token) that a linear layer would read.

    `(N, C)` and `(N, C, 1, 1)` give C, `(N, L, C)` gives C.

    Raises:
        HeadMismatch: for a feature map with spatial extent, channels first or last.
    """
    shape = feature.shape
    last = shape[-1]
    if len(shape) in (2, 3) and isinstance(last, int):
        return last
    if len(shape) > 2 and isinstance(shape[1], int) and all(d == 1 for d in shape[2:]):
        return shape[1]
    raise HeadMismatch(
        f"wants one vector per sample and the feature is {feature}",
        (),
        "pool it (`pool: {adaptive_avg_pool2d: 1}`), flatten it (`flatten: true`), or read a pooled feature",
    )


def match_width(written: int | Auto, actual: int, path: Sequence[str | int], feature: TensorInfo) -> int:
    """`written`, or `actual` where it is `auto`.

    Raises:
        HeadMismatch: where they disagree.
    """
    if written == "auto" or written == actual:
        return actual
    raise HeadMismatch(
        f"wants {written} features and the feature is {feature}, which has {actual}",
        path,
        f"write {actual} or `auto`",
    )


ParamsT = TypeVar("ParamsT", bound=BaseModel)


Compute = Callable[..., Any]
"""Makes a feature of the trunk and the values that it taps: `compute(trunk, *tapped)`."""
INPUT_OF = ":input"
"""A tap with this suffix means what the module is called with, not what it returns."""


class Running(Protocol):
    """What a runner may ask of whoever runs the trunk: the tracer, or a plain call."""

    def tapped(self, path: str) -> Any:
        """The output of the trunk's module at `path`, or with the suffix `:input` what it was called with."""

    def raw(self, value: Any) -> Any:
        """The trunk's own value behind a map that a library reshaped from it."""

    def same(self, value: Any, other: Any) -> bool:
        """Whether two values are made by the same calls of the same values."""

    def forget(self) -> None:
        """Starts over after a run that failed half-way."""


Runner = Callable[[nn.Module, Sequence["Feature"], Any, Mapping[str, Any], Running], dict[str, Any]]
"""Runs a trunk for features: `runner(trunk, features, x, extras, running)` returns each feature by its name."""


@dataclass(frozen=True)
class Feature:
    """A named value inside a trunk.

    Attributes:
        name: what specs call it.
        taps: dotted paths of the trunk's modules whose outputs it is made of (`path:input` for what the module is
            called with); none taps the trunk's own result.
        compute: makes the feature of the trunk and the tapped values, `compute(trunk, *tapped)`; it is traced like
            the trunk's own code, so it may call the trunk's modules. None means the one tapped value itself.
        aliases: further names.
        layout: how its dimensions are arranged; `other` leaves it to its shape.
        runner: how the trunk is run for it and for the features beside it; None calls the trunk.
    """

    name: str
    taps: tuple[str, ...] = ()
    compute: Compute | None = None
    aliases: tuple[str, ...] = ()
    layout: Layout = "nchw"
    runner: Runner | None = None


def run_plain(
    trunk: nn.Module, features: Sequence[Feature], x: Any, extras: Mapping[str, Any], running: Running
) -> dict[str, Any]:
    """Calls the trunk and makes every feature of what was tapped on the way."""
    return of_taps(trunk, features, trunk(x, **extras), running)


def of_taps(trunk: nn.Module, features: Sequence[Feature], whole: Any, running: Running) -> dict[str, Any]:
    """Every feature of a run whose own result is `whole`.

    All taps are looked up before anything is computed: a feature may call the trunk's modules once more.
    """
    tapped = [[running.tapped(path) for path in f.taps] or [whole] for f in features]
    return {
        f.name: values[0] if f.compute is None else f.compute(trunk, *values)
        for f, values in zip(features, tapped, strict=True)
    }


def part_of(name: str, trunk: nn.Module) -> Feature | None:
    """The feature `PATH.KEY`: an item of the list, tuple or mapping that a module returns, or of the trunk's `output`.

    Items of modules are counted (`rnn.0`); only `output` may have names, so that a mistyped path is not taken for one.
    """
    first, _, keys = name.partition(".")
    if first == "output" and keys:
        return Feature(name, (), partial(_item, name, tuple(keys.split("."))), layout="other")
    path, _, key = name.rpartition(".")
    module = dict(trunk.named_modules()).get(path)
    if module is None or not key.isdigit() or isinstance(module, (nn.ModuleList, nn.ModuleDict, nn.Sequential)):
        return None
    return Feature(name, (path,), partial(_item, name, (key,)), layout="other")


def _item(name: str, keys: tuple[str, ...], trunk: nn.Module, value: Any) -> Any:
    for key in keys:
        items = items_of(value)
        if key not in items:
            what = f"it has {', '.join(f'`{k}`' for k in items)}" if items else "it is one tensor"
            raise CannotArrange(f"`{name}` names no item of what the module returns", what, name)
        value = items[key]
    return value


def items_of(value: Any) -> dict[str, Any]:
    """The items of a list, tuple or mapping under the names that specs use for them; nothing else has any."""
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    return {str(k): v for k, v in value.items()} if isinstance(value, Mapping) else {}


class CannotArrange(Exception):
    """A layout, a choice of tokens or a norm that a feature cannot be had with.

    Attributes:
        help: how to fix it.
        name: the wanted feature's name.
    """

    def __init__(self, message: str, help: str = "", name: str = "") -> None:
        super().__init__(message)
        self.help, self.name = help, name


class TrunkRefusal(Exception):
    """Parameters or weights that a trunk's family cannot take.

    Attributes:
        message: what is wrong.
        path: the parameter, relative to the trunk's parameters.
        help: how to fix it.
    """

    def __init__(self, message: str, path: Sequence[str | int] = (), help: str = "") -> None:
        super().__init__(message)
        self.message, self.path, self.help = message, tuple(path), help


class TrunkFamily(Generic[ParamsT]):
    """A family of trunks: how to build one and what its features are called.

    Subclass it, set `Params`, and decorate it with `@register_trunk(name)`.
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

    def features(self, params: ParamsT, trunk: nn.Module) -> Sequence[Feature]:
        """The named features in the order of the trunk; the last is the default unless `default` says otherwise."""
        raise NotImplementedError

    def default(self, params: ParamsT, trunk: nn.Module) -> str:
        """The name of the feature that a head reads where the spec names none."""
        return self.features(params, trunk)[-1].name

    def find(self, name: str, params: ParamsT, trunk: nn.Module) -> Feature | None:
        """The feature of that name or alias; families with open-ended names (`concatCLS4`) extend this."""
        for feature in self.features(params, trunk):
            if name == feature.name or name in feature.aliases:
                return feature
        return None

    def check_input(self, params: ParamsT, shape: Sequence[int], trunk: nn.Module) -> str | None:
        """Why the trunk cannot take inputs of this per-sample shape, or None."""
        return None

    def input_help(
        self, params: ParamsT, shape: Sequence[int], trunk: nn.Module, shapes: Sequence[Sequence[int]] = ()
    ) -> str:
        """What to write so that the trunk takes inputs of this per-sample shape, where it fails on them.

        `shapes` are those of all inputs that go through the trunk.
        """
        return ""

    def for_resolutions(self, params: ParamsT, shapes: Sequence[Sequence[int]]) -> ParamsT:
        """The parameters with which the trunk takes inputs of all these per-sample shapes."""
        return params

    def normed(self, feature: Feature, params: ParamsT, trunk: nn.Module, norm: bool) -> Feature | None:
        """The feature with the trunk's final norm applied or not, or None where it cannot be had so."""
        return None

    def pretrained(self, params: ParamsT, input_type: str, weights: bool | str, skeleton: bool = False) -> nn.Module:
        """The trunk with the library's published weights (True), those of a file in its layout, or its initial ones.

        Args:
            params: validated parameters.
            input_type: as for `build`.
            weights: what the spec's `pretrained` says.
            skeleton: build the same module and load nothing.

        Raises:
            TrunkRefusal: where there are no published weights.
        """
        if weights is True:
            raise TrunkRefusal(
                f"no weights are published for `{self.name}`",
                ("pretrained",),
                "name a file, or take the library's model: `torchvision:NAME` or `timm:NAME`",
            )
        module = self.build(params, input_type)
        return load_file(module, weights) if isinstance(weights, str) and not skeleton else module

    def vissl_key(self, key: str, params: ParamsT) -> str | None:
        """This library's key for a key of VISSL's trunk (without `trunk.` and `base_model.`), or None to drop it."""
        return key.removeprefix("_feature_blocks.")

    def to_vissl_key(self, key: str, params: ParamsT) -> str | None:
        """VISSL's key for one of this library's, the way back from `vissl_key`; None where VISSL has no such tensor."""
        return f"_feature_blocks.{key}"
