"""Video models of torchvision and trunks of volumes: stages, pooled vectors, layouts and pooling in three dimensions."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import get_model
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.video.mvit import MSBlockConfig, MViT
from typer.testing import CliRunner

import graphmodel
from graphmodel.cli import app

RESNET = ("stem", "layer1", "layer2", "layer3", "layer4")


def tiny_mvit() -> MViT:
    """Three blocks, the second of which halves height and width."""
    blocks = [
        MSBlockConfig(1 + (i > 0), 8 * (1 + (i > 1)), 16, [3, 3, 3], [3, 3, 3], [1, s, s], [1, 2, 2])
        if i
        else MSBlockConfig(1, 8, 8, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 2, 2])
        for i, s in enumerate((1, 2, 1))
    ]
    return MViT((64, 64), 4, blocks, False, False, False, False, num_classes=5)


def compiled(name: str, clip: list[int], sources: list[dict[str, Any]], **options: Any) -> graphmodel.CompiledModel:
    mapping = [{"from": f"clips.{s['feature']}", **{k: v for k, v in s.items() if k != "feature"}} for s in sources]
    return graphmodel.compile({"inputs": {"clips": clip}, "trunk": name, "mapping": mapping}, **options)


def hooked(net: nn.Module, paths: list[str], x: torch.Tensor) -> dict[str, torch.Tensor]:
    """What modules return; the first item if they return several."""
    found: dict[str, torch.Tensor] = {}

    def keep(path: str) -> Any:
        return lambda module, args, out: found.update({path: out[0] if isinstance(out, tuple) else out})

    handles = [net.get_submodule(path).register_forward_hook(keep(path)) for path in paths]
    found["logits"] = net(x)
    for handle in handles:
        handle.remove()
    return found


SMALL = {
    "r3d_18": ([3, 4, 32, 32], dict(zip(("stem", "stage1", "stage2", "stage3", "stage4"), RESNET, strict=True))),
    "mc3_18": ([3, 4, 32, 32], dict(zip(("stem", "stage1", "stage2", "stage3", "stage4"), RESNET, strict=True))),
    "r2plus1d_18": ([3, 4, 32, 32], dict(zip(("stem", "stage1", "stage2", "stage3", "stage4"), RESNET, strict=True))),
    "swin3d_t": ([3, 4, 64, 64], {**{f"stage{i + 1}": f"features.{2 * i}" for i in range(4)}, "features": "norm"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_stages_equal_what_the_modules_return(name: str) -> None:
    clip, stages = SMALL[name]
    net = get_model(name, num_classes=7).eval()
    sources = [{"feature": f, "as": f} for f in (*stages, "flatten", "logits")]
    model = compiled("given", clip, sources, trunks={"trunk": net}).eval()
    x = torch.randn(2, *clip)
    with torch.no_grad():
        out, expected = model(x), hooked(net, [*stages.values(), "avgpool"], x)
    for feature, path in stages.items():
        assert torch.equal(out[feature], expected[path]), feature
    assert torch.equal(out["flatten"], expected["avgpool"].flatten(1))
    assert torch.equal(out["logits"], expected["logits"])
    keys = {k.removeprefix("trunk.") for k in model.state_dict()}
    assert keys == set(net.state_dict())


def test_s3d_has_stages_and_a_pooled_vector() -> None:
    net = get_model("s3d", num_classes=7).eval()
    paths = {"stem": "features.0", "stage1": "features.3", "stage2": "features.6", "stage3": "features.12"}
    sources = [{"feature": f, "as": f} for f in (*paths, "stage4")]
    model = compiled("given", [3, 8, 32, 32], sources, trunks={"trunk": net}).eval()
    x = torch.randn(1, 3, 8, 32, 32)
    nodes = {path.replace("features", "0"): feature for feature, path in paths.items()}
    extractor = create_feature_extractor(nn.Sequential(net.features).eval(), nodes).eval()
    with torch.no_grad():
        out, expected = model(x), extractor(x)
        assert torch.equal(out["stage4"], net.features(x))
    assert all(torch.equal(out[f], expected[f]) for f in paths)
    whole = compiled("torchvision:s3d", [3, 16, 224, 224], [{"feature": "flatten", "as": "z"}], device="meta")
    assert str(whole.model_graph.nodes[whole.model_graph.outputs["z"].parts["z"]].info) == "N×1024"


def test_mvit_has_blocks_of_tokens_behind_a_class_token() -> None:
    net = tiny_mvit().eval()
    sources: list[dict[str, Any]] = [
        {"feature": f, "as": f} for f in ("block0", "block1", "stage1", "stage2", "flatten")
    ]
    sources += [
        {"feature": "block1", "tokens": "class", "as": "token"},
        {"feature": "block1", "tokens": "mean", "as": "mean"},
        {"feature": "block2", "norm": True, "as": "normed"},
        {"feature": "logits", "as": "logits"},
    ]
    model = compiled("given", [3, 4, 64, 64], sources, trunks={"trunk": net}).eval()
    x = torch.randn(2, 3, 4, 64, 64)
    with torch.no_grad():
        out, expected = model(x), hooked(net, ["blocks.0", "blocks.1", "blocks.2", "norm"], x)
    assert torch.equal(out["block0"], expected["blocks.0"])
    assert torch.equal(out["stage1"], expected["blocks.0"])
    assert torch.equal(out["stage2"], expected["blocks.2"])
    assert torch.equal(out["block1"], expected["blocks.1"])
    assert torch.equal(out["token"], expected["blocks.1"][:, 0])
    assert torch.equal(out["mean"], expected["blocks.1"][:, 1:].mean(1))
    assert torch.equal(out["normed"], expected["norm"])
    assert torch.equal(out["flatten"], expected["norm"][:, 0])
    assert torch.equal(out["logits"], expected["logits"])


def test_the_command_line_lists_the_features_of_a_clip() -> None:
    result = CliRunner().invoke(app, ["trunks", "torchvision:mc3_18"])
    assert result.exit_code == 0, result.output
    assert "3×16×112×112" in result.output
    assert [name for name in ("stem", "stage1", "stage4", "flatten") if f"\n{name} " not in result.output] == []


class Volumes(nn.Module):
    """A trunk of volumes, with channels first and last."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(2, 5, 3, 2, 1)
        self.last = nn.Sequential(nn.Linear(5, 5))

    features: ClassVar[dict[str, str]] = {"maps": "first", "rows": "last"}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x).permute(0, 2, 3, 4, 1))


def test_volumes_are_pooled_and_reshaped_in_three_dimensions() -> None:
    net = Volumes()
    sources: list[dict[str, Any]] = [
        {"feature": "maps", "pool": {"avg_pool3d": 2}, "as": "average"},
        {"feature": "maps", "pool": {"adaptive_max_pool3d": [1, 2, 2]}, "as": "largest"},
        {"feature": "maps", "pool": {"adaptive_avg_pool3d": 1}, "flatten": True, "as": "vector"},
        {"feature": "maps", "layout": "nlc", "as": "tokens"},
        {"feature": "maps", "resize": {"size": [2, 3, 3]}, "as": "resized"},
        {"feature": "rows", "layout": "nchw", "pool": {"adaptive_avg_pool3d": 1}, "as": "rows"},
        {"feature": "rows", "tokens": "mean", "as": "mean"},
    ]
    model = compiled("given", [2, 8, 12, 12], sources, trunks={"trunk": net})
    x = torch.randn(3, 2, 8, 12, 12)
    maps = net.first(x)
    rows = net.last(maps.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)
    expected = {
        "average": F.avg_pool3d(maps, 2),
        "largest": F.adaptive_max_pool3d(maps, (1, 2, 2)),
        "vector": F.adaptive_avg_pool3d(maps, 1).flatten(1),
        "tokens": maps.flatten(2).transpose(1, 2),
        "resized": F.interpolate(maps, (2, 3, 3), mode="trilinear", align_corners=False),
        "rows": F.adaptive_avg_pool3d(rows, 1),
        "mean": rows.flatten(2).mean(2),
    }
    for name, value in model(x).items():
        torch.testing.assert_close(value, expected[name], msg=lambda text, name=name: f"{name}: {text}")


def finding(name: str, shape: list[int], source: dict[str, Any], **options: Any) -> graphmodel.Diagnostic:
    with pytest.raises(graphmodel.CompileError) as caught:
        compiled(name, shape, [source], **options)
    (found,) = caught.value.diagnostics
    return found


def test_an_image_for_a_video_trunk_is_one_finding_with_the_shape_of_clips() -> None:
    found = finding("torchvision:r3d_18", [3, 64, 64], {"feature": "flatten"}, device="meta")
    assert (found.code, found.path) == ("GM305", "inputs.clips")
    assert "[3, 16, 112, 112]" in found.help
    found = finding("torchvision:mvit_v2_s", [3, 4, 64, 64], {"feature": "block3"}, device="meta")
    assert (found.code, found.path) == ("GM305", "inputs.clips")
    assert "[3, 16, 224, 224]" in found.help
    found = finding("torchvision:resnet18", [3, 8, 64, 64], {"feature": "flatten"}, device="meta")
    assert (found.code, found.path) == ("GM305", "inputs.clips")
    assert "[3, 224, 224]" in found.help


@pytest.mark.parametrize(
    ("source", "help"),
    [
        ({"feature": "maps", "pool": {"adaptive_avg_pool2d": 1}}, "write `adaptive_avg_pool3d`"),
        ({"feature": "rows", "pool": {"adaptive_avg_pool3d": 1}}, "`layout: nchw`"),
        ({"feature": "maps", "tokens": "class"}, "`tokens: mean`"),
    ],
)
def test_what_does_not_fit_a_volume_is_one_finding(source: dict[str, Any], help: str) -> None:
    found = finding("given", [2, 8, 12, 12], {**source, "as": "z"}, trunks={"trunk": Volumes()})
    assert found.code == "GM306"
    assert help in found.help


@pytest.mark.parametrize("head", [{"linear": {"out_features": 3}}, {"mlp": {"dims": ["auto", 3]}}])
def test_the_help_of_heads_that_read_vectors_pools_volumes(head: dict[str, Any]) -> None:
    spec = {"inputs": {"x": [2, 4, 6, 6]}, "heads": {"h": head}}
    with pytest.raises(graphmodel.CompileError) as caught:
        graphmodel.compile(spec, device="meta")
    assert "`pool: {adaptive_avg_pool3d: 1}`" in caught.value.diagnostics[0].help
