"""Weighted nearest neighbours on stored features."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from graphmodel.probing.options import Options
from graphmodel.probing.results import ProbeResult
from graphmodel.probing.samples import Samples
from graphmodel.probing.scores import Scores

_TEST, _TRAIN = 512, 16_384
"""Rows of the matrix of similarities that exists at once, and its columns."""


def run(feature: str, training: Samples, test: Samples, classes: int, options: Options) -> list[ProbeResult]:
    """Classifies each test sample by its most similar training samples, for each `k`.

    Features are divided by their Euclidean norm. A neighbour with the cosine similarity s votes for its class with the
    weight exp(s / temperature).

    Args:
        feature: the feature; maps and tokens are flattened.
        training: the neighbours.
        test: the samples to classify.
        classes: the number of classes.
        options: `k` and `temperature`.

    Source: Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination"; the same rule in
        VISSL's nearest-neighbour benchmark and in DINO's `eval_knn.py`.
    """
    neighbours, labels = _normalized(training.whole(feature)), training.labels.to(training.device)
    queries, wanted = _normalized(test.whole(feature)), test.labels.to(test.device)
    found = {k: Scores() for k in options.k}
    for start in range(0, len(queries), _TEST):
        part, answers = queries[start : start + _TEST], wanted[start : start + _TEST]
        similar, index = nearest(part, neighbours, max(options.k))
        # Relative to the nearest, whose weight is then 1: a low temperature must not overflow.
        weights = ((similar - similar[:, :1]).double() / options.temperature).exp()
        votes = weights.new_zeros(len(part), classes)
        for j in range(index.shape[1]):  # one vote at a time: their order, and so the sum, is always the same
            votes.scatter_add_(1, labels[index[:, j, None]], weights[:, j, None])
            if j + 1 in found:
                found[j + 1].add(votes, answers, loss=False)
    several = len(options.k) > 1
    return [
        ProbeResult(
            f"{feature} k={k}" if several else feature,
            (feature,),
            scores.accuracy,
            scores.top5,
            settings={"k": k, "temperature": options.temperature},
        )
        for k, scores in found.items()
    ]


def nearest(queries: torch.Tensor, neighbours: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest dot products of each query with the neighbours, and their rows, in descending order.

    Args:
        queries: `(Q, D)`.
        neighbours: `(N, D)`, of which a part is multiplied at a time.
        k: at most N.
    """
    best = queries.new_empty(len(queries), 0)
    rows = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for start in range(0, len(neighbours), _TRAIN):
        products = queries @ neighbours[start : start + _TRAIN].T
        top = products.topk(min(k, products.shape[1]), 1)
        best, rows = torch.cat([best, top.values], 1), torch.cat([rows, top.indices + start], 1)
        kept = best.topk(min(k, best.shape[1]), 1)
        best, rows = kept.values, rows.gather(1, kept.indices)
    return best, rows


def _normalized(value: torch.Tensor) -> torch.Tensor:
    return F.normalize(value.float(), dim=1)
