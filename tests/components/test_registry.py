"""A user's own heads and trunks, registered in a script, work in a spec like the built-in ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graphmodel
from graphmodel import CompileError, HeadParams, TensorInfo
from graphmodel.components.registry import AlreadyRegistered, find_head, temporary_registrations


def spec(**head: Any) -> dict[str, Any]:
    return {
        "inputs": {"images": [3, 32, 32]},
        "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
        "heads": {"mine": head},
    }


def test_a_class_with_annotated_keywords_is_a_head() -> None:
    @graphmodel.register_head("angular")
    class Angular(nn.Module):
        """Scores by angle."""

        def __init__(self, in_features: int, classes: int, scale: float = 16.0) -> None:
            super().__init__()
            self.weight, self.scale = nn.Parameter(torch.randn(classes, in_features)), scale

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.scale * nn.functional.normalize(x, dim=1) @ nn.functional.normalize(self.weight, dim=1).T

    model = graphmodel.compile(spec(angular={"classes": 5, "scale": 2}), seed=0)
    assert model.heads.mine.weight.shape == (5, 128)
    assert model(torch.randn(2, 3, 32, 32))["mine"].abs().max() <= 2.001
    entry = find_head("angular")
    assert entry is not None
    assert entry.summary == "Scores by angle."
    for bad, code in (
        ({"clases": 5}, "GM201"),
        ({"classes": "x"}, "GM202"),
        ({"classes": 5, "in_features": 9}, "GM304"),
    ):
        with pytest.raises(CompileError) as caught:
            graphmodel.compile(spec(angular=bad))
        assert code in [d.code for d in caught.value.diagnostics]


def test_a_class_with_a_params_model_infers_and_names_its_outputs() -> None:
    class Params(HeadParams):
        width: int | str = "auto"

        def infer(self, feature: TensorInfo) -> Params:
            return self.model_copy(update={"width": feature.sample[0]})

        def outputs(self) -> tuple[str, ...]:
            return ("mean", "spread")

    @graphmodel.register_head("moments", params=Params)
    class Moments(nn.Module):
        def __init__(self, params: Params) -> None:
            super().__init__()
            self.width = params.width

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x.mean(1), x.std(1)

    model = graphmodel.compile(spec(moments=None), seed=0)
    assert model.heads.mine.width == 128
    assert list(model(torch.randn(2, 3, 32, 32))) == ["mine.mean", "mine.spread"]


def test_a_head_that_returns_a_dict_names_its_tensors_by_its_keys() -> None:
    @graphmodel.register_head("halves")
    class Halves(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"first": x[:, :256], "second": x[:, 256:]}

    assert list(graphmodel.compile(spec(halves=None), seed=0)(torch.randn(2, 3, 32, 32))) == [
        "mine.first",
        "mine.second",
    ]


def test_a_head_that_changes_its_input_in_place_leaves_the_feature_alone() -> None:
    @graphmodel.register_head("doubling")
    class Doubling(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mul_(2)

    both = {**spec(doubling=None), "heads": {"a": {"doubling": None}, "b": "identity"}}
    out = graphmodel.compile(both, seed=0).eval()(torch.randn(2, 3, 32, 32))
    assert torch.equal(out["a"], 2 * out["b"])


def test_a_module_class_is_a_trunk_with_features_of_its_own() -> None:
    @graphmodel.register_trunk("tiny")
    class Tiny(nn.Module):
        def __init__(self, width: int = 4) -> None:
            super().__init__()
            self.stem, self.body = nn.Conv2d(3, width, 3), nn.Conv2d(width, 2 * width, 3)
            self.features = {"early": "stem"}

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(torch.relu(self.stem(x))).mean((2, 3))

    tiny = {
        "inputs": {"images": [3, 8, 8]}, "trunk": {"name": "tiny", "width": 6},
        "heads": {"head": {"mlp": {"dims": ["auto", 2]}}},
        "mapping": {"images": {"output": "head", "early": None, "body": None}},
    }  # fmt: skip
    model = graphmodel.compile(tiny, seed=0)
    out = model(torch.randn(2, 3, 8, 8))
    assert {k: tuple(v.shape) for k, v in out.items()} == {"head": (2, 2), "early": (2, 6, 6, 6), "body": (2, 12, 4, 4)}
    torch.manual_seed(0)
    assert torch.equal(model.trunk.stem.weight, Tiny(6).stem.weight)
    for bad in ({"widht": 3}, {"width": "x"}):
        with pytest.raises(CompileError):
            graphmodel.compile({**tiny, "trunk": {"name": "tiny", **bad}})


def test_names_are_never_replaced_silently() -> None:
    with pytest.raises(AlreadyRegistered, match="mlp"):

        @graphmodel.register_head("mlp")
        class Other(nn.Module):
            pass

    with pytest.raises(AlreadyRegistered, match="resnet"):

        @graphmodel.register_trunk("resnet")
        class OtherTrunk(nn.Module):
            pass


def test_temporary_names_are_free_again_and_built_in_ones_stay() -> None:
    with temporary_registrations():

        @graphmodel.register_head("passing")
        class Passing(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x

        assert find_head("passing") is not None
        assert find_head("identity") is not None
    assert find_head("passing") is None
    assert find_head("identity") is not None


def test_registering_the_same_class_again_is_harmless() -> None:
    for _ in range(2):  # a notebook cell that is run twice

        @graphmodel.register_head("again")
        class Again(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x

    assert find_head("again") is not None


@pytest.mark.slow
def test_installed_packages_register_by_entry_points(tmp_path: Path) -> None:
    (tmp_path / "their_heads.py").write_text(
        "import graphmodel\nfrom torch import nn\n\n"
        "@graphmodel.register_head('theirs')\nclass Theirs(nn.Linear):\n"
        "    def __init__(self, in_features: int, size: int = 7):\n        super().__init__(in_features, size)\n"
    )
    info = tmp_path / "their_heads-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-heads\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[graphmodel.components]\nheads = their_heads\nbroken = not_there\n")
    program = (
        "import graphmodel\n"
        "spec = {'inputs': {'x': [3, 32, 32]}, 'trunk': {'name': 'resnet', 'depth': 18}, 'heads': {'h': 'theirs'}}\n"
        "print(tuple(graphmodel.compile(spec, device='meta').heads.h.weight.shape))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "(7, 512)"
    assert "`not_there` are missing" in run.stderr
