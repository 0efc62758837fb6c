"""The pooling operations that a spec may apply to a feature map, and their parameters."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PoolOp:
    """A pooling operation.

    Attributes:
        name: its name in `torch.nn.functional`, which is also its name in specs.
        module: its name in `torch.nn`, which is also its name in VISSL's configurations.
        arguments: its arguments in the order of `torch.nn`.
    """

    name: str
    module: str
    arguments: tuple[str, ...] = ()

    @property
    def parameters(self) -> tuple[str, ...]:
        """The arguments that a spec may set; with `return_indices` the result would not be a single tensor."""
        return tuple(a for a in self.arguments if a != "return_indices")


_OPS = (
    PoolOp(
        "avg_pool2d",
        "AvgPool2d",
        ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    ),
    PoolOp("max_pool2d", "MaxPool2d", ("kernel_size", "stride", "padding", "dilation", "return_indices", "ceil_mode")),
    PoolOp("adaptive_avg_pool2d", "AdaptiveAvgPool2d", ("output_size",)),
    PoolOp("adaptive_max_pool2d", "AdaptiveMaxPool2d", ("output_size", "return_indices")),
    PoolOp("identity", "Identity"),
)

POOLS: dict[str, PoolOp] = {op.name: op for op in _OPS}
"""Pooling operations by name; `identity` leaves the feature as it is."""
