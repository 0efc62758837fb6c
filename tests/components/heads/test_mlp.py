"""The presets of `mlp` are the heads of the methods, and its options are layers of torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import graphmodel
from graphmodel import CompileError
from tests.head_helpers import assert_same, built


def norm_relu(width: int) -> list[nn.Module]:
    return [nn.BatchNorm1d(width), nn.ReLU(inplace=True)]


class ScaleOnly(nn.Module):
    """BatchNorm with a scale and no shift, as TensorFlow's with `center=False`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("var", torch.ones(width))
        self.register_buffer("count", torch.tensor(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, var = self.mean, self.var
        if self.training:
            mean, var = x.mean(0), x.var(0, unbiased=False)
            with torch.no_grad():
                self.mean.mul_(0.9).add_(0.1 * mean)
                self.var.mul_(0.9).add_(0.1 * x.var(0))
                self.count += 1
        return (x - mean) / (var + 1e-5).sqrt() * self.gamma


def byol(a: int, b: int, c: int) -> list[nn.Module]:
    return [nn.Linear(a, b), *norm_relu(b), nn.Linear(b, c, bias=False)]


def simclr_v2(a: int, b: int, c: int, d: int) -> list[nn.Module]:
    first = [nn.Linear(a, b, bias=False), *norm_relu(b), nn.Linear(b, c, bias=False), *norm_relu(c)]
    return [*first, nn.Linear(c, d, bias=False), ScaleOnly(d)]


def moco_v3(a: int, b: int, c: int, d: int) -> list[nn.Module]:
    first = [nn.Linear(a, b, bias=False), *norm_relu(b), nn.Linear(b, c, bias=False), *norm_relu(c)]
    return [*first, nn.Linear(c, d, bias=False), nn.BatchNorm1d(d, affine=False)]


def vicreg(a: int, b: int, c: int, d: int) -> list[nn.Module]:
    return [nn.Linear(a, b), *norm_relu(b), nn.Linear(b, c), *norm_relu(c), nn.Linear(c, d, bias=False)]


def barlow_twins(a: int, b: int, c: int, d: int) -> list[nn.Module]:
    first = [nn.Linear(a, b, bias=False), *norm_relu(b), nn.Linear(b, c, bias=False), *norm_relu(c)]
    return [*first, nn.Linear(c, d, bias=False)]


def dino(a: int, b: int, c: int, d: int) -> list[nn.Module]:
    return [nn.Linear(a, b), nn.GELU(), nn.Linear(b, c), nn.GELU(), nn.Linear(c, d)]


REFERENCES: dict[str, tuple[Any, list[int]]] = {
    "byol": (byol, [4096, 256]),
    "simclr_v2": (simclr_v2, [2048, 2048, 128]),
    "moco_v3": (moco_v3, [4096, 4096, 256]),
    "simsiam": (moco_v3, [2048, 2048, 2048]),
    "vicreg": (vicreg, [8192, 8192, 8192]),
    "barlow_twins": (barlow_twins, [8192, 8192, 8192]),
    "dino": (dino, [2048, 2048, 256]),
}


@pytest.mark.parametrize("preset", REFERENCES)
def test_a_preset_is_the_head_of_its_method(preset: str) -> None:
    reference, published = REFERENCES[preset]
    widths = [12, *range(10, 10 - len(published), -1)]
    assert_same(built("mlp", preset=preset, dims=widths), nn.Sequential(*reference(*widths)), (6, 12))
    with torch.device("meta"):
        whole = built("mlp", preset=preset, dims=[32, *published])
        assert [tuple(p.shape) for p in whole.parameters()] == [
            tuple(p.shape) for p in nn.Sequential(*reference(32, *published)).parameters()
        ]


def test_a_preset_has_the_widths_of_its_method() -> None:
    for preset, (_, published) in REFERENCES.items():
        head = {"mlp": {"preset": preset}}
        spec = {"inputs": {"x": [32]}, "heads": {"h": head}, "mapping": [{"from": "x", "head": "h"}]}
        model = graphmodel.compile(spec, device="meta")
        assert [m.out_features for m in model.modules() if isinstance(m, nn.Linear)] == published


def test_dino_starts_with_its_own_weights() -> None:
    head = built("mlp", preset="dino", dims=[64, 256, 128])
    weight = head.get_parameter("clf.0.weight")
    assert weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert head.get_parameter("clf.0.bias").abs().max() == 0


def test_options_are_layers_of_torch() -> None:
    layers = [nn.Linear(8, 7), nn.LayerNorm(7, eps=1e-3), nn.GELU(), nn.Linear(7, 5, bias=False), nn.LayerNorm(5, 1e-3)]
    options = {"norm": "layer", "activation": "gelu", "last_bias": False, "last_norm": "affine", "bn_eps": 1e-3}
    assert_same(built("mlp", dims=[8, 7, 5], **options), nn.Sequential(*layers), (4, 8))


def test_the_names_of_vissl_say_the_same() -> None:
    old = built("mlp", dims=[8, 7, 5], use_bn=True, use_relu=True)
    assert str(old) == str(built("mlp", dims=[8, 7, 5], norm="batch", activation="relu"))


@pytest.mark.parametrize(
    ("head", "code", "text"),
    [
        ({"preset": "byoll"}, "GM202", "did you mean `byol`"),
        ({"preset": "byol", "use_bn": True}, "GM202", "write `norm` beside a preset"),
        ({"dims": ["auto", 4], "norm": "batch", "use_bn": True}, "GM202", "keep `norm`"),
        ({"dims": ["auto", 4], "last_norm": "plain"}, "GM202", "add `norm: batch`"),
        ({"norm": "batch"}, "GM203", "missing key `dims`"),
        ({"preset": "byol", "dims": [9, 4]}, "GM304", "wants 9 features"),
        ({"preset": "byol", "dimz": [9, 4]}, "GM201", "`dims`"),
    ],
)
def test_what_is_wrong_with_an_mlp_is_said(head: dict[str, Any], code: str, text: str) -> None:
    spec = {"inputs": {"x": [32]}, "heads": {"h": {"mlp": head}}, "mapping": [{"from": "x", "head": "h"}]}
    with pytest.raises(CompileError) as caught:
        graphmodel.compile(spec, device="meta")
    assert [d.code for d in caught.value.diagnostics] == [code]
    assert text in str(caught.value)


def test_a_resolved_preset_compiles_to_the_same_model() -> None:
    from graphmodel.build.locked_spec import resolved_spec
    from graphmodel.dialects.native.dump import dump

    head = {"mlp": {"preset": "simclr_v2", "dims": ["auto", 16, 8, 4]}}
    spec = {"inputs": {"x": [32]}, "heads": {"h": head}, "mapping": [{"from": "x", "head": "h"}]}
    model = graphmodel.compile(spec, seed=0)
    again = graphmodel.compile(dump(resolved_spec(model.model_graph)), seed=0)
    x = torch.randn(4, 32)
    assert torch.equal(model(x)["h"], again(x)["h"])
    assert list(model.state_dict()) == list(again.state_dict())


def test_a_frozen_last_norm_without_shift_folds_exactly() -> None:
    head = {"mlp": {"preset": "simclr_v2", "dims": ["auto", 16, 8, 4]}}
    spec = {"inputs": {"x": [32]}, "heads": {"h": head}, "mapping": [{"from": "x", "head": "h"}]}
    x = torch.randn(4, 32)
    plain = graphmodel.compile(spec, seed=0).eval()
    with torch.no_grad():
        plain.get_parameter("heads.h.clf.7.weight").uniform_(0.5, 2)
    folded = graphmodel.compile({**spec, "freeze": ["heads.h"], "optimize": ["fold_batchnorm"]}, seed=1)
    folded.load_state_dict(plain.state_dict())
    torch.testing.assert_close(folded(x)["h"], plain(x)["h"], rtol=1e-4, atol=1e-5)
