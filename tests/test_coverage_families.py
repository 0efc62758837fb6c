"""One model of every family of timm and torchvision: features, weights and keys are the library's own, bit for bit.

The comparison is that of `benchmarks/coverage.py`, which runs it over all models. Here the smallest model of each
architecture stands for its family, the large ones cut down by their own keyword arguments.
"""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import timm
import torch
import torch._dynamo.testing

import graphmodel

FAST = """
    timm:test_byobnet timm:test_convnext timm:test_efficientnet timm:test_mambaout timm:test_coatnet timm:test_nfnet
    timm:test_resnet timm:test_vit timm:test_vit_relpos timm:dla46x_c timm:ghostnet_050 timm:hgnetv2_b0
    timm:mobilenetv3_small_050 timm:pit_ti_224 timm:regnetx_002 timm:repghostnet_050 timm:starnet_s050
    timm:ese_vovnet19b_slim_dw timm:edgenext_xx_small timm:cspnext_tiny timm:fasternet_t0 timm:shvit_s1
    torchvision:mobilenet_v3_small torchvision:shufflenet_v2_x0_5 torchvision:squeezenet1_1
""".split()

QUICK = [n.removeprefix("timm:") for n in FAST if ":test_" in n]

SLOW = """
    timm:cait_xxs24_224 timm:coat_tiny timm:convit_tiny timm:cpubone_nano timm:crossvit_tiny_240
    timm:cs3darknet_focus_s timm:davit_tiny timm:deit_tiny_distilled_patch16_224 timm:densenet121 timm:dpn48b
    timm:efficientformer_l1 timm:efficientformerv2_s0 timm:efficientvim_m1 timm:efficientvim_m1_dist
    timm:efficientvit_b0 timm:efficientvit_l1 timm:efficientvit_m0 timm:eva02_tiny_patch14_224 timm:fastvit_t8
    timm:focalnet_tiny_srf timm:gcvit_xxtiny timm:hiera_tiny_224 timm:hieradet_small timm:hrnet_w18_small
    timm:iformer_t timm:inception_next_atto timm:inception_resnet_v2 timm:inception_v3 timm:inception_v4
    timm:lcnetv2_small timm:levit_256d timm:levit_128s timm:lowformer_b0 timm:poolformerv2_s12 timm:gmlp_ti16_224
    timm:mvitv2_tiny timm:nest_tiny timm:nextvit_small timm:pvt_v2_b0 timm:rdnet_tiny timm:repvit_m1
    timm:resnetv2_18 timm:rexnet_100 timm:selecsls42 timm:legacy_seresnet18 timm:swiftformer_xs
    timm:swin_tiny_patch4_window7_224 timm:swinv2_tiny_window8_256 timm:swinv2_cr_tiny_224 timm:tiny_vit_5m_224
    timm:tnt_s_legacy_patch16_224 timm:tresnet_m timm:twins_svt_small timm:visformer_tiny timm:volo_d1_224
    timm:legacy_xception timm:xception41p timm:xcit_nano_12_p8_224 timm:halonet_h1 timm:hardcorenas_b
    timm:mobilevit_xxs timm:res2next50 timm:resnest14d timm:skresnet18 timm:vit_tiny_r_s16_p8_224
    timm:vitamin_small_224
    torchvision:alexnet torchvision:convnext_tiny torchvision:densenet121 torchvision:efficientnet_b0
    torchvision:googlenet torchvision:inception_v3 torchvision:maxvit_t torchvision:mnasnet0_5
    torchvision:mobilenet_v2 torchvision:regnet_y_400mf torchvision:resnet18 torchvision:swin_t torchvision:vgg11
    torchvision:vit_b_16
""".split()

SMALLER: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "timm:beit_base_patch16_224": ((3, 64, 64), {"depth": 2, "img_size": 64}),
    "timm:convmixer_768_32": ((3, 56, 56), {}),
    "timm:csatv2": ((3, 128, 128), {}),
    "timm:deepseek_vit_412m": ((3, 84, 84), {"depth": 2}),
    "timm:deepseek_vit_412m_enc": ((3, 84, 84), {"depth": 2}),
    "timm:gemma4_vit_167m": ((3, 96, 96), {"depth": 2}),
    "timm:gemma4_vit_167m_enc": ((3, 96, 96), {"depth": 2}),
    "timm:mobilenetv5_base": ((3, 128, 128), {}),
    "timm:mobilenetv5_300m_enc": ((3, 256, 256), {}),
    "timm:naflexvit_base_patch16_parfac_gap": ((3, 96, 96), {"depth": 2}),
    "timm:nasnetalarge": ((3, 96, 96), {}),
    "timm:pnasnet5large": ((3, 96, 96), {}),
    "timm:qwen3_vit_88m": ((3, 64, 96), {"depth": 2}),
    "timm:qwen3_vit_88m_enc": ((3, 64, 96), {"depth": 2}),
    "timm:samvit_base_patch16_224": ((3, 64, 64), {"depth": 3, "img_size": 64}),
    "timm:sequencer2d_s": ((3, 56, 56), {}),
    "timm:vgg11": ((3, 64, 64), {"num_classes": 0}),
}


def coverage() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "coverage_benchmark", Path(__file__).parents[1] / "benchmarks/coverage.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(name: str, shape: tuple[int, ...] | None = None, **keywords: Any) -> None:
    result = coverage().equal(name, shape, **keywords)
    assert result["ok"], result["reason"]
    assert result["compared"] > 2


@pytest.mark.slow
@pytest.mark.parametrize("name", FAST)
def test_features_weights_and_keys_are_the_librarys_own(name: str) -> None:
    check(name)


@pytest.mark.parametrize(
    "name", [n for n in FAST if ":test_" in n or n in ("timm:repghostnet_050", "timm:starnet_s050")]
)
def test_training_is_the_librarys_own(name: str) -> None:
    module = coverage().build_library(name)
    shape = coverage().shape_of(module, name)
    first = coverage().library_features(module)[0].name
    spec = {"inputs": {"images": list(shape)}, "trunk": name, "mapping": {"images": {first: None, "logits": None}}}
    model = graphmodel.compile(spec, seed=0)
    model.load_state_dict({f"trunk.{k}": v for k, v in module.state_dict().items()})
    x = torch.rand(4, *shape)
    for training in (True, False):
        module.train(training)
        model.train(training)
        torch.manual_seed(0)
        expected = module(x)
        torch.manual_seed(0)
        assert torch.equal(model(x)["logits"], expected)
    own = module.state_dict()
    assert all(torch.equal(v, own[k.removeprefix("trunk.")]) for k, v in model.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_features_weights_and_keys_of_larger_families(name: str) -> None:
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLER)
def test_features_weights_and_keys_of_families_cut_down(name: str) -> None:
    shape, keywords = SMALLER[name]
    check(name, shape, **keywords)


@pytest.mark.parametrize(
    "name",
    [
        *QUICK,
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in (
                *(
                    n.removeprefix("timm:")
                    for n in FAST
                    if n.startswith("timm:") and n.removeprefix("timm:") not in QUICK
                ),
                "hrnet_w18_small",
                "swin_tiny_patch4_window7_224",
                "coat_tiny",
            )
        ),
    ],
)
def test_stages_are_those_of_timms_feature_nets(name: str) -> None:
    torch.manual_seed(0)
    own = timm.create_model(name)
    stages = [f for f in coverage().library_features(own) if f.kind == "stage"]  # type: ignore[attr-defined]
    shape = coverage().shape_of(own, name)
    torch.manual_seed(0)
    extractor = timm.create_model(name, features_only=True, out_indices=tuple(range(len(stages)))).eval()
    if set(extractor.state_dict()) <= set(own.state_dict()):
        extractor.load_state_dict({k: v for k, v in own.state_dict().items() if k in extractor.state_dict()})
    x = torch.rand(1, *shape)
    with torch.no_grad():
        expected = extractor(x)
        raw, maps = (
            graphmodel.compile(
                coverage().spec_of(f"timm:{name}", shape, stages, layout), seed=0, returns="tuple"
            ).eval()(x)
            for layout in (None, "nchw")
        )
    # Some of timm's nets return maps with channels last as they are.
    for ours, as_map, theirs in zip(raw, maps, expected, strict=True):
        assert torch.equal(ours, theirs) or torch.equal(as_map, theirs)


def test_every_family_of_timm_is_here() -> None:
    here = {n.removeprefix("timm:") for n in (*FAST, *SLOW, *SMALLER) if n.startswith("timm:")}
    missing = [m for m in timm.list_modules() if (names := timm.list_models(module=m)) and not here & set(names)]
    assert not missing


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm:test_vit", "timm:test_resnet", "timm:twins_svt_small", "torchvision:swin_t"])
def test_one_graph_of_torch_compile_for_every_batch_size(name: str) -> None:
    module = coverage().build_library(name)
    shape = coverage().shape_of(module, name)
    spec = coverage().spec_of(name, shape, coverage().library_features(module))
    model = graphmodel.compile(spec, seed=0).eval()
    torch._dynamo.reset()  # what other tests compiled must not count
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    fast = torch.compile(model, fullgraph=True, backend=counter)
    for batch in (2, 3, 5):
        x = torch.rand(batch, *shape)
        torch._dynamo.mark_dynamic(x, 0)
        with torch.no_grad():
            expected, found = model(x), fast(x)
        for key, value in expected.items():
            assert torch.allclose(found[key], value, rtol=1e-3, atol=1e-4), key
    assert counter.frame_count == 1


def test_copies_share_nothing_and_give_the_same_numbers() -> None:
    spec = coverage().spec_of(
        "timm:test_vit", (3, 160, 160), coverage().library_features(coverage().build_library("timm:test_vit"))
    )
    model = graphmodel.compile(spec, seed=0).eval()
    twin = copy.deepcopy(model)
    x = torch.rand(2, 3, 160, 160)
    with torch.no_grad():
        expected = model(x)
        for parameter in model.parameters():
            parameter.zero_()
        found = twin(x)
    assert all(torch.equal(found[k], v) for k, v in expected.items())
    model.load_state_dict(twin.state_dict())
    with torch.no_grad():
        assert all(torch.equal(v, expected[k]) for k, v in model(x).items())
