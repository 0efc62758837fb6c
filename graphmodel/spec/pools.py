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
        dims: the number of spatial dimensions that it pools over.
    """

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    dims: int = 0

    @property
    def parameters(self) -> tuple[str, ...]:
        """The arguments that a spec may set; with `return_indices` the result would not be a single tensor."""
        return tuple(a for a in self.arguments if a != "return_indices")


def _pools(dims: int) -> tuple[PoolOp, ...]:
    average = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")
    divisor = ("divisor_override",) if dims > 1 else ()
    largest = ("kernel_size", "stride", "padding", "dilation", "return_indices", "ceil_mode")
    return (
        PoolOp(f"avg_pool{dims}d", f"AvgPool{dims}d", (*average, *divisor), dims),
        PoolOp(f"max_pool{dims}d", f"MaxPool{dims}d", largest, dims),
        PoolOp(f"adaptive_avg_pool{dims}d", f"AdaptiveAvgPool{dims}d", ("output_size",), dims),
        PoolOp(f"adaptive_max_pool{dims}d", f"AdaptiveMaxPool{dims}d", ("output_size", "return_indices"), dims),
    )


_OPS = (*_pools(2), *_pools(1), *_pools(3), PoolOp("identity", "Identity"))

POOLS: dict[str, PoolOp] = {op.name: op for op in _OPS}
"""Pooling operations by name; `identity` leaves the feature as it is."""
