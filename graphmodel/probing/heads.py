"""Trains heads on stored features: all of them at once, each with a learning rate of its own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from graphmodel.diagnostics import Diagnostic, fail, first_line
from graphmodel.losses import fused_cross_entropy
from graphmodel.lower.module import CompiledModel
from graphmodel.probing.options import Options
from graphmodel.probing.results import ProbeResult
from graphmodel.probing.samples import Samples
from graphmodel.probing.scores import Scores
from graphmodel.probing.target import Head
from graphmodel.training.groups import param_groups

MOMENTUM = 0.9


@dataclass(frozen=True)
class ProbeProgress:
    """How far a probe is.

    Attributes:
        done: epochs that are finished, or features.
        total: their number.
        what: `epochs` or `features`.
        seconds: since the start.
    """

    done: int
    total: int
    what: str
    seconds: float


Report = Callable[[ProbeProgress], None]


def train(
    heads: CompiledModel,
    samples: Samples,
    options: Options,
    lr: Mapping[str, float],
    weight_decay: Mapping[str, float],
    progress: Report | None = None,
) -> None:
    """Trains the heads: the sum of their cross-entropies, one optimizer, a cosine schedule over all steps.

    The order of the samples is `torch.randperm` of a generator with the seed, anew for each epoch. A last batch of one
    sample is left out if there is another one, since BatchNorm cannot use it.

    Args:
        heads: the trainable part of a module.
        samples: the training samples.
        options: epochs, batch size, optimizer and seed.
        lr: the learning rate of each head.
        weight_decay: the weight decay of each head's matrices and kernels.
        progress: called after each epoch.

    Raises:
        CompileError: GM614 if batches have one sample, and a head has BatchNorm.
    """
    start = time.monotonic()
    groups = groups_of(heads, lr, weight_decay)
    optimizer = _optimizer(groups, options.optimizer)
    rates = [group["lr"] for group in optimizer.param_groups]
    generator = torch.Generator().manual_seed(options.seed)
    count, size = len(samples), options.batch_size
    starts = [s for s in range(0, count, size) if count - s > 1 or s == 0]
    step, steps = 0, options.epochs * len(starts)
    heads.train()
    for epoch in range(options.epochs):
        order = torch.randperm(count, generator=generator)
        for begin in starts:
            features, labels = samples.take(order[begin : begin + size])
            try:
                loss = fused_cross_entropy(heads(**features), labels, total=True)
            except ValueError as error:
                if len(labels) > 1:
                    raise
                message = f"the heads cannot be trained on one sample at a time: {first_line(error)}"
                raise fail("GM614", message, help="give a larger `batch_size`", path="batch_size") from error
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            factor = 0.5 * (1 + math.cos(math.pi * step / steps))
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            optimizer.step()
            step += 1
        if progress is not None:
            progress(ProbeProgress(epoch + 1, options.epochs, "epochs", time.monotonic() - start))


def groups_of(heads: CompiledModel, lr: Mapping[str, float], weight_decay: Mapping[str, float]) -> list[dict[str, Any]]:
    """A group of parameters for each head; two if some of its parameters have no weight decay.

    What is trained in front of the heads has the smallest rate and weight decay of all.

    Args:
        heads: the trainable part of a module.
        lr: the learning rate of each head.
        weight_decay: the weight decay of each head's matrices and kernels; `param_groups` says what has none.
    """
    rest = {"lr": min(lr.values()), "weight_decay": min(weight_decay.values())}
    return param_groups(heads, **rest, head_lr=lr, head_weight_decay=weight_decay)


def _optimizer(groups: list[dict[str, Any]], name: str) -> torch.optim.Optimizer:
    devices = {p.device.type for group in groups for p in group["params"]}
    fused = devices <= {"cpu", "cuda"}
    if name == "adamw":
        return torch.optim.AdamW(groups, fused=fused)
    return torch.optim.SGD(groups, lr=0.0, momentum=MOMENTUM, fused=fused)


def evaluate(heads: CompiledModel, samples: Samples, names: Sequence[str], batch_size: int) -> dict[str, Scores]:
    """The scores of each output in eval mode."""
    found = {name: Scores() for name in names}
    heads.eval()
    with torch.no_grad():
        for features, labels in samples.batches(max(batch_size, 1024)):
            results = heads(**features)
            for name, scores in found.items():
                scores.add(results[name], labels)
    return found


def run(
    heads: CompiledModel,
    outputs: Sequence[Head],
    training: Samples,
    test: Samples,
    options: Options,
    lr: Mapping[str, float],
    weight_decay: Mapping[str, float],
    progress: Report | None,
) -> tuple[list[ProbeResult], list[Diagnostic]]:
    """Trains the heads and evaluates each of them."""
    devices = [training.device] if training.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.enable_grad():
        torch.manual_seed(options.seed)  # for dropout
        train(heads, training, options, lr, weight_decay, progress)
    names = [head.name for head in outputs]
    found = evaluate(heads, test, names, options.batch_size)
    own = evaluate(heads, training, names, options.batch_size)
    results, notes = [], []
    for head in outputs:
        scores = found[head.name]
        settings = {}
        if head.heads:
            settings = {"lr": lr[head.heads[-1]], "weight_decay": weight_decay[head.heads[-1]]}
        results.append(
            ProbeResult(
                head.name,
                head.features,
                scores.accuracy,
                scores.top5,
                scores.mean_loss,
                own[head.name].accuracy,
                settings,
            )
        )
        if scores.mean_loss is None:
            message = f"`{head.name}` diverged: its logits are not finite"
            notes.append(Diagnostic("GM616", message, head.node.span, "lower its learning rate", "warning", "lr"))
    return results, notes
