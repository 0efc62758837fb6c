"""Keeps which types of modules were declared to compute each sample of a batch on its own."""

from __future__ import annotations

from torch import nn

registered: dict[type[nn.Module], bool] = {}


def register_per_sample(*types: type[nn.Module], per_sample: bool = True) -> None:
    """Declares how modules treat the samples of a batch, for code that the compiler cannot follow.

    Modules whose operations are known need no registration. One that calls other operations, such as an extension
    written in C++ or a `torch.autograd.Function`, is taken to mix the samples of a batch until it is registered.

    Args:
        *types: module classes; a subclass is not registered with its base class.
        per_sample: True if each row of the result, and its gradient, depends on the same row of every argument, in
            training and in eval mode, whatever the batch size, without random numbers and without changing buffers;
            False if not.

    Example:
        >>> import graphmodel, torch
        >>> class Spectrum(torch.nn.Module):
        ...     def forward(self, x):
        ...         return torch.fft.rfft2(x).abs()
        >>> graphmodel.register_per_sample(Spectrum)

    Raises:
        TypeError: if something is not a module class.
    """
    for each in types:
        if not (isinstance(each, type) and issubclass(each, nn.Module)):
            raise TypeError(f"`register_per_sample` takes classes of modules, not {each!r}")
        registered[each] = per_sample
