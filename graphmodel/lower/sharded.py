"""Copies module objects that FSDP2 has sharded, for slices: the copies gather and share the same parameters."""

from __future__ import annotations

import copy
import sys
from typing import Any

from torch import nn


def is_sharded(module: nn.Module) -> bool:
    """Whether `fully_shard` was called on the module itself."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # not imported: nothing is sharded
    wrapper = getattr(fsdp, "FSDPModule", None)
    return wrapper is not None and isinstance(module, wrapper)


def copy_sharded(root: nn.Module, memo: dict[int, Any]) -> None:
    """Puts a copy of every sharded module below a root into the memo of a deepcopy, which refuses them otherwise.

    FSDP keeps its state apart from the module and reaches parameters through the dict that they are registered in.
    Copies share both, and call the same hooks, so that a forward of either gathers and releases for both.

    Args:
        root: the module; it is not copied itself.
        memo: what deepcopy is to share; tensors, dicts of tensors and dicts of hooks are in it already.
    """
    for module in reversed([part for part in root.modules() if part is not root and is_sharded(part)]):
        twin: nn.Module = object.__new__(type(module))
        memo[id(module)] = twin
        for key, value in module.__dict__.items():
            shared = key.startswith("__composable_api")  # the registry of states
            twin.__dict__[key] = value if shared else copy.deepcopy(value, memo)


def gather_with(module: nn.Module, root: Any) -> None:
    """Lets a module that shares the parameters of a sharded root gather those that the root itself holds.

    Args:
        module: the module, whose stages are copies of the root's.
        root: the sharded module.
    """
    state = root._get_fsdp_state()
    module.register_forward_pre_hook(state._pre_forward, prepend=True, with_kwargs=True)
    module.register_forward_hook(state._post_forward)
