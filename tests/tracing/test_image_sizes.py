"""Other image sizes than the compiled one: the library's own result, bit for bit, or an error."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphmodel
from graphmodel.components.construct import meta_copy
from graphmodel.components.features import Feature
from graphmodel.components.library.naming import LibraryFeature
from graphmodel.components.library.timm_features import TimmNaming
from graphmodel.tracing.image_sizes import resized_samples
from graphmodel.tracing.opening import open_trunk


def compiled(module: nn.Module, *features: str, shape: Sequence[int] = (3, 64, 64)) -> Any:
    spec = {
        "inputs": {"images": list(shape)},
        "trunk": "given",
        "mapping": [{"from": f"images.{f}", "as": f"out_{i}"} for i, f in enumerate(features or ("output",))],
    }
    return graphmodel.compile(spec, trunks={"trunk": module}, returns="tuple").eval()


def accepts(model: Any) -> tuple[int | None, ...]:
    (shape,) = model.model_graph.accepts["images"]
    return tuple(shape)


class Segmentation(nn.Module):
    """Resizes its result to the image, by one of several ways to read the size."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.stem, self.head = how, nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        out = self.head(self.stem(x))
        if self.how == "shape":
            return F.interpolate(out, size=x.shape[-2:], mode="nearest")
        if self.how == "swapped":
            return F.interpolate(out, size=(width, height), mode="bilinear")
        if self.how == "arithmetic":
            return F.interpolate(out, size=(height * 2 // 3 + 1, x.size(3) - 5), mode="bilinear")
        if self.how == "ceil":
            return F.interpolate(out, size=(math.ceil(height / 3), round(width / 5)))
        if self.how == "pad":
            return F.pad(out, (0, -width % 7, 0, -height % 5))
        if self.how == "grid":
            rows = torch.linspace(-1, 1, out.shape[2]).view(-1, 1)
            return out + rows * torch.arange(out.shape[3])
        return out.reshape(x.shape[0], 2, -1, width // 2).flatten(2)[..., : height * width // 8]


WAYS = ("shape", "swapped", "arithmetic", "ceil", "pad", "grid", "reshape")


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("how", WAYS)
def test_code_that_reads_the_size_follows_it(how: str, inside: bool) -> None:
    module = Segmentation(how).eval()
    model = compiled(module, *(("stem", "output") if inside else ("output",)))
    assert accepts(model) == (3, None, None)
    for height, width in ((64, 64), (64, 96), (96, 64), (33, 50)):
        x = torch.randn(2, 3, height, width)
        if how == "reshape" and height % 2:
            continue
        assert torch.equal(model(x)[-1], module(x))


class Deciding(nn.Module):
    """Decides by the size in its own code, between two modules that can be tapped."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.stem, self.head = how, nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        x = self.stem(x)
        if self.how == "branch" and (height > 64 or width > 64):
            x = x * 2
        if self.how == "remainder" and (height % 32 or width % 32):
            x = x * 2
        if self.how == "int":
            x = F.interpolate(x, size=(int(height * 0.25), int(width * 0.25)))
        if self.how == "loop":
            for i in range(height + width):
                x = x + i
        if self.how == "columns" and width > 64:
            x = x * 2
        return self.head(x)


@pytest.mark.parametrize("how", ["branch", "remainder", "int", "loop", "columns"])
def test_a_decision_by_the_size_is_refused_at_another_size_if_the_graph_contains_it(how: str) -> None:
    module = Deciding(how).eval()
    model = compiled(module, "stem", "output")
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(model(x)[1], module(x))
    free = how == "columns"
    assert accepts(model) == ((3, None, 64) if free else (3, 64, 64))
    for size in ((64, 96), (96, 64), (80, 80), (63, 64)):
        x = torch.randn(2, 3, *size)
        if free and size[1] == 64:
            assert torch.equal(model(x)[1], module(x))
            continue
        with pytest.raises(graphmodel.CompileError, match="GM541"):
            model(x)


@pytest.mark.parametrize("how", ["branch", "remainder", "int", "loop", "columns"])
def test_the_same_code_follows_the_size_as_one_call_if_nothing_inside_is_wanted(how: str) -> None:
    module = Deciding(how).eval()
    model = compiled(module)
    assert accepts(model) == (3, None, None)
    for size in ((64, 64), (64, 96), (96, 80), (50, 33)):
        x = torch.randn(2, 3, *size)
        assert torch.equal(model(x)[0], module(x))


def pad_to_multiple(x: torch.Tensor, multiple: int) -> torch.Tensor:
    bottom, right = -x.shape[-2] % multiple, -x.shape[-1] % multiple
    if bottom > 0 or right > 0:
        x = F.pad(x, (0, right, 0, bottom))
    return x


class Padding(nn.Module):
    """Pads by a function of its library that decides by the size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 8, 8), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.stem(pad_to_multiple(x, 16)))


def test_a_function_that_decides_by_the_size_becomes_one_call() -> None:
    module = Padding().eval()
    before = pad_to_multiple
    model = compiled(module, "stem", "output")
    assert pad_to_multiple is before
    assert accepts(model) == (3, None, None)
    assert "pad_to_multiple(images, 16)" in model.code
    for size in ((64, 64), (65, 80), (70, 33)):
        x = torch.randn(2, 3, *size)
        assert torch.equal(model(x)[1], module(x))
    assert torch.equal(copy.deepcopy(model)(x)[1], module(x))
    fast = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.equal(fast(x)[1], module(x))


class Asserting(nn.Module):
    def __init__(self, size: int | None) -> None:
        super().__init__()
        self.size, self.stem, self.head = size, nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        if self.size is None:
            torch._assert(x.shape[-1] % 16 == 0, "a multiple of 16")
        else:
            torch._assert(x.shape[-1] == self.size, "another size")
        return self.head(x)


def test_assertions_about_the_size_hold_for_every_size() -> None:
    module = Asserting(None).eval()
    model = compiled(module, "stem", "output")
    assert accepts(model) == (3, None, None)
    x = torch.randn(1, 3, 30, 96)
    assert torch.equal(model(x)[1], module(x))
    with pytest.raises(AssertionError, match="a multiple of 16"):
        model(torch.randn(1, 3, 64, 90))
    assert accepts(compiled(Asserting(64), "stem", "output")) == (3, None, 64)


class LookingUp(nn.Module):
    """Finds a number by the size of its image."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.stem, self.head = how, nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        height, width = x.shape[2:]
        if self.how == "dict":
            factor = {64: 2.0}.get(height, 5.0)
        elif self.how == "pair":
            factor = {(64, 64): 2.0}.get((height, width), 5.0)
        elif self.how == "set":
            factor = 2.0 if height in {64} else 5.0
        elif self.how == "text":
            factor = {"64x64": 2.0}.get(f"{height}x{width}", 5.0)
        else:
            factor = {"64": 2.0}.get(str(width), 5.0)
        return self.head(x) * factor


@pytest.mark.parametrize("how", ["dict", "pair", "set", "text", "str"])
def test_a_number_that_is_looked_up_by_the_size_is_the_one_of_that_size(how: str) -> None:
    module = LookingUp(how).eval()
    model = compiled(module, "stem", "output")
    assert None not in accepts(model) or how in ("dict", "set", "str")
    for size in ((64, 64), (64, 96), (96, 64)):
        x = torch.randn(1, 3, *size)
        try:
            found = model(x)[1]
        except graphmodel.CompileError:
            assert size != (64, 64)
            continue
        assert torch.equal(found, module(x))


def test_a_size_in_the_message_of_an_assertion_decides_nothing() -> None:
    class Told(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            torch._assert(x.shape[2] % 16 == 0, f"the height ({x.shape[2]}) of {x.shape[2]}×{x.shape[3]}")
            return self.head(x)

    module = Told().eval()
    model = compiled(module, "stem", "output")
    assert accepts(model) == (3, None, None)
    x = torch.randn(1, 3, 48, 50)
    assert torch.equal(model(x)[1], module(x))


class Remembering(nn.Module):
    """A stem that stores its size on itself, for others to read."""

    class Stem(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 2, 2)
            self.grid = (0, 0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            self.grid = (x.shape[2], x.shape[3])
            return x.flatten(2)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = self.Stem(), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.stem(x).unflatten(2, self.stem.grid))


def test_a_size_that_a_module_stores_on_itself_is_never_taken_for_a_constant() -> None:
    module = Remembering().eval()
    model = compiled(module, "stem", "output")
    for size in ((64, 64), (64, 96)):
        x = torch.randn(1, 3, *size)
        expected = module(x)
        try:
            found = model(x)[1]
        except graphmodel.CompileError:
            assert size != (64, 64)
            continue
        assert torch.equal(found, expected)


class Narrow(nn.Module):
    """Takes lines of text: 32 rows, any number of columns."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4 * 32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.fc(x.permute(0, 3, 1, 2).reshape(x.shape[0], x.shape[3], -1))


def test_height_and_width_are_told_apart() -> None:
    module = Narrow().eval()
    model = compiled(module, shape=(1, 32, 32))
    assert accepts(model) == (1, 32, None)
    x = torch.randn(2, 1, 32, 77)
    assert torch.equal(model(x)[0], module(x))
    with pytest.raises(graphmodel.CompileError, match="N×1×32×W"):
        model(torch.randn(2, 1, 77, 32))


class Tokens(nn.Module):
    """A table of positions that is cut to the length of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.position = nn.Linear(8, 8), nn.Parameter(torch.randn(1, 40, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) + self.position[:, : x.shape[1]]


def test_sequences_may_have_any_length_that_a_table_allows() -> None:
    module = Tokens().eval()
    model = compiled(module, "fc", "output", shape=(40, 8))
    assert accepts(model) == (None, 8)
    x = torch.randn(2, 13, 8)
    assert torch.equal(model(x)[1], module(x))
    with pytest.raises(graphmodel.CompileError, match="GM541"):
        model(torch.randn(2, 40, 9))


def test_a_classifier_of_flattened_maps_fixes_the_size_only_if_it_is_wanted() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 30 * 30, 2)).eval()
    assert accepts(compiled(module, shape=(3, 32, 32))) == (3, 32, 32)
    model = compiled(module, "1", shape=(3, 32, 32))
    assert accepts(model) == (3, None, None)
    x = torch.randn(2, 3, 20, 50)
    assert torch.equal(model(x)[0], module[:2](x))


def test_a_head_of_flattened_maps_fixes_the_size() -> None:
    spec = {
        "inputs": {"images": [3, 32, 32]},
        "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
        "heads": {"probe": {"mlp": {"dims": ["auto", 4]}}},
        "mapping": {"images": {"res5": {"flatten": True, "heads": ["probe"]}}},
    }
    model = graphmodel.compile(spec, device="meta")
    assert accepts(model) == (3, 32, 32)
    spec["mapping"] = {"images": {"flatten": "probe"}}
    assert accepts(graphmodel.compile(spec, device="meta")) == (3, None, None)


def test_height_and_width_grow_by_different_multiples() -> None:
    low = torch.empty(2, 3, 7, 7, device="meta")
    sizes = [tuple(runs["x"][2].shape[2:]) for runs, _ in resized_samples({"x": (low, low)})]
    assert sizes == [(14, 21), (14, 14), (7, 21), (14, 7)]


def test_following_sizes_can_be_left_out() -> None:
    pair = tuple(torch.empty(b, 3, 64, 64, device="meta") for b in (2, 3))
    opened = open_trunk(meta_copy(Segmentation("shape")), [Feature("output")], {"x": pair}, follow_sizes=False)
    assert opened.accepts == {"x": (3, 64, 64)}
    assert not any(n.target == "size" for n in opened.graph.nodes)


# -- libraries -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deeplabv3_resnet50", "fcn_resnet50", "lraspp_mobilenet_v3_large"])
@pytest.mark.parametrize("inside", [False, True])
def test_torchvisions_segmentation_models_follow_the_size(name: str, inside: bool) -> None:
    from torchvision import models

    module = models.get_model(name, weights=None, weights_backbone=None).eval()
    model = compiled(module, *(("classifier.4", "output.out") if inside and "lraspp" not in name else ("output.out",)))
    assert accepts(model) == (3, None, None)
    for size in ((64, 64), (64, 96), (97, 75)):
        x = torch.randn(1, 3, *size)
        assert torch.equal(model(x)[-1], module(x)["out"])


TIMM = {
    "vit_tiny_patch16_224": {"dynamic_img_size": True},
    "deit_tiny_distilled_patch16_224": {"dynamic_img_size": True, "dynamic_img_pad": True},
    "eva02_tiny_patch14_224": {"dynamic_img_size": True},
    "vit_small_patch16_dinov3": {},
    "xcit_nano_12_p16_224": {},
    "swin_tiny_patch4_window7_224": {"strict_img_size": False},
    "convnext_atto": {},
    "crossvit_tiny_240": {},
    "twins_pcpvt_small": {},
    "pvt_v2_b0": {},
    "hieradet_small": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_timms_models_follow_the_size(name: str) -> None:
    import timm

    own = timm.create_model(name, **TIMM[name]).eval()
    with torch.no_grad():  # fresh models have zeros that would hide a wrong position
        for parameter in own.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    stage = [f for f in TimmNaming().features(own) if isinstance(f, LibraryFeature) and f.kind == "stage"][-1]
    size = own.pretrained_cfg["input_size"][-1]
    spec = {
        "inputs": {"images": [3, size, size]},
        "trunk": {"name": f"timm:{name}", **TIMM[name]},
        "mapping": [
            {"from": "images.flatten", "as": "vector"},
            {"from": {"from": f"images.{stage.name}", "layout": "nchw"}, "as": "map"},
        ],
    }
    model = graphmodel.compile(spec).eval()
    graphmodel.load_weights(model, own.state_dict(), partial=True)
    assert accepts(model) == (3, None, None)
    step = 56 if "patch14" in name else 64
    for height, width in ((size, size), (size + step, size), (size, size + 2 * step)):
        x = torch.randn(1, 3, height, width)
        with torch.no_grad():
            found = model(x)
            _, maps = own.forward_intermediates(x, indices=[stage.index])
            assert torch.equal(found["map"], maps[0])
            assert torch.equal(found["vector"], own.forward_head(own.forward_features(x), pre_logits=True))
