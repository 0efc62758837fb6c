"""Whether a device exists on this machine, asked before anything is read or built."""

from __future__ import annotations


def problem_of_device(name: str) -> str:
    """Why tensors cannot be made on a device; empty if they can.

    Args:
        name: the device, such as `cuda:1`.

    >>> problem_of_device("cpu")
    ''
    """
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        return str(error).partition("\n")[0]
    return ""
