"""Frozen parts stand still whatever is done to the module around them."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import graphmodel
from graphmodel import CompileError
from graphmodel.lower.module import CompiledModel

X = torch.randn(2, 3, 64, 64)


def statistics(module: nn.Module) -> list[torch.Tensor]:
    return [b.clone() for b in module.buffers()]


def trainable(module: nn.Module) -> set[str]:
    return {n for n, p in module.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    "treat",
    [
        lambda m: m,
        copy.deepcopy,
        lambda m: pickle.loads(pickle.dumps(m)),
        lambda m: m.slice(outputs=["head"]),
        lambda m: nn.Sequential(m)[0],
    ],
    ids=["itself", "deepcopy", "pickle", "slice", "in a container"],
)
def test_a_frozen_trunk_stays_in_eval_mode(
    small: dict[str, Any], treat: Callable[[CompiledModel], CompiledModel]
) -> None:
    model = treat(graphmodel.compile({**small, "freeze": ["trunk"]}, seed=0))
    model.train()
    model.trunk.layer1.train(True)
    before = statistics(model.trunk)
    model(X)["head"].sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(model.trunk), strict=True))
    assert not any(m.training for name, m in model.trunk.named_modules() if name)
    assert model.heads.head.training
    assert trainable(model) == {"heads.head.clf.0.weight", "heads.head.clf.0.bias"}
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


def test_a_mode_that_was_set_by_hand_is_undone_by_the_next_train(small: dict[str, Any]) -> None:
    model = graphmodel.compile({**small, "freeze": ["trunk"]}, seed=0)
    model.trunk.apply(lambda module: setattr(module, "training", True))
    still(model, ["trunk.layer1", "trunk.bn1"])


def still(model: nn.Module, names: list[str]) -> None:
    """Trains for a step and asserts that these parts neither move nor get a gradient."""
    model.train()
    parts = [model.get_submodule(name) for name in names]
    before = [[t.detach().clone() for t in (*p.parameters(), *p.buffers())] for p in parts]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    out = model(X)
    (out["head"] if isinstance(out, dict) else out).sum().backward()
    optimizer.step()
    for name, part, was in zip(names, parts, before, strict=True):
        assert not any(m.training for m in part.modules()), name
        now = [*part.parameters(), *part.buffers()]
        assert all(torch.equal(a, b) for a, b in zip(was, now, strict=True)), name


def converted_by_torch(model: nn.Module) -> nn.Module:
    # SyncBatchNorm runs in training on accelerators alone: only the modes are looked at.
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def converted_by_timm(model: nn.Module) -> nn.Module:
    from timm.layers import convert_sync_batchnorm

    return convert_sync_batchnorm(model)


@pytest.mark.parametrize(
    ("freeze", "convert", "mode"),
    [
        *itertools.product([["trunk.bn1", "trunk.layer1"]], [converted_by_torch, converted_by_timm], [True, False]),
        (["trunk.*bn*"], converted_by_torch, True),
        (["trunk.*bn*"], converted_by_timm, False),
        (["trunk"], converted_by_torch, False),
        (["trunk"], converted_by_timm, True),
        (["*"], converted_by_torch, True),
        (["*"], converted_by_timm, False),
    ],
)
def test_frozen_norms_stay_frozen_when_they_are_converted_to_synchronized_ones(
    small: dict[str, Any], convert: Any, freeze: list[str], mode: bool
) -> None:
    model = graphmodel.compile({**small, "freeze": freeze}, seed=0).train(mode)
    model.train()
    frozen = {n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d) and not m.training}
    model.train(mode)
    before = trainable(model)
    synced = convert(model)
    for each in (synced, synced.train(), copy.deepcopy(synced).train(), pickle.loads(pickle.dumps(synced)).train()):
        norms = {n: m for n, m in each.named_modules() if isinstance(m, nn.SyncBatchNorm)}
        assert len(norms) == 20
        if each is not synced or mode:
            assert {n for n, m in norms.items() if not m.training} == frozen
        assert trainable(each) == before
    for parent in (synced.trunk, synced.trunk.layer1, synced.trunk.layer1[0]):
        parent.train()
        assert {n for n, m in norms.items() if not m.training} == frozen


@pytest.mark.parametrize("activation", ["relu", "prelu"])
def test_norms_of_timm_that_hold_their_activation_stay_frozen(activation: str) -> None:
    trunk = {"name": "timm:mobilenetv3_small_050", "act_layer": activation}
    spec = {"inputs": {"images": [3, 32, 32]}, "trunk": trunk, "freeze": ["trunk.bn1", "trunk.blocks.0"]}
    model = graphmodel.compile({**spec, "mapping": {"images": {"blocks.1": None}}}, seed=0)
    before = trainable(model)
    synced = converted_by_timm(model)
    for each in (synced, synced.train(), copy.deepcopy(synced).train(), pickle.loads(pickle.dumps(synced)).train()):
        norms = {n: m for n, m in each.named_modules() if isinstance(m, nn.SyncBatchNorm)}
        frozen = {n for n in norms if n.startswith(("trunk.bn1", "trunk.blocks.0."))}
        assert len(frozen) == 3
        assert {n for n, m in norms.items() if not m.training} == frozen
        assert trainable(each) == before


def test_split_norms_of_timm_stay_frozen(small: dict[str, Any]) -> None:
    from timm.layers import convert_splitbn_model

    model = graphmodel.compile({**small, "freeze": ["trunk.bn1", "trunk.layer1"]}, seed=0).train()
    before = trainable(model)
    split = convert_splitbn_model(model, 2)
    # At once, without a call of `train()`: optimizers are made of what requires a gradient now.
    assert {n for n in trainable(split) if "aux_bn" not in n} == before
    assert not split.trunk.bn1.training
    assert split.trunk.layer2[0].bn1.training
    still(split, ["trunk.bn1", "trunk.layer1"])


def test_timms_freeze_and_unfreeze_leave_frozen_parts_frozen(small: dict[str, Any]) -> None:
    import timm.utils

    model = graphmodel.compile({**small, "freeze": ["trunk.bn1", "trunk.layer1"]}, seed=0).train()
    timm.utils.freeze(model, ["trunk.layer2"])
    assert not any(n.startswith(("trunk.bn1", "trunk.layer1", "trunk.layer2")) for n in trainable(model))
    still(model, ["trunk.bn1", "trunk.layer1"])


def test_fusion_keeps_frozen_parts_frozen(small: dict[str, Any]) -> None:
    from torch.ao.quantization import fuse_modules

    model = graphmodel.compile({**small, "freeze": ["trunk"]}, seed=0).eval()
    want = model(X)["head"]
    pairs = [["trunk.conv1", "trunk.bn1"], ["trunk.layer1.0.conv1", "trunk.layer1.0.bn1"]]
    fused = fuse_modules(model, pairs)
    torch.testing.assert_close(fused(X)["head"], want, rtol=1e-4, atol=1e-4)
    assert trainable(fused) == {"heads.head.clf.0.weight", "heads.head.clf.0.bias"}
    still(fused, ["trunk.conv1", "trunk.bn1", "trunk.layer1"])


def test_fx_fusion_keeps_frozen_parts_frozen() -> None:
    from torch.fx.experimental.optimization import fuse

    spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25}}
    model = graphmodel.compile(
        {**spec, "freeze": ["trunk.conv1", "trunk.bn1", "trunk.layer1"]}, returns="tensor"
    ).eval()
    want = model(X)
    traced = fuse(model)
    torch.testing.assert_close(traced(X), want, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in traced.modules())
    assert not any(n.startswith(("trunk.conv1", "trunk.layer1")) for n in trainable(traced))
    assert any(n.startswith("trunk.layer2") for n in trainable(traced))
    traced.train()
    assert not traced.trunk.conv1.training
    assert traced.trunk.layer2.training


class Lora(nn.Module):
    """An adapter around a layer, as PEFT injects it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.drop = base, nn.Dropout(0.5)
        self.down, self.up = nn.Linear(base.in_features, 2, bias=False), nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.up(self.drop(self.down(x)))


class LoraLinear(nn.Linear):
    """An adapter that takes the place of a layer, as loralib does it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__(base.in_features, base.out_features)
        self.weight, self.bias = base.weight, base.bias
        self.down = nn.Parameter(torch.zeros(2, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, 2))
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + self.drop(x) @ self.down.T @ self.up.T


@pytest.mark.parametrize("adapter", [Lora, LoraLinear])
def test_adapters_train_and_what_they_adapt_stays_frozen(adapter: type[nn.Module]) -> None:
    spec = {
        "inputs": {"images": [3, 32, 32]},
        "trunk": {"name": "timm:vit_tiny_patch16_224", "img_size": 32, "freeze": True},
        "heads": {"head": {"mlp": {"dims": ["auto", 10]}}},
    }
    model = graphmodel.compile(spec, seed=0)
    names = [n for n, m in model.trunk.named_modules() if n.endswith("attn.qkv")]
    for name in names:
        parent, _, leaf = name.rpartition(".")
        setattr(model.trunk.get_submodule(parent), leaf, adapter(model.trunk.get_submodule(name)))
    model.train()
    qkv = model.trunk.get_submodule(names[0])
    assert qkv.drop.training
    assert all(("down" in n) or ("up" in n) or n.startswith("heads") for n in trainable(model))
    model.eval()
    assert not qkv.drop.training, "the adapter follows the mode of the model"
    model.train()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    model(torch.randn(2, 3, 32, 32))["head"].sum().backward()
    assert qkv.up.weight.grad is not None if adapter is Lora else qkv.up.grad is not None
    assert all(p.grad is None for n, p in model.named_parameters() if not p.requires_grad)
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    for name, parameter in model.named_parameters():
        assert torch.equal(before[name], parameter) or parameter.requires_grad, name


def test_a_module_put_in_the_place_of_a_frozen_one_is_frozen_by_the_next_train(small: dict[str, Any]) -> None:
    model = graphmodel.compile({**small, "freeze": ["trunk.bn1"]}, seed=0)
    model.trunk.bn1 = nn.BatchNorm2d(16)
    still(model, ["trunk.bn1"])
    assert not trainable(model) & {"trunk.bn1.weight", "trunk.bn1.bias"}


def synchronized(model: Any) -> Any:
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


@pytest.mark.parametrize("change", [lambda model: model, copy.deepcopy, synchronized, CompiledModel.slice])
def test_statistics_of_a_frozen_norm_are_reset_by_its_own_initialisation_alone(
    small: dict[str, Any], change: Callable[[Any], Any]
) -> None:
    model = change(graphmodel.compile({**small, "freeze": ["trunk.bn1"]}, seed=0))
    with torch.no_grad():
        model.trunk.bn1.running_mean.fill_(0.5)
        model.trunk.layer1[0].bn1.running_mean.fill_(0.5)
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.reset_running_stats()  # as `torch.optim.swa_utils.update_bn` does, before it trains them again
    assert bool((model.trunk.bn1.running_mean == 0.5).all())
    assert bool((model.trunk.layer1[0].bn1.running_mean == 0).all())
    model.trunk.bn1.reset_parameters()  # as after `to_empty`
    assert bool((model.trunk.bn1.running_mean == 0).all())


def test_a_parameter_that_the_user_thaws_stays_so(small: dict[str, Any]) -> None:
    model = graphmodel.compile({**small, "freeze": ["trunk"]}, seed=0)
    model.trunk.layer4.requires_grad_(True)
    model.train()
    assert model.trunk.layer4[0].conv1.weight.requires_grad


def test_a_frozen_trunk_survives_to_empty_and_functional_calls(small: dict[str, Any]) -> None:
    model = graphmodel.compile({**small, "freeze": ["trunk"]}, device="meta")
    model.to_empty(device="cpu")
    model.load_state_dict(graphmodel.compile(small, seed=0).state_dict())
    assert trainable(model) == {"heads.head.clf.0.weight", "heads.head.clf.0.bias"}
    still(model, ["trunk.conv1", "trunk.bn1", "trunk.layer1"])
    before = statistics(model.trunk)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    torch.func.functional_call(model.train(), tensors, (X,))["head"].sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(model.trunk), strict=True))


def test_fully_sharded_modules_keep_frozen_parts_frozen(small: dict[str, Any], tmp_path: Any) -> None:
    from torch import distributed
    from torch.distributed.fsdp import fully_shard

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = distributed.init_device_mesh("cpu", (1,))
        model = graphmodel.compile({**small, "freeze": ["trunk.bn1", "trunk.layer1"]}, seed=0)
        before = trainable(model)
        for stage in (model.trunk.layer1, model.trunk.layer2):
            fully_shard(stage, mesh=mesh)
        fully_shard(model, mesh=mesh)
        model.train()
        assert trainable(model) == before
        was = statistics(model.trunk.layer1)
        model(X)["head"].sum().backward()
        assert all(torch.equal(a, b) for a, b in zip(was, statistics(model.trunk.layer1), strict=True))
        assert not model.trunk.bn1.training
        assert model.trunk.layer2[0].bn1.training
        assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
        with pytest.raises(pickle.PicklingError, match="FSDPCompiledModel` cannot be pickled"):
            pickle.dumps(model)
    finally:
        distributed.destroy_process_group()


def test_train_still_returns_the_module(small: dict[str, Any]) -> None:
    model = graphmodel.compile({**small, "freeze": ["trunk"]}, seed=0)
    assert model.trunk.bn1.train() is model.trunk.bn1
    assert model.eval().train() is model


def test_dropout_inside_a_frozen_head_is_off(small: dict[str, Any]) -> None:
    heads = {"head": {"mlp": {"dims": ["auto", 64, 10], "use_dropout": True}}}
    model = graphmodel.compile({**small, "heads": heads, "freeze": ["all"]}, seed=0).train()
    assert torch.equal(model(X)["head"], model(X)["head"])
    assert trainable(model) == set()


@pytest.mark.parametrize(
    ("freeze", "frozen"),
    [
        (["trunk.layer1"], {"trunk.layer1"}),
        (["trunk.layer1.*"], {"trunk.layer1"}),
        (["trunk.conv1", "trunk.bn1"], {"trunk.conv1", "trunk.bn1"}),
        (["trunk.layer[12]"], {"trunk.layer1", "trunk.layer2"}),
        (["heads"], {"heads"}),
        ("trunk.layer4.1", {"trunk.layer4.1"}),
    ],
)
def test_names_and_patterns_freeze_exactly_what_they_cover(
    small: dict[str, Any], freeze: Any, frozen: set[str]
) -> None:
    model = graphmodel.compile({**small, "freeze": freeze}, seed=0).train()
    model(X)["head"].sum().backward()
    for name, parameter in model.named_parameters():
        covered = any(name.startswith(f"{f}.") for f in frozen)
        assert parameter.requires_grad is not covered, name
        assert (parameter.grad is None) is covered, name
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.training is not any(name == f or name.startswith(f"{f}.") for f in frozen), name


def test_a_pattern_over_parameters_leaves_other_parameters_of_the_module_alone(small: dict[str, Any]) -> None:
    model = graphmodel.compile({**small, "freeze": ["*.bias"]}, seed=0).train()
    assert not any(n.endswith("bias") for n in trainable(model))
    assert model.trunk.bn1.training
    assert model.trunk.bn1.weight.requires_grad


def test_a_norm_whose_parameters_are_all_frozen_keeps_its_statistics(small: dict[str, Any]) -> None:
    model = graphmodel.compile({**small, "freeze": ["trunk.bn1.weight", "trunk.bn1.bias"]}, seed=0).train()
    assert not model.trunk.bn1.training
    assert model.trunk.layer1[0].bn1.training


def test_a_pattern_that_covers_nothing_is_an_error(small: dict[str, Any]) -> None:
    with pytest.raises(CompileError, match=r"did you mean `trunk\.layer1`") as caught:
        graphmodel.compile({**small, "freeze": ["trunk.layr1"]})
    assert caught.value.diagnostics[0].code == "GM211"


def test_vissls_parameter_names_freeze_what_they_name() -> None:
    block = {
        "MODEL": {
            "TRUNK": {"NAME": "resnet", "RESNETS": {"DEPTH": 18}},
            "HEAD": {"PARAMS": [["mlp", {"dims": [512, 3]}]]},
            "NON_TRAINABLE_PARAMS": ["trunk._feature_blocks.conv1.weight", "module.heads.0.clf.0.bias"],
        }
    }
    model = graphmodel.compile(block, seed=0)
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"trunk.conv1.weight", "heads.head.clf.0.bias"}


def test_frozen_calls_are_marked_in_the_graph(small: dict[str, Any]) -> None:
    graph = graphmodel.build_graph(graphmodel.load_spec({**small, "freeze": ["trunk"]}))
    frozen = {n.name for n in graph.nodes.values() if n.facts.frozen}
    assert "layer1" in frozen
    assert "head" not in frozen


class NormEval(nn.Module):
    """A network that keeps the statistics of one norm, in the way that detectors do, and trains its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.last = nn.Conv2d(4, 2, 1)

    def train(self, mode: bool = True) -> NormEval:
        super().train(mode)
        self.norm.eval()
        for parameter in self.first.parameters():
            parameter.requires_grad_(not mode)
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(self.block(self.norm(self.first(x))))
        return out


def as_it_is(model: Any) -> Any:
    return model


def pickled(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model))


def converted(model: Any) -> Any:
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def sliced(model: Any) -> Any:
    return model.slice(outputs=["last"])


@pytest.mark.parametrize("change", [as_it_is, copy.deepcopy, pickled, converted, sliced])
@pytest.mark.parametrize("given", [True, False])
def test_what_the_trunks_own_train_keeps_in_eval_mode_stays_there(given: bool, change: Any) -> None:
    graphmodel.register_trunk("norm_eval")(NormEval)
    mapping = [{"from": f"images.{name}", "as": name} for name in ("first", "last")]
    spec = {"inputs": {"images": [3, 8, 8]}, "trunk": "norm_eval", "mapping": mapping}
    model = change(graphmodel.compile(spec, seed=0, trunks={"trunk": NormEval()} if given else None))
    reference = NormEval()
    reference.load_state_dict(model.trunk.state_dict())
    for mode in (True, False, True):
        model.train(mode)
        reference.train(mode)
        assert {n: m.training for n, m in model.trunk.named_modules() if n} == {
            n: m.training for n, m in reference.named_modules() if n
        }
    assert [n for n, p in model.trunk.named_parameters() if not p.requires_grad] == ["first.weight", "first.bias"]
    if change is converted:
        return  # it runs on GPUs only
    x = torch.randn(4, 3, 8, 8)
    assert torch.equal(model(x)["last"], reference(x))
    found, expected = model.trunk.state_dict(), reference.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not torch.equal(found["block.1.running_mean"], torch.zeros(4))
    assert torch.equal(found["norm.running_mean"], torch.zeros(4))
