"""More than one trunk, trunks that the caller gives, heads over several features; numbers against the libraries."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from torch import nn

import graphmodel

SMALL = {"images": {"shape": [3, 64, 64]}}


def timm_model(name: str = "test_resnet", seed: int = 0, **keywords: Any) -> Any:
    torch.manual_seed(seed)
    return timm.create_model(name, **keywords)


def pooled(model: Any, x: torch.Tensor) -> torch.Tensor:
    return model.forward_head(model.forward_features(x), pre_logits=True)


def diagnostic(document: Any, **options: Any) -> graphmodel.Diagnostic:
    with pytest.raises(graphmodel.CompileError) as caught:
        graphmodel.compile(document, **{"device": "meta", **options})
    (finding,) = caught.value.diagnostics
    return finding


# -- several trunks ----------------------------------------------------------------------------------------------------


@pytest.fixture
def teacher_student() -> dict[str, Any]:
    return {
        "inputs": SMALL,
        "trunks": {
            "student": "timm:test_resnet",
            "teacher": {"name": "timm:test_resnet", "freeze": True},
        },
        "heads": {"predict": {"mlp": {"dims": ["auto", 5]}}},
        "mapping": [
            {"from": "images.student.flatten", "head": "predict"},
            {"from": "images.teacher.flatten", "as": "target"},
        ],
    }


def test_a_teacher_stands_still_beside_its_student(teacher_student: dict[str, Any]) -> None:
    model = graphmodel.compile(teacher_student, seed=0).train()
    reference = timm_model().eval()
    before = copy.deepcopy(model.trunks.teacher.state_dict())
    x = torch.rand(4, 3, 64, 64)
    out = model(x)
    assert torch.equal(out["target"], pooled(reference, x))
    assert not out["target"].requires_grad
    out["predict"].sum().backward()
    assert all(p.grad is None for p in model.trunks.teacher.parameters())
    assert all(p.grad is not None for p in model.trunks.student.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.trunks.teacher.state_dict().items())
    assert not torch.equal(model.trunks.student.bn1.running_mean, before["bn1.running_mean"])


def test_keys_of_several_trunks_name_each(teacher_student: dict[str, Any]) -> None:
    model = graphmodel.compile(teacher_student, device="meta")
    tops = list(dict.fromkeys(".".join(k.split(".")[:2]) for k in model.state_dict()))
    assert tops == ["trunks.student", "trunks.teacher", "heads.predict"]


def test_towers_may_be_of_different_kinds_and_inputs() -> None:
    document = {
        "inputs": {"images": {"shape": [3, 64, 64]}, "depth": {"shape": [1, 32, 32]}},
        "trunks": {
            "rgb": "timm:test_convnext",
            "depth_tower": {"name": "timm:test_efficientnet", "in_chans": 1},
        },
        "heads": {"fuse": {"mlp": {"dims": ["auto", 6]}}},
        "mapping": [
            {"from": ["images.rgb.flatten", "depth.depth_tower.flatten"], "head": "fuse"},
            {"from": "images.rgb.res5", "as": "map"},
        ],
    }
    model = graphmodel.compile(document, seed=0).eval()
    first, second = timm_model("test_convnext").eval(), timm_model("test_efficientnet", in_chans=1).eval()
    images, depth = torch.rand(2, 3, 64, 64), torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        out = model(images, depth)
        joined = torch.cat([pooled(first, images), pooled(second, depth)], 1)
        assert torch.equal(out["fuse"], model.heads.fuse(joined))
        assert torch.equal(out["map"], first.forward_intermediates(images, indices=[3], intermediates_only=True)[0])


def test_one_trunk_runs_on_two_inputs_with_one_set_of_weights() -> None:
    document = {
        "inputs": {"images": {"shape": [3, 64, 64]}, "patches": {"shape": [3, 32, 32]}},
        "trunk": "timm:test_resnet",
        "mapping": {"images": {"res4": None}, "patches": {"res4": None}},
    }
    model = graphmodel.compile(document, seed=0).eval()
    reference = timm_model().eval()
    x, y = torch.rand(2, 3, 64, 64), torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        first, second = model(x, y).values()
        assert torch.equal(first, reference.forward_intermediates(x, indices=[3], intermediates_only=True)[0])
        assert torch.equal(second, reference.forward_intermediates(y, indices=[3], intermediates_only=True)[0])
    assert len({p.data_ptr() for p in model.parameters()}) == sum(1 for _ in model.parameters())


def test_a_trunk_that_nothing_reads_is_not_built() -> None:
    document = {
        "inputs": SMALL,
        "trunks": {"used": "timm:test_resnet", "idle": "timm:test_convnext"},
        "mapping": [{"from": "images.used.flatten"}],
    }
    assert not any("idle" in k for k in graphmodel.compile(document, device="meta").state_dict())


def test_a_feature_of_several_trunks_must_say_which(teacher_student: dict[str, Any]) -> None:
    teacher_student["mapping"] = [{"from": "images.flatten", "head": "predict"}]
    finding = diagnostic(teacher_student)
    assert finding.code == "GM205"
    assert "student, teacher" in finding.help


# -- heads over several features ---------------------------------------------------------------------------------------


def over(combine: str, *sources: Any, trunk: Any = "timm:test_resnet", head: Any = None, **more: Any) -> dict[str, Any]:
    edge = {"from": list(sources), "combine": combine, "as": "joined", **more}
    document: dict[str, Any] = {"inputs": SMALL, "trunk": trunk, "mapping": [edge]}
    if head is not None:
        document["heads"] = {"head": head}
        edge["head"] = "head"
    return document


POOLED = [{"from": f"images.{f}", "pool": {"adaptive_avg_pool2d": 1}, "flatten": True} for f in ("res3", "res4")]


def maps(x: torch.Tensor, *indices: int, name: str = "test_resnet", **keywords: Any) -> list[torch.Tensor]:
    with torch.no_grad():
        model = timm_model(name, **keywords).eval()
        return model.forward_intermediates(x, indices=list(indices), intermediates_only=True)  # type: ignore[no-any-return]


def run(document: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return graphmodel.compile(document, seed=0).eval()(x)["joined"]  # type: ignore[no-any-return]


def test_concat_joins_channels() -> None:
    x = torch.rand(2, 3, 64, 64)
    expected = torch.cat([m.mean((2, 3)) for m in maps(x, 2, 3)], 1)
    assert torch.allclose(run(over("concat", *POOLED), x), expected, atol=1e-6)


def test_concat_of_maps_and_of_tokens_joins_channels_too() -> None:
    x = torch.rand(2, 3, 160, 160)
    inputs = {"images": {"shape": [3, 160, 160]}}
    document = {**over("concat", "images.block1", "images.block4", trunk="timm:test_vit"), "inputs": inputs}
    model = timm_model("test_vit").eval()
    with torch.no_grad():
        made = model.forward_intermediates(
            x, indices=[1, 4], intermediates_only=True, output_fmt="NLC", return_prefix_tokens=True
        )
    expected = torch.cat([torch.cat([prefix, tokens], 1) for tokens, prefix in made], -1)
    assert torch.equal(run(document, x), expected)


@pytest.mark.parametrize(
    ("combine", "how"), [("sum", lambda a, b: a + b), ("stack", lambda a, b: torch.stack([a, b], 1))]
)
def test_sum_and_stack(combine: str, how: Any) -> None:
    inputs = {"images": {"shape": [3, 160, 160]}}
    sources = [{"from": f"images.block{i}", "layout": "nchw"} for i in (0, 5)]
    x = torch.rand(2, 3, 160, 160)
    document = {**over(combine, *sources, trunk="timm:test_vit"), "inputs": inputs}
    assert torch.equal(run(document, x), how(*maps(x, 0, 5, name="test_vit")))


def test_a_head_may_take_a_list() -> None:
    class Pyramid(nn.Module):
        def __init__(self, widths: list[int]) -> None:
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv2d(w, 4, 1) for w in widths)

        def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
            first, second = (conv(f) for conv, f in zip(self.convs, features, strict=True))
            return first + nn.functional.interpolate(second, scale_factor=2)

    graphmodel.register_head("pyramid_for_this_test")(Pyramid)
    head = {"pyramid_for_this_test": {"widths": [48, 192]}}
    model = graphmodel.compile(over("list", "images.res3", "images.res4", head=head), seed=0).eval()
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x)["joined"], model.heads.head(maps(x, 2, 3)))


REFUSED = {
    "maps of two sizes": over("concat", "images.res3", "images.res4"),
    "a sum of two widths": over("sum", *POOLED),
    "a map and a vector": over("concat", "images.res3", "images.flatten"),
    "a list without a head": over("list", "images.res3", "images.res4"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_features_that_do_not_fit_together_are_one_diagnostic(what: str) -> None:
    assert diagnostic(REFUSED[what]).code == "GM306"


def test_maps_of_two_layouts_are_offered_one() -> None:
    swin = {"name": "timm:swin_tiny_patch4_window7_224", "depths": [1, 1, 1, 1], "img_size": 64, "window_size": 4}
    document = over("concat", "images.res3", {"from": "images.res3", "layout": "nchw"}, trunk=swin)
    finding = diagnostic(document)
    assert "one layout" in finding.message
    assert "layout" in finding.help


# -- trunks that the caller gives --------------------------------------------------------------------------------------


class Mine(nn.Module):
    def __init__(self, width: int = 6, *, deep: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3)
        self.second = nn.Sequential(nn.Conv2d(width, 8, 3), nn.ReLU())
        self.features = {"early": "first"}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x)).mean((2, 3))


def given(*features: str, name: str = "anything") -> dict[str, Any]:
    return {
        "inputs": SMALL,
        "trunk": name,
        "mapping": [{"from": f"images.{f}", "as": f.replace(".", "_")} for f in features],
    }


def test_a_given_module_is_shared_and_keeps_its_weights() -> None:
    module = Mine()
    before = copy.deepcopy(module.state_dict())
    model = graphmodel.compile(given("early", "second.0", "output"), trunks={"trunk": module}, seed=1)
    assert model.trunk.first is module.first
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    x = torch.rand(2, 3, 64, 64)
    out = model(x)
    assert torch.equal(out["early"], module.first(x))
    assert torch.equal(out["second_0"], module.second[0](module.first(x)))
    assert torch.equal(out["output"], module(x))
    with torch.no_grad():
        module.first.weight.zero_()
    assert not torch.equal(model(x)["output"], out["output"])


def test_a_given_library_model_has_the_librarys_names() -> None:
    module = timm_model("test_convnext")
    model = graphmodel.compile(given("res3", "pre_logits"), trunks={"trunk": module}).eval()
    x = torch.rand(2, 3, 64, 64)
    module.eval()
    with torch.no_grad():
        assert torch.equal(model(x)["pre_logits"], pooled(module, x))


def test_a_given_module_of_the_specs_family_has_that_familys_names() -> None:
    import torchvision

    module = torchvision.models.resnet18()
    document = {
        "inputs": SMALL,
        "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
        "mapping": {"images": {"res1": None}},
    }
    model = graphmodel.compile(document, trunks={"trunk": module}, returns="tensor").eval()
    x = torch.rand(2, 3, 64, 64)
    module.eval()
    assert torch.equal(model(x), module.maxpool(module.relu(module.bn1(module.conv1(x)))))


def test_nothing_is_copied_to_find_the_shapes_of_a_given_module() -> None:
    class Watched(torch.Tensor):
        copies = 0

        def __deepcopy__(self, memo: Any) -> Any:
            type(self).copies += 1
            return super().__deepcopy__(memo)

    module = Mine()
    module.first.weight = nn.Parameter(module.first.weight.detach().as_subclass(Watched))
    graphmodel.compile(given("output"), trunks={"trunk": module})
    assert Watched.copies == 0


def test_a_module_for_a_trunk_that_is_not_there_names_those_that_are() -> None:
    finding = diagnostic(given("output", name="timm:test_resnet"), trunks={"backbone": Mine()})
    assert finding.code == "GM205"
    assert "trunk" in finding.help


def test_weights_cannot_be_wanted_for_a_given_module() -> None:
    document = {**given("pre_logits"), "trunk": {"name": "timm:test_resnet", "pretrained": True}}
    assert "keeps its weights" in diagnostic(document, trunks={"trunk": timm_model()}).help


# -- trunks that the spec imports ------------------------------------------------------------------------------------


def imported(**params: Any) -> dict[str, Any]:
    trunk = {"module": f"{__name__}:Mine", **params}
    return {"inputs": SMALL, "trunk": trunk, "mapping": {"images": {"early": None, "output": None}}}


def test_imported_code_is_a_trunk_where_the_caller_allows_it() -> None:
    model = graphmodel.compile(imported(width=10), allow_imports=True, seed=3)
    torch.manual_seed(3)
    own = Mine(10)
    x = torch.rand(2, 3, 64, 64)
    out = model(x)
    assert torch.equal(out["early"], own.first(x))
    assert torch.equal(out["output"], own(x))


def test_imports_are_refused_by_default() -> None:
    assert diagnostic(imported()).code == "GM212"


def test_parameters_of_imported_code_are_those_of_its_signature() -> None:
    finding = diagnostic(imported(widht=3), allow_imports=True)
    assert finding.code == "GM201"
    assert "`width`" in finding.help


def test_the_first_argument_of_a_class_may_have_any_name() -> None:
    class Odd(nn.Module):
        def __init__(this, self: int = 3) -> None:
            super().__init__()
            this.layer = nn.Conv2d(self, 4, 1)

        def forward(this, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = this.layer(x)
            return out

    graphmodel.register_trunk("odd_first_argument")(Odd)
    document = {"inputs": {"images": [1, 8, 8]}, "trunk": {"name": "odd_first_argument", "self": 1}}
    assert graphmodel.compile(document).trunk.layer.in_channels == 1


def test_a_factory_of_a_library_has_the_librarys_names() -> None:
    document = {
        "inputs": SMALL,
        "trunk": {"module": "timm.models:test_resnet", "num_classes": 3},
        "mapping": {"images": {"res4": None, "logits": None}},
    }
    model = graphmodel.compile(document, allow_imports=True, seed=0).eval()
    own = timm_model(num_classes=3).eval()
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(model(x)["logits"], own(x))


# -- modules that callers pass ---------------------------------------------------------------------------------


class Small(nn.Module):
    """A module of a user's own: a convolution, a loop over layers, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.layers = nn.ModuleList([nn.Conv2d(8, 8, 3, 1, 1) for _ in range(2)])
        self.classifier = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x).relu()
        return self.classifier(x.mean((2, 3)))


class InTuple(Small):
    def forward(self, x: torch.Tensor) -> Any:
        y = super().forward(x)
        return y, {"double": y * 2}


def handed(*features: str | None) -> dict[str, Any]:
    document: dict[str, Any] = {"inputs": SMALL, "trunk": "mine"}
    return document | ({"mapping": {"images": dict.fromkeys(features)}} if features else {})


def test_parts_of_what_a_module_returns_are_features() -> None:
    module = InTuple().eval()
    model = graphmodel.compile(handed("output.0", "output.1.double", "layers.0"), trunks={"trunk": module}).eval()
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        first, double, layer = model(x).values()
        y, rest = module(x)
        assert torch.equal(first, y)
        assert torch.equal(double, rest["double"])
        assert torch.equal(layer, module.layers[0](module.stem(x)))


def test_the_lists_of_timms_feature_nets_are_features() -> None:
    net = timm_model(features_only=True).eval()
    model = graphmodel.compile(handed("output.0", "output.4"), trunks={"trunk": net}).eval()
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        maps = net(x)
        assert all(torch.equal(a, b) for a, b in zip(model(x).values(), (maps[0], maps[4]), strict=True))


@pytest.mark.parametrize(
    ("module", "features", "code", "help"),
    [
        (InTuple(), (), "GM303", "`output.0`, `output.1`"),
        (InTuple(), ("output.1",), "GM303", "`output.1.double`"),
        (InTuple(), ("output.1.triple",), "GM306", "`double`"),
        (Small(), ("output.a",), "GM306", "one tensor"),
        (Small(), ("layers.7",), "GM213", "features: flatten, output"),
        (torch.compile(Small()), (), "GM303", "the module itself"),
        (torch.jit.trace(Small(), torch.rand(1, 3, 8, 8)), (), "GM303", "made from"),
        (len, (), "GM303", "pass a module"),
    ],
)
def test_what_cannot_be_read_of_a_given_module_says_what_can(
    module: Any, features: tuple[str, ...], code: str, help: str
) -> None:
    finding = diagnostic(handed(*features), trunks={"trunk": module})
    assert finding.code == code
    assert help in finding.help


class Loop(nn.Module):
    """Goes over its samples one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Small()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.inner(x[i : i + 1]) for i in range(len(x))])


def test_a_loop_over_samples_stays_closed_or_is_refused() -> None:
    module = Loop().eval()
    model = graphmodel.compile(handed(), trunks={"trunk": module}).eval()
    for batch in (1, 5):
        x = torch.rand(batch, 3, 64, 64)
        with torch.no_grad():
            assert torch.equal(model(x)["features"], module(x))
    finding = diagnostic(handed("inner.stem"), trunks={"trunk": Loop()})
    assert finding.code == "GM303"
    assert "changes with the batch" in finding.message
    assert "loop over samples" in finding.help


class Noisy(Small):
    def forward(self, x: torch.Tensor) -> Any:
        y = super().forward(x)
        return y + torch.randn_like(y) if self.training else y


def test_noise_in_training_stays_closed_or_is_refused() -> None:
    module = Noisy()
    model = graphmodel.compile(handed(), trunks={"trunk": module})
    x = torch.rand(2, 3, 64, 64)
    for training in (True, False):
        model.train(training)
        torch.manual_seed(0)
        found = model(x)["features"]
        torch.manual_seed(0)
        assert torch.equal(found, module.train(training)(x))
    finding = diagnostic(handed("classifier", "output"), trunks={"trunk": Noisy()})
    assert "differently in training and eval mode: `add(" in finding.message
    assert "module of its own" in finding.help
