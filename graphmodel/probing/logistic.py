"""Logistic regression on stored features, by scikit-learn."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from graphmodel.diagnostics import Diagnostic
from graphmodel.probing.options import Options
from graphmodel.probing.results import ProbeResult
from graphmodel.probing.samples import Samples

MAX_ITER = 1000


def run(feature: str, training: Samples, test: Samples, options: Options) -> tuple[list[ProbeResult], list[Diagnostic]]:
    """Fits a logistic regression with a penalty of `1 / C` on standardized features, for each `C`.

    Args:
        feature: the feature; maps and tokens are flattened.
        training: the samples to fit.
        test: the samples to classify.
        options: `C`.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x, y = training.whole(feature).float().cpu().numpy(), training.labels.numpy()
    other, wanted = test.whole(feature).float().cpu().numpy(), test.labels.numpy()
    scaler = StandardScaler().fit(x)
    x, other = scaler.transform(x), scaler.transform(other)
    results, notes = [], []
    for c in options.C:
        classifier = LogisticRegression(C=c, max_iter=MAX_ITER)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            classifier.fit(x, y)
        if any(issubclass(w.category, ConvergenceWarning) for w in caught):
            message = f"the logistic regression on `{feature}` with C={c:g} did not converge in {MAX_ITER} iterations"
            notes.append(Diagnostic("GM616", message, None, "lower `C`", "warning", "C"))
        probabilities = classifier.predict_proba(other)
        results.append(
            ProbeResult(
                f"{feature} C={c:g}" if len(options.C) > 1 else feature,
                (feature,),
                float((classifier.predict(other) == wanted).mean()),
                _top5(probabilities, classifier.classes_, wanted),
                _loss(probabilities, classifier.classes_, wanted),
                float((classifier.predict(x) == y).mean()),
                {"C": c},
            )
        )
    return results, notes


def _top5(probabilities: Any, classes: Any, wanted: Any) -> float | None:
    if len(classes) <= 5:
        return None
    highest = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
    return float((classes[highest] == wanted[:, None]).any(1).mean())


def _loss(probabilities: Any, classes: Any, wanted: Any) -> float | None:
    """The mean of minus the log-probability of the labels; None if the training data lacks one of them."""
    at = np.searchsorted(classes, wanted)
    known = (at < len(classes)) & (classes[np.minimum(at, len(classes) - 1)] == wanted)
    if not known.all():
        return None
    chosen = probabilities[np.arange(len(wanted)), at]
    return float(-np.log(np.maximum(chosen, np.finfo(chosen.dtype).tiny)).mean())
