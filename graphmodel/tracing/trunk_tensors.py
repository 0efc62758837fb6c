"""Names of the tensors that a trunk holds: parameters, buffers, and what it keeps as plain attributes."""

from __future__ import annotations

import torch
from torch import nn

ROOT = "trunk"
"""The attribute that holds the trunk inside of the traced root."""


def relative(path: str) -> str:
    """A path under the traced root as a path under the trunk.

    >>> relative("trunk.layer1.0"), relative("trunk")
    ('layer1.0', '')
    """
    return path.removeprefix(ROOT).removeprefix(".")


class TrunkTensors:
    """The tensors under a traced root.

    Attributes:
        by_path: every tensor by its path under the root.
        constants: those that are neither parameters nor buffers, by their path under the trunk.
    """

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.by_path: dict[str, torch.Tensor] = {}
        self.constants: dict[str, torch.Tensor] = {}
        for path, module in root.named_modules():
            plain = {k: v for k, v in vars(module).items() if isinstance(v, torch.Tensor)}
            for name, tensor in {**module._parameters, **module._buffers, **plain}.items():
                if tensor is not None:
                    self.by_path[f"{path}.{name}".removeprefix(".")] = tensor
            self.constants |= {relative(f"{path}.{name}"): tensor for name, tensor in plain.items()}
        # A tensor with two names goes by the first.
        self._paths = {id(tensor): path for path, tensor in reversed(self.by_path.items())}

    def path_of(self, tensor: torch.Tensor) -> str | None:
        """The path of a tensor under the root, or None if the trunk does not hold it."""
        return self._paths.get(id(tensor))

    def add_constant(self, tensor: torch.Tensor) -> str:
        """Lets the trunk hold a tensor that its code computed; returns its path under the root."""
        name = f"constant_{sum(path.startswith('constant_') for path in self.constants)}"
        path = f"{ROOT}.{name}"
        self.constants[name] = self.by_path[path] = tensor
        self._paths[id(tensor)] = path
        setattr(self.root.get_submodule(ROOT), name, tensor)
        return path
