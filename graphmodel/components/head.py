"""What a head is to the compiler: its parameters, the widths it infers, the outputs it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from typing_extensions import Self

from graphmodel.components.params import Params
from graphmodel.components.tensors import TensorInfo

Auto = Literal["auto"]
"""A width that is read from the feature."""


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


class HeadParams(Params):
    """Parameters of a head. Subclasses add fields; widths may be `auto`.

    `width_field` names the field that takes the width of what the head reads::

        class CosineParams(HeadParams):
            in_dim: PositiveInt | Auto = "auto"
            classes: PositiveInt
            width_field = "in_dim"

    Example:
        >>> import graphmodel
        >>> from torch import nn
        >>> class ScaledParams(graphmodel.HeadParams):
        ...     classes: int
        ...     scale: float = 1.0
        >>> @graphmodel.register_head("scaled", params=ScaledParams)
        ... class Scaled(nn.Module):
        ...     def __init__(self, params):
        ...         super().__init__()
        ...         self.layer, self.scale = nn.LazyLinear(params.classes), params.scale
    """

    reads: ClassVar[Literal["tensor", "list", "dict"]] = "tensor"
    """How the head receives several features, unless `combine` says so: joined to one tensor, as a list, or as a
    dict by their names. A head that reads a list or dict also receives a single feature in one."""
    any_layout: ClassVar[bool] = False
    """Whether the head treats all dimensions alike, so that the position of the channels does not matter."""
    width_field: ClassVar[str] = ""
    """The field that holds the width of the feature: a number or `auto`, or a list that begins with either."""
    elsewhere: ClassVar[Mapping[str, str]] = {}
    """Keys that similar heads have, and what to write here instead."""

    def infer(self, feature: TensorInfo) -> Self:
        """These parameters with every `auto` read from the feature; by default `width_field`, from vectors or tokens.

        Raises:
            HeadMismatch: if a width that is written out disagrees with the feature.
        """
        return self.with_width(self.width_field, vector_width(feature), feature) if self.width_field else self

    def infer_all(self, features: Sequence[TensorInfo]) -> Self:
        """These parameters for a head that reads a list of features (`combine: list`).

        Raises:
            HeadMismatch: if a width is `auto`: a list of features has several.
        """
        for name in type(self).model_fields:
            value = getattr(self, name)
            if value == "auto" or (isinstance(value, list) and value[:1] == ["auto"]):
                widths = ", ".join(str(f) for f in features)
                raise HeadMismatch(
                    f"reads a list of features ({widths}), so `{name}` cannot be `auto`", (name,), f"write `{name}`"
                )
        return self

    def infer_named(self, features: Mapping[str, TensorInfo]) -> Self:
        """These parameters for a head that reads a dict of features (`combine: dict`); by default as of a list.

        Raises:
            HeadMismatch: if a width cannot be inferred, or one that is written out disagrees.
        """
        return self.infer_all(list(features.values()))

    def resizes_to_input(self) -> bool:
        """Whether the result, a map `(N, C, h, w)`, is resized (bilinear) to the height and width of the input."""
        return False

    def with_width(self, field: str, actual: int, feature: TensorInfo) -> Self:
        """These parameters with the width `actual` in a field, which may say `auto` or that width.

        Raises:
            HeadMismatch: if it says another.
        """
        written = getattr(self, field)
        if isinstance(written, list):
            return self.model_copy(update={field: [match_width(written[0], actual, (field, 0), feature), *written[1:]]})
        return self.model_copy(update={field: match_width(written, actual, (field,), feature)})

    def outputs(self) -> tuple[str, ...] | None:
        """Names of the tensors that the head returns (for some features only the first ones), or None for one."""
        return None

    def batch_multiple(self) -> int:
        """What the batch size must be a multiple of."""
        return 1


def known(width: int | Auto) -> int:
    """A width after `infer`, which leaves no `auto`."""
    if width == "auto":
        raise TypeError("the width is still `auto`; call `infer` with the feature first")
    return width


def refuse_tokens(
    feature: TensorInfo,
    what: str = "wants one vector per sample",
    path: Sequence[str | int] = (),
    help: str = "read one token (`tokens: class`) or their mean (`tokens: mean`)",
) -> None:
    """Refuses a sequence of tokens for a head that reads vectors.

    Args:
        feature: what the head is mapped to.
        what: what the head wants or has instead.
        path: the parameter that disagrees.
        help: how to fix it.

    Raises:
        HeadMismatch: if the feature is a sequence.
    """
    if len(feature.shape) == 3:
        raise HeadMismatch(f"{what} and the feature is a sequence of tokens, {feature}", path, help)


def vector_width(feature: TensorInfo) -> int:
    """The number of features per sample (or token) that a linear layer would read.

    `(N, C)` and `(N, C, 1, 1)` give C, `(N, L, C)` gives C.

    Raises:
        HeadMismatch: if it is a feature map with spatial extent, channels first or last.
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
        f"pool it (`pool: {{{_global_pool(feature)}: 1}}`), flatten it (`flatten: true`), or read a pooled feature",
    )


def _global_pool(feature: TensorInfo) -> str:
    """The operation that pools a map, or a volume."""
    return "adaptive_avg_pool3d" if len(feature.shape) == 5 else "adaptive_avg_pool2d"


def map_width(feature: TensorInfo) -> int:
    """The channels of a feature map `(N, C, H, W)`.

    Raises:
        HeadMismatch: if it is not a map with channels first.
    """
    if len(feature.shape) != 4 or not isinstance(feature.shape[1], int):
        help = "read a feature map such as `res5`, or make one of tokens (`layout: nchw`)"
        raise HeadMismatch(f"wants a feature map and the feature is {feature}", (), help)
    if feature.layout == "nhwc":
        help = "write `layout: nchw` beside the feature"
        raise HeadMismatch(f"wants a feature map with channels first and the feature is {feature}", (), help)
    return feature.shape[1]


def token_width(feature: TensorInfo) -> int:
    """The width of vectors `(N, C)` or tokens `(N, L, C)`.

    Raises:
        HeadMismatch: if it is a feature map, even of one pixel.
    """
    if len(feature.shape) not in (2, 3):
        help = f"flatten it (`flatten: true`), or pool it first (`pool: {{{_global_pool(feature)}: 1}}`)"
        raise HeadMismatch(f"wants vectors or tokens and the feature is {feature}", (), help)
    return vector_width(feature)


def match_width(written: int | Auto, actual: int, path: Sequence[str | int], feature: TensorInfo) -> int:
    """`written`, or `actual` if it is `auto`.

    Args:
        written: what the spec says.
        actual: the width of the feature.
        path: the parameter, relative to the head's parameters.
        feature: the feature, for the message.

    Raises:
        HeadMismatch: if they disagree.
    """
    if written == "auto" or written == actual:
        return actual
    raise HeadMismatch(
        f"wants {written} features and the feature is {feature}, which has {actual}",
        path,
        f"write {actual} or `auto`",
    )
