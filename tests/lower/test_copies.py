"""What you edit, hook and set is what copies have."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import graphmodel
from graphmodel import CompiledModel, CompileError

X = torch.randn(2, 3, 64, 64)


def saved(model: CompiledModel) -> CompiledModel:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    loaded: CompiledModel = torch.load(buffer, weights_only=False)
    return loaded


COPIES: dict[str, Callable[[CompiledModel], CompiledModel]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "torch.save": saved,
    "twice": lambda m: copy.deepcopy(pickle.loads(pickle.dumps(copy.deepcopy(m)))),
}
ways = pytest.mark.parametrize("way", COPIES)


class Counter:
    """A hook that can be pickled."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, *_: Any) -> None:
        self.calls += 1


@ways
def test_edits_of_the_graph_survive(small: dict[str, Any], way: str) -> None:
    model = graphmodel.compile(small, seed=0).eval()
    plain = model(X)["head"]
    node = next(n for n in model.graph.nodes if n.name == "head")
    with model.graph.inserting_after(node):
        doubled = model.graph.call_function(torch.mul, (node, 2))
    node.replace_all_uses_with(doubled, delete_user_cb=lambda user: user is not doubled)
    model.recompile()
    other = COPIES[way](model)
    assert torch.equal(other(X)["head"], plain * 2)
    assert other.code == model.code
    assert [n.name for n in other.graph.nodes] == [n.name for n in model.graph.nodes]


@ways
def test_in_place_nodes_and_slices_of_arguments_survive(small: dict[str, Any], way: str) -> None:
    import operator

    model = graphmodel.compile(small, seed=0, returns="tensor").eval()
    node = next(n for n in model.graph.nodes if n.name == "head")
    with model.graph.inserting_after(node):
        part = model.graph.call_function(operator.getitem, (node, (slice(None), slice(0, 4))))
    with model.graph.inserting_after(part):
        added = model.graph.call_function(operator.iadd, (part, 1.5))
    node.replace_all_uses_with(added, delete_user_cb=lambda user: user.op == "output")
    model.recompile()
    other = COPIES[way](model)
    assert torch.equal(other(X), model(X))
    assert [n.target for n in other.graph.nodes] == [n.target for n in model.graph.nodes]


def test_an_edit_that_cannot_be_pickled_is_refused(small: dict[str, Any]) -> None:
    model = graphmodel.compile(small, seed=0)
    node = next(n for n in model.graph.nodes if n.name == "head")
    with model.graph.inserting_after(node):
        model.graph.call_function(lambda x: x, (node,))
    model.recompile()
    with pytest.raises(CompileError, match="cannot be pickled") as caught:
        pickle.dumps(model)
    assert [d.code for d in caught.value.diagnostics] == ["GM504"]
    assert copy.deepcopy(model).code == model.code


def test_a_shallow_copy_keeps_attributes_and_hooks_and_shares_the_layers(small: dict[str, Any]) -> None:
    model = graphmodel.compile(small, seed=0)
    model.note, counter = ["a"], Counter()
    model.register_forward_pre_hook(counter)
    other = copy.copy(model)
    other.eval()(X)
    assert counter.calls == 1
    assert type(other).__name__ == "CompiledModel"
    assert other.note is model.note
    assert other.trunk is model.trunk
    other.extra = nn.Linear(2, 2)
    assert not hasattr(model, "extra")


@ways
def test_attributes_and_hooks_of_the_model_and_of_its_trunk_survive(small: dict[str, Any], way: str) -> None:
    model = graphmodel.compile(small, seed=0)
    model.note, model.trunk.note = ["a"], {"b": 1}
    model.extra = nn.Linear(2, 2)
    counters = [Counter() for _ in range(3)]
    model.register_forward_pre_hook(counters[0])
    model.trunk.layer1.register_forward_hook(counters[1])
    with pytest.warns(UserWarning, match="will never run"):
        model.trunk.register_forward_hook(counters[2])
    other = COPIES[way](model)
    assert (other.note, other.trunk.note) == (["a"], {"b": 1})
    assert other.note is not model.note
    assert isinstance(other.extra, nn.Linear)
    other(X)
    assert [c.calls for c in counters] == [0, 0, 0], "the copy has hooks of its own"
    assert next(iter(other._forward_pre_hooks.values())).calls == 1
    assert next(iter(other.trunk.layer1._forward_hooks.values())).calls == 1
    assert len(other.trunk._forward_hooks) == 1


@ways
def test_meta_modes_and_requires_grad_survive(small: dict[str, Any], way: str) -> None:
    model = graphmodel.compile(small, seed=0)
    model.meta["mine"] = 1
    model.trunk.eval()
    model.heads.head.requires_grad_(False)
    other = COPIES[way](model)
    assert other.meta["mine"] == 1
    assert [m.training for m in other.modules()] == [m.training for m in model.modules()]
    assert [p.requires_grad for p in other.parameters()] == [p.requires_grad for p in model.parameters()]


@ways
def test_a_hook_that_refers_to_the_model_is_copied_with_it(small: dict[str, Any], way: str) -> None:
    model = graphmodel.compile(small, seed=0)
    model.register_forward_hook(Owner(model).hook)
    other = COPIES[way](model)
    owner = next(iter(other._forward_hooks.values())).__self__
    assert owner.model is other


class Owner:
    """Holds the model that it hooks."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def hook(self, *_: Any) -> None:
        return None


@pytest.mark.parametrize(
    "register",
    [
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
    ],
)
@pytest.mark.parametrize("container", ["trunk", "heads"])
def test_a_hook_on_a_container_warns_and_names_the_parts(small: dict[str, Any], container: str, register: str) -> None:
    model = graphmodel.compile(small, device="meta")
    with pytest.warns(UserWarning, match="`layer4`" if container == "trunk" else "`head`") as caught:
        getattr(model.get_submodule(container), register)(lambda *_: None)
    assert caught[0].filename == __file__


def test_hooks_on_what_is_called_do_not_warn(small: dict[str, Any], recwarn: pytest.WarningsRecorder) -> None:
    model = graphmodel.compile(small, device="meta")
    for path in ("trunk.layer1", "heads.head", ""):
        model.get_submodule(path).register_forward_hook(lambda *_: None)
    assert not [w for w in recwarn if "will never run" in str(w.message)]


def test_copies_of_copies_have_the_same_class(small: dict[str, Any]) -> None:
    model = graphmodel.compile(small, device="meta")
    other = copy.deepcopy(copy.deepcopy(model))
    assert len(type(other).__mro__) == len(type(model).__mro__)
    assert type(other).__qualname__ == "CompiledModel"


@pytest.mark.parametrize("optimized", [False, True])
def test_torch_saves_models_in_channels_last(optimized: bool) -> None:
    trunk = {"name": "resnet", "depth": 18, "width_multiplier": 0.25, "memory_format": "channels_last"}
    model: Any = graphmodel.compile({"inputs": {"images": [3, 32, 32]}, "trunk": trunk}, seed=0).eval()
    if optimized:
        model = graphmodel.optimize_for_inference(model, memory_format="channels_last")
    stream, x = io.BytesIO(), torch.randn(2, 3, 32, 32)
    torch.save(model, stream)
    stream.seek(0)
    loaded = torch.load(stream, weights_only=False)
    assert "memory_format = torch.channels_last" in loaded.code
    assert torch.equal(loaded(x)["features"], model(x)["features"])
