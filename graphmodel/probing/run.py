"""Probes the frozen features of a module on stores: checks everything first, then trains, evaluates and writes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from graphmodel import __version__
from graphmodel.diagnostics import Collector, Diagnostic
from graphmodel.extraction.features import FeatureDataset
from graphmodel.extraction.packages import need
from graphmodel.lower.module import CompiledModel, check_compiled
from graphmodel.lower.random_inputs import weights_of
from graphmodel.probing import heads as head_training
from graphmodel.probing import knn, logistic
from graphmodel.probing.checks import check_features, check_finite, check_labels, opened, stored_names
from graphmodel.probing.heads import MOMENTUM, ProbeProgress, Report
from graphmodel.probing.options import DEFAULT_LR, Method, Optimizer, Options, Rates, rates_of
from graphmodel.probing.results import ProbeReport, ProbeResult, check_directory, ranked, write
from graphmodel.probing.samples import Samples, stratified
from graphmodel.probing.target import Feature, Head, features_of, heads_of

HOLDOUT = 0.2
_PACKAGES = ("torch", "numpy")


def probe(
    module: CompiledModel,
    store: str | Path,
    *,
    test: str | Path | None = None,
    holdout: float | None = None,
    method: Method = "heads",
    outputs: Sequence[str] | None = None,
    epochs: int = 28,
    batch_size: int = 256,
    lr: Rates = None,
    weight_decay: Rates = None,
    optimizer: Optimizer = "sgd",
    k: int | Sequence[int] = 20,
    temperature: float = 0.07,
    C: float | Sequence[float] = 1.0,
    seed: int = 0,
    out: str | Path | None = None,
    storage_options: dict[str, Any] | None = None,
    progress: Report | None = None,
) -> ProbeReport:
    """Trains the heads of a module on stored features and evaluates each of them.

    The heads are trained together, each as it would be alone: one optimizer, a group of parameters with a learning rate
    of its own for each head, and a cosine schedule. They share their parameters with `module`, so that the module is
    trained afterwards.

    Example:
        >>> import graphmodel, tempfile, torch
        >>> spec = {"inputs": {"images": [3, 32, 32]}, "trunk": {"name": "resnet", "depth": 18, "freeze": True}}
        >>> heads = {"slow": {"mlp": {"dims": ["auto", 2]}}, "fast": {"mlp": {"dims": ["auto", 2]}}}
        >>> mapping = {"images": {"flatten": ["slow", "fast"]}}
        >>> model = graphmodel.compile({**spec, "heads": heads, "mapping": mapping}, seed=0)
        >>> images = torch.arange(20)[:, None, None, None] % 2 + torch.randn(20, 3, 32, 32) / 9
        >>> data = torch.utils.data.TensorDataset(images, torch.arange(20) % 2)
        >>> with tempfile.TemporaryDirectory() as place:
        ...     _ = graphmodel.extract(graphmodel.split_frozen(model)[0], data, place)
        ...     report = graphmodel.probe(model, place, lr={"slow": 1e-4, "fast": 0.1}, epochs=10)
        >>> report.best.name, report.best.accuracy, report.best.settings["lr"]
        ('fast', 1.0, 0.1)

    Args:
        module: what `compile` returned, with the weights that the features were extracted with. It runs on the device
            that it is on.
        store: the features, as `extract` wrote them for `split_frozen(module)[0]` (`graphmodel extract --frozen`), or
            for any spec that computes what the heads read in the same way.
        test: the store to evaluate on.
        holdout: the fraction of each class that is held out of `store` to evaluate on; 0.2 if there is no `test`.
        method: `heads` trains the heads; `knn` (weighted nearest neighbours) and `logistic` (scikit-learn) classify by
            each stored feature of the module, and need no heads.
        outputs: names of the heads' outputs to train, or of the features; all if None.
        epochs: how often each sample is seen.
        batch_size: samples in a batch.
        lr: the learning rate at the start, for heads without one in the spec; or rates by name or pattern of heads.
            0.01 for heads that neither mentions.
        weight_decay: in the same form; 0 if nothing is said.
        optimizer: `sgd` with a momentum of 0.9, or `adamw`.
        k: numbers of neighbours.
        temperature: of the neighbours' weights.
        C: inverse strengths of the penalty of logistic regression.
        seed: draws the split, the order of the batches and dropout.
        out: a directory for `results.json`, a plot, and the weights of the best head.
        storage_options: options of fsspec.
        progress: called after each epoch or feature.

    Returns:
        The results, best first.

    Raises:
        CompileError: everything that is wrong with the options and the stores: GM614 if an option is not valid; GM565
            if nothing is frozen or nothing trains; GM615 if an output does not give logits; GM611 if a store has other
            features; GM612 if its labels are missing or do not fit; GM613 if a feature is not finite; GM608 if a store
            is not there; GM600 if a package is missing; GM520 if `out` cannot be written.
    """
    need("zarr")
    check_compiled(module, "probe")
    ks, cs = _tuple(k), _tuple(C)
    held = HOLDOUT if holdout is None and test is None else holdout
    options = Options(method, held, epochs, batch_size, lr, weight_decay, optimizer, ks, temperature, cs, seed)
    report = Collector()
    options.check(report)
    if test is not None and holdout is not None:
        message = "`test` and `holdout` exclude each other"
        report.error("GM614", message, None, "give a store of test samples, or a fraction to hold out", "holdout")
    report.raise_errors()
    if method == "logistic":
        need("sklearn", why="`logistic` probes")
    if out is not None:
        check_directory(out)
    work = _Work(module, options, outputs, store, test, storage_options, report)
    return work.run(out, progress)


class _Work:
    """One probe: what it reads, and what it found."""

    def __init__(
        self,
        module: CompiledModel,
        options: Options,
        names: Sequence[str] | None,
        store: str | Path,
        test: str | Path | None,
        storage: dict[str, Any] | None,
        report: Collector,
    ) -> None:
        self.module, self.options, self.report = module, options, report
        self.data = opened(report, store, storage)
        self.other = None if test is None else opened(report, test, storage)
        self.heads: CompiledModel | None = None
        self.outputs: list[Head] = []
        self.features: list[Feature] = []
        if options.method == "heads":
            self.heads, self.outputs, self.features = heads_of(module, names)
        else:
            found = features_of(module, names)
            stored = stored_names(self.data, found) if self.data is not None else {}
            # What the heads read is stored, or what they return: whichever the store has, unless it has neither.
            self.features = [f for f in found if f.name in stored] or found if names is None else found
        self.lr, self.weight_decay = self._rates("lr", DEFAULT_LR), self._rates("weight_decay", 0.0)

    def _rates(self, what: str, default: float) -> dict[str, float]:
        specs = self.module.model_graph.spec.heads
        own = {n: getattr(specs[n].settings, what) for h in self.outputs for n in h.heads}
        return rates_of(self.report, what, getattr(self.options, what), own, default)

    def run(self, out: str | Path | None, progress: Report | None) -> ProbeReport:
        """Checks, trains, evaluates and writes."""
        classes = self.check()
        training, test = self.samples()
        results, notes = self.results(training, test, classes, progress)
        data, options = self.data, self.options
        assert data is not None
        found = ProbeReport(
            model=self.module.model_graph.spec.name,
            method=options.method,
            store=data.store,
            test=None if self.other is None else self.other.store,
            holdout=options.holdout,
            seed=options.seed,
            train_samples=len(training),
            test_samples=len(test),
            classes=classes,
            class_names=tuple(data.classes) if data.classes else None,
            settings=self.settings(),
            results=ranked(results),
            digests={feature.name: feature.digests for feature in self.features},
            versions={"graphmodel": __version__, **{name: version(name) for name in _PACKAGES}},
            notes=(*self.report.found, *notes),
        )
        if out is None:
            return found
        weights = None
        if self.heads is not None:
            weights = self.heads.slice(outputs=[found.best.name]).state_dict()
        return replace(found, files=write(found, weights, out))

    def check(self) -> int:
        """Everything that is wrong with the stores, at once; returns the number of classes."""
        classes = 0
        for data, flag in ((self.data, "features"), (self.other, "test")):
            if data is None:
                continue
            check_features(self.report, data, self.features, flag)
            first = self.data.classes if self.data is not None and data is self.other else None
            classes = max(classes, check_labels(self.report, data, self.outputs, flag, first))
            check_finite(self.report, data, [*stored_names(data, self.features).values()], flag)
        if self.data is not None and self.other is not None:
            self.compare(self.data, self.other)
        if self.options.method == "knn" and self.data is not None and self.data.labels is not None:
            count = len(self.training_rows(self.data)[0])
            if max(self.options.k) > count:
                message = f"`k` is {max(self.options.k)}, and there are {count} training samples"
                self.report.error("GM614", message, None, f"give at most {count}", "k")
        if self.data is not None and self.data.labels is not None and self.data.labels.dim() == 1:
            self.check_split(self.data)
        self.report.raise_errors()
        return classes

    def check_split(self, data: FeatureDataset) -> None:
        """Checks that there is something to test on and, for logistic regression, to tell apart."""
        training, held = self.training_rows(data)
        if self.options.holdout is not None and len(data) and not len(held):
            message = f"no class in the store `{data.store}` has two samples, so nothing can be held out"
            self.report.error("GM612", message, None, "give a store of test samples (`--test`)", "holdout")
        assert data.labels is not None
        if self.options.method == "logistic" and len(training) and len(set(data.labels[training].tolist())) < 2:
            message = f"the training samples in the store `{data.store}` are all of one class"
            self.report.error("GM612", message, None, "a logistic regression needs two classes", "features")

    def compare(self, data: FeatureDataset, other: FeatureDataset) -> None:
        """Adds warnings about a test store that is not like the other one."""
        if Path(data.store).resolve() == Path(other.store).resolve():
            message = "the test samples are the training samples"
            self.report.warning("GM616", message, None, "give another store, or hold a part out (`--holdout`)", "test")
        elif data.record["transform"] != other.record["transform"]:
            message = "the images of the two stores went through different transforms"
            self.report.warning("GM616", message, None, "extract both with the same spec", "test")

    def training_rows(self, data: FeatureDataset) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of the training samples, and of those that are held out."""
        everything = torch.arange(len(data))
        if self.options.holdout is None or data.labels is None or data.labels.dim() != 1:
            return everything, everything[:0]
        return stratified(data.labels, self.options.holdout, self.options.seed)

    def samples(self) -> tuple[Samples, Samples]:
        """The training samples and the test samples."""
        assert self.data is not None
        other = self.other or self.data
        like = weights_of(self.module if self.heads is None else self.heads)
        dtype = like.dtype if self.heads is not None else torch.float32
        training, held = self.training_rows(self.data)
        rows = held if self.other is None else torch.arange(len(self.other))
        return (
            Samples(self.data, stored_names(self.data, self.features), training, like.device, dtype),
            Samples(other, stored_names(other, self.features), rows, like.device, dtype),
        )

    def results(
        self, training: Samples, test: Samples, classes: int, progress: Report | None
    ) -> tuple[list[ProbeResult], list[Diagnostic]]:
        """The results of the method."""
        if self.heads is not None:
            return head_training.run(
                self.heads, self.outputs, training, test, self.options, self.lr, self.weight_decay, progress
            )
        results: list[ProbeResult] = []
        notes: list[Diagnostic] = []
        start = time.monotonic()
        for i, feature in enumerate(self.features):
            if self.options.method == "knn":
                results += knn.run(feature.name, training, test, classes, self.options)
            else:
                found, said = logistic.run(feature.name, training, test, self.options)
                results, notes = results + found, notes + said
            if progress is not None:
                progress(ProbeProgress(i + 1, len(self.features), "features", time.monotonic() - start))
        return results, notes

    def settings(self) -> dict[str, Any]:
        """What all results have in common."""
        if self.options.method == "heads":
            shared = {"epochs": self.options.epochs, "batch_size": self.options.batch_size}
            momentum = {"momentum": MOMENTUM} if self.options.optimizer == "sgd" else {}
            return {**shared, "optimizer": self.options.optimizer, **momentum, "schedule": "cosine"}
        return {"max_iter": logistic.MAX_ITER} if self.options.method == "logistic" else {}


def _tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
