"""Operations between a feature and its head: detach, pooling in one to three dimensions, resize, normalize."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphmodel
from graphmodel.build.locked_spec import resolved_spec
from graphmodel.dialects.native.dump import dump, to_yaml
from graphmodel.spec.document import read_text
from tests.reference import NarrowResNet

TRUNK = {"name": "resnet", "depth": 18, "width_multiplier": 0.25}
PROBE = {"mlp": {"dims": ["auto", 3]}}


def document(mapping: Any, **more: Any) -> dict[str, Any]:
    return {"inputs": {"images": [3, 64, 64]}, "trunk": TRUNK, "mapping": mapping, **more}


def raw(shape: list[int], **options: Any) -> dict[str, Any]:
    """A spec that applies operations to an input itself."""
    heads = {"same": "identity"}
    return {"inputs": {"x": shape}, "heads": heads, "mapping": [{"from": "x", "head": "same", "as": "y", **options}]}


def finding(spec: Any) -> graphmodel.Diagnostic:
    with pytest.raises(graphmodel.CompileError) as caught:
        graphmodel.compile(spec, device="meta")
    (found,) = caught.value.diagnostics
    return found


def run(spec: Any, x: torch.Tensor) -> torch.Tensor:
    """The output `y`; what the resolved spec builds gives the same."""
    model = graphmodel.compile(spec, seed=0).eval()
    again = graphmodel.compile(read_text(to_yaml(dump(resolved_spec(model.model_graph)))).data, seed=0).eval()
    out: torch.Tensor = model(x)["y"]
    assert torch.equal(again(x)["y"], out)
    return out


def maps(model: Any, x: torch.Tensor) -> list[torch.Tensor]:
    """The maps of a torchvision ResNet with the weights of a compiled one."""
    net = NarrowResNet().eval()
    net.load_state_dict(model.trunk.state_dict(), strict=False)
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    found = []
    for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
        x = stage(x)
        found.append(x)
    return found


# -- detach ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimize", [True, False])
def test_a_detached_probe_never_sends_a_gradient_into_the_trunk(optimize: bool) -> None:
    mapping = [
        {"from": "images.flatten", "head": "probe", "detach": True},
        {"from": "images.res4", "head": "deep", "detach": True, "pool": {"adaptive_avg_pool2d": 1}, "flatten": True},
        {"from": "images.flatten", "head": "label"},
    ]
    heads = {"probe": PROBE, "deep": PROBE, "label": PROBE}
    model = graphmodel.compile(document(mapping, heads=heads, optimize=optimize), seed=0)
    x = torch.randn(2, 3, 64, 64, requires_grad=True)
    out = model(x)
    (out["probe"].sum() + out["deep"].sum()).backward()
    assert x.grad is None
    assert all(p.grad is None for p in model.trunk.parameters())
    assert model.heads.probe.clf[0].weight.grad is not None
    assert model.heads.deep.clf[0].weight.grad is not None
    reference = graphmodel.compile(document([mapping[2]], heads={"label": PROBE}), seed=0)
    model(x)["label"].sum().backward()
    reference(x.detach())["label"].sum().backward()
    torch.testing.assert_close(model.trunk.conv1.weight.grad, reference.trunk.conv1.weight.grad)


def test_many_detached_probes_are_fused_and_stay_detached() -> None:
    heads = {f"h{i}": PROBE for i in range(14)}
    mapping = [{"from": "images.flatten", "head": name, "detach": True} for name in heads]
    model = graphmodel.compile(document(mapping, heads=heads), seed=0)
    assert any("fuse_heads" in line for line in model.optimized_graph.summary)
    torch.stack(list(model(torch.randn(2, 3, 64, 64)).values())).sum().backward()
    assert all(p.grad is None for p in model.trunk.parameters())
    assert all(p.grad is not None for p in model.heads.parameters())


def test_detach_composes_with_checkpointing_and_batched_inputs() -> None:
    inputs = {"a": [3, 64, 64], "b": [3, 64, 64]}
    mapping = [{"from": f"{n}.flatten", "head": "probe", "detach": True, "as": n} for n in inputs]
    spec = {"inputs": inputs, "trunk": {**TRUNK, "freeze": True}, "heads": {"probe": PROBE}, "mapping": mapping}
    plain = graphmodel.compile({**spec, "optimize": False}, seed=0)
    model = graphmodel.compile({**spec, "checkpoint": True, "optimize": {"batch_inputs": True}}, seed=0)
    x = torch.randn(2, 2, 3, 64, 64)
    for name, value in model(*x).items():
        torch.testing.assert_close(value, plain(*x)[name])


def test_simsiam_stops_the_gradient_of_its_target() -> None:
    """The loss of Chen & He 2021, with and without the stop-gradient written by hand."""
    heads = {"project": PROBE, "predict": {"mlp": {"dims": ["auto", 3]}}}
    mapping = [
        {"from": "images.flatten", "head": "project", "as": "z"},
        {"from": "z", "head": "predict", "as": "p"},
        {"from": "z", "detach": True, "as": "target"},
    ]
    model = graphmodel.compile(document(mapping, heads=heads), seed=0)
    x, grads = torch.randn(2, 3, 64, 64), []
    for target in ("target", "z"):
        out = model(x)
        goal = out[target] if target == "target" else out[target].detach()
        (-F.cosine_similarity(out["p"], goal)).mean().backward()
        grads.append(model.heads.project.clf[0].weight.grad.clone())
        model.zero_grad()
    torch.testing.assert_close(*grads)
    assert not out["target"].requires_grad


# -- resize ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "resize", "expected"),
    [
        ([2, 6, 8], 5, {"size": (5, 5), "mode": "bilinear", "align_corners": False}),
        ([2, 6, 8], [3, 9], {"size": (3, 9), "mode": "bilinear", "align_corners": False}),
        ([2, 6, 8], {"size": 4, "mode": "nearest"}, {"size": (4, 4), "mode": "nearest"}),
        ([2, 6, 8], {"size": 4, "antialias": True}, {"size": (4, 4), "mode": "bilinear", "antialias": True}),
        ([2, 6, 8], {"size": 9, "mode": "bicubic", "align_corners": True},
         {"size": (9, 9), "mode": "bicubic", "align_corners": True}),
        ([2, 6], 9, {"size": (9,), "mode": "linear"}),
        ([2, 3, 4, 5], [2, 6, 7], {"size": (2, 6, 7), "mode": "trilinear"}),
    ],
)  # fmt: skip
def test_resize_is_torchs_interpolate(shape: list[int], resize: Any, expected: Any) -> None:
    x = torch.randn(3, *shape)
    assert torch.equal(run(raw(shape, resize=resize), x), F.interpolate(x, **expected))


@pytest.mark.parametrize(("how", "like"), [("largest", 1), ("smallest", 3)])
@pytest.mark.parametrize("combine", ["concat", "sum"])
def test_maps_of_several_sizes_are_joined(how: str, like: int, combine: str) -> None:
    names = ["images.res3", "images.res4", "images.res5"] if combine == "concat" else ["images.layer3.0", "images.res4"]
    spec = document([{"from": names, "combine": combine, "resize": how, "as": "y"}])
    if combine == "sum":
        spec["mapping"][0]["from"] = [{"from": "images.res4", "pool": {"avg_pool2d": 2}}, "images.res4"]
    model, x = graphmodel.compile(spec, seed=0).eval(), torch.randn(2, 3, 64, 64)
    _, *found = maps(model, x)
    if combine == "sum":
        found = [F.avg_pool2d(found[1], 2), found[1]]
        like = 2 if how == "largest" else 1
    size = found[like - 1].shape[2:]
    resized = [F.interpolate(m, size, mode="bilinear") if m.shape[2:] != size else m for m in found]
    expected = torch.cat(resized, 1) if combine == "concat" else resized[0] + resized[1]
    torch.testing.assert_close(run(spec, x), expected)


def test_the_size_of_the_largest_map_follows_the_images() -> None:
    spec = document([{"from": ["images.res3", "images.res5"], "resize": "largest", "as": "y"}])
    model, x = graphmodel.compile(spec, seed=0).eval(), torch.randn(2, 3, 96, 160)
    _, low, _, high = maps(model, x)
    expected = torch.cat([low, F.interpolate(high, low.shape[2:], mode="bilinear")], 1)
    torch.testing.assert_close(model(x)["y"], expected)
    exported = torch.export.export(model, (torch.randn(2, 3, 64, 64),))
    y = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(exported.module()(y)["y"], model(y)["y"])


def test_a_size_that_the_map_has_already_is_kept_for_other_images() -> None:
    spec = document([{"from": "images.res5", "resize": 2, "as": "y"}])
    model, x = graphmodel.compile(spec, seed=0).eval(), torch.randn(2, 3, 128, 128)
    assert model(torch.randn(2, 3, 64, 64))["y"].shape == (2, 128, 2, 2)
    expected = F.interpolate(maps(model, x)[-1], (2, 2), mode="bilinear")
    torch.testing.assert_close(model(x)["y"], expected)


@pytest.mark.parametrize("combine", ["concat", "sum"])
def test_maps_of_one_size_are_joined_for_inputs_of_other_sizes(combine: str) -> None:
    inputs = {"a": [3, 64, 64], "b": [3, 64, 64]}
    spec = document([{"from": ["a.res4", "b.res4"], "combine": combine, "resize": "largest", "as": "y"}], inputs=inputs)
    model = graphmodel.compile(spec, seed=0).eval()
    images = torch.randn(2, 3, 64, 64), torch.randn(2, 3, 16, 16)
    large, small = (maps(model, x)[2] for x in images)
    small = F.interpolate(small, large.shape[2:], mode="bilinear")
    expected = torch.cat([large, small], 1) if combine == "concat" else large + small
    torch.testing.assert_close(model(*images)["y"], expected)


def test_views_of_several_resolutions_are_resized_to_one_batch() -> None:
    views = [{"count": 1, "shape": [3, 64, 64]}, {"count": 2, "shape": [3, 32, 32]}]
    spec = document([{"from": "images.res4", "resize": 3, "as": "y"}], inputs={"images": {"views": views}})
    model = graphmodel.compile(spec, seed=0).eval()
    x = [torch.randn(2, 3, 64, 64), torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32)]
    expected = torch.cat([F.interpolate(maps(model, v)[2], (3, 3), mode="bilinear") for v in x])
    torch.testing.assert_close(model(x)["y"], expected)


def test_the_size_of_a_source_takes_precedence_over_that_of_the_join() -> None:
    sources = [{"from": "images.res4", "resize": 8}, "images.res3", "images.res5"]
    spec = document([{"from": sources, "resize": {"size": "largest", "mode": "nearest"}, "as": "y"}])
    model, x = graphmodel.compile(spec, seed=0).eval(), torch.randn(2, 3, 64, 64)
    _, low, high, last = maps(model, x)
    expected = torch.cat([F.interpolate(high, (8, 8), mode="bilinear"), low, F.interpolate(last, (8, 8))], 1)
    torch.testing.assert_close(model(x)["y"], expected)


def test_operations_beside_from_apply_to_sources_that_do_not_set_them() -> None:
    inputs = {name: {"shape": [2, 4, 4], "trunk": "none"} for name in ("a", "b", "c")}
    sources = [{"from": "a"}, {"from": "b", "pool": {"max_pool2d": 2}, "detach": False}, "c"]
    edge = {"from": sources, "pool": {"avg_pool2d": 2}, "detach": True, "normalize": True, "head": "same", "as": "y"}
    model = graphmodel.compile({"inputs": inputs, "heads": {"same": "identity"}, "mapping": [edge]}, seed=0)
    a, b, c = (torch.randn(2, 2, 4, 4, requires_grad=True) for _ in range(3))
    out = model(a, b, c)["y"]
    found = [F.avg_pool2d(a, 2), F.max_pool2d(b, 2), F.avg_pool2d(c, 2)]
    assert torch.equal(out, torch.cat([F.normalize(m, dim=1) for m in found], 1))
    out.sum().backward()
    assert b.grad is not None
    assert a.grad is None
    assert c.grad is None


# -- pooling and normalize ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("name", ["avg_pool", "max_pool", "adaptive_avg_pool", "adaptive_max_pool"])
def test_pooling_in_one_two_and_three_dimensions(name: str, dims: int) -> None:
    x, op = torch.randn(2, 3, *(4, 6, 8)[:dims]), f"{name}{dims}d"
    assert torch.equal(run(raw(list(x.shape[1:]), pool={op: 2}), x), getattr(F, op)(x, 2))


@pytest.mark.parametrize(("shape", "dim"), [([5], 1), ([4, 5], -1), ([5, 3, 2], 1)])
def test_normalize_divides_by_the_norm_over_the_channels(shape: list[int], dim: int) -> None:
    x = torch.randn(3, *shape)
    torch.testing.assert_close(run(raw(shape, normalize=True), x), F.normalize(x, dim=dim))


def test_normalize_knows_where_the_channels_of_a_trunk_are() -> None:
    spec = {"inputs": {"images": [3, 160, 160]}, "trunk": "timm:test_vit"}
    mapping = [{"from": "images", "tokens": "all", "normalize": True, "as": "y"}]
    mapping = [{"from": "images.blocks.1", "tokens": "patch", "normalize": True, "as": "y"}]
    out = graphmodel.compile({**spec, "mapping": mapping}, seed=0).eval()(torch.randn(1, 3, 160, 160))["y"]
    torch.testing.assert_close(out.norm(dim=-1), torch.ones(out.shape[:2]))


def test_operations_run_in_one_order() -> None:
    options = {"detach": True, "pool": {"avg_pool2d": 2}, "resize": 3, "flatten": True, "normalize": True}
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    out = run(raw([4, 8, 8], **options), x)
    assert not out.requires_grad
    expected = F.interpolate(F.avg_pool2d(x.detach(), 2), (3, 3), mode="bilinear", align_corners=False)
    assert torch.equal(out, F.normalize(expected.flatten(1), dim=1))


def test_a_volume_is_pooled_on_its_way_to_a_head() -> None:
    class Video(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv3d(3, 6, 3, stride=2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """A volume."""
            return self.stem(x)  # type: ignore[no-any-return]

    module = Video()
    mapping = [{"from": "clips.stem", "pool": {"adaptive_avg_pool3d": 1}, "flatten": True, "head": "probe"}]
    spec = {"inputs": {"clips": [3, 8, 16, 16]}, "trunk": "resnet", "heads": {"probe": PROBE}, "mapping": mapping}
    model, x = graphmodel.compile(spec, trunks={"trunk": module}, seed=0), torch.randn(2, 3, 8, 16, 16)
    torch.testing.assert_close(model(x)["probe"], model.heads.probe.clf(module(x).mean((2, 3, 4))))


# -- findings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"resize": [3, 3, 3]}, "GM306", "gives 3 sizes"),
        ({"resize": {"size": 3, "mode": "trilinear"}}, "GM306", "cannot resample"),
        ({"resize": {"size": 3, "mode": "bilinaer"}}, "GM202", "bilinaer"),
        ({"resize": "biggest"}, "GM202", "biggest"),
        ({"resize": {"size": 3, "mode": "nearest", "antialias": True}}, "GM202", "antialias"),
        ({"resize": 0}, "GM202", "resize"),
        ({"resize": {"size": 3, "moed": "area"}}, "GM201", "moed"),
        ({"pool": {"avg_pool1d": 2}}, "GM306", "N×C×L"),
        ({"pool": {"avg_pool4d": 2}}, "GM202", "avg_pool4d"),
        ({"normalise": True}, "GM201", "normalise"),
        ({"detach": 1}, "GM202", "detach"),
    ],
)
def test_mistakes_get_one_finding_at_their_place(options: dict[str, Any], code: str, words: str) -> None:
    with pytest.raises(graphmodel.CompileError) as caught:
        graphmodel.compile(raw([2, 6, 8], **options), device="meta")
    found = caught.value.diagnostics[0]
    assert found.code == code
    assert words in found.message
    assert found.path.startswith("mapping[0]")


def test_maps_of_which_none_is_the_largest_need_a_size() -> None:
    inputs = {"a": {"shape": [2, 4, 8], "trunk": "none"}, "b": {"shape": [2, 8, 4], "trunk": "none"}}
    spec = {"inputs": inputs, "heads": {"h": "identity"}, "mapping": [{"from": ["a", "b"], "resize": "largest"}]}
    spec["mapping"][0]["head"] = "h"
    found = finding(spec)
    assert (found.code, found.help) == ("GM306", "write the size")
    spec["mapping"][0]["resize"] = 4
    assert graphmodel.compile(spec, device="meta").model_graph.outputs


def test_tokens_are_not_taken_for_a_sequence_with_channels_first() -> None:
    spec = {"inputs": {"images": [3, 160, 160]}, "trunk": "timm:test_vit"}
    spec["mapping"] = [{"from": "images.blocks.1", "pool": {"avg_pool1d": 2}}]
    found = finding(spec)
    assert found.code == "GM306"
    assert "tokens" in found.help


@pytest.mark.parametrize("how", ["largest", "smallest"])
def test_one_map_has_no_other_size_to_follow(how: str) -> None:
    inputs = {name: {"shape": [3, size, size], "trunk": "none"} for name, size in (("a", 8), ("b", 4))}
    for sources in ("a", [{"from": "a", "resize": how}, "b"]):
        own = {"resize": how} if sources == "a" else {}
        read = {"a": inputs["a"]} if sources == "a" else inputs
        spec = {"inputs": read, "heads": {"h": "identity"}, "mapping": [{"from": sources, "head": "h", **own}]}
        found = finding(spec)
        assert "has one map to choose from" in found.message
        assert "resize" in found.path


@pytest.mark.parametrize("combine", ["concat", "sum"])
def test_maps_of_several_sizes_get_the_hint_to_resize(combine: str) -> None:
    heads = {"same": "identity"}
    mapping = [{"from": ["x", "y"], "combine": combine, "head": "same"}]
    found = finding({"inputs": {"x": [3, 8, 8], "y": [3, 4, 4]}, "heads": heads, "mapping": mapping})
    assert (found.code, "resize: largest" in found.help) == ("GM306", True)


def test_one_number_per_sample_is_flattened_to_a_vector() -> None:
    """A number has no width of its own: joined with vectors, it is one more column."""
    sources = [{"from": "age", "flatten": True}, "table"]
    spec = {
        "inputs": {"age": [], "table": [3]},
        "heads": {"label": PROBE},
        "mapping": [{"from": sources, "head": "label"}],
    }
    model = graphmodel.compile(spec, seed=0)
    age, table = torch.randn(4), torch.randn(4, 3)
    (linear,) = (m for m in model.modules() if isinstance(m, nn.Linear))
    assert torch.equal(model(age, table)["label"], linear(torch.cat([age[:, None], table], 1)))
    sources[0] = {"from": "age"}
    assert "`flatten: true`" in finding(spec).help
