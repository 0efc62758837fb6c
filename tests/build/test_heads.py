"""What goes wrong in a head is told apart: its width, its constructor, its own code, an operation of torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import graphmodel
from graphmodel.diagnostics import Diagnostic


def finding(spec: dict[str, Any]) -> Diagnostic:
    """The one finding of a spec."""
    with pytest.raises(graphmodel.CompileError) as caught:
        graphmodel.compile(spec, device="meta")
    (only,) = caught.value.diagnostics
    return only


def with_head(small: dict[str, Any], name: str, **params: Any) -> dict[str, Any]:
    return {**small, "heads": {"mine": {name: params}}}


class Buggy(nn.Module):
    """Uses an attribute that is not there."""

    def forward(self, x: torch.Tensor) -> Any:
        return self.weigth * x  # the typo is the test


class Refusing(nn.Module):
    """Raises an exception of its own, of the type that torch's operations raise."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("wants two of everything")


class Product(nn.Module):
    """An operation of torch that refuses the shape."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ torch.empty(7, 3, device=x.device)


@pytest.mark.parametrize(
    ("head", "parts"),
    [
        (Buggy, ["fails in its own code", "AttributeError", "weigth", "test_heads.py:", "in forward"]),
        (Refusing, ["fails in its own code", "RuntimeError: wants two of everything", "in forward"]),
        (Product, ["cannot read `images.flatten` of shape N×128", "test_heads.py:", "in forward"]),
    ],
)
def test_an_exception_in_forward_names_its_line(small: dict[str, Any], head: type[nn.Module], parts: list[str]) -> None:
    graphmodel.register_head("mine")(head)
    found = finding(with_head(small, "mine"))
    assert found.code == "GM304"
    assert found.path == "heads.mine.mine"
    for part in parts:
        assert part in found.message, found.message


def test_a_layer_of_torch_that_refuses_the_feature_is_a_mismatch(small: dict[str, Any]) -> None:
    @graphmodel.register_head("wide")
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(100, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.layer(x)
            return out

    message = finding(with_head(small, "wide")).message
    assert "cannot read" in message
    assert "own code" not in message
    assert "test_heads.py" in message, "the line that called the layer"


def test_a_constructor_that_fails_is_reported_as_such(small: dict[str, Any]) -> None:
    @graphmodel.register_head("unbuildable")
    class Unbuildable(nn.Module):
        def __init__(self, classes: int) -> None:
            super().__init__()
            raise KeyError(f"no table for {classes}")

    message = finding(with_head(small, "unbuildable", classes=3)).message
    assert "cannot be built: KeyError: 'no table for 3'" in message


def test_an_assertion_without_words_shows_its_condition(small: dict[str, Any]) -> None:
    message = finding(with_head(small, "timm.layers:AttentionPoolLatent", num_heads=7)).message
    assert "AssertionError: assert embed_dim % num_heads == 0 (" in message


def test_an_unknown_head_mentions_how_to_register_one(small: dict[str, Any]) -> None:
    vissl = {"MODEL": {"TRUNK": {"NAME": "resnet", "RESNETS": {"DEPTH": 18}}, "HEAD": {"PARAMS": [["mlpp", {}]]}}}
    for spec in (with_head(small, "mlpp"), vissl):
        with pytest.raises(graphmodel.CompileError) as caught:
            graphmodel.compile(spec, inputs={"images": (3, 64, 64)}, device="meta")
        found = next(d for d in caught.value.diagnostics if d.code == "GM206")
        assert "did you mean `mlp`?" in found.help
        assert "--import" in found.help


class Doubling(nn.Module):
    """Changes what it reads in place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mul_(2)


@pytest.mark.parametrize("names", [("a", "b"), ("a", "a")])
def test_heads_that_change_one_feature_in_place_do_not_meet(small: dict[str, Any], names: tuple[str, str]) -> None:
    graphmodel.register_head("doubling")(Doubling)
    mapping = [{"from": "images.flatten", "head": name, "as": f"out{i}"} for i, name in enumerate(names)]
    spec = {
        **small,
        "heads": dict.fromkeys(names, "doubling"),
        "mapping": [*mapping, {"from": "images.flatten", "as": "x"}],
    }
    found = graphmodel.compile(spec, seed=0).eval()(torch.rand(2, 3, 64, 64))
    assert torch.equal(found["out0"], 2 * found["x"])
    assert torch.equal(found["out1"], 2 * found["x"])


# -- lists of features ---------------------------------------------------------------------------------------------------


def lateral(annotation: Any) -> type[nn.Module]:
    class Lateral(nn.Module):
        def __init__(self, in_channels: annotation, width: int = 4) -> None:
            super().__init__()
            self.convolutions = nn.ModuleList([nn.Conv2d(c, width, 1) for c in in_channels])

        def forward(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
            return [conv(x) for conv, x in zip(self.convolutions, maps, strict=True)]

    Lateral.__init__.__annotations__["in_channels"] = annotation
    graphmodel.register_head("lateral")(Lateral)
    return Lateral


def pyramid(small: dict[str, Any], **params: Any) -> dict[str, Any]:
    mapping = [{"from": ["images.res3", "images.res4"], "combine": "list", "head": "fpn"}]
    return {**small, "heads": {"fpn": {"lateral": params}}, "mapping": mapping}


def test_a_head_over_a_list_is_given_every_width(small: dict[str, Any]) -> None:
    lateral(list)
    model = graphmodel.compile(pyramid(small), seed=0)
    found = model(torch.rand(2, 3, 64, 64))
    assert [tuple(v.shape) for v in found.values()] == [(2, 4, 8, 8), (2, 4, 4, 4)]
    assert [tuple(p.shape) for n, p in model.named_parameters() if n.endswith("weight") and "heads" in n] == [
        (4, 32, 1, 1),
        (4, 64, 1, 1),
    ]


def test_widths_of_a_list_that_are_written_out_must_be_right(small: dict[str, Any]) -> None:
    lateral(list)
    graphmodel.compile(pyramid(small, in_channels=[32, 64]), device="meta")
    found = finding(pyramid(small, in_channels=[32, 128]))
    assert "wants [32, 128]" in found.message
    assert found.help == "write [32, 64]"


def test_one_width_cannot_be_inferred_from_a_list(small: dict[str, Any]) -> None:
    lateral(int)
    found = finding(pyramid(small))
    assert "`in_channels` takes one width" in found.message
    assert "in_channels" in found.help


def test_auto_cannot_be_inferred_from_a_list(small: dict[str, Any]) -> None:
    mapping = [{"from": ["images.res3", "images.res4"], "combine": "list", "head": "head"}]
    assert "`dims` cannot be `auto`" in finding({**small, "mapping": mapping}).message


@pytest.mark.parametrize("dtype", ["int64", "bool"])
def test_weights_do_not_multiply_integers(dtype: str) -> None:
    inputs = {"ids": {"shape": [6], "dtype": dtype, "trunk": "none"}}
    heads = {"h": {"mlp": {"dims": ["auto", 8]}}}
    mapping = [{"from": "ids", "head": "h", "as": "o"}]
    with pytest.raises(graphmodel.CompileError, match=f"floating-point weights and reads numbers of type {dtype}"):
        graphmodel.compile({"inputs": inputs, "heads": heads, "mapping": mapping}, device="meta")


def test_too_many_sizes_say_how_many_there_are() -> None:
    edge = {"from": "a", "resize": [2, 2, 2], "head": "b"}
    spec = {"inputs": {"a": [4, 8, 8]}, "heads": {"b": {"conv1x1": {"out_channels": 2}}}, "mapping": [edge]}
    with pytest.raises(graphmodel.CompileError, match="`resize` gives 3 sizes") as caught:
        graphmodel.compile(spec, device="meta")
    assert "write one size for all dimensions, or 2" in caught.value.diagnostics[0].help


def test_a_doubled_key_of_one_trunk_does_not_name_the_trunk() -> None:
    spec = {
        "inputs": {"images": [3, 32, 32]},
        "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
        "heads": {"pyramid": {"fpn": {"out_channels": 4}}},
        "mapping": [{"from": ["images.res3", "images.res3"], "head": "pyramid"}],
    }
    with pytest.raises(graphmodel.CompileError, match=r"two features of a dict have the key `images\.res3`"):
        graphmodel.compile(spec, device="meta")
