"""Features on disk: extraction beside the bare forward, memory over the number of images, and reading."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

import graphmodel
from benchmarks import harness
from benchmarks.harness import Row, Settings, SkipWorkload, Target
from benchmarks.workloads.registry import workload


class GeneratedImages(Dataset[Any]):
    """Images that take no time to load: each is one of sixteen."""

    def __init__(self, length: int, size: int) -> None:
        self.length = length
        self.images = torch.randn(16, 3, size, size, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.images[index % 16], index % 10


def _needs_zarr() -> None:
    try:
        import zarr  # noqa: F401
    except ImportError:
        raise SkipWorkload("zarr is not installed (`pip install 'graphmodel[extract]'`)") from None


def _timed(step: Callable[[], Any]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - wall, time.process_time() - cpu


@workload("store_extraction")
def extraction(settings: Settings) -> Iterator[Row]:
    """`graphmodel.extract` of three layers to a new store, verified, beside the bare forward on the same batches."""
    _needs_zarr()
    size, images, batch = (64, 64, 32) if settings.quick else (224, 256, 32)
    spec = {
        "inputs": {"images": {"shape": [3, size, size]}},
        "trunk": {"name": "resnet", "depth": 18, "freeze": True},
        "mapping": {
            "images": {"res4": {"pool": {"adaptive_avg_pool2d": 2}, "as": "res4"}, "res5": None, "flatten": None}
        },
    }
    module = graphmodel.compile(spec, seed=0).eval()
    data = GeneratedImages(images, size)
    batches = [torch.stack([data[i][0] for i in range(first, first + batch)]) for first in range(0, images, batch)]

    def bare() -> None:
        with torch.inference_mode():
            for images in batches:
                module(images)

    with tempfile.TemporaryDirectory() as place:
        numbers = count()

        def ours() -> None:
            graphmodel.extract(module, data, f"{place}/{next(numbers)}", batch_size=batch)

        sides = {"bare forward": bare, "ours": ours}
        for step in sides.values():
            step()
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for turn in range(settings.pairs):
            for name in list(sides) if turn % 2 == 0 else list(sides)[::-1]:
                found[name].append(_timed(sides[name]))
    note = f"ResNet-18, three layers, {images} images of {size} px, batch {batch}, with the checks of the written store"
    for metric, column in (("wall time", 0), ("CPU time of all threads", 1)):
        times = {name: [pair[column] for pair in pairs] for name, pairs in found.items()}
        target = None if settings.quick or column == 0 else Target(">=", 0.95)
        yield harness.ratio_row(
            "store_extraction", metric, times, "bare forward", "ours", settings, baseline="bare forward", note=note,
            target=target,
        )  # fmt: skip


_RUN = """
import json, resource, sys, tempfile
import torch
from torch import nn
import graphmodel
from benchmarks.workloads.extraction import GeneratedImages, small_model
torch.set_num_threads(1)
with tempfile.TemporaryDirectory() as place:
    graphmodel.extract(small_model(), GeneratedImages(int(sys.argv[1]), 16), place, batch_size=256)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps(int(status["VmHWM"].split()[0]) / 1024))
"""


def small_model() -> Any:
    """A model of two layers, with features of 256 numbers for images of 16 pixels."""
    layers = {"conv": nn.Conv2d(3, 16, 4, 4), "relu": nn.ReLU(), "flatten": nn.Flatten()}
    trunk = nn.Sequential()
    for name, layer in layers.items():
        trunk.add_module(name, layer)
    spec = {"inputs": {"images": [3, 16, 16]}, "trunk": {"name": "resnet"}, "mapping": {"images": {"flatten": None}}}
    return graphmodel.compile(spec, trunks={"trunk": trunk})


@workload("store_memory")
def extraction_memory(settings: Settings) -> Iterator[Row]:
    """The peak memory of a process that extracts features of generated images, few and many."""
    _needs_zarr()
    if not Path("/proc/self/status").exists():
        raise SkipWorkload("the peak memory of a process is read from /proc")
    few, many = (500, 2000) if settings.quick else (1000, 100_000)
    peaks = {}
    for images in (few, many):
        command = [sys.executable, "-c", _RUN, str(images)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
        peaks[images] = float(json.loads(done.stdout.splitlines()[-1]))
        yield Row("store_memory", f"peak memory, {images:,} images", peaks[images], "MB", note="256 float32 each")
    yield Row(
        "store_memory", f"peak memory, {many:,} / {few:,} images", peaks[many] / peaks[few], "of it",
        target=None if settings.quick else Target("<=", 1.05), note="whole process, Python and torch included",
    )  # fmt: skip


@workload("store_reading")
def feature_reading(settings: Settings) -> Iterator[Row]:
    """Shuffled batches of 1024 rows of a `FeatureDataset` from the page cache, beside numpy's memory map."""
    _needs_zarr()
    from graphmodel.extraction.layout import Block, Column, Identity, Layout, rows_of_commit
    from graphmodel.extraction.store import create_store

    rows, width, batch = (4096, 64, 1024) if settings.quick else (100_000, 2048, 1024)
    columns = {"flatten": Column((width,), "float32")}
    layout = Layout(columns, Column((), "int64"), rows_of_commit(columns, None))
    with tempfile.TemporaryDirectory() as place:
        store = create_store(f"{place}/store", layout, Identity("", "", "", ""), spec="", length=rows, digests={})
        raw = np.memmap(f"{place}/raw", np.float32, "w+", shape=(rows, width))
        drawn = np.random.default_rng(0)
        for start in range(0, rows, layout.rows):
            values = drawn.standard_normal((min(layout.rows, rows - start), width), np.float32)
            raw[start : start + len(values)] = values
            numbers = np.arange(start, start + len(values))
            store.write(
                Block(start, {"flatten": values}, np.ones(len(values), np.uint8), numbers % 10, numbers.tolist())
            )
        store.finish()
        raw.flush()
        mapped = np.memmap(f"{place}/raw", np.float32, "r", shape=(rows, width))
        labels = torch.arange(rows) % 10
        data = graphmodel.FeatureDataset(f"{place}/store")

        def read(ours: bool) -> None:
            if ours:
                for _ in data.batches(batch, shuffle=True, generator=torch.Generator().manual_seed(0)):
                    pass
                return
            order = torch.randperm(rows, generator=torch.Generator().manual_seed(0))
            for first in range(0, rows, batch):
                part = order[first : first + batch]
                torch.from_numpy(mapped[part.numpy()])
                labels[part]

        first = next(iter(data.batches(batch, shuffle=True, generator=torch.Generator().manual_seed(0))))
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(0))[:batch]
        harness.check_equal("store_reading", first[0]["flatten"], torch.from_numpy(mapped[order.numpy()]), 0)
        times = harness.interleave({"memory map": lambda: read(False), "ours": lambda: read(True)}, settings.pairs)
    note = f"{rows:,} rows of {width} float32, batches of {batch}, shuffled"
    speed = rows * width * 4 / statistics.median(times["ours"]) / 1e9
    target = None if settings.quick else Target(">=", 1.0)
    yield Row("store_reading", "rate", speed, "GB/s", target=target, note=note, pairs=settings.pairs)
    yield harness.ratio_row(
        "store_reading", "CPU time", times, "memory map", "ours", settings, baseline="numpy memory map", note=note,
        target=None if settings.quick else Target(">=", round(1 / 1.3, 2)),
    )  # fmt: skip
