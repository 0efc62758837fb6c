"""Many small inputs of one shape: what `batch_inputs` is for."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import graphmodel
from benchmarks import baselines, harness
from benchmarks.harness import Row, Settings, Target
from benchmarks.workloads.registry import compare, linear, workload

INPUTS = 6

TOLERANCES = {"vit_small_patch16_224": 1e-6, "convnext_tiny": 2e-6}
"""Of the largest value of an output: the last downsampling convolution of ConvNeXt takes another kernel."""


@workload("six_inputs")
def six_inputs(settings: Settings) -> Iterator[Row]:
    """Six inputs of 96 px through ViT-S and ConvNeXt-T, a head over each, at batch 1 and 4."""
    harness.has_pass("batch_inputs")
    size = 32 if settings.quick else 96
    trunks = {
        "vit_small_patch16_224": {"img_size": size, **({"depth": 2, "embed_dim": 96} if settings.quick else {})},
        "convnext_tiny": {"depths": [1, 1, 2, 1]} if settings.quick else {},
    }
    names = [f"view{i}" for i in range(INPUTS)]
    for trunk in TOLERANCES:
        options = trunks[trunk]
        spec = {
            "inputs": {name: {"shape": [3, size, size]} for name in names},
            "trunk": {"name": f"timm:{trunk}", "num_classes": 0, **options},
            "heads": {f"head_{name}": linear(64) for name in names},
            "mapping": {name: {"flatten": f"head_{name}"} for name in names},
        }
        for batch in (1, 4):
            # TF32 is off while results are compared, and on while they are timed, as torch has it.
            tolerance = TOLERANCES[trunk] if settings.device == "cpu" else 1e-5
            ours = graphmodel.compile(spec, seed=0, passes={"batch_inputs": True})
            loop = baselines.OneByOne(baselines.TimmPooled(trunk, **options), INPUTS, 64)
            yield from compare(
                "six_inputs", settings, ours, {"one pass per input": loop},
                [torch.randn(batch, 3, size, size) for _ in names],
                metrics=("forward", "forward+backward"),
                targets={"one pass per input": Target(">=", 1.5)} if batch == 1 else {},
                note=f"{trunk}, {INPUTS} inputs of {size} px, batch {batch}", tolerance=tolerance, memory=batch == 1,
                compiled=False,
            )  # fmt: skip
