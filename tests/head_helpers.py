"""Compares a head with a module that is written by hand and holds the same weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from graphmodel.components.registry import find_head
from graphmodel.components.structure import leaves


def built(name: str, **values: Any) -> nn.Module:
    """A head of that name with all widths given, as the compiler builds it."""
    entry = find_head(name)
    assert entry is not None
    return entry.build(entry.params(**values))


def share_weights(head: nn.Module, reference: nn.Module) -> None:
    """Gives the reference the head's parameters and buffers, in order."""
    ours, theirs = head.state_dict(), reference.state_dict()
    assert [v.shape for v in ours.values()] == [v.shape for v in theirs.values()]
    reference.load_state_dict(dict(zip(theirs, ours.values(), strict=True)))


def assert_same(head: nn.Module, reference: nn.Module, *shapes: tuple[int, ...], given: Any = None) -> None:
    """Both give the same outputs, gradients and statistics in training mode, and the same outputs in eval mode.

    Args:
        head: the head.
        reference: a module whose parameters come in the same order; it gets the head's weights.
        shapes: the shape of each input.
        given: makes what the modules are called with of the tensors; by default the only one.
    """
    with torch.no_grad():  # away from values such as 1 and 0, whose mix-up would not be noticed
        for tensor in head.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
    share_weights(head, reference)
    arrange = given or (lambda tensors: tensors[0])
    results = []
    for module in (head.train(), reference.train()):
        module.zero_grad()
        torch.manual_seed(0)
        tensors = [torch.randn(shape, requires_grad=True) for shape in shapes]
        outputs = list(leaves(module(arrange(tensors))))
        loss = sum((output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum() for output in outputs)
        loss.backward()
        gradients = [*tensors, *(p for p in module.parameters() if p.requires_grad)]
        results.append(([o.detach() for o in outputs], [g.grad for g in gradients], list(module.buffers())))
        module.eval()
        with torch.no_grad():
            results[-1][0].extend(leaves(module(arrange([t.detach() for t in tensors]))))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
