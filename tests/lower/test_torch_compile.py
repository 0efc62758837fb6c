"""`graphmodel.torch_compile`: shared regions, one graph per mode, numbers and gradients, copies."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import graphmodel
from graphmodel.lower.torch_compile import structure_of


class Block(nn.Module):
    """A residual block; `scale` is a plain number that blocks may differ in."""

    def __init__(self, width: int, scale: float = 1.0) -> None:
        super().__init__()
        self.norm, self.conv, self.mix = (
            nn.BatchNorm2d(width),
            nn.Conv2d(width, width, 3, 1, 1),
            nn.Conv2d(width, width, 1),
        )
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale * self.mix(torch.relu(self.conv(self.norm(x))))


@graphmodel.register_trunk("torch_compile_blocks")
class Blocks(nn.Module):
    """Four equal blocks between a stem and a mean."""

    def __init__(self, scales: tuple[float, ...] = (1.0,) * 4) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 8, 4, 4), nn.Sequential(*(Block(8, s) for s in scales))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.stem(x)).mean((2, 3))


SPEC: dict[str, Any] = {
    "inputs": {"images": {"shape": [3, 32, 32]}},
    "trunk": "torch_compile_blocks",
    "heads": {"label": {"mlp": {"dims": ["auto", 4]}}},
}
CROPS = {"crops": {"views": [{"count": 2, "shape": [3, 32, 32]}, {"count": 6, "shape": [3, 16, 16]}]}}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # torch's extra guard on the batch size exists on one thread
    yield
    torch.set_num_threads(threads)


def gradients(model: nn.Module, *inputs: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    sum(value.square().sum() for value in model(*inputs).values()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.slow
def test_equal_blocks_are_one_region_with_one_graph_per_mode() -> None:
    model = graphmodel.torch_compile(graphmodel.compile(SPEC, seed=0), backend="eager")
    counts = []
    for mode in (True, False):
        model.train(mode)
        for batch in (2, 3, 4, 8, 5, 16, 33):
            model(torch.randn(batch, 3, 32, 32))
            counts.append(model.compile_report.graphs)
    assert counts == [3] * 7 + [4] * 7, "stem, blocks and head; the blocks' statistics depend on the mode"
    names = [region.modules for region in model.compile_report.regions]
    assert names[0] == [f"trunk.blocks.{i}" for i in range(4)]
    assert str(model.compile_report).splitlines()[1].startswith("  trunk.blocks.0 and 3 more: 2 graphs, ")
    assert model.compile_report.seconds > 0


def test_a_batch_of_one_has_a_graph_of_its_own() -> None:
    model = graphmodel.torch_compile(graphmodel.compile(SPEC, seed=0).eval(), backend="eager")
    for batch in (1, 2, 1, 7):
        model(torch.randn(batch, 3, 32, 32))
    assert [region.graphs for region in model.compile_report.regions] == [2, 2, 2]


@pytest.mark.slow
@pytest.mark.parametrize("regional", [True, False])
def test_multi_crop_has_one_graph_for_batch_sizes_on_both_sides_of_sixteen_rows(regional: bool) -> None:
    model = graphmodel.torch_compile(
        graphmodel.compile({**SPEC, "inputs": CROPS}, seed=0), backend="eager", regional=regional
    )
    reference = graphmodel.compile({**SPEC, "inputs": CROPS}, seed=0)
    counts = []
    for batch in (2, 3, 4, 8, 5):
        crops = [torch.randn(batch, 3, 32, 32) for _ in range(2)] + [torch.randn(batch, 3, 16, 16) for _ in range(6)]
        assert torch.equal(model(crops)["label"], reference(crops)["label"])
        counts.append(model.compile_report.graphs)
    assert len(set(counts)) == 1
    if not regional:
        assert counts[0] == 1


@pytest.mark.slow
def test_numbers_gradients_and_statistics_are_those_of_the_eager_module() -> None:
    eager = graphmodel.compile(SPEC, seed=0)
    model = graphmodel.torch_compile(graphmodel.compile(SPEC, seed=0), backend="aot_eager")
    for batch in (2, 5):
        x = torch.randn(batch, 3, 32, 32)
        torch.testing.assert_close(gradients(model, x), gradients(eager, x))
    assert list(model.state_dict()) == list(eager.state_dict())
    torch.testing.assert_close(dict(model.state_dict()), dict(eager.state_dict()))
    torch.testing.assert_close(model.eval()(x), eager.eval()(x))


@pytest.mark.slow
def test_weights_loaded_later_are_used() -> None:
    model = graphmodel.torch_compile(graphmodel.compile(SPEC, seed=0).eval(), backend="eager")
    other = graphmodel.compile(SPEC, seed=1).eval()
    x = torch.randn(2, 3, 32, 32)
    model(x)
    model.load_state_dict(other.state_dict())
    assert torch.equal(model(x)["label"], other(x)["label"])


@pytest.mark.slow
def test_what_takes_the_place_of_a_part_is_used() -> None:
    model = graphmodel.torch_compile(graphmodel.compile(SPEC, seed=0).eval(), backend="eager")
    x = torch.randn(2, 3, 32, 32)
    model(x)
    regions = len(model.compile_report.regions)
    for change in (
        lambda m: setattr(m.trunk, "stem", nn.Conv2d(3, 8, 4, 4)),
        lambda m: setattr(m.heads, "label", nn.Flatten()),
        lambda m: setattr(m.trunk, "blocks", nn.Identity()),
        lambda m: m.trunk.stem.weight.data.mul_(2),
    ):
        change(model)
        result = model(x)["label"]
        assert torch.equal(result, copy.deepcopy(model)(x)["label"])  # copies are not compiled
    assert result.shape == (2, 8)
    assert len(model.compile_report.regions) <= regions


@pytest.mark.slow
def test_frozen_parts_stay_frozen() -> None:
    spec = {**SPEC, "trunk": {"name": "torch_compile_blocks", "freeze": True}}
    model, eager = (graphmodel.compile(spec, seed=0) for _ in range(2))
    graphmodel.torch_compile(model, backend="aot_eager").train()
    x = torch.randn(4, 3, 32, 32)
    found = gradients(model, x)
    assert set(found) == set(gradients(eager, x))
    assert not any(name.startswith("trunk.") for name in found)
    assert all(torch.equal(v, eager.state_dict()[k]) for k, v in model.state_dict().items())


def test_copies_slices_and_artifacts_are_not_compiled_and_work(tmp_path: Any) -> None:
    model = graphmodel.torch_compile(graphmodel.compile(SPEC, seed=0).eval(), backend="eager")
    x = torch.randn(2, 3, 32, 32)
    expected = model(x)["label"]
    graphs = model.compile_report.graphs
    torch.save(model, tmp_path / "model.pt")
    graphmodel.save(model, tmp_path / "artifact")
    others = [
        copy.deepcopy(model),
        model.slice(outputs=["label"]),
        torch.load(tmp_path / "model.pt", weights_only=False),
        graphmodel.load(tmp_path / "artifact").eval(),
    ]
    for other in others:
        assert torch.equal(other(x)["label"], expected)
        assert not hasattr(other, "compile_report")
        assert all(part._compiled_call_impl is None for part in other.modules())
    assert model.compile_report.graphs == graphs
    assert torch.equal(model(x)["label"], expected)


def test_hooks_of_the_model_run() -> None:
    model = graphmodel.torch_compile(graphmodel.compile(SPEC, seed=0).eval(), backend="eager")
    seen: list[tuple[int, ...]] = []
    model.register_forward_hook(lambda module, args, out: seen.append(tuple(out["label"].shape)))
    model(torch.randn(2, 3, 32, 32))
    assert seen == [(2, 4)]


def test_wrong_inputs_are_diagnosed() -> None:
    model = graphmodel.torch_compile(graphmodel.compile(SPEC, seed=0), backend="eager")
    with pytest.raises(Exception, match="the input `images` is 2×4×32×32"):
        model(torch.randn(2, 4, 32, 32))


def test_any_other_module_has_its_repeated_blocks_compiled() -> None:
    model = graphmodel.torch_compile(Blocks(), backend="eager")
    twin = copy.deepcopy(model)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(x), twin(x))
    assert [region.modules for region in model.compile_report.regions] == [[f"blocks.{i}" for i in range(4)]]
    assert model.compile_report.graphs == 1


@pytest.mark.slow
def test_blocks_that_differ_in_a_number_are_compiled_one_by_one() -> None:
    model = graphmodel.torch_compile(Blocks((1.0, 1.0, 0.5, 0.25)), backend="eager")
    assert structure_of(model.blocks[0]) == structure_of(model.blocks[1]) != structure_of(model.blocks[2])
    model(torch.randn(2, 3, 32, 32))
    assert [region.graphs for region in model.compile_report.regions] == [1, 1, 1]


@pytest.mark.slow
def test_inductor_gives_the_eager_numbers_and_gradients() -> None:
    spec = {
        **SPEC,
        "trunk": {
            "name": "vision_transformer",
            "image_size": 32,
            "patch_size": 16,
            "num_layers": 3,
            "num_heads": 2,
            "hidden_dim": 32,
            "mlp_dim": 64,
        },
    }
    eager = graphmodel.compile(spec, seed=0)
    model = graphmodel.torch_compile(graphmodel.compile(spec, seed=0))
    for batch in (2, 5):
        x = torch.randn(batch, 3, 32, 32)
        torch.testing.assert_close(gradients(model, x), gradients(eager, x), rtol=1e-4, atol=1e-5)
    assert model.compile_report.regions[0].graphs == 1
