"""Operations and parameters of whole models, compared with torch's own counter and the compiled modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet18

import graphmodel
from graphmodel.graph.rows import rows_per_sample
from graphmodel.profiling.flops import count_flops, rows_text
from graphmodel.profiling.report import report
from tests.conftest import EXAMPLES

# One sample has one row of each input; nine, if a head joins nine rows.
SEVERAL = {
    "pirl": {"images": 1, "patches": 9},
    "jigsaw": {"patches": 9},
    "head_chain": {"images": 9},
    "head_multi_task": {"images": 9},
}
FILES = sorted(EXAMPLES.rglob("*.yaml"))


def counted(model: graphmodel.CompiledModel, rows: dict[str, int]) -> int:
    """What torch's counter finds for the whole module in eval mode, on the meta device."""
    inputs: list[Any] = []
    for name, item in model.model_graph.inputs.items():
        dtype = getattr(torch, item.dtype)
        views = [item.shape or ()] if item.views is None else item.views
        tensors = [torch.empty(rows[name], *view, dtype=dtype, device="meta") for view in views]
        inputs.append(tensors[0] if item.views is None else tensors)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(*inputs)
    return int(counter.get_total_flops())


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_totals_of_every_example_are_those_of_the_compiled_module(file: Path) -> None:
    model = graphmodel.compile(file, device="meta")
    result = report(model.model_graph)
    rows = SEVERAL.get(file.stem, dict.fromkeys(model.model_graph.inputs, 1))
    assert result.batch_rows == rows
    assert result.flops == counted(model, rows) == sum(row.flops for row in result.rows)
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    assert result.trained == sum(n for n, trains in sizes if trains)
    assert result.frozen == sum(n for n, trains in sizes if not trains)
    assert result.bytes == sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))


def test_patches_are_counted_nine_times(two_inputs: dict[str, Any]) -> None:
    graph = graphmodel.build_graph(graphmodel.load_spec(two_inputs))
    assert rows_per_sample(graph) == {"images": 1, "patches": 9}
    trunk = resnet18().eval()
    trunk.fc = torch.nn.Identity()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for rows, spec in zip((1, 9), two_inputs["inputs"].values(), strict=True):
            trunk(torch.zeros(rows, *spec["shape"]))
    in_trunk = {n for n, node in graph.nodes.items() if node.kind == "trunk"}
    assert sum(f for n, f in count_flops(graph).items() if n in in_trunk) == counter.get_total_flops()


def test_inputs_that_meet_have_the_same_rows() -> None:
    spec = {
        "inputs": {"images": [3, 64, 64], "patches": [3, 64, 64], "others": [3, 64, 64]},
        "trunk": {"name": "resnet", "depth": 18},
        "heads": {
            "pair": [{"mlp": {"dims": ["auto", 4]}}, {"siamese_concat_view": {"num_towers": 3}}],
            "single": {"mlp": {"dims": ["auto", 4]}},
        },
        "mapping": [
            {"from": ["images.flatten", "patches.flatten"], "head": "pair", "as": "a"},
            {"from": "others.flatten", "head": "single", "as": "b"},
        ],
    }
    graph = graphmodel.build_graph(graphmodel.load_spec(spec))
    rows = rows_per_sample(graph)
    assert rows == {"images": 3, "patches": 3, "others": 1}
    assert rows_text(rows) == "batch 1 with 3 rows of images and 3 rows of patches"
    assert sum(count_flops(graph).values()) == counted(graphmodel.compile(spec, device="meta"), rows)


@pytest.mark.parametrize("trunk", ["timm:vit_tiny_patch16_224", "torchvision:vit_b_32"])
def test_attention_is_counted(trunk: str) -> None:
    """FlopCounterMode finds nothing for attention on the CPU; the products of queries, keys and values are there."""
    spec = {"inputs": {"images": [3, 224, 224]}, "trunk": trunk, "heads": {"a": {"mlp": {"dims": ["auto", 2]}}}}
    model = graphmodel.compile(spec, device="meta")
    total = sum(count_flops(model.model_graph).values())
    assert total == counted(model, {"images": 1})
    layers, width, tokens = (12, 192, 197) if "tiny" in trunk else (12, 768, 50)
    patch = 16 if "tiny" in trunk else 32
    block = 2 * tokens * width * (3 + 1 + 4 + 4) * width + 2 * 2 * tokens * tokens * width
    stem = 2 * (tokens - 1) * width * 3 * patch * patch
    assert total == layers * block + stem + 2 * width * 2


def test_a_parameter_with_two_names_counts_once_and_is_frozen_by_either(small: dict[str, Any]) -> None:
    trunk = resnet18()
    trunk.layer2[1].conv2.weight = trunk.layer2[1].conv1.weight
    whole = sum(p.numel() for p in trunk.parameters())
    small["freeze"] = ["trunk.layer2.1.conv2"]
    model = graphmodel.compile(small, trunks={"trunk": trunk}, device="cpu")
    result = report(model.model_graph)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert result.frozen == frozen == trunk.layer2[1].conv1.weight.numel()
    assert result.trained + result.frozen == sum(p.numel() for p in model.parameters())
    assert result.trained + result.frozen + result.pruned >= whole
