"""Finds layers whose BatchNorm can be folded into their weights, by tracing the code around them.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
(arXiv:1712.05877, section 3.2), for folding; `torch.nn.utils.fusion` for the arithmetic.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from graphmodel.graph.facts import Pair

LAYERS: tuple[type[nn.Module], ...] = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)
"""Layers that are linear in their weight and bias; subclasses that keep their `forward` are too."""

NORMS: tuple[type[nn.Module], ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""Normalizations that are a scale and a shift per channel once their statistics are fixed."""

# Known by name, so that no library is imported for it.
_LAYER_NAMES = frozenset({"timm.layers.conv2d_same.Conv2dSame"})
_NORM_NAMES = frozenset({"torchvision.ops.misc.FrozenBatchNorm2d"})
_ACTIVATED_NORM_NAMES = frozenset(
    {
        "timm.layers.norm_act.BatchNormAct2d",
        "timm.layers.norm_act.SyncBatchNormAct",
        "timm.layers.norm_act.FrozenBatchNormAct2d",
    }
)


@dataclass
class Found:
    """What was found in a module.

    Attributes:
        pairs: the pairs that can be folded.
        declined: why the other BatchNorm layers cannot, by their path.
    """

    pairs: list[Pair] = field(default_factory=list)
    declined: dict[str, str] = field(default_factory=dict)


def is_layer(module: nn.Module) -> bool:
    """Whether a module is a layer that a scale and a shift of its result can be folded into."""
    cls = type(module)
    if "weight" not in module._parameters or "parametrizations" in module._modules:
        return False
    if _named(cls) in _LAYER_NAMES:
        return True
    base = next((base for base in LAYERS if isinstance(module, base)), None)
    if base is None or cls.forward is not base.forward:
        return False
    own: Any = getattr(cls, "_conv_forward", None)
    return own is None or own is getattr(base, "_conv_forward", None)


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a BatchNorm with running statistics, with or without an activation of its own."""
    cls = type(module)
    if _named(cls) in _NORM_NAMES | _ACTIVATED_NORM_NAMES:
        return getattr(module, "running_mean", None) is not None
    base = next((base for base in NORMS if isinstance(module, base)), None)
    if base is None or module._buffers.get("running_mean") is None or module._modules:
        return False
    return cls.forward in (base.forward, nn.BatchNorm2d.forward)


def has_activation(norm: nn.Module) -> bool:
    """Whether a BatchNorm runs a dropout and an activation (`drop`, `act`) on its result."""
    return _named(type(norm)) in _ACTIVATED_NORM_NAMES


def norms_of(module: nn.Module) -> dict[str, nn.Module]:
    """The BatchNorm layers inside of a module, by path."""
    return {path: part for path, part in module.named_modules() if is_norm(part)}


def layers_and_channels(layer: nn.Module, norm: nn.Module) -> bool:
    """Whether a layer has as many output channels as a BatchNorm has statistics."""
    channels = getattr(layer, "out_channels", getattr(layer, "out_features", None))
    mean = norm.running_mean
    return isinstance(mean, torch.Tensor) and channels == mean.shape[0]


def pairs_in(module: nn.Module) -> Found:
    """The pairs inside of a module, from the code of the modules that call them.

    A pair is a layer and a BatchNorm that one module calls by name, each once, the BatchNorm on the layer's result,
    which nothing else reads; in training and in eval mode.

    Args:
        module: a module on any device.
    """
    found = Found()
    for owner, part in module.named_modules():
        norms = {name: child for name, child in part.named_children() if is_norm(child)}
        if not norms:
            continue
        calls = _calls(part)
        for name in norms:
            layer, reason = (None, calls) if isinstance(calls, str) else _layer_of(name, part, calls)
            if layer is None:
                found.declined[f"{owner}.{name}" if owner else name] = reason
            else:
                found.pairs.append(Pair(owner, layer, name))
    return found


def required_arguments(module: nn.Module) -> int | None:
    """How many arguments a module's `forward` requires; None if that is not a fixed number."""
    try:
        parameters = list(inspect.signature(type(module).forward).parameters.values())[1:]
    except (TypeError, ValueError):
        return None
    if any(p.kind in (p.VAR_POSITIONAL, p.KEYWORD_ONLY) and p.default is p.empty for p in parameters):
        return None
    return sum(p.default is p.empty for p in parameters if p.kind is not p.VAR_KEYWORD)


class _Tracer(fx.Tracer):
    """Records the calls of children, whatever they are."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _calls(owner: nn.Module) -> list[list[fx.Node]] | str:
    """The calls that a module makes in each mode, or why they cannot be told."""
    if "forward" in owner.__dict__ or required_arguments(owner) is None:
        return "the code of the module around it is not its class's own, or takes any number of arguments"
    if type(owner).forward is nn.Module.forward:  # a container, whose parts others call
        return "it is called from outside of the module that holds it"
    defaults = {
        p.name: p.default
        for p in list(inspect.signature(type(owner).forward).parameters.values())[1:]
        if p.default is not p.empty
    }
    mode, calls = owner.training, []
    try:
        for training in (True, False):
            owner.training = training
            tracer = _Tracer()
            calls.append(list(tracer.trace(owner, defaults or None).nodes))
    except Exception:  # a module's own code may raise anything on proxies
        return "the code of the module around it cannot be followed"
    finally:
        owner.training = mode
    return calls


def _layer_of(name: str, owner: nn.Module, calls: list[list[fx.Node]]) -> tuple[str | None, str]:
    """The layer that a BatchNorm can be folded into, or None and the reason."""
    layers = set()
    for nodes in calls:
        norms = [node for node in nodes if node.op == "call_module" and node.target == name]
        if len(norms) != 1:
            return None, f"it is called {len(norms)} times"
        norm = norms[0]
        source = norm.args[0] if len(norm.args) == 1 and not norm.kwargs else None
        if not isinstance(source, fx.Node) or source.op != "call_module":
            return None, "it does not read the result of a convolution or linear layer directly"
        layer = owner._modules.get(str(source.target))
        if layer is None:
            return None, "the layer that it reads belongs to another module"
        if not is_layer(layer):
            return None, "what it reads is not a convolution or linear layer with plain weights"
        if len(source.users) > 1:
            return None, f"the result of `{source.target}` is read by others too"
        if sum(node.op == "call_module" and node.target == source.target for node in nodes) > 1:
            return None, f"`{source.target}` is called several times"
        if len(source.args) != 1 or source.kwargs:
            return None, f"`{source.target}` is called with further arguments"
        if sum(child is layer for child in owner._modules.values()) > 1:
            return None, f"`{source.target}` has several names"
        if not layers_and_channels(layer, owner._modules[name]):  # type: ignore[arg-type]
            return None, f"`{source.target}` has another number of channels"
        layers.add(str(source.target))
    if len(layers) != 1:
        return None, "it reads another layer in training mode than in eval mode"
    return layers.pop(), ""


def is_transposed(layer: nn.Module) -> bool:
    """Whether the output channels are the second dimension of the weight."""
    return isinstance(layer, _ConvTransposeNd)


def is_convolution(layer: nn.Module) -> bool:
    """Whether a layer is a convolution."""
    return isinstance(layer, _ConvNd)


def _named(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
