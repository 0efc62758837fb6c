"""VISSL's own numbers, case by case: outputs in evaluation and training, and statistics after one training forward."""

from __future__ import annotations

import json

import pytest

from graphmodel import CompileError
from tests.parity.recipe import CASES, load, run

FAST = set(
    """
    alexnet_bvlc_features beit_defaults effnet_b0_features head_eval_mlp_variants head_mlp_variants regnet_anynet
    rn18_act_ckpt rn18_dup_order rn18_supervised rn18_swav_3proto rn50_identity_head rn50_pirl
    """.split()
)
SKIPPED = {"rn18_multidim": "crops of several sizes padded into one tensor"}
FROZEN_HEADS = {
    # VISSL freezes their parameters and lets their BatchNorm train on. What is frozen stands still here: training mode
    # gives the numbers of evaluation.
    "rn18_full_freeze_map",
    "rn50_full_freeze_swav",
}


def outcome(name: str, mode: str) -> str | None:
    """VISSL's own error at run time, if it has one."""
    error: str | None = load(name)["outputs"].get(mode, {}).get("error")
    return error


def parameters() -> list[object]:
    found = []
    for path in sorted(CASES.glob("*.json")):
        if path.stem not in SKIPPED:
            marks = [] if path.stem in FAST else [pytest.mark.slow]
            found += [
                pytest.param(path.stem, mode, marks=marks, id=f"{path.stem}-{mode}") for mode in ("eval", "train")
            ]
    return found


@pytest.mark.parametrize(("name", "mode"), parameters())
def test_numbers_are_vissls(name: str, mode: str) -> None:
    if outcome(name, mode) is not None:
        # VISSL dies here at run time: a diagnostic or a model that runs are both as good.
        case = load(name)
        import graphmodel
        from tests.parity.recipe import arguments

        shapes, tensors = arguments(case)
        try:
            model = graphmodel.compile({"MODEL": case["model_diff"]}, inputs=shapes, seed=0)
        except CompileError as error:
            findings = error.diagnostics
        else:
            findings = []
            assert model.train(mode == "train")(**tensors)
        assert all(d.severity == "error" and d.message for d in findings[:1])
    elif name in FROZEN_HEADS and mode == "train":
        assert run(name, "train", expected="eval") <= 1
    else:
        assert run(name, mode) <= 1


def test_every_recorded_case_is_run() -> None:
    names = {p.stem for p in CASES.glob("*.json")}
    assert len(names) == 58
    assert names >= FAST | FROZEN_HEADS | set(SKIPPED)
    assert all((CASES / f"{n}.npz").exists() for n in names)
    assert json.loads((CASES / "rn50_pirl.json").read_text())["id"] == "rn50_pirl"
