"""Frozen trunks: inference, probing steps with folded BatchNorm, and probes trained on cached features."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn import functional as F

import graphmodel
from benchmarks import harness
from benchmarks.harness import Row, Settings, SkipWorkload, Target
from benchmarks.workloads.registry import forward_pair, linear, workload


def probe_spec(depth: int, size: int) -> dict[str, object]:
    return {
        "inputs": {"images": {"shape": [3, size, size]}},
        "trunk": {"name": "resnet", "depth": depth, "freeze": True},
        "heads": {"probe": linear(1000)},
    }


@workload("frozen_extraction")
def frozen_extraction(settings: Settings) -> Iterator[Row]:
    """Features of a frozen ResNet-50 through `optimize_for_inference`, eager and with inductor freezing."""
    optimize = harness.api("optimize_for_inference")
    depth, size = (18, 64) if settings.quick else (50, 224)
    spec = {
        "inputs": {"images": {"shape": [3, size, size]}},
        "trunk": {"name": "resnet", "depth": depth, "freeze": True},
    }
    batch = settings.samples(4, 64)
    plain = graphmodel.compile(spec, seed=0).eval().to(settings.device)
    x = torch.randn(batch, 3, size, size, device=settings.device)
    note = f"ResNet-{depth}, batch {batch}, {size} px"
    for label in ("eager", "inductor freezing"):
        frozen = label == "inductor freezing"
        if frozen and settings.quick and not settings.compiled:
            continue
        target = Target(">=", 1.25) if frozen else None
        with settings.attempt("frozen_extraction", label):
            ours = optimize(plain, x, compile=frozen)
            yield from forward_pair("frozen_extraction", settings, ours, plain, [x], f"{note}, {label}", target)
    if settings.device == "cuda":
        half, y = copy.deepcopy(plain).bfloat16(), x.bfloat16()
        with settings.attempt("frozen_extraction", "bf16"):
            ours = optimize(half, y)
            yield from forward_pair("frozen_extraction", settings, ours, half, [y], f"{note}, bf16, eager", None, 0.05)


@workload("frozen_probe")
def frozen_probe(settings: Settings) -> Iterator[Row]:
    """A training step of a probe over a frozen ResNet-50 with BatchNorm folded, beside the same without passes."""
    harness.has_pass("fold_batchnorm")
    depth, size = (18, 64) if settings.quick else (50, 224)
    choices: dict[str, tuple[tuple[str, ...], Target | None]] = {
        "`fold_batchnorm` alone": (("fold_batchnorm",), Target(">=", 1.1)),
        "`fold_batchnorm` and `channels_last`": (("fold_batchnorm", "channels_last"), None),
    }
    # Below 16 samples, one CPU thread runs convolutions of 1x1 as matrix products, where a bias costs a pass (see notes).
    for batch in (4,) if settings.quick else (8, 16, 32) if settings.device == "cuda" else (8, 16):
        plain = graphmodel.compile(probe_spec(depth, size), seed=0, passes=()).to(settings.device)
        x = torch.randn(batch, 3, size, size, device=settings.device)
        steps = {"without passes": harness.training_step(plain, [x])}
        for label, (passes, _) in choices.items():
            ours = graphmodel.compile(probe_spec(depth, size), seed=0, passes=passes).to(settings.device)
            ours.load_state_dict(plain.state_dict())
            with harness.full_precision(), torch.no_grad():
                harness.check_equal("frozen_probe", ours(x), plain(x), 1e-4)
            steps[label] = harness.training_step(ours, [x])
        times = harness.interleave(steps, settings.pairs if batch < 16 else min(settings.pairs, 5), settings.device)
        for label, (_, target) in choices.items():
            yield harness.ratio_row(
                "frozen_probe", "training step", times, "without passes", label, settings, baseline="without passes",
                note=f"frozen ResNet-{depth}, batch {batch}, {size} px, {label}", target=target,
            )  # fmt: skip


@workload("cached_features")
def cached_features(settings: Settings) -> Iterator[Row]:
    """A linear probe of 28 epochs: features computed once with `split_frozen`, beside the whole model in every epoch."""
    split = harness.api("split_frozen")
    depth, size, images = (18, 32, 8) if settings.quick else (50, 224, settings.samples(16, 512))
    epochs, batch = 28, settings.samples(8, 64)
    whole = graphmodel.compile(probe_spec(depth, size), seed=0).to(settings.device)
    data = torch.randn(images, 3, size, size, device=settings.device)
    labels = torch.randint(1000, (images,), device=settings.device)
    features, heads = split(whole)
    with harness.full_precision(), torch.no_grad():
        cut = features(data[:batch])
        given = list(cut.values()) if isinstance(cut, dict) else [cut] if isinstance(cut, torch.Tensor) else list(cut)
        harness.check_equal("cached_features", heads(*given), whole(data[:batch]))
    step_times = []
    optimizer = torch.optim.SGD([p for p in whole.parameters() if p.requires_grad], lr=1e-3)

    def train(model: object, inputs: list[list[torch.Tensor]]) -> None:
        for start in range(0, images, batch):
            parts = [t[start : start + batch] for t in inputs[0]]
            loss = F.cross_entropy(model(*parts)["probe"], labels[start : start + batch])  # type: ignore[operator]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def cached_training() -> None:
        with torch.no_grad():
            chunks = [features(data[i : i + batch]) for i in range(0, images, batch)]
        rows = [
            list(c.values()) if isinstance(c, dict) else [c] if isinstance(c, torch.Tensor) else list(c) for c in chunks
        ]
        cached = [torch.cat(column) for column in zip(*rows, strict=True)]
        for _ in range(epochs):
            train(heads, [cached])

    cached_training()  # the first run builds caches
    for _ in range(min(settings.pairs, 3)):
        epoch = harness.seconds_of(lambda: train(whole, [[data]]), settings.device)
        step_times.append((epoch * epochs, harness.seconds_of(cached_training, settings.device)))
    times = {"whole model": [a for a, _ in step_times], "ours": [b for _, b in step_times]}
    yield harness.ratio_row(
        "cached_features", f"{epochs} epochs", times, "whole model", "ours", settings, baseline="whole model",
        note=f"frozen ResNet-{depth}, {images} images, batch {batch}, {size} px; the whole model is timed over one epoch",
        target=Target(">=", 15.0),
    )  # fmt: skip


@workload("stored_probe")
def stored_probe(settings: Settings) -> Iterator[Row]:
    """A linear probe of 28 epochs with `extract` and `probe`, through the disk, beside the trunk in every epoch."""
    extract, probe = harness.api("extract"), harness.api("probe")
    if settings.device != "cpu":
        raise SkipWorkload("measured in CPU time")
    depth, size, images = (18, 32, 8) if settings.quick else (50, 224, 32)
    epochs, batch = 28, 8
    whole = graphmodel.compile(probe_spec(depth, size), seed=0)
    data = torch.utils.data.TensorDataset(torch.randn(images, 3, size, size), torch.arange(images) % 2)
    features, _ = graphmodel.split_frozen(whole)
    optimizer = torch.optim.SGD([p for p in whole.parameters() if p.requires_grad], lr=1e-3, momentum=0.9)
    times: dict[str, list[float]] = {"whole model": [], "ours": []}
    for _ in range(min(settings.pairs, 3)):
        start = time.process_time()
        for x, labels in torch.utils.data.DataLoader(data, batch, shuffle=True):
            loss = F.cross_entropy(whole(x)["probe"], labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        times["whole model"].append((time.process_time() - start) * epochs)
        start = time.process_time()
        with tempfile.TemporaryDirectory() as place:
            extract(features, data, Path(place) / "store", batch_size=batch)
            store = Path(place) / "store"
            probe(whole, store, test=store, epochs=epochs, batch_size=batch, out=Path(place) / "results")
        times["ours"].append(time.process_time() - start)
    yield harness.ratio_row(
        "stored_probe", f"{epochs} epochs", times, "whole model", "ours", settings, baseline="trunk in every epoch",
        note=f"frozen ResNet-{depth}, {images} images, batch {batch}, {size} px; extraction, checks, evaluation and files "
        "included; the baseline is timed over one epoch, without evaluation",
        target=Target(">=", 15.0),
    )  # fmt: skip
