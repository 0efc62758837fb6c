"""Keeps parameters from training until a step: `FreezeUntil`, VISSL's `TEMP_FROZEN_PARAMS_ITER_MAP`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from graphmodel.build.freeze_patterns import matches
from graphmodel.build.vissl_state_dict_keys import VisslKeys
from graphmodel.diagnostics import choices_help, fail
from graphmodel.lower.module import CompiledModel
from graphmodel.training.wrapped import compiled_models


class FreezeUntil:
    """Keeps parameters from training until a step, such as SwAV's prototypes during the first epoch.

    Call it with the number of the step between `backward()` and the optimizer's step (and before gradients are
    clipped): it drops the gradients of parameters that are still frozen, so that an optimizer passes over them, without
    weight decay or momentum. `requires_grad` does not change: gradients flow through to what is before, and
    `torch.compile` and DDP see the same model throughout.

    Example:
        >>> import graphmodel, torch
        >>> spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
        >>> heads = {"swav": {"swav_head": {"dims": ["auto", 128], "use_bn": True, "num_clusters": [30]}}}
        >>> model = graphmodel.compile({**spec, "heads": heads}, seed=0)
        >>> frozen = graphmodel.FreezeUntil(model, {"heads.swav.prototypes0": 313})
        >>> sum(part.sum() for part in model(torch.randn(2, 3, 64, 64)).values()).backward()
        >>> frozen(step=0)
        >>> model.heads.swav.prototypes0.weight.grad is None
        True

    Args:
        module: a compiled model, or a module that wraps or holds one.
        steps: the first step that trains, by parameter name, module path or pattern, as in `freeze:`. If None, what the
            VISSL file says that the model was compiled from.

    Attributes:
        steps: the first step that trains, by the name of the parameter.

    Raises:
        CompileError: GM590 if there is no compiled model in `module`, GM593 if a name covers nothing, a step is not
            valid, or nothing is given and the model does not come from a VISSL file with such a map.

    Source: VISSL's `FreezeParametersHook`.
    """

    def __init__(self, module: nn.Module, steps: Mapping[str, int] | None = None) -> None:
        models = compiled_models(module, "FreezeUntil")
        self._model = next(iter(models.values()))
        given = dict(_of_vissl(self._model)) if steps is None else dict(steps)
        if not given:
            message = "no parameter is named, and the model does not come from a VISSL file that names any"
            help = 'write `FreezeUntil(model, {"heads.swav.prototypes0": 313})`'
            raise fail("GM593", message, help=help, path="steps")
        names = [name for name, _ in self._model.named_parameters()]
        self.steps: dict[str, int] = {}
        for pattern, step in given.items():
            if isinstance(step, bool) or not isinstance(step, int) or step < 0:
                message = f"`{pattern}` is frozen until a step, which is a number of steps and not {step!r}"
                raise fail("GM593", message, path="steps")
            covered = [name for name in names if matches(name, pattern)]
            if not covered:
                message = f"`{pattern}` covers no parameter of the model"
                raise fail("GM593", message, help=choices_help(pattern, names, "parameters"), path="steps")
            for name in covered:
                self.steps[name] = max(step, self.steps.get(name, 0))

    def __call__(self, step: int) -> None:
        """Drops the gradients of what is frozen at this step; the first step is 0."""
        if step >= max(self.steps.values()):
            return
        for name, parameter in self._model.named_parameters():
            if step < self.steps.get(name, 0):
                parameter.grad = None


def _of_vissl(model: CompiledModel) -> Iterator[tuple[str, Any]]:
    """What the VISSL file says that the model was compiled from, in the names of the compiled model."""
    graph = model.model_graph
    if graph.spec.dialect != "vissl":
        return
    data = graph.spec.origin.data
    data = data.get("config", data)
    translated = VisslKeys(graph.spec, graph.components, [name for name, _ in model.named_parameters()])
    for entry in data.get("MODEL", {}).get("TEMP_FROZEN_PARAMS_ITER_MAP") or ():
        if not isinstance(entry, list) or len(entry) != 2:
            message = f"TEMP_FROZEN_PARAMS_ITER_MAP lists pairs of a name and a number of steps, not {entry!r}"
            raise fail("GM593", message, path="config.MODEL.TEMP_FROZEN_PARAMS_ITER_MAP")
        yield translated.translate(str(entry[0])) or str(entry[0]), entry[1]
