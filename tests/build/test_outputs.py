"""The order of `outputs` changes only the order of the result; one tensor of a head with several can be selected."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import graphmodel
from graphmodel.build.locked_spec import resolved_spec
from graphmodel.dialects.native.dump import dump


def statistics(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items() if "running" in k or "num_batches" in k}


def test_the_order_of_outputs_does_not_move_batch_statistics(two_inputs: dict[str, Any]) -> None:
    inputs = [torch.rand(4, 3, 64, 64), torch.rand(36, 3, 32, 32)]
    results, moved, codes = [], [], []
    for order in (["image", "jigsaw"], ["jigsaw", "image"]):
        model = graphmodel.compile({**two_inputs, "outputs": order}, seed=0).train()
        results.append(model(*inputs))
        moved.append(statistics(model))
        codes.append([n.name for n in model.model_graph.nodes.values()])
    assert list(results[0]) == list(reversed(results[1])) == ["image", "jigsaw"]
    for name in results[0]:
        assert torch.equal(results[0][name], results[1][name])
    assert all(torch.equal(moved[0][k], moved[1][k]) for k in moved[0])
    assert codes[0] == codes[1]


@pytest.mark.parametrize("optimize", [False, True, {"batch_inputs": True, "fuse_heads": True, "channels_last": True}])
def test_the_order_of_outputs_of_two_trunks_only_orders_them(optimize: Any) -> None:
    norm = {"mlp": {"dims": ["auto", 6, 4], "use_bn": True}}
    spec = {
        "inputs": {"a": [3, 32, 32], "b": [3, 32, 32]},
        "trunks": {name: {"name": "timm:test_resnet"} for name in ("one", "two")},
        "heads": {"head": norm, "other": norm},
        "mapping": [
            {"from": "a.one.flatten", "head": "head", "as": "a1"},
            {"from": "b.one.flatten", "head": "head", "as": "b1"},
            {"from": "b.two.flatten", "head": "other", "as": "b2"},
            {"from": "a.two.flatten", "as": "a2"},
            {"from": ["b1", "a1"], "combine": "concat", "as": "both"},
        ],
        "optimize": optimize,
    }
    names = ["a1", "b1", "b2", "a2", "both"]
    inputs = [torch.rand(4, 3, 32, 32) for _ in range(2)]
    results, states = [], []
    for order in (names, names[::-1], ["both", "a2", "a1", "b2", "b1"]):
        model = graphmodel.compile({**spec, "outputs": order}, seed=0).train()
        results.append(model(*inputs))
        states.append(model.state_dict())
        assert list(results[-1]) == order
        assert all(torch.equal(results[-1][name], results[0][name]) for name in names)
        assert all(torch.equal(states[-1][key], states[0][key]) for key in states[0])


def test_inputs_run_in_the_order_of_inputs(two_inputs: dict[str, Any]) -> None:
    backwards = {**two_inputs, "mapping": dict(reversed(two_inputs["mapping"].items()))}
    scopes = [
        list(
            dict.fromkeys(n.scope for n in graphmodel.build_graph(graphmodel.load_spec(spec)).nodes.values() if n.scope)
        )
        for spec in (two_inputs, backwards)
    ]
    assert scopes == [["images", "patches"]] * 2


@pytest.fixture
def swav(small: dict[str, Any]) -> dict[str, Any]:
    head = {"swav_head": {"dims": ["auto", 16], "use_bn": False, "num_clusters": [7, 5]}}
    return {**small, "heads": {"swav": head, "plain": {"mlp": {"dims": ["auto", 3]}}}}


def test_one_tensor_of_a_head_is_an_output(swav: dict[str, Any]) -> None:
    images = torch.rand(2, 3, 64, 64)
    whole = graphmodel.compile(swav, seed=0).eval()
    one = graphmodel.compile({**swav, "outputs": ["swav.prototypes1", "plain", "swav.embedding"]}, seed=0).eval()
    found, expected = one(images), whole(images)
    assert list(found) == ["swav.prototypes1", "plain", "swav.embedding"]
    assert all(torch.equal(found[k], expected[k]) for k in found)
    listed = graphmodel.compile({**swav, "outputs": [["swav.prototypes0"], "plain"]}, seed=0, returns="list").eval()
    result = listed(images)
    assert torch.equal(result[0][0], expected["swav.prototypes0"])
    assert torch.equal(result[1], expected["plain"])


def test_a_slice_takes_one_tensor_of_a_head(swav: dict[str, Any]) -> None:
    images = torch.rand(2, 3, 64, 64)
    model = graphmodel.compile(swav, seed=0).eval()
    part = model.slice(outputs=["swav.prototypes0"])
    assert torch.equal(part(images)["swav.prototypes0"], model(images)["swav.prototypes0"])
    assert list(part(images)) == ["swav.prototypes0"]


def test_the_locked_spec_keeps_the_selection(swav: dict[str, Any]) -> None:
    graph = graphmodel.build_graph(graphmodel.load_spec({**swav, "outputs": ["swav.prototypes0"]}))
    again = graphmodel.build_graph(graphmodel.load_spec(dump(resolved_spec(graph))))
    assert list(again.outputs) == ["swav.prototypes0"]


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (["swav.prototypes7"], "unknown output `swav.prototypes7`"),
        (["plain.first"], "unknown output `plain.first`"),
        (["other.first"], "unknown output `other.first`"),
        (["swav", "swav.embedding"], "listed twice"),
        (["swav.embedding", "swav"], "listed twice"),
        (["swav.embedding", "swav.embedding"], "listed twice"),
    ],
)
def test_a_selection_that_is_wrong_is_reported(swav: dict[str, Any], outputs: list[str], message: str) -> None:
    with pytest.raises(graphmodel.CompileError) as caught:
        graphmodel.compile({**swav, "outputs": outputs}, device="meta")
    (found,) = [d for d in caught.value.diagnostics if d.severity == "error"]
    assert found.code == "GM209"
    assert message in found.message
