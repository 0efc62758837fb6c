"""Runs frozen layers with their BatchNorm folded into the weights, which are computed anew in every forward.

Nothing is cached, and no module, parameter or buffer changes: what is loaded, edited, moved or converted shows in the
next forward, and whatever is not exactly what was compiled runs as it is written.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from graphmodel.components.hooks import has_global_hooks, has_hooks
from graphmodel.components.structure import leaves
from graphmodel.graph.facts import Pair
from graphmodel.graph.types import ModelGraph
from graphmodel.passes.foldable import has_activation, is_layer, is_norm, is_transposed, required_arguments

MIN_POSITIONS = 4
"""How many positions (samples times output pixels) a layer must have, per element of a filter, for folding to pay.

The folded weight costs a pass over the weight and saves one over the result.
"""

MIN_ELEMENTS = {"cpu": 1 << 17}
"""How many elements a result must have, by kind of device: below, computing the folded weight costs more.

On other devices folding in every forward does not pay: on an H100 the launches of its small operations took longer than
what they saved, at batch 8 and 32 of a ResNet-50 (0.74 and 0.63 times as fast).
"""


def folded_tensors(layer: nn.Module, norm: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight and bias of a layer that computes what the layer and the BatchNorm behind it compute.

    They are computed in single precision or better, and have the dtype of the layer's weight.

    Args:
        layer: a convolution or linear layer.
        norm: a BatchNorm with running statistics.

    Returns:
        The weight, in the shape and memory format of the layer's own, and the bias.
    """
    weight, own = _tensor(layer, "weight"), _tensor(layer, "bias")
    mean, variance = _tensor(norm, "running_mean"), _tensor(norm, "running_var")
    gamma, beta = _tensor(norm, "weight"), _tensor(norm, "bias")
    assert weight is not None
    assert mean is not None
    assert variance is not None
    high = torch.promote_types(torch.promote_types(weight.dtype, variance.dtype), torch.float32)
    eps: Any = norm.eps
    scale = torch.rsqrt(variance.to(high) + eps)
    if gamma is not None:
        scale = scale * gamma
    shift = mean.to(high) if own is None else mean.to(high) - own
    bias = -shift * scale if beta is None else torch.addcmul(beta.to(high), shift, scale, value=-1)
    if is_transposed(layer):
        groups: int = layer.groups  # type: ignore[assignment]
        grouped = weight.view(groups, -1, *weight.shape[1:])
        factors = scale.view(groups, 1, -1, *[1] * (weight.ndim - 2))
        made = (grouped * factors).flatten(0, 1)
    else:
        made = weight * scale.view(-1, *[1] * (weight.ndim - 1))
    return made.to(weight.dtype), bias.to(weight.dtype)


def after_folding(norm: nn.Module, value: torch.Tensor) -> torch.Tensor:
    """What a BatchNorm still does to a result that is normalized already: its activation, if it has one."""
    if has_activation(norm):
        value = norm.act(norm.drop(value))  # type: ignore[operator]
    return value


class PairCall:
    """One call of a layer and of its BatchNorm.

    The layer decides by its input whether folding is exact and pays; the BatchNorm then does the rest.
    """

    __slots__ = ("folded", "layer", "norm")

    def __init__(self, layer: nn.Module, norm: nn.Module) -> None:
        self.layer, self.norm, self.folded = layer, norm, False

    def run_layer(self, x: torch.Tensor) -> Any:
        """The layer's result, normalized if that is how it runs."""
        layer = self.layer
        self.folded = fits(layer, self.norm, x) and pays(layer, self.norm, x)
        if not self.folded:
            return type(layer).forward(layer, x)
        weight, bias = folded_tensors(layer, self.norm)
        return type(layer).forward(_shadow(layer, _parameters={"weight": weight, "bias": bias}), x)

    def run_norm(self, y: Any) -> Any:
        """The BatchNorm's result on what `run_layer` returned."""
        if not self.folded:
            return type(self.norm).forward(self.norm, y)
        self.folded = False
        return after_folding(self.norm, y)


def fits(layer: nn.Module, norm: nn.Module, x: Any) -> bool:
    """Whether folding is exact for this input: a plain batch beside the weights."""
    weight, mean = _tensor(layer, "weight"), _tensor(norm, "running_mean")
    if type(x) is not torch.Tensor or weight is None or mean is None:
        return False
    return x.ndim == weight.ndim and x.device == weight.device == mean.device


def pays(layer: nn.Module, norm: nn.Module, x: torch.Tensor) -> bool:
    """Whether folding saves more than computing the folded weight costs, for this input."""
    weight, mean = _tensor(layer, "weight"), _tensor(norm, "running_mean")
    assert weight is not None
    assert mean is not None
    least = MIN_ELEMENTS.get(x.device.type)
    if least is None:
        return False
    positions = x.numel() // max(1, x.shape[1])
    for stride in getattr(layer, "stride", ()):
        positions = positions * stride if is_transposed(layer) else positions // stride
    return positions * mean.numel() >= max(least, MIN_POSITIONS * weight.numel())


def pair_call(layer: Any, norm: Any) -> PairCall | None:
    """A call of a pair in which the BatchNorm may be folded; None if the two are to run as they are.

    They run as they are if either was replaced, is hooked, trains, or uses the statistics of the batch.
    """
    if not (isinstance(layer, nn.Module) and isinstance(norm, nn.Module) and is_layer(layer) and is_norm(norm)):
        return None
    if norm.training or "forward" in layer.__dict__ or "forward" in norm.__dict__:
        return None
    if has_global_hooks() or has_hooks(layer) or has_hooks(norm):
        return None
    if torch.is_grad_enabled() and any(
        p is not None and p.requires_grad for p in (*layer._parameters.values(), *norm._parameters.values())
    ):
        return None
    return PairCall(layer, norm)


class FoldedForward:
    """Stands in for `forward` of a module that calls pairs.

    It lives in the module's own `__dict__` and runs the module's own code, with stand-ins for the layers and norms that
    the module holds. The module keeps its class, hooks and state-dict keys; its parts, called by anybody else, act as
    ever. The compiler traces the module as it is: it folds by itself, or fuses BatchNorm with what follows.

    Args:
        module: the module.
        pairs: names of the layers and norms that it calls.
    """

    def __init__(self, module: nn.Module, pairs: tuple[tuple[str, str], ...]) -> None:
        self.module, self.pairs = module, pairs
        self.arguments = required_arguments(module)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's result."""
        module = self.module
        call = type(module).forward
        if _is_traced(args) or kwargs or len(args) != self.arguments:
            return call(module, *args, **kwargs)
        parts = module._modules
        others: dict[str, nn.Module] = {}
        for layer, norm in self.pairs:
            pair = pair_call(parts.get(layer), parts.get(norm))
            if pair is not None:
                others[layer] = _shadow(pair.layer, forward=pair.run_layer)
                others[norm] = _shadow(pair.norm, forward=pair.run_norm)
        if not others:
            return call(module, *args)
        shadow = _shadow(module, _modules={**parts, **others})
        result = call(shadow, *args)
        for key, value in shadow.__dict__.items():  # what the module's own code remembers
            if key != "_modules" and module.__dict__.get(key, others) is not value:
                module.__dict__[key] = value
        return result


class FoldedPair(nn.Module):
    """Calls a layer and its BatchNorm that lie in one container of the model.

    It holds no modules of its own; it looks the two up by name, and calls them as they are if they cannot be folded.

    Args:
        layer: the name of the layer in the container.
        norm: the name of the BatchNorm.
    """

    def __init__(self, layer: str, norm: str) -> None:
        super().__init__()
        self.layer, self.norm = layer, norm
        self.holder: tuple[nn.Module, ...] = ()  # in a tuple, it is not a submodule

    def forward(self, x: Any) -> Any:
        """The BatchNorm's result."""
        (holder,) = self.holder
        layer, norm = holder._modules[self.layer], holder._modules[self.norm]
        assert layer is not None
        assert norm is not None
        if not _is_traced(x):
            pair = pair_call(layer, norm)
            if pair is not None:
                return pair.run_norm(pair.run_layer(x))
        return norm(layer(x))

    def extra_repr(self) -> str:
        return f"{self.layer}, {self.norm}"


def attach_folded(root: nn.Module, graph: ModelGraph) -> None:
    """Lets the modules of an optimized graph run their pairs folded.

    Args:
        root: the module whose children the graph calls.
        graph: the optimized graph, with the facts of `fold_batchnorm`.
    """
    for target, pairs in {str(n.target): n.facts.folded for n in graph.nodes.values() if n.facts.folded}.items():
        called = root.get_submodule(target)
        for owner in dict.fromkeys(pair.owner for pair in pairs):
            _fold(called.get_submodule(owner), [pair for pair in pairs if pair.owner == owner])
    for component in graph.components.values():
        for path, extra in component.extras.items():
            if isinstance(extra, FoldedPair):
                above, _, name = f"{component.name}.{path}".rpartition(".")
                holder = root.get_submodule(above)
                made = FoldedPair(extra.layer, extra.norm)
                made.holder = (holder,)
                holder.add_module(name, made.train(holder.training))


def _fold(module: nn.Module, pairs: list[Pair]) -> None:
    stand_in = FoldedForward(module, tuple((pair.layer, pair.norm) for pair in pairs))
    module.__dict__["forward"] = stand_in.forward


def _shadow(module: nn.Module, **changes: Any) -> nn.Module:
    """A module object with the same attributes except for some, of the same class."""
    made: nn.Module = object.__new__(type(module))
    made.__dict__.update(module.__dict__, **changes)
    return made


def _tensor(module: nn.Module, name: str) -> torch.Tensor | None:
    value = getattr(module, name)
    return value if isinstance(value, torch.Tensor) else None


def _is_traced(values: Any) -> bool:
    """Whether values are recorded by a tracer or compiler, or are not plain tensors."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
        return True
    return any(type(value) is not torch.Tensor for value in leaves(values))
