"""The checksums of outputs depend on what computes them and on nothing else."""

from __future__ import annotations

import pytest

import graphmodel
from graphmodel.extraction.digests import output_digests

INPUT = {"inputs": {"images": [3, 32, 32]}}
HEAD = {"heads": {"a": {"mlp": {"dims": ["auto", 3]}}}}


def digest(seed: int = 0, name: str = "flatten", **changes):
    spec = {**INPUT, "trunk": {"name": "resnet", "depth": 18}, "mapping": {"images": {"flatten": None}}, **changes}
    return output_digests(graphmodel.compile(spec, seed=seed))[name]


def test_other_outputs_heads_and_freezing_do_not_matter():
    frozen = {**INPUT, "trunk": {"name": "resnet", "depth": 18, "freeze": True}, **HEAD}
    features, _ = graphmodel.split_frozen(graphmodel.compile(frozen, seed=0))
    assert output_digests(features)["flatten"] == digest()
    assert digest(mapping={"images": {"res2": None, "flatten": None}}) == digest()


@pytest.mark.parametrize(
    ("changes", "model", "weights"),
    [
        ({"seed": 1}, False, True),
        ({"trunk": {"name": "resnet", "depth": 34}}, True, True),
        ({"inputs": {"images": [3, 64, 64]}}, True, False),
        ({"mapping": {"images": {"res4": None}}, "name": "res4"}, True, True),
    ],
)
def test_what_computes_the_output_matters(changes, model, weights):
    here, other = digest(), digest(**changes)
    assert (here["model"] != other["model"], here["weights"] != other["weights"]) == (model, weights)
