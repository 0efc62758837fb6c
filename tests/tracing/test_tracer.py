"""The tracer on modules whose code resists plain tracing; every result is compared with the module itself."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphmodel
from graphmodel.components.construct import meta_copy
from graphmodel.components.features import Feature
from graphmodel.tracing.errors import TraceError
from graphmodel.tracing.opening import open_trunk
from graphmodel.tracing.traced import TracedTrunk


def opened(module: nn.Module, *features: Feature, shape: tuple[int, ...] = (3, 8, 8)) -> TracedTrunk:
    low, high = (torch.empty(b, *shape, device="meta") for b in (2, 3))
    return open_trunk(meta_copy(module), features or (Feature("output"),), {"x": (low, high)})


def compiled(module: nn.Module, *features: str, shape: tuple[int, ...] = (3, 8, 8)) -> Any:
    spec = {
        "inputs": {"images": list(shape)},
        "trunk": "given",
        "mapping": [{"from": f"images.{f}", "as": f"out_{i}"} for i, f in enumerate(features or ("output",))],
    }
    return graphmodel.compile(spec, trunks={"trunk": module}, returns="tuple")


def targets(opened: TracedTrunk) -> list[str]:
    return [str(n.target) for n in opened.graph.nodes if n.op == "call_module"]


class Block(nn.Module):
    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(self.conv(x)))


class Stages(nn.Module):
    """A stem and three stages."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.stages = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return x


def test_stages_stay_closed_and_later_ones_are_left_out() -> None:
    assert targets(opened(Stages(), Feature("f", ("stages.1",)))) == ["stem", "stages.0", "stages.1"]


def test_a_module_is_opened_only_where_a_feature_lies_inside() -> None:
    found = targets(opened(Stages(), Feature("f", ("stages.1.conv",))))
    assert found == ["stem", "stages.0", "stages.1.conv"]


def test_a_list_of_modules_is_the_output_of_its_last() -> None:
    graph = opened(Stages(), Feature("f", ("stages",)))
    assert graph.features["f"].target == "stages.2"


class ByShape(nn.Module):
    """Branches and loops over sizes; reshapes with the batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(3, 5)
        self.position = nn.Parameter(torch.randn(1, 64, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        if height != width or channels > 3:
            raise ValueError("square images of three channels")
        tokens = x.reshape(batch, channels, height * width).transpose(1, 2)
        tokens = self.proj(tokens) + self.position[:, : len(range(height * width))]
        for i in range(x.size(1)):
            tokens = tokens * (i + 1)
        return tokens.reshape(batch, -1)


def test_control_flow_on_sizes_resolves_and_any_batch_runs() -> None:
    module = ByShape()
    model = compiled(module)
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 8, 8)
        assert torch.equal(model(x)[0], module(x))


class Branching(nn.Module):
    """Does other things by batch size, by value, or by mode, before a module that can be tapped."""

    def __init__(self, by: str) -> None:
        super().__init__()
        self.by, self.conv = by, nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.by == "batch" and x.shape[0] > 2:
            x = x * 2
        if self.by == "value" and x.sum() > 0:
            x = x * 2
        if self.by == "mode" and self.training:
            x = torch.cat([x, x.flip(-1)], -1)[..., : x.shape[-1]]
        return self.conv(x)


@pytest.mark.parametrize(
    ("by", "words"),
    [("batch", "changes with the batch"), ("value", "numbers in the tensor"), ("mode", "torch.cat|flip")],
)
def test_control_flow_on_anything_but_sizes_is_refused_with_its_reason(by: str, words: str) -> None:
    with pytest.raises(TraceError, match=words):
        opened(Branching(by), Feature("f", ("conv",)))


@pytest.mark.parametrize("by", ["batch", "mode"])
def test_the_same_trunk_stays_closed_where_nothing_inside_is_wanted(by: str) -> None:
    module = Branching(by)
    model = compiled(module)
    for batch, training in ((2, True), (4, True), (2, False), (4, False)):
        x = torch.randn(batch, 3, 8, 8)
        module.train(training)
        model.train(training)
        assert torch.equal(model(x)[0], module(x))


def test_a_trunk_that_cannot_be_opened_gives_one_diagnostic() -> None:
    with pytest.raises(graphmodel.CompileError) as caught:
        compiled(Branching("value"))
    (finding,) = caught.value.diagnostics
    assert finding.code == "GM303"
    assert "numbers in the tensor" in finding.message


def test_a_trunk_of_vectors_is_told_what_its_code_does_and_not_that_images_have_three_dimensions() -> None:
    class OnVectors(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    spec = {"inputs": {"vectors": [4]}, "trunk": "given"}
    with pytest.raises(graphmodel.CompileError, match=r"GM303.*numbers in the tensor"):
        graphmodel.compile(spec, trunks={"trunk": OnVectors()})


class InPlace(nn.Module):
    """Changes the first convolution's output in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.relu(self.first(x)))


def test_a_feature_that_is_changed_in_place_later_is_copied_first() -> None:
    module = InPlace()
    x = torch.randn(2, 3, 8, 8)
    first, last = compiled(module, "first", "output")(x)
    assert torch.equal(first, module.first(x))
    assert first.min() < 0
    assert torch.equal(last, module(x))


class FunctionalDropout(nn.Module):
    def __init__(self, before: bool = True) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.before = before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.dropout(x.mean((2, 3)), p=0.4, training=self.training) if self.before else x.mean((2, 3))
        x = self.fc(x)
        if self.training:
            x = F.dropout(x, 0.3)
        return x


class Wide(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.head = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(x))


@pytest.mark.parametrize("before", [True, False])
def test_functional_dropout_follows_the_mode(before: bool) -> None:
    module = Wide(FunctionalDropout(before))
    model = compiled(module, "head.fc", "output")
    x = torch.randn(4, 3, 8, 8)
    for training in (True, False, True):
        module.train(training)
        model.train(training)
        torch.manual_seed(0)
        expected = module(x)
        torch.manual_seed(0)
        assert torch.equal(model(x)[1], expected)
    assert not any(k.endswith(("dropout", "dropout_1")) for k in model.state_dict())


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).unflatten(-1, (3, 4)).unbind(2)
        return F.scaled_dot_product_attention(q, k, v, dropout_p=self.drop.p if self.training else 0.0)


def test_an_argument_that_differs_by_mode_follows_the_mode() -> None:
    module = Wide(Attention())
    model = compiled(module, "head.qkv", "output")
    x = torch.randn(2, 3, 8, 8)
    for training in (False, True):
        module.train(training)
        model.train(training)
        torch.manual_seed(0)
        expected = module(x)
        torch.manual_seed(0)
        assert torch.equal(model(x)[1], expected)


class Auxiliary(nn.Module):
    """A second classifier that runs in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head, self.aux = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.conv(x)
        return (self.head(x), self.aux(x)) if self.training else self.head(x)


def test_a_classifier_that_runs_in_training_alone_is_a_feature() -> None:
    module = Auxiliary()
    x = torch.randn(2, 3, 8, 8)
    head, aux = compiled(module, "head", "aux")(x)
    assert torch.equal(head, module.head(module.conv(x)))
    assert torch.equal(aux, module.aux(module.conv(x)))


class Several(nn.Module):
    """Stages that return a tuple, a dict, and nothing for the mask."""

    class Inner(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return x * 2, {"half": x / 2, "mask": None}, (x.shape[-2], x.shape[-1])

    def __init__(self) -> None:
        super().__init__()
        self.inner = self.Inner()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        double, more, (height, width) = self.inner(x)
        assert isinstance(more, dict)
        if more["mask"] is not None:
            double = double * more["mask"]
        return double.flatten(2)[:, :, : height * width // 2] + more["half"].flatten(2)[:, :, : height * width // 2]


def test_closed_modules_may_return_several_values() -> None:
    module = Several()
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(compiled(module)(x)[0], module(x))


class Constants(nn.Module):
    """Tensors that are neither parameters nor buffers, and one made in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.table = torch.arange(8.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x) + self.table * torch.arange(8, device=x.device)
        return x + torch.full((x.shape[0], 1, 1, 1), 3.0, device=x.device)


def test_constant_tensors_keep_their_numbers_and_stay_out_of_the_state_dict() -> None:
    module = Constants()
    model = compiled(module)
    x = torch.randn(3, 3, 8, 8)
    assert torch.equal(model(x)[0], module(x))
    assert list(model.state_dict()) == ["trunk.conv.weight", "trunk.conv.bias"]


class Sliced(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 5, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[:-1](x)


def test_a_slice_of_a_container_is_run_through() -> None:
    assert targets(opened(Sliced())) == ["layers.0", "layers.1"]


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.idle = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.conv(x))


@pytest.mark.parametrize(("tap", "words"), [("conv", "called 2 times"), ("idle", "never called")])
def test_a_module_that_is_not_called_once_is_no_feature(tap: str, words: str) -> None:
    with pytest.raises(TraceError, match=words):
        opened(Twice(), Feature("f", (tap,)))


def test_what_a_module_is_called_with_can_be_tapped() -> None:
    graph = opened(Stages(), Feature("f", ("stages.2:input",)))
    assert graph.features["f"].target == "stages.1"
    assert "stages.2" not in targets(graph)


def test_the_trunk_keeps_its_mode() -> None:
    module = meta_copy(Stages()).train()
    module.stages[1].eval()
    low, high = (torch.empty(b, 3, 8, 8, device="meta") for b in (2, 3))
    open_trunk(module, [Feature("output")], {"x": (low, high)})
    assert module.training
    assert [s.training for s in module.stages] == [True, False, True]


class Augmented(nn.Module):
    """Changes a value in training alone, by a function and by a method."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            x = torch.sin(x).mul(3.0)
        return self.conv(x)


def test_what_changes_a_value_in_training_alone_follows_the_mode() -> None:
    module = Augmented()
    model = compiled(module, "conv", "output")
    x = torch.randn(2, 3, 8, 8)
    for training in (True, False, True):
        module.train(training)
        model.train(training)
        assert torch.equal(model(x)[0], module(x))
    assert "in training" in repr(model.trunk)


def test_stand_ins_for_functions_survive_copies_pickles_and_torch_compile() -> None:
    module = Wide(Attention())
    model = compiled(module, "head.qkv", "output").eval()
    x = torch.randn(2, 3, 8, 8)
    expected = model(x)[1]
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    for twin in (copy.deepcopy(model), torch.load(stream, weights_only=False)):
        assert torch.equal(twin(x)[1], expected)
    fast = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.equal(fast(x)[1], expected)
    model.train()
    torch.manual_seed(0)
    moving = model(x)[1]
    torch.manual_seed(0)
    assert torch.equal(fast(x)[1], moving)
    assert not torch.equal(moving, expected)


class TooSmall(nn.Module):
    """A head that wants more pixels than there are, behind stages that do not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(x)).mean((2, 3))


def test_a_part_that_cannot_run_matters_only_where_a_feature_needs_it() -> None:
    module = TooSmall()
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(compiled(module, "conv")(x)[0], module.conv(x))
    with pytest.raises(graphmodel.CompileError, match="Kernel size can't be greater"):
        compiled(module)


class Picky(nn.Module):
    """Takes nothing but real tensors, as code with scripted parts or functions of its own does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if isinstance(x, torch.fx.Proxy):
            raise TypeError("real tensors only")
        return F.dropout(self.conv(x), 0.5, self.training)


def test_a_trunk_that_cannot_be_opened_stays_closed_where_nothing_inside_is_wanted() -> None:
    module = Picky()
    model = compiled(module)
    x = torch.randn(2, 3, 8, 8)
    for training in (True, False):
        module.train(training)
        model.train(training)
        torch.manual_seed(0)
        expected = module(x)
        torch.manual_seed(0)
        assert torch.equal(model(x)[0], expected)
    assert list(model.state_dict()) == ["trunk.conv.weight", "trunk.conv.bias"]
    with pytest.raises(graphmodel.CompileError, match="real tensors only"):
        compiled(module, "conv")


class ChangingViews(nn.Module):
    """Changes a map in place through a view of it, in one of several ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.stem = how, nn.Conv2d(3, 4, 3, padding=1)
        self.relu, self.norm, self.tail = nn.ReLU(inplace=True), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)
        self.register_buffer("shift", torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        if self.how == "slice":
            x[:, :2].mul_(2)
        elif self.how == "operator":
            part = x.transpose(2, 3)
            part += 1
        elif self.how == "view of a view":
            x[:, 1:][:, :2].add_(3)
        elif self.how == "module":
            self.relu(x.flatten(1))
        elif self.how == "copy":
            x.select(1, 0).copy_(x.select(1, 1))
        elif self.how == "buffer":
            self.shift[:2].mul_(0).add_(2)
            return self.tail(self.norm(x * self.shift.view(1, -1, 1, 1)))
        elif self.how == "shortcut":
            shortcut = x
            x += 1
            return self.tail(self.norm(x)) + self.tail(shortcut)
        elif self.how == "both":
            flat = x.flatten(1)
            x.add_(1)
            flat.mul_(2)
            return self.tail(self.norm(x)) + flat.mean()
        elif self.how == "late":
            out = self.tail(self.norm(x * 2))
            x[:, :2].add_(1)
            return out + x.mean()
        else:
            x[:, :2].mul_(2)  # what it returns is what the stem made, changed
            return x
        return self.tail(self.norm(x))


def keeping(name: str, into: dict[str, torch.Tensor]) -> Any:
    """A hook that keeps what a module returns, as it is then."""

    def hook(module: nn.Module, args: Any, out: torch.Tensor) -> None:
        into[name] = out.clone()

    return hook


VIEWS = ("slice", "operator", "view of a view", "module", "copy", "buffer", "shortcut", "both", "late", "returned")


@pytest.mark.parametrize("features", [("output",), ("stem", "output"), ("norm", "output")])
@pytest.mark.parametrize("how", VIEWS)
def test_changes_through_views_are_kept(how: str, features: tuple[str, ...]) -> None:
    if how == "returned":
        features = tuple(f for f in features if f != "norm")
    module = ChangingViews(how)
    reference = copy.deepcopy(module)
    model = compiled(module, *features)
    x = torch.randn(2, 3, 8, 8)
    for mode in (False, True):
        found = model.train(mode)(x)
        wanted: dict[str, torch.Tensor] = {}
        hooks = [
            reference.get_submodule(n).register_forward_hook(keeping(n, wanted)) for n in features if n != "output"
        ]
        wanted["output"] = reference.train(mode)(x)
        for hook in hooks:
            hook.remove()
        for name, value in zip(features, found, strict=True):
            assert torch.equal(value, wanted[name]), name
        sum(value.square().mean() for value in found).backward()
        sum(wanted[name].square().mean() for name in features).backward()
        assert torch.allclose(model.trunk.stem.weight.grad, reference.stem.weight.grad, atol=1e-6)


class Adding(nn.Module):
    """Adds a float32 parameter to what a convolution returns, which autocast makes bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.relu = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True)
        self.position = nn.Parameter(torch.randn(1, 4, 8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x += self.position
        x = self.relu(x)
        x *= self.position
        return x


@pytest.mark.parametrize("feature", ["output", "relu"])
def test_augmented_assignments_keep_the_dtype_under_autocast(feature: str) -> None:
    module = Adding()
    model = compiled(copy.deepcopy(module), feature)
    values: dict[str, torch.Tensor] = {}
    module.relu.register_forward_hook(keeping("relu", values))
    x = torch.randn(2, 3, 8, 8)
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            values["output"] = module(x)
            found = model(x)[0]
        assert found.dtype == values[feature].dtype == (torch.bfloat16 if enabled else torch.float32)
        assert torch.equal(found, values[feature])
