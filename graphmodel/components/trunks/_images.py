"""What families check of images, and how many channels they read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx
from torch.overrides import handle_torch_function


def channels_of(input_type: str) -> int:
    """The channels of an input: one for the luminance of `lab`, else three."""
    return 1 if input_type == "lab" else 3


def image_problem(shape: Sequence[int], kernel: torch.Tensor, smallest: int) -> str | None:
    """Why a trunk does not accept images of this shape, or None.

    Args:
        shape: the images', `(C, H, W)`.
        kernel: the weight of the trunk's first convolution.
        smallest: the smallest side.
    """
    channels = kernel.shape[1]
    if len(shape) != 3 or shape[0] != channels:
        return f"the trunk takes images of {channels} channels, (C, H, W), and the input is {text_of(shape)}"
    if min(shape[1:]) < smallest:
        return f"the input is {text_of(shape)} and a patch is {smallest}×{smallest}: make the images larger"
    return None


def whole_patches(x: torch.Tensor, patch: Sequence[int]) -> torch.Tensor:
    """The image without the rows and columns that do not fill a whole patch; `torch.fx` records it as one call."""
    if isinstance(x, fx.Proxy):
        return handle_torch_function(whole_patches, (x,), x, patch)
    height, width = x.shape[2:]
    whole = height - height % patch[0], width - width % patch[1]
    return x if whole == (height, width) else x[:, :, : whole[0], : whole[1]]


def text_of(shape: Sequence[int]) -> str:
    """`3×224×224`."""
    return "×".join(str(d) for d in shape)
