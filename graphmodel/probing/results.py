"""What a probe found: typed rows, `results.json`, and the directory that holds it beside the plot and the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from graphmodel.diagnostics import Diagnostic
from graphmodel.probing.chart import accuracy_chart
from graphmodel.writing import cannot_write, replace_directory

FORMAT = 1
RESULTS, WEIGHTS, SVG, PNG = "results.json", "best_head.safetensors", "accuracy.svg", "accuracy.png"
FILES = (RESULTS, WEIGHTS, SVG, PNG)


@dataclass(frozen=True)
class ProbeResult:
    """One head, or one classifier on one feature.

    Attributes:
        name: the output of the head, or the feature, with its settings if there are several.
        features: names of the stored features that it reads.
        accuracy: the fraction of the test samples whose label has the highest score.
        top5: the fraction whose label is among the five highest; None with five classes or fewer.
        loss: the mean cross-entropy on the test samples; None for nearest neighbours, and if it is not finite.
        train_accuracy: the accuracy on the training samples; None for nearest neighbours.
        settings: `lr` and `weight_decay` of a head, `k` and `temperature`, or `C`.
    """

    name: str
    features: tuple[str, ...]
    accuracy: float
    top5: float | None = None
    loss: float | None = None
    train_accuracy: float | None = None
    settings: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ProbeReport:
    """What `probe` found.

    Attributes:
        model: the name of the spec.
        method: `heads`, `knn` or `logistic`.
        store: where the features are.
        test: the store of the test samples; None if they were held out of `store`.
        holdout: the fraction of each class that was held out; None if there is a store of test samples.
        seed: what the split, the order of the batches and dropout were drawn with.
        train_samples: the number of training samples.
        test_samples: the number of test samples.
        classes: the number of classes.
        class_names: their names, if the data has any.
        settings: settings of all results: `epochs`, `batch_size` and `optimizer` for heads.
        results: the rows, best first.
        digests: checksums of the model and the weights behind each feature.
        versions: of packages.
        notes: warnings; they are not part of `results.json`.
        files: what was written.
    """

    model: str
    method: str
    store: str
    test: str | None
    holdout: float | None
    seed: int
    train_samples: int
    test_samples: int
    classes: int
    class_names: tuple[str, ...] | None
    settings: Mapping[str, Any]
    results: tuple[ProbeResult, ...]
    digests: Mapping[str, Mapping[str, str]]
    versions: Mapping[str, str]
    notes: tuple[Diagnostic, ...] = ()
    files: tuple[str, ...] = ()

    @property
    def best(self) -> ProbeResult:
        """The row with the highest accuracy."""
        return self.results[0]

    def to_dict(self) -> dict[str, Any]:
        """The contents of `results.json`: the same for the same call on the same machine, so nothing of time."""
        found = asdict(self)
        del found["notes"], found["files"]
        return {"format": FORMAT, "best": self.best.name, **json.loads(json.dumps(found))}


def ranked(results: list[ProbeResult]) -> tuple[ProbeResult, ...]:
    """The results by accuracy, then by loss, then in their order; a head without a loss comes after its equals."""
    return tuple(sorted(results, key=lambda r: (-r.accuracy, float("inf") if r.loss is None else r.loss)))


def check_directory(directory: str | Path) -> None:
    """Refuses an output directory that holds anything but an earlier result.

    Raises:
        CompileError: GM520.
    """
    place = Path(directory)
    try:
        if place.exists() and not place.is_dir():
            raise cannot_write(directory, "it is not a directory")
        others = sorted(item.name for item in place.iterdir() if item.name not in FILES) if place.exists() else []
    except OSError as error:
        raise cannot_write(directory, error) from None
    if others:
        shown = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
        raise cannot_write(directory, f"it holds other files ({shown})", "name a new directory")


def write(report: ProbeReport, weights: Mapping[str, torch.Tensor] | None, directory: str | Path) -> tuple[str, ...]:
    """Writes the results, the plot and the weights of the best head; the directory is complete or as it was.

    Args:
        report: what was found.
        weights: tensors of the best head by their name in the whole model; None if there are none.
        directory: where to.

    Returns:
        The files.

    Raises:
        CompileError: GM520 if they cannot be written.
    """
    check_directory(directory)
    contents: dict[str, str | bytes] = {
        RESULTS: json.dumps(report.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        SVG: accuracy_chart(report, "svg"),
        PNG: accuracy_chart(report, "png"),
    }

    def fill(place: Path) -> None:
        for name, content in contents.items():
            (place / name).write_bytes(content.encode() if isinstance(content, str) else content)
        if weights is not None:
            plain = {key: value.detach().cpu().contiguous().clone() for key, value in weights.items()}
            save_file(plain, place / WEIGHTS, metadata={"output": report.best.name})

    replace_directory(directory, FILES, fill)
    names = [name for name in FILES if name != WEIGHTS or weights is not None]
    return tuple(str(Path(directory) / name) for name in names)
