"""Random damage to valid specs: every one compiles or is diagnosed; nothing else is ever raised."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

import graphmodel
from graphmodel.spec.document import read_file, read_text
from tests.fuzz import MEGABYTES, damaged, outcome, run

ROOT = Path(__file__).parents[1]
HEAD = {"mlp": {"dims": ["auto", 4]}}
SOUND: dict[str, dict[str, Any]] = {
    "native": {
        "name": "all",
        "inputs": {
            "images": {"shape": [3, 32, 32]},
            "crops": {"views": [{"count": 2, "shape": [3, 32, 32]}, {"shape": [3, 64, 64]}], "grouping": "resolution"},
        },
        "trunks": {
            "a": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
            "b": {"name": "resnet", "depth": 18, "width_multiplier": 0.25, "freeze": True},
        },
        "heads": {"h": [HEAD, {"siamese_concat_view": {"num_towers": 2}}], "e": HEAD, "s": "identity"},
        "mapping": [
            {"from": "images.a.flatten", "head": "h", "as": "x"},
            {"from": ["images.a.res4", {"from": "images.b.res4", "pool": {"avg_pool2d": 2}}], "combine": "concat"},
            {"from": "images.b.res4", "pool": {"adaptive_avg_pool2d": 1}, "flatten": True, "head": "e"},
            {"from": "crops.b", "head": "s"},
        ],
        "freeze": ["heads.e"],
        "outputs": [["x"], "e", "s"],
        "returns": "list",
    },
    "vissl": {
        "config": {
            "MODEL": {
                "TRUNK": {"NAME": "resnet", "RESNETS": {"DEPTH": 18}},
                "FEATURE_EVAL_SETTINGS": {
                    "EVAL_MODE_ON": True,
                    "FREEZE_TRUNK_ONLY": True,
                    "SHOULD_FLATTEN_FEATS": False,
                    "LINEAR_EVAL_FEAT_POOL_OPS_MAP": [
                        ["res4", ["AvgPool2d", [[2, 2], 1, 0]]],
                        ["res5", ["AvgPool2d", [[1, 1], 1, 0]]],
                    ],
                },
                "HEAD": {
                    "PARAMS": [
                        ["eval_mlp", {"in_channels": 256, "dims": ["auto", 4]}],
                        ["eval_mlp", {"in_channels": 512, "dims": ["auto", 4]}],
                    ]
                },
            }
        }
    },
}


@pytest.mark.parametrize("dialect", SOUND)
def test_the_undamaged_specs_compile(dialect: str) -> None:
    assert outcome(SOUND[dialect]) == "compiled"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("dialect", SOUND)
def test_damaged_specs_compile_or_are_diagnosed(dialect: str, seed: int) -> None:
    chance = random.Random(f"{dialect}{seed}")
    for _ in range(5):
        assert outcome(damaged(SOUND[dialect], chance)) in ("compiled", "diagnosed", "diagnosed by compile")


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_twenty_thousand_damaged_examples(part: int) -> None:
    """`python -m tests.fuzz --count 100000` runs more of them."""
    found = run(range(5000 * part, 5000 * (part + 1)))
    assert not found.failures, "\n".join(f"{number}: {text}" for number, text in list(found.failures.items())[:5])
    assert found.megabytes < MEGABYTES


@pytest.mark.parametrize("seed", range(200))
def test_damaged_text_is_read_or_diagnosed(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    raw = bytearray((ROOT / "examples" / "native" / "multi_input.yaml").read_bytes())
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(raw))
        piece = bytes(
            chance.choice([*b"{}[]:,-&*!|>'\"%@`#?\\\n\t \0\x80\xff", *range(256)]) for _ in range(chance.randint(0, 3))
        )
        raw[at : at + chance.randint(0, 4)] = piece
    path = tmp_path / "spec.yaml"
    path.write_bytes(raw)
    try:
        document = read_file(path)
    except graphmodel.CompileError as error:
        for found in error.diagnostics:
            assert found.span is not None
            assert found.span.line >= 1
            assert found.span.column >= 1
        return
    assert read_text(path.read_text("utf-8-sig")).data.keys() == document.data.keys()
