"""Descriptions of tensors in the graph: shapes with a symbolic batch, dtypes, layouts."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

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
    """The shape and dtype of a tensor in the graph; dimensions that grow with the batch are symbolic.

    Example:
        >>> import graphmodel
        >>> spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
        >>> graph = graphmodel.compile(spec, device="meta").model_graph
        >>> str(graph.nodes["layer4"].info)
        'N×512×2×2'
    """

    shape: tuple[Dim, ...]
    dtype: str = "float32"
    layout: str = field(default="", compare=False)
    """`nhwc` if the last of four dimensions is known to be the channels."""

    def __str__(self) -> str:
        return "×".join(str(d) for d in self.shape) or "scalar"

    @property
    def sample(self) -> tuple[int, ...]:
        """The fixed dimensions after the batch."""
        return tuple(d for d in self.shape[1:] if isinstance(d, int))
