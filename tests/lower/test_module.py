"""What bites a compiled GraphModule: copying, pickling, names, batch sizes, slices, wrappers."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from torch import fx, nn

import graphmodel
from graphmodel import CompileError
from tests.reference import NarrowResNet

X = torch.randn(2, 3, 64, 64)


def test_state_dict_keys_are_the_librarys_own_and_the_heads() -> None:
    spec = {
        "inputs": {"images": {"shape": [3, 64, 64]}},
        "trunk": "resnet",
        "heads": {"probe": {"mlp": {"dims": ["auto", 3]}}},
    }
    keys = list(
        graphmodel.compile(
            spec, overrides=["trunk={name: resnet, depth: 18, width_multiplier: 0.25}"], seed=0
        ).state_dict()
    )
    library = [f"trunk.{k}" for k in NarrowResNet().state_dict() if not k.startswith("fc.")]
    assert keys == [*library, "heads.probe.clf.0.weight", "heads.probe.clf.0.bias"]


def test_the_trunk_gets_what_the_librarys_constructor_gives(small: dict[str, Any]) -> None:
    torch.manual_seed(7)
    library = NarrowResNet().state_dict()
    ours = graphmodel.compile(small, seed=7).state_dict()
    assert all(torch.equal(ours[f"trunk.{k}"], v) for k, v in library.items() if not k.startswith("fc."))


def test_a_seed_reproduces_and_a_new_head_changes_no_other_weight(small: dict[str, Any]) -> None:
    first = graphmodel.compile(small, seed=3).state_dict()
    again = graphmodel.compile(small, seed=3).state_dict()
    more = {**small, "heads": {"new": {"mlp": {"dims": ["auto", 5]}}, **small["heads"]}}
    extended = graphmodel.compile(more, seed=3).state_dict()
    assert all(torch.equal(v, again[k]) and torch.equal(v, extended[k]) for k, v in first.items())
    assert not torch.equal(
        first["heads.head.clf.0.weight"], graphmodel.compile(small, seed=4).state_dict()["heads.head.clf.0.weight"]
    )


def test_compiling_leaves_the_callers_generator_alone(small: dict[str, Any]) -> None:
    torch.manual_seed(0)
    want = torch.rand(3)
    torch.manual_seed(0)
    graphmodel.compile(small, seed=5)
    assert torch.equal(torch.rand(3), want)


def test_without_a_seed_the_global_generator_decides(small: dict[str, Any]) -> None:
    torch.manual_seed(1)
    first = graphmodel.compile(small).state_dict()["trunk.conv1.weight"]
    second = graphmodel.compile(small).state_dict()["trunk.conv1.weight"]
    torch.manual_seed(1)
    assert torch.equal(graphmodel.compile(small).state_dict()["trunk.conv1.weight"], first)
    assert not torch.equal(first, second)


def test_stages_that_no_output_needs_are_gone(small: dict[str, Any]) -> None:
    model = graphmodel.compile({**small, "mapping": {"images": {"res3": None}}}, seed=0)
    assert {n.split(".")[1] for n, _ in model.named_parameters()} == {"conv1", "bn1", "layer1", "layer2"}


def test_it_is_a_graph_module_with_readable_code(two_inputs: dict[str, Any]) -> None:
    model = graphmodel.compile(two_inputs, device="meta")
    assert isinstance(model, fx.GraphModule)
    assert "def forward(self, images, patches):" in model.code
    assert "trunk, heads = self.trunk, self.heads" in model.code
    assert "images_layer1 = trunk.layer1(images_maxpool)" in model.code
    assert model.code.count("trunk.layer4(") == 2


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_copies_behave_and_keep_their_graph(two_inputs: dict[str, Any], way: str) -> None:
    model = graphmodel.compile({**two_inputs, "freeze": ["trunk"]}, seed=0)
    if way == "deepcopy":
        other = copy.deepcopy(model)
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(model))
    else:
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        other = torch.load(buffer, weights_only=False)
    assert list(other.state_dict()) == list(model.state_dict())
    assert {p.data_ptr() for p in other.parameters()}.isdisjoint({p.data_ptr() for p in model.parameters()})
    patches = torch.randn(18, 3, 32, 32)
    other.train()
    assert torch.equal(other(X, patches)["jigsaw"], model.train()(X, patches)["jigsaw"])
    assert not other.trunk.bn1.training
    assert other.code == model.code
    assert other.slice(outputs=["image"])(X)["image"].shape == (2, 8)
    assert [n for n, p in other.named_parameters() if p.requires_grad] == [
        n for n, p in model.named_parameters() if p.requires_grad
    ]


@pytest.mark.parametrize("batch", [1, 3])
def test_the_batch_size_is_free_per_input(two_inputs: dict[str, Any], batch: int) -> None:
    model = graphmodel.compile(two_inputs, seed=0).eval()
    out = model(torch.randn(batch, 3, 64, 64), torch.randn(9 * (batch + 1), 3, 32, 32))
    assert (out["image"].shape, out["jigsaw"].shape) == ((batch, 8), (batch + 1, 8))


@pytest.mark.parametrize(("returns", "kind"), [("dict", dict), ("tuple", tuple), ("list", list)])
def test_the_form_of_the_result(two_inputs: dict[str, Any], returns: Any, kind: type) -> None:
    out = graphmodel.compile(two_inputs, seed=0, returns=returns)(X, torch.randn(9, 3, 32, 32))
    assert type(out) is kind
    assert len(out) == 2


def test_one_tensor_is_only_given_where_there_is_one(small: dict[str, Any], two_inputs: dict[str, Any]) -> None:
    assert graphmodel.compile(small, seed=0, returns="tensor")(X).shape == (2, 10)
    assert graphmodel.compile({**small, "returns": "tensor"}, seed=0)(X).shape == (2, 10)
    with pytest.raises(CompileError, match="image, jigsaw"):
        graphmodel.compile(two_inputs, seed=0, returns="tensor")


def test_a_head_of_several_tensors_names_them(small: dict[str, Any]) -> None:
    swav = {"swav_head": {"dims": ["auto", 8], "use_bn": False, "num_clusters": [5, 6]}}
    spec = {**small, "heads": {"swav": swav, "head": "identity"}}
    out = graphmodel.compile(spec, seed=0)(X)
    assert {k: tuple(v.shape) for k, v in out.items()} == {
        "swav.embedding": (2, 8), "swav.prototypes0": (2, 5), "swav.prototypes1": (2, 6), "head": (2, 128),
    }  # fmt: skip
    nested = graphmodel.compile(spec, seed=0, returns="list")(X)
    assert [[t.shape[1] for t in nested[0]], nested[1].shape[1]] == [[8, 5, 6], 128]


def test_a_slice_shares_parameters_and_needs_only_its_inputs(two_inputs: dict[str, Any]) -> None:
    model = graphmodel.compile(two_inputs, seed=0)
    part = model.slice(outputs=["image"])
    assert part.model_graph.inputs.keys() == {"images"}
    assert all(dict(model.named_parameters())[n] is p for n, p in part.named_parameters())
    assert not any("jigsaw" in n for n, _ in part.named_parameters())
    model.eval()
    assert torch.equal(part.eval()(X)["image"], model(X, torch.randn(9, 3, 32, 32))["image"])
    assert torch.equal(model.slice(inputs=["images"])(X)["image"], part(X)["image"])


def test_slices_refuse_what_they_cannot_compute(two_inputs: dict[str, Any]) -> None:
    model = graphmodel.compile(two_inputs, device="meta")
    with pytest.raises(CompileError, match="needs the input `patches`"):
        model.slice(inputs=["images"], outputs=["jigsaw"])
    with pytest.raises(CompileError, match="did you mean `image`"):
        model.slice(outputs=["imag"])


def test_the_callers_module_tree_can_hold_it(small: dict[str, Any]) -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = graphmodel.compile(small, seed=0, returns="tensor")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.model(x) * 2

    wrapper = Wrapper().eval()
    assert torch.equal(wrapper(X), wrapper.model(X) * 2)
    assert next(iter(wrapper.state_dict())).startswith("model.trunk.")


def test_fullgraph_compilation_has_one_graph_for_all_batch_sizes(two_inputs: dict[str, Any]) -> None:
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    model = graphmodel.compile(two_inputs, seed=0).eval()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for batch in (2, 3, 5):
        images, patches = torch.randn(batch, 3, 64, 64), torch.randn(9 * batch, 3, 32, 32)
        for tensor in (images, patches):
            torch._dynamo.mark_dynamic(tensor, 0)
        out = compiled(images, patches)
        assert torch.equal(out["jigsaw"], model(images, patches)["jigsaw"])
    assert counter.frame_count == 1


@pytest.mark.slow
def test_multi_crop_compiles_into_one_graph() -> None:
    torch._dynamo.reset()
    views = [{"count": 2, "shape": [3, 64, 64]}, {"count": 2, "shape": [3, 32, 32]}]
    spec = {"inputs": {"crops": {"views": views}}, "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25}}
    counter = torch._dynamo.testing.CompileCounter()
    model = graphmodel.compile(spec, seed=0)
    torch.compile(model, fullgraph=True, backend=counter)([torch.randn(2, 3, s, s) for s in (64, 64, 32, 32)])
    assert counter.frame_count == 1


@pytest.mark.slow
def test_it_exports_with_a_free_batch(small: dict[str, Any]) -> None:
    model = graphmodel.compile(small, seed=0).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (X,), dynamic_shapes={"images": {0: batch}})
    for n in (1, 5):
        x = torch.randn(n, 3, 64, 64)
        assert torch.equal(program.module()(x)["head"], model(x)["head"])
    assert any("VR[1, 64]" in str(r) or (r.lower, r.upper) == (1, 64) for r in program.range_constraints.values())


@pytest.mark.slow
def test_inductor_gives_the_same_numbers(small: dict[str, Any]) -> None:
    torch._dynamo.reset()
    model = graphmodel.compile(small, seed=0).eval()
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(X)["head"], model(X)["head"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224", pytest.param("timm:coat_mini", marks=pytest.mark.slow)])
def test_state_dict_keeps_the_order_of_the_library(name: str) -> None:
    import timm

    spec = {
        "inputs": {"images": [3, 224, 224]},
        "trunk": {"name": name},
        "mapping": {"images": {"output": {"as": "y"}}},
    }
    taps = {**spec, "mapping": {"images": {"blocks.1" if "vit" in name else "serial_blocks2.1": {"as": "y"}}}}
    library = list(timm.create_model(name.removeprefix("timm:")).state_dict())
    for each in (spec, taps):
        keys = [k.removeprefix("trunk.") for k in graphmodel.compile(each, device="meta").state_dict()]
        assert keys == [k for k in library if k in keys]
