"""Every example of VISSL's page "Building Models" against its native twin: the same graph, the same numbers."""

from __future__ import annotations

import pytest
import torch

import graphmodel
from graphmodel.api import build_graph
from tests.conftest import EXAMPLES

TWINS = sorted(p.stem for p in (EXAMPLES / "vissl").glob("*.yaml"))
SMALL = {"images": (3, 96, 96)}


def calls(name: str, dialect: str) -> list[tuple[object, ...]]:
    graph = build_graph(graphmodel.load_spec(EXAMPLES / dialect / f"{name}.yaml"))
    return [(n.kind, n.call, str(n.target), str(n.info), n.component) for n in graph.nodes.values()]


@pytest.mark.slow
@pytest.mark.parametrize("name", TWINS)
def test_twins_have_the_same_graph(name: str) -> None:
    assert calls(name, "vissl") == calls(name, "native")


def test_the_page_is_whole() -> None:
    assert set(TWINS) >= {
        "resnet50", "regnet_custom", "regnet_y_16gf", "head_single", "head_chain", "head_multi_task", "head_linear_eval",
        "multi_input",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["head_chain", "head_multi_task"])
def test_twins_give_the_same_numbers(name: str) -> None:
    x = torch.randn(9, 3, 64, 64)
    inputs = {"images": (3, 64, 64)}
    a, b = (
        graphmodel.compile(EXAMPLES / d / f"{name}.yaml", seed=3, inputs=inputs, overrides=[o]).eval()
        for d, o in (("vissl", "MODEL.TRUNK.RESNETS.DEPTH=50"), ("native", "trunk.depth=50"))
    )
    with torch.no_grad():
        assert all(torch.equal(p, q) for p, q in zip(a(x).values(), b(x).values(), strict=True))


def test_the_multi_input_example_keeps_vissls_nesting() -> None:
    model = graphmodel.compile(EXAMPLES / "vissl" / "multi_input.yaml", device="meta", returns="list")
    out = model(torch.empty(2, 3, 224, 224, device="meta"), torch.empty(18, 3, 64, 64, device="meta"))
    assert [[tuple(t.shape) for t in out[0]], tuple(out[1].shape)] == [[(2, 128), (2, 128)], (18, 128)]


def test_the_custom_regnet_has_1_3_billion_parameters() -> None:
    model = graphmodel.compile(EXAMPLES / "vissl" / "regnet_custom.yaml", device="meta")
    trunk = sum(p.numel() for n, p in model.named_parameters() if n.startswith("trunk."))
    assert 1.25e9 < trunk < 1.35e9
