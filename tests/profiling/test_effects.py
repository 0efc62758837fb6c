"""What `explain` says of optimizations that the graph alone must be able to run."""

from __future__ import annotations

from typing import Any

import graphmodel
from graphmodel.graph.rows import rows_per_sample
from graphmodel.passes.pipeline import OPTIMIZATIONS
from graphmodel.profiling.effects import effects


def test_folding_is_counted_and_loses_no_parameters(small: dict[str, Any]) -> None:
    spec = {
        **small,
        "trunk": {"name": "resnet", "depth": 18, "freeze": True},
        "optimize": ["fold_batchnorm"],
    }
    graph = graphmodel.build_graph(graphmodel.load_spec(spec))
    _, made = effects(graph, OPTIMIZATIONS, ["fold_batchnorm"], rows_per_sample(graph))
    (fold,) = (effect for effect in made if effect.name == "fold_batchnorm")
    assert fold.status == "changed"
    assert (fold.after.parameters, fold.after.flops) == (fold.before.parameters, fold.before.flops)
    assert fold.after.activations is not None
