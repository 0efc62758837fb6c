"""Makes the parameter groups of an optimizer: `param_groups`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from graphmodel.diagnostics import choices_help, fail
from graphmodel.graph.types import ModelGraph, head_name
from graphmodel.lower.module import CompiledModel
from graphmodel.training.depth import layer_depths
from graphmodel.training.wrapped import compiled_models

UNDECAYED = re.compile(
    r"pos(ition|itional)?_?emb|rel(ative)?_pos|bias_table|logit_scale|(cls|class|dist|reg|register|mask)_token"
    r"|class_embedding|masked_embed|bias$"
)
"""Names of position embeddings, tokens, and biases; in any part of a parameter's path."""


def param_groups(
    module: nn.Module,
    *,
    lr: float,
    weight_decay: float = 0.0,
    trunk_lr: float | None = None,
    head_lr: Mapping[str, float] | None = None,
    head_weight_decay: Mapping[str, float] | None = None,
    layer_decay: float | None = None,
) -> list[dict[str, Any]]:
    """The parameters of a model in groups for an optimizer.

    Biases, norms and every other vector, position embeddings, and class, register and mask tokens get no weight decay;
    neither does what the library's own `no_weight_decay()` names. Frozen parameters (teachers included) are left out.

    With `layer_decay`, layers that are deeper in the trunk learn slower: the last block has `layer_decay` times the
    trunk's rate, the one before it `layer_decay` squared, and so on down to the stem. Layers are the blocks that the
    graph runs, residual or transformer blocks, of each trunk. Heads keep their rate.

    A head whose rate or weight decay is in the spec (`grid`, `head_settings`) gets that one. A head without weight
    decay is one group.

    Example:
        >>> import graphmodel, torch
        >>> spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
        >>> model = graphmodel.compile({**spec, "heads": {"label": {"mlp": {"dims": ["auto", 10]}}}}, seed=0)
        >>> groups = graphmodel.param_groups(model, lr=0.1, weight_decay=1e-4, trunk_lr=0.01)
        >>> for group in groups:
        ...     print(group["name"], group["lr"], group["weight_decay"], len(group["params"]), sep=" | ")
        trunk | 0.01 | 0.0001 | 20
        trunk, no decay | 0.01 | 0.0 | 40
        heads.label | 0.1 | 0.0001 | 1
        heads.label, no decay | 0.1 | 0.0 | 1
        >>> optimizer = torch.optim.SGD(groups, momentum=0.9)

    Args:
        module: a compiled model, or a module that wraps or holds one (DDP, `torch.compile`, a LightningModule). What it
            holds besides forms groups of its own, with `lr`.
        lr: the learning rate of heads that have none in the spec.
        weight_decay: the weight decay of matrices and kernels, except for heads that have their own in the spec.
        trunk_lr: the learning rate of trunks (of the last layer's successor if `layer_decay` is given); `lr` if None.
        head_lr: learning rates of single heads by name, over `lr` and over those in the spec.
        head_weight_decay: weight decays of single heads by name, in the same way.
        layer_decay: the factor between a layer and the next one, in (0, 1]; None for one rate for all layers.

    Returns:
        Groups with `params`, `lr`, `weight_decay` and a unique `name`, in the order of the model. A scheduler that
        scales the rates of all groups keeps their ratios.

    Raises:
        CompileError: GM590 if there is no compiled model in `module`, GM591 if a rate or factor is not valid, a head is
            unknown, or nothing is left to train.

    Source: `param_groups_layer_decay` of timm, after BEiT (Bao et al. 2021).
    """
    rates = {"lr": lr, "weight_decay": weight_decay, "trunk_lr": trunk_lr, "layer_decay": layer_decay}
    given = {"head_lr": dict(head_lr or {}), "head_weight_decay": dict(head_weight_decay or {})}
    of_heads = {f"{what}[{name!r}]": rate for what, heads in given.items() for name, rate in heads.items()}
    _check_rates({**rates, **of_heads})
    models = compiled_models(module, "param_groups")
    known = [name for model in models.values() for name in model.model_graph.spec.heads]
    for what, heads in given.items():
        for name in heads:
            if name not in known:
                message = f"`{what}` names `{name}`, which is not a head of the model"
                raise fail("GM591", message, help=choices_help(name, known, "heads"), path=what)
    trunk_rate = lr if trunk_lr is None else trunk_lr
    groups: dict[str, dict[str, Any]] = {}
    seen: set[int] = set()

    def put(name: str, rate: float, decay: float | None, parameter: nn.Parameter) -> None:
        if not parameter.requires_grad or id(parameter) in seen:
            return
        seen.add(id(parameter))
        name = name if decay is not None else f"{name}, no decay"
        group = groups.setdefault(name, {"params": [], "lr": rate, "weight_decay": decay or 0.0, "name": name})
        group["params"].append(parameter)

    for path, model in models.items():
        labels = _Labels(model.model_graph, layer_decay)
        undecayed = _undecayed(model, model.model_graph)
        prefix = f"{path}: " if len(models) > 1 else ""
        for name, parameter in model.named_parameters():
            part, depth = labels.of(name)
            decay = weight_decay if name not in undecayed and parameter.dim() > 1 else None
            rate = trunk_rate
            if depth is None:
                rate, head_decay = _of_head(model.model_graph, part, lr, weight_decay)
                head = part.removeprefix("heads.")
                rate, head_decay = given["head_lr"].get(head, rate), given["head_weight_decay"].get(head, head_decay)
                decay = head_decay if decay is not None or not head_decay else None
            if depth is not None and layer_decay is not None:
                rate *= layer_decay ** (labels.layers[part] - depth)
                part = f"{part}, layer {depth}"
            put(prefix + part, rate, decay, parameter)
    for name, parameter in module.named_parameters():
        put("other", lr, weight_decay if parameter.dim() > 1 and not UNDECAYED.search(name) else None, parameter)
    if not groups:
        if next(module.parameters(), None) is None:
            raise fail("GM591", "the model has no parameters, so there is nothing to train")
        raise fail("GM591", "every parameter is frozen, so there is nothing to train", help="freeze less of the model")
    return list(groups.values())


class _Labels:
    """Which trunk or head a parameter belongs to, and in which layer of its trunk it is."""

    def __init__(self, graph: ModelGraph, layer_decay: float | None) -> None:
        self.trunks = {name: c for name, c in graph.components.items() if c.kind == "trunk"}
        self.heads = [f"heads.{name}" for name in graph.spec.heads]
        self.layers: dict[str, int] = {}
        self.depths: dict[str, int] = {}
        for path, component in self.trunks.items() if layer_decay is not None else ():
            depths = layer_depths(graph, component)
            self.layers[path] = max(depths.values(), default=0) + 1
            self.depths.update({f"{path}.{name}": depth for name, depth in depths.items()})

    def of(self, name: str) -> tuple[str, int | None]:
        """The component, and the layer if it is a trunk (0 if layers do not matter)."""
        for path in self.trunks:
            if name.startswith(f"{path}."):
                return path, self._depth(name) if self.layers else 0
        return next((head for head in self.heads if name.startswith(f"{head}.")), "other"), None

    def _depth(self, name: str) -> int:
        """The layer of a parameter; what was added to a module later (LoRA) belongs to that module's layer."""
        while name not in self.depths:
            holder = name.rpartition(".")[0]
            inside = [depth for known, depth in self.depths.items() if known.startswith(f"{holder}.")]
            if inside:
                return max(inside)
            name = holder
        return self.depths[name]


def _of_head(graph: ModelGraph, part: str, lr: float, weight_decay: float) -> tuple[float, float]:
    """The learning rate and weight decay of a head: those of the spec, or of the others."""
    name = head_name(part) if part.startswith("heads.") else ""
    head = graph.spec.heads.get(name)
    if head is None:
        return lr, weight_decay
    own = head.settings
    return lr if own.lr is None else own.lr, weight_decay if own.weight_decay is None else own.weight_decay


def _undecayed(model: CompiledModel, graph: ModelGraph) -> set[str]:
    """Names of parameters without weight decay, besides vectors."""
    found = {name for name, _ in model.named_parameters() if UNDECAYED.search(name)}
    for path, module in model.named_modules():
        if "norm" in type(module).__name__.lower():
            found |= {f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)}
    for path, component in graph.components.items():
        published = getattr(component.meta, "no_weight_decay", None)
        for name in published() if callable(published) else ():
            found.add(f"{path}.{name}")
    return found


def _check_rates(rates: Mapping[str, Any]) -> None:
    for name, value in rates.items():
        if value is None and name not in ("lr", "weight_decay"):
            continue
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
        if not number or (name == "layer_decay" and not 0 < value <= 1):
            allowed = "a factor between 0 and 1" if name == "layer_decay" else "a number that is not negative"
            raise fail("GM591", f"`{name}` takes {allowed}, not {value!r}", path=name)
