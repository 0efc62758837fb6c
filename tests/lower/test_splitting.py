"""A module is split into frozen features and what trains on them: same numbers, shared parameters, stable names."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

import graphmodel

X = torch.randn(4, 3, 64, 64)


def split(spec: dict[str, Any], **given: Any) -> tuple[Any, Any, Any]:
    """A model and its two parts."""
    model = graphmodel.compile(spec, seed=0, **given)
    return (model, *graphmodel.split_frozen(model))


def probe(small: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**small, "trunk": {**small["trunk"], "freeze": True}, **more}


def assert_same(model: Any, features: Any, heads: Any, *inputs: Any) -> None:
    """Both parts together give what the whole gives, in both modes, and stored features stay as they are."""
    for training in (True, False):
        for part in (model, features, heads):
            part.train(training)
        stored = features(*inputs)
        before = {name: value.clone() for name, value in stored.items()}
        torch.manual_seed(1)
        result = heads(**stored)
        torch.manual_seed(1)
        expected = copy.deepcopy(model)(*inputs)
        assert list(result) == list(expected)
        for name, value in expected.items():
            assert torch.equal(result[name], value), name
        assert all(torch.equal(before[name], value) for name, value in stored.items())


def test_a_frozen_trunk_and_its_heads(small: dict[str, Any]) -> None:
    model, features, heads = split(probe(small))
    assert [(n, tuple(v.shape)) for n, v in features(X).items()] == [("flatten", (4, 128))]
    assert_same(model, features, heads, X)
    assert [*features.state_dict(), *heads.state_dict()] == list(model.state_dict())


@pytest.mark.parametrize(
    ("trunk", "size"),
    [
        ("timm:test_vit", 160),
        pytest.param("timm:xcit_nano_12_p8_224", 64, marks=pytest.mark.slow),
        pytest.param("timm:mvitv2_tiny", 224, marks=pytest.mark.slow),
        pytest.param("timm:twins_svt_small", 64, marks=pytest.mark.slow),
        pytest.param("timm:vit_small_patch14_reg4_dinov2", 56, marks=pytest.mark.slow),
        pytest.param("vision_transformer", 224, marks=pytest.mark.slow),
        pytest.param("torchvision:vit_b_16", 224, marks=pytest.mark.slow),
    ],
)
def test_a_frozen_transformer_is_computed_once(trunk: str, size: int) -> None:
    """The class token is repeated as often as the batch has samples: that size is no reason to compute anything again."""
    spec = {
        "inputs": {"images": [3, size, size]},
        "trunk": {"name": trunk, "freeze": True, **({"img_size": 56} if "dinov2" in trunk else {})},
        "heads": {"head": {"mlp": {"dims": ["auto", 10]}}},
    }
    model, features, heads = split(spec)
    assert all(name.startswith("heads.") for name in heads.state_dict())
    assert_same(model, features, heads, torch.randn(2, 3, size, size))


def test_what_the_heads_learn_the_whole_has_learned(small: dict[str, Any]) -> None:
    model, features, heads = split(probe(small))
    other = copy.deepcopy(model)
    stored = features(X)
    for part, given in ((heads, stored), (other, {"images": X})):
        optimizer = torch.optim.SGD([p for p in part.parameters() if p.requires_grad], lr=0.1)
        for _ in range(3):
            part(**given)["head"].square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert_same(model, features, heads, X)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_a_trunk_that_is_frozen_in_part_is_split_inside(small: dict[str, Any]) -> None:
    spec = {**small, "freeze": ["trunk.conv1", "trunk.bn1", "trunk.layer1"]}
    model, features, heads = split(spec)
    assert [(n, tuple(v.shape)) for n, v in features(X).items()] == [("layer1", (4, 16, 16, 16))]
    assert_same(model, features, heads, X)
    assert {*features.state_dict(), *heads.state_dict()} == set(model.state_dict())
    assert next(iter(heads.state_dict())) == "trunk.layer2.0.conv1.weight"


def test_the_line_lies_between_the_blocks_of_a_transformer() -> None:
    sizes = {"image_size": 32, "patch_size": 16, "num_layers": 3, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 16}
    frozen = ["trunk.patch_embed", "trunk.cls_token", "trunk.pos_embed", "trunk.blocks.0", "trunk.blocks.1"]
    spec = {
        "inputs": {"images": [3, 32, 32]},
        "trunk": {"name": "vision_transformer", **sizes},
        "mapping": {"images": {"lastCLS": None}},
        "freeze": frozen,
    }
    model, features, heads = split(spec)
    x = torch.randn(2, 3, 32, 32)
    assert [(n, tuple(v.shape)) for n, v in features(x).items()] == [("blocks_1", (2, 5, 16))]
    assert_same(model, features, heads, x)
    assert {name.split(".")[2] for name in heads.state_dict() if "blocks" in name} == {"2"}
    model.trunk.blocks.register_forward_hook(lambda module, args, result: result * 2)
    assert_same(model, *graphmodel.split_frozen(model), x)


def test_outputs_that_are_frozen_are_passed_on(small: dict[str, Any]) -> None:
    mapping = [{"from": "images.res5", "as": "map"}, {"from": "images.flatten", "head": "head", "as": "logits"}]
    model, features, heads = split(probe(small, mapping=mapping))
    assert sorted(features(X)) == ["flatten", "res5"]
    assert_same(model, features, heads, X)


def test_a_head_that_is_frozen_in_part_belongs_to_both(small: dict[str, Any]) -> None:
    chain = {"head": [{"mlp": {"dims": ["auto", 8]}}, {"mlp": {"dims": ["auto", 4]}}]}
    model, features, heads = split(probe(small, heads=chain, freeze=["heads.head.0"]))
    assert {tuple(v.shape) for v in features(X).values()} == {(4, 8)}
    assert_same(model, features, heads, X)
    assert all(key.startswith("heads.head.1") for key in heads.state_dict())


def test_several_inputs(two_inputs: dict[str, Any]) -> None:
    model, features, heads = split(probe(two_inputs))
    inputs = torch.randn(2, 3, 64, 64), torch.randn(18, 3, 32, 32)
    assert len(features(*inputs)) == 2
    assert_same(model, features, heads, *inputs)


def test_a_trainable_trunk_beside_a_frozen_one_is_given_its_input(small: dict[str, Any]) -> None:
    trunk = small["trunk"]
    spec = {
        "inputs": small["inputs"],
        "trunks": {"teacher": {**trunk, "freeze": True}, "student": trunk},
        "mapping": [{"from": "images.teacher.flatten", "as": "t"}, {"from": "images.student.flatten", "as": "s"}],
    }
    model, features, heads = split(spec)
    assert sorted(features(X)) == ["flatten", "images"]
    assert_same(model, features, heads, X)
    assert all(key.startswith("trunks.student") for key in heads.state_dict())


def test_views(small: dict[str, Any]) -> None:
    views = {"views": [{"count": 2, "shape": [3, 64, 64]}, {"count": 2, "shape": [3, 32, 32]}]}
    spec = probe(small, inputs={"crops": views}, mapping={"crops": {"flatten": "head"}})
    model, features, heads = split(spec)
    crops = [torch.randn(2, 3, s, s) for s in (64, 64, 32, 32)]
    assert_same(model, features, heads, crops)


class Counted(nn.Module):
    """A block that hands on its map's size, as those of MViT do, and counts its calls."""

    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, tuple[int, int]]:
        type(self).calls += 1
        return self.layer(x), size


class Chain(nn.Module):
    def __init__(self, length: int) -> None:
        super().__init__()
        self.blocks, self.last = nn.ModuleList(Counted() for _ in range(length)), nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = (2, 3)
        for block in self.blocks:
            x, size = block(x, size)
        return self.last(x)


def test_blocks_that_hand_on_sizes_run_a_fixed_number_of_times() -> None:
    counts = []
    for length in (6, 12):
        spec = {
            "inputs": {"x": [3, 4]},
            "trunk": "given",
            "freeze": ["trunk"],
            "heads": {"h": {"linear": {"out_features": 2}}},
            "mapping": {"x": {"last": {"pool": None, "flatten": True, "head": "h"}}},
        }
        module = graphmodel.compile(spec, trunks={"trunk": Chain(length)}, seed=0)
        x, Counted.calls = torch.randn(2, 3, 4), 0
        features, heads = graphmodel.split_frozen(module)
        counts.append(Counted.calls)
        assert not any(n.op == "call_module" and n.target.startswith("trunk") for n in heads.graph.nodes)
        torch.testing.assert_close(heads(**features(x)), module(x))
    assert counts[1] == 2 * counts[0]


class InPlace(nn.Module):
    """A head that changes what it reads."""

    def __init__(self, params: Any) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.add_(1) * self.scale


class Stages(nn.Module):
    """Its second stage starts with an activation in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.second = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


def test_stored_features_are_not_changed_in_place(small: dict[str, Any]) -> None:
    graphmodel.register_head("in_place", params=graphmodel.HeadParams)(InPlace)
    assert_same(*split(probe(small, heads={"head": "in_place"})), X)
    spec = {"inputs": {"images": [3, 8, 8]}, "trunk": "resnet", "mapping": {"images": {"second": None}}}
    spec["freeze"] = ["trunk.first"]
    assert_same(*split(spec, trunks={"trunk": Stages()}), torch.randn(2, 3, 8, 8))


class Dropping(Stages):
    """Drops values between its stages, in training."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.drop(self.first(x)))


@pytest.mark.parametrize(("freeze", "name"), [("trunk.first", "first"), ("trunk.*.weight", "images")])
def test_what_draws_random_numbers_is_not_frozen(freeze: str, name: str) -> None:
    spec: dict[str, Any] = {"inputs": {"images": [3, 8, 8]}, "trunk": "resnet", "mapping": {"images": {"second": None}}}
    spec["freeze"] = [freeze]
    if name == "images":
        with pytest.raises(graphmodel.CompileError, match="GM565"):
            split(spec, trunks={"trunk": Dropping()})
        return
    model, features, heads = split(spec, trunks={"trunk": Dropping()})
    x = torch.randn(2, 3, 8, 8)
    assert list(features(x)) == [name]
    assert_same(model, features, heads, x)


def test_dropout_that_drops_nothing_is_no_line() -> None:
    spec: dict[str, Any] = {"inputs": {"images": [3, 8, 8]}, "trunk": "resnet", "mapping": {"images": {"second": None}}}
    trunk = Dropping()
    trunk.drop.p = 0.0
    model, features, heads = split({**spec, "freeze": ["trunk.first"]}, trunks={"trunk": trunk})
    x = torch.randn(2, 3, 8, 8)
    assert list(features(x)) == ["drop"]
    assert_same(model, features, heads, x)


def test_copies_pickles_and_slices(small: dict[str, Any]) -> None:
    model, features, heads = split(probe(small))
    expected = model(X)["head"]
    for copied in (copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))):
        assert torch.equal(copied(heads)(**copied(features)(X))["head"], expected)
    assert torch.equal(heads.slice(outputs=["head"])(features(X)["flatten"])["head"], expected)
    first, second = graphmodel.split_frozen(model.slice(outputs=["head"]))
    assert torch.equal(second(**first(X))["head"], expected)


def test_with_folded_batchnorm(small: dict[str, Any]) -> None:
    model, features, heads = split(probe(small), passes=["fold_batchnorm"])
    assert features.optimized_graph.summary[-1].startswith("fold_batchnorm: 20")
    assert_same(model, features, heads, X)


@pytest.mark.slow
def test_compile_and_export(small: dict[str, Any]) -> None:
    model, features, heads = split(probe(small))
    stored = torch.compile(features, fullgraph=True, backend="aot_eager")(X)
    result = torch.compile(heads, fullgraph=True, backend="aot_eager")(**stored)
    torch.testing.assert_close(result["head"], model(X)["head"], rtol=1e-4, atol=1e-5)
    features.eval(), heads.eval()
    program = torch.export.export(features, (X,), dynamic_shapes=({0: Dim("n", min=1, max=64)},))
    assert torch.equal(program.module()(X[:2])["flatten"], features(X[:2])["flatten"])
    program = torch.export.export(heads, (), dict(stored), dynamic_shapes={"flatten": {0: Dim("n", min=1, max=64)}})
    assert torch.equal(program.module()(**stored)["head"], heads(**stored)["head"])


def test_errors(small: dict[str, Any]) -> None:
    with pytest.raises(graphmodel.CompileError, match=r"GM565.*no frozen part"):
        split(small)
    with pytest.raises(graphmodel.CompileError, match=r"GM565.*everything"):
        split({**small, "freeze": ["all"]})
    model = graphmodel.compile(probe(small), seed=0)
    model.trunk.conv1.weight.requires_grad_(True)
    with pytest.raises(graphmodel.CompileError, match=r"GM566.*trunk\.conv1\.weight"):
        graphmodel.split_frozen(model)
