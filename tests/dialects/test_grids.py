"""A grid is the spec that a loop would write, and its heads read what the published evaluations read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import graphmodel
from graphmodel.build.locked_spec import resolved_spec
from graphmodel.dialects.convert import convert
from graphmodel.dialects.native.dump import dump
from graphmodel.dialects.native.grids import label_of
from graphmodel.spec.document import read_text

EXAMPLES = Path(__file__).parents[2] / "examples" / "native"
RATES = {
    "0_00001": 1e-5,
    "0_00002": 2e-5,
    "0_00005": 5e-5,
    "0_0001": 1e-4,
    "0_0002": 2e-4,
    "0_0005": 5e-4,
    "0_001": 1e-3,
    "0_002": 2e-3,
    "0_005": 5e-3,
    "0_01": 1e-2,
    "0_02": 2e-2,
    "0_05": 5e-2,
    "0_1": 0.1,
}
"""DINOv2's learning rates by the name that its own script gives them: `f"{lr:.5f}"`, with underscores."""

LAST = {"last1": [11], "last4": [8, 9, 10, 11]}
VIT: dict[str, Any] = {
    "name": "timm:vit_tiny_patch16_224",
    "img_size": 32,
    "depth": 12,
    "embed_dim": 16,
    "num_heads": 2,
    "reg_tokens": 2,
    "freeze": True,
}
SMALL: dict[str, Any] = {
    "inputs": {"images": [3, 64, 64]},
    "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25, "freeze": True},
}
PROBE: dict[str, Any] = {"mlp": {"dims": ["auto", 4]}}


def written_by_a_loop() -> dict[str, Any]:
    """The long form of DINOv2's 52 heads."""
    heads, mapping, settings = {}, [], {}
    for layers, blocks in LAST.items():
        for tokens in ("cls", "cls_avg"):
            for label, lr in RATES.items():
                name = f"linear_{layers}_{tokens}_lr_{label}"
                heads[name] = PROBE
                sources = [{"from": f"images.blocks.{i}", "tokens": "class", "norm": True} for i in blocks]
                if tokens == "cls_avg":
                    sources.append({"from": "images.blocks.11", "tokens": "mean", "norm": True})
                mapping.append({"from": sources, "head": name, "as": name})
                labels = {"layers": layers, "tokens": tokens, "lr": label}
                settings[name] = {"lr": lr, "grid": "linear", "labels": labels}
    return {"heads": heads, "mapping": mapping, "head_settings": settings}


def of_example(name: str, **changes: Any) -> dict[str, Any]:
    """An example's document with other values at its top level."""
    return {**read_text((EXAMPLES / f"{name}.yaml").read_text("utf-8")).data, **changes}


@pytest.fixture(scope="module")
def dinov2() -> Any:
    document = of_example("dinov2_linear", inputs={"images": [3, 32, 32]}, trunk=VIT)
    document["grid"] = {"linear": {**document["grid"]["linear"], "head": PROBE}}
    return graphmodel.compile(document, seed=0)


def test_dinov2_is_the_long_spec_written_by_a_loop(dinov2: Any) -> None:
    long = {"name": "dinov2_linear", "inputs": {"images": [3, 32, 32]}, "trunk": VIT, **written_by_a_loop()}
    other = graphmodel.compile(long, seed=0)
    assert len(dinov2.model_graph.spec.heads) == 52
    assert dinov2.model_graph.spec.model_dump() == other.model_graph.spec.model_dump()
    assert list(dinov2.state_dict()) == list(other.state_dict())
    other.load_state_dict(dinov2.state_dict())
    images = torch.randn(2, 3, 32, 32)
    found, wanted = dinov2.eval()(images), other.eval()(images)
    assert list(found) == list(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_dinov2_reads_what_its_own_script_reads(dinov2: Any) -> None:
    """`create_linear_input` of dinov2/eval/linear.py, on timm's `forward_intermediates` with the final norm."""
    reference = timm.create_model(
        "vit_tiny_patch16_224", **{k: v for k, v in VIT.items() if k not in ("name", "freeze")}
    )
    state = {k.removeprefix("trunk."): v for k, v in dinov2.state_dict().items() if k.startswith("trunk.")}
    reference.load_state_dict(state, strict=False)
    reference.eval()
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        found = dinov2.eval()(images)
        for blocks, key in ((1, "last1"), (4, "last4")):
            layers = reference.forward_intermediates(
                images, indices=blocks, return_prefix_tokens=True, norm=True, output_fmt="NLC", intermediates_only=True
            )
            class_tokens = torch.cat([prefix[:, 0] for _, prefix in layers], dim=-1)
            with_mean = torch.cat([class_tokens, layers[-1][0].mean(dim=1)], dim=-1)
            for tokens, value in (("cls", class_tokens), ("cls_avg", with_mean)):
                name = f"linear_{key}_{tokens}_lr_0_01"
                weight, bias = dinov2.state_dict()[f"heads.{name}.clf.0.weight"], None
                bias = dinov2.state_dict()[f"heads.{name}.clf.0.bias"]
                torch.testing.assert_close(found[name], value @ weight.T + bias, rtol=1e-4, atol=1e-5)


def test_each_head_is_a_group_with_its_rate(dinov2: Any) -> None:
    groups = {g["name"]: g for g in graphmodel.param_groups(dinov2, lr=7.0)}
    assert len(groups) == 52
    for name, group in groups.items():
        assert group["lr"] == RATES[name.partition("_lr_")[2]]
        assert [p.numel() for p in group["params"]][1:] == [4]
    chosen = graphmodel.param_groups(dinov2, lr=7.0, head_lr={"linear_last1_cls_lr_0_1": 3.0})
    assert [g["lr"] for g in chosen if g["name"] == "heads.linear_last1_cls_lr_0_1"] == [3.0]


def test_vissl_is_the_spec_without_a_grid() -> None:
    """The same keys and shapes as head_linear_eval.yaml, whose heads are numbered."""
    grid = graphmodel.compile(of_example("vissl_linear"), device="meta")
    numbered = graphmodel.compile(of_example("head_linear_eval"), device="meta")
    names = {
        f"heads.head{i}.": f"heads.linear_{layer}." for i, layer in enumerate(["conv1", "res2", "res3", "res4", "res5"])
    }

    def renamed(key: str) -> str:
        return next((new + key.removeprefix(old) for old, new in names.items() if key.startswith(old)), key)

    assert {k: v.shape for k, v in grid.state_dict().items()} == {
        renamed(k): v.shape for k, v in numbered.state_dict().items()
    }


def test_the_lock_file_keeps_settings(dinov2: Any) -> None:
    locked = resolved_spec(dinov2.model_graph)
    again = graphmodel.load_spec(dump(locked))
    assert {n: h.settings for n, h in again.heads.items()} == {n: h.settings for n, h in locked.heads.items()}
    assert again.heads["linear_last4_cls_avg_lr_0_1"].settings.lr == 0.1


def heads_of(grid: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return graphmodel.load_spec({**SMALL, "grid": {"probe": {"head": PROBE, **grid}}, **spec}).heads


def test_the_last_axis_changes_fastest() -> None:
    grid = {
        "layers": ["res4", "layer2.0.conv1"],
        "pool": [{"adaptive_avg_pool2d": 1}, "identity"],
        "params": {"use_bn": [False, True], "dims": {"small": ["auto", 4], "deep": ["auto", 8, 4]}},
        "weight_decay": [0, 1e-9],
        "head": "mlp",
    }
    names = list(heads_of(grid))
    assert len(names) == 32
    assert names[:3] == [
        "probe_res4_adaptive_avg_pool2d_1_use_bn_false_small_weight_decay_0",
        "probe_res4_adaptive_avg_pool2d_1_use_bn_false_small_weight_decay_1e_09",
        "probe_res4_adaptive_avg_pool2d_1_use_bn_false_deep_weight_decay_0",
    ]
    assert names[-1] == "probe_layer2_0_conv1_identity_use_bn_true_deep_weight_decay_1e_09"
    assert heads_of(grid)[names[2]].chain[0].params == {"use_bn": False, "dims": ["auto", 8, 4]}


def test_axes_of_one_value_do_not_name_heads() -> None:
    heads = heads_of({"layers": "flatten", "lr": 0.1, "weight_decay": 0})
    assert list(heads) == ["probe"]
    assert (heads["probe"].settings.lr, heads["probe"].settings.weight_decay) == (0.1, 0.0)


def test_a_grid_reads_the_default_feature_and_stands_beside_other_heads() -> None:
    spec = graphmodel.load_spec(
        {
            **SMALL,
            "heads": {"label": PROBE},
            "grid": {"probe": {"head": PROBE, "lr": [1, 2]}},
            "outputs": ["probe_lr_2"],
        }
    )
    assert list(spec.heads) == ["probe_lr_2"]
    model = graphmodel.compile({**SMALL, "heads": {"label": PROBE}, "grid": {"probe": {"head": PROBE, "lr": [1, 2]}}})
    assert list(model(torch.randn(2, 3, 64, 64))) == ["label", "probe_lr_1", "probe_lr_2"]


def test_a_grid_on_another_output() -> None:
    mapping = {"images": {"flatten": "project"}}
    grid = {"probe": {"head": PROBE, "input": "project", "lr": [1, 2]}}
    model = graphmodel.compile({**SMALL, "heads": {"project": PROBE}, "mapping": mapping, "grid": grid})
    found = model(torch.randn(2, 3, 64, 64))
    weight, bias = model.heads.probe_lr_2.clf[0].parameters()
    torch.testing.assert_close(found["probe_lr_2"], found["project"] @ weight.T + bias)


def test_settings_of_a_head_without_a_grid() -> None:
    spec = {**SMALL, "heads": {"a": PROBE, "b": PROBE}, "head_settings": {"a": {"lr": 0.5, "weight_decay": 0.25}}}
    groups = {g["name"]: g for g in graphmodel.param_groups(graphmodel.compile(spec, device="meta"), lr=2.0)}
    assert {n: (g["lr"], g["weight_decay"], len(g["params"])) for n, g in groups.items()} == {
        "heads.a": (0.5, 0.25, 1),
        "heads.a, no decay": (0.5, 0.0, 1),
        "heads.b": (2.0, 0.0, 2),
    }


def test_heads_of_a_grid_are_fused() -> None:
    document = {**SMALL, "grid": {"probe": {"head": PROBE, "lr": [i / 16 for i in range(16)]}}}
    fused = graphmodel.compile(document, seed=0, passes=["fuse_heads"])
    assert any("16 heads" in line for line in fused.optimized_graph.summary)
    plain = graphmodel.compile(document, seed=0, passes=[])
    images = torch.randn(2, 3, 64, 64)
    found, wanted = fused.eval()(images), plain.eval()(images)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name])


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"lr": []}, "GM202", "`grid.probe.lr`"),
        ({"lr": [0.1, 1e-1]}, "GM215", "two values of `lr` are named `0_1`"),
        ({"lr": [True]}, "GM202", "`grid.probe.lr[0]`"),
        ({"lrs": [1]}, "GM201", "did you mean `lr`?"),
        ({"layers": {"a b": "res4", "a_b": "res5"}}, "GM215", "two values of `layers`"),
        ({"layers": {"a": {"pol": 2}}}, "GM201", "did you mean `pool`?"),
        ({"pool": []}, "GM202", "has no value"),
        ({"pool": [{"avg_poo2d": 2}]}, "GM202", "did you mean `avg_pool2d`?"),
        ({"pool": [{"avg_pool2d": {"kernel_size": 2, "stride": 1}}]}, "GM215", "has no name"),
        ({"pool": ["identity", {"avg_pool2d": 2}], "layers": {"res4": {"pool": {"avg_pool2d": 3}}}}, "GM215", "`res4`"),
        ({"params": {"dims": [4]}}, "GM215", "a parameter of the head and an axis"),
        ({"params": {"use_bn": [True]}, "head": [PROBE, "identity"]}, "GM215", "the head of the grid `probe` has 2"),
        ({"head": {"copy": "other"}}, "GM215", "is a copy"),
        ({"input": "image"}, "GM207", "did you mean `images`?"),
        ({"tokens": ["clas"]}, "GM202", "did you mean `class`?"),
        (
            {"lr": list(range(40)), "weight_decay": list(range(40))},
            "GM216",
            "1,600 heads (40 `lr` x 40 `weight_decay`)",
        ),
    ],
)
def test_mistakes_are_reported_at_their_line(change: dict[str, Any], code: str, words: str) -> None:
    with pytest.raises(graphmodel.CompileError) as error:
        heads_of(change)
    found = [d for d in error.value.diagnostics if d.code == code]
    assert any(words in f"{d.message} {d.help}" and d.path for d in found), error.value


def test_names_of_grids_and_heads_collide() -> None:
    with pytest.raises(graphmodel.CompileError, match="`heads` has one of that name"):
        heads_of({"lr": [1]}, heads={"probe_lr_1": PROBE})
    grids = {"a": {"head": PROBE, "layers": {"b_c": "res4"}}, "a_b": {"head": PROBE, "layers": {"c": "res5"}}}
    with pytest.raises(graphmodel.CompileError, match="the grid `a` makes it too"):
        graphmodel.load_spec({**SMALL, "grid": grids})
    with pytest.raises(graphmodel.CompileError, match="unknown head `labl`"):
        heads_of({}, heads={"label": PROBE}, head_settings={"labl": {"lr": 1}})


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (10.0, "10"),
        (1e-6, "0_000001"),
        (1e-8, "1e_08"),
        (2e9, "2000000000"),
        (-0.5, "minus_0_5"),
        (0, "0"),
        ("a.b", "a_b"),
    ],
)
def test_labels(value: Any, label: str) -> None:
    assert label_of(value) == label


def test_a_spec_with_a_grid_converts_to_itself() -> None:
    spec = graphmodel.load_spec(EXAMPLES / "dinov2_linear.yaml")
    text = convert(spec)
    assert "grid:" in text
    assert graphmodel.load_spec(read_text(text).data).model_dump() == spec.model_dump()
