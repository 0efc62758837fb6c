"""Arguments of timm's and torchvision's models: what they refuse is said at the argument itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import graphmodel


def refused(trunk: str, tmp_path: Path, shape: str = "[3, 64, 64]", mapping: str = "") -> tuple[Any, str]:
    """The one finding of a spec, and the text that its caret underlines."""
    text = f"inputs: {{images: {shape}}}\ntrunk: {trunk}\n{mapping}"
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    with pytest.raises(graphmodel.CompileError) as caught:
        graphmodel.compile(path, device="meta")
    (finding,) = caught.value.diagnostics
    span = finding.span
    assert span is not None
    return finding, text.splitlines()[span.line - 1][span.column - 1 :][: span.length]


@pytest.mark.parametrize(
    ("trunk", "caret", "words"),
    [
        ("timm:resnet_18", "timm:resnet_18", "did you mean `timm:resnet18`?"),
        ("{name: timm:resnet_18}", "timm:resnet_18", "did you mean `timm:resnet18`?"),
        ("timm:resnet50.a1_in2k", "timm:resnet50.a1_in2k", "did you mean `a1_in1k`?"),
        ("{name: timm:resnet50.a1_in2k}", "timm:resnet50.a1_in2k", "does not publish weights `a1_in2k`"),
        ("{name: timm:resnet18, num_class: 3}", "num_class", "did you mean `num_classes`?"),
        ("{name: timm:resnet18, norm_layer: groupnrm}", "norm_layer", "`norm_layer: groupnrm`: KeyError"),
        ("{name: timm:resnet18, act_layer: gelu, norm_layer: groupnrm}", "norm_layer", "groupnrm"),
        ("{name: timm:vit_tiny_patch16_224, dynamic_img_size: no}", "dynamic_img_size", "write true or false"),
        ("{name: timm:convmixer_768_32, depth: 3}", "depth", "sets `depth` itself"),
        ("{name: torchvision:swin_t, stochastic_depth_prob: 0.3}", "stochastic_depth_prob", "sets `stochastic_depth"),
        ("{name: torchvision:resnet18, num_class: 3}", "num_class", "did you mean `num_classes`?"),
    ],
)
def test_the_caret_stands_under_what_is_wrong(trunk: str, caret: str, words: str, tmp_path: Path) -> None:
    finding, underlined = refused(trunk, tmp_path)
    assert underlined == caret
    assert words in f"{finding.message} {finding.help}"


def test_tags_of_published_weights_name_the_model() -> None:
    document = {"inputs": {"images": [3, 64, 64]}, "trunk": "timm:resnet18.a1_in1k"}
    assert graphmodel.compile(document, device="meta").model_graph.outputs


def test_weights_that_fail_are_not_an_arguments_fault(tmp_path: Path) -> None:
    file = tmp_path / "other.pth"
    torch.save(timm.create_model("test_vit").state_dict(), file)
    document = {
        "inputs": {"images": [3, 160, 160]},
        "trunk": {"name": "timm:test_resnet", "drop_rate": 0.1, "pretrained": str(file)},
    }
    with pytest.raises(graphmodel.CompileError) as caught:
        graphmodel.compile(document, seed=0)
    (finding,) = caught.value.diagnostics
    assert finding.code == "GM510"
    assert "drop_rate" not in finding.message


@pytest.mark.parametrize(
    ("trunk", "words"),
    [
        ("{name: timm:cait_xxs24_224, depth: 1}", "accepts one size only (`img_size: 96` for this one)"),
        ("{name: timm:pit_ti_224, depth: [1, 1, 1]}", "accepts one size only (`img_size: 96` for this one)"),
        ("{name: timm:vit_small_patch14_dinov2, depth: 1}", "multiples of 14, such as 98×98"),
    ],
)
def test_crops_of_sizes_that_a_model_cannot_take(trunk: str, words: str, tmp_path: Path) -> None:
    views = "{views: [{count: 2, shape: [3, 224, 224]}, {count: 2, shape: [3, 96, 96]}]}"
    finding, underlined = refused(trunk, tmp_path, views)
    assert finding.code == "GM305"
    assert words in finding.help
    assert underlined == "images"


def test_crops_of_any_size_where_patches_are_padded() -> None:
    sizes = (112, 96)
    trunk = {"name": "timm:vit_small_patch14_dinov2", "depth": 1, "img_size": 112, "dynamic_img_pad": True}
    document = {"inputs": {"images": {"views": [[3, s, s] for s in sizes]}}, "trunk": trunk}
    document["inputs"]["images"]["views"] = [{"count": 1, "shape": [3, s, s]} for s in sizes]  # type: ignore[index]
    model = graphmodel.compile(document, seed=0).eval()
    torch.manual_seed(0)
    own = timm.create_model(
        "vit_small_patch14_dinov2", depth=1, img_size=112, dynamic_img_pad=True, dynamic_img_size=True
    ).eval()
    images = [torch.rand(2, 3, s, s) for s in sizes]
    with torch.no_grad():
        (found,) = model(images).values()
        expected = torch.cat([own.forward_head(own.forward_features(x), pre_logits=True) for x in images])
    assert torch.equal(found, expected)


@pytest.mark.slow
def test_a_model_that_returns_no_tensor_says_what_it_returns(tmp_path: Path) -> None:
    finding, _ = refused("torchvision:lraspp_mobilenet_v3_large", tmp_path)
    assert "a mapping with `out`" in finding.message
    assert "`output.out`" in finding.help
