"""What a head is to the compiler: its parameters, the widths it infers, the outputs it names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict
from typing_extensions import Self

from graphmodel.components.tensors import TensorInfo

Auto = Literal["auto"]
"""A width that is read off the feature."""


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
