"""Standalone code gives a module's numbers bit by bit, and never imports graphmodel."""

from __future__ import annotations

import copy
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import graphmodel
from graphmodel.exporters.standalone import standalone
from graphmodel.exporters.standalone_check import check_standalone, load_standalone
from graphmodel.graph.rows import rows_per_sample
from graphmodel.lower.random_inputs import random_inputs
from tests.cli.conftest import Run, run  # noqa: F401
from tests.conftest import TWO_INPUTS

RUN = """
import sys
sys.dont_write_bytecode = True

class NoGraphmodel:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "graphmodel":
            raise AssertionError("graphmodel was imported")

if "--real" not in sys.argv:
    sys.meta_path.insert(0, NoGraphmodel())
else:
    import importlib.util
    assert importlib.util.find_spec("graphmodel") is None
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from model import Model
case = torch.load(sys.argv[2])
for mode in (False, True):
    module = Model.load().train(mode)
    torch.manual_seed(0)
    result = module(*case["inputs"])
    values = list(result.values()) if isinstance(result, dict) else list(result)
    assert len(values) == len(case[mode])
    for value, expected in zip(values, case[mode]):
        assert torch.equal(value, expected), (value - expected).abs().max()
    if mode and any(v.requires_grad for v in values):
        sum(v.square().mean() for v in values if v.requires_grad).backward()
        for name, parameter in module.named_parameters():
            gradient = case["gradients"].get(name)
            assert (parameter.grad is None) == (gradient is None), name
            assert gradient is None or torch.equal(parameter.grad, gradient), name
    assert not [name for name in sys.modules if name.partition(".")[0] == "graphmodel"]
print("equal")
"""


def write_case(module: graphmodel.CompiledModel, file: Path) -> None:
    """Inputs, results in both modes, and gradients."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = {name: 2 * number for name, number in rows_per_sample(module.model_graph).items()}
    case: dict[Any, Any] = {"inputs": list(random_inputs(module, module.model_graph, rows))}
    for mode in (False, True):
        each = copy.deepcopy(module).train(mode)
        torch.manual_seed(0)
        result = each(*case["inputs"])
        values = list(result.values()) if isinstance(result, dict) else list(result)
        case[mode] = [value.detach() for value in values]
        if mode and any(v.requires_grad for v in values):
            sum(v.square().mean() for v in values if v.requires_grad).backward()
            case["gradients"] = {n: p.grad for n, p in each.named_parameters() if p.grad is not None}
    torch.set_num_threads(threads)
    torch.save(case, file)


def run_alone(python: str, directory: Path, file: Path, *options: str) -> str:
    command = [python, "-c", RUN, str(directory), str(file), *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=directory.parent)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


IMAGES = {"images": [3, 64, 64]}
LABEL = {"label": {"mlp": {"dims": ["auto", 5]}}}
TINY_VIT = {
    "name": "vision_transformer", "image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16,
    "mlp_dim": 32, "dropout_rate": 0.1, "drop_path_rate": 0.2,
}  # fmt: skip
PROBES = {f"probe{i}": {"mlp": {"dims": ["auto", 4]}} for i in range(6)}

CASES: dict[str, dict[str, Any]] = {
    "several heads, one of them residual": {
        "inputs": IMAGES,
        "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
        "heads": {**LABEL, "probe": {"eval_mlp": {"in_channels": "auto", "dims": ["auto", 3], "use_residual": True}}},
        "mapping": {"images": {"flatten": "label", "res4": "probe"}},
    },
    "frozen parts, folded": {
        "inputs": {"images": [3, 224, 224]},
        "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
        "freeze": ["trunk.conv1", "trunk.bn1", "trunk.layer1"],
        "heads": LABEL,
    },
    "everything frozen": {
        "inputs": IMAGES,
        "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25, "freeze": True},
    },
    "fused heads": {
        "inputs": IMAGES,
        "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
        "heads": PROBES,
    },
    "checkpointing": {
        "inputs": IMAGES,
        "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
        "checkpoint": 2,
        "heads": LABEL,
    },
    "an own vit": {"inputs": {"images": [3, 40, 40]}, "trunk": TINY_VIT, "heads": LABEL},
    "PIRL": TWO_INPUTS,
    "DINO": {
        "inputs": {"images": [3, 32, 32]},
        "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
        "heads": {"dino": {"dino_head": {"num_clusters": [8], "hidden_dim": 16, "bottleneck_dim": 8}}},
    },
    "SwAV": {
        "inputs": {"crops": {"views": [{"count": 2, "shape": [3, 64, 64]}, {"count": 3, "shape": [3, 32, 32]}]}},
        "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
        "heads": {"swav": {"swav_head": {"dims": ["auto", 16, 8], "use_bn": True, "num_clusters": [7]}}},
    },
    "joined inputs": {
        "inputs": {"images": [3, 32, 32], "others": [3, 32, 32]},
        "trunk": {**TINY_VIT, "dropout_rate": 0.0, "drop_path_rate": 0.0},
        "heads": LABEL,
        "mapping": {"images": {"lastCLS": "label"}, "others": {"lastCLS": "label"}},
        "optimize": {"batch_inputs": True},
    },
    "a list": {"inputs": IMAGES, "trunk": "torchvision:resnet18", "heads": LABEL, "returns": "list"},
    "layers of torch, and inputs that no trunk reads": {
        "inputs": {"tokens": {"shape": [12], "dtype": "int64"}},
        "heads": {
            "head": [
                {"torch.nn:Embedding": {"num_embeddings": 50, "embedding_dim": 16}},
                {"torch.nn:LSTM": {"hidden_size": 8, "batch_first": True}},
            ]
        },
        "mapping": [{"from": "tokens", "head": "head"}],
    },
    "timm": {"inputs": IMAGES, "trunk": "timm:test_resnet", "heads": LABEL},
}

TRUNKS: list[Any] = [
    "torchvision:mobilenet_v3_small",
    "torchvision:regnet_y_400mf",
    "torchvision:convnext_tiny",
    "timm:convnext_atto",
    "timm:efficientnet_b0",
    {"name": "timm:vit_tiny_patch16_224", "img_size": 64},
    {"name": "timm:swin_tiny_patch4_window7_224", "img_size": 64, "window_size": 2},
    "regnet_y_400mf",
    {"name": "alexnet_jigsaw"},
    {"name": "resnet_sk", "depth": 50},
    {"name": "resnet", "depth": 50, "standardize_convolutions": True},
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["several heads, one of them residual", "an own vit"])
def test_the_file_runs_where_graphmodel_cannot_be_imported(name: str, tmp_path: Path) -> None:
    check(CASES[name], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CASES))
def test_every_kind_of_model_runs_alone(name: str, tmp_path: Path) -> None:
    check(CASES[name], tmp_path)


def check(spec: dict[str, Any], tmp_path: Path) -> None:
    module = graphmodel.compile(spec, seed=0)
    graphmodel.save(module, tmp_path / "out", standalone=True)
    write_case(module, tmp_path / "case.pt")
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    assert run_alone(sys.executable, moved, tmp_path / "case.pt") == "equal\n"


@pytest.mark.slow
@pytest.mark.parametrize("trunk", TRUNKS, ids=lambda trunk: trunk if isinstance(trunk, str) else trunk["name"])
def test_every_kind_of_trunk_can_be_written(trunk: Any, tmp_path: Path) -> None:
    """`save` itself compares keys, and numbers in both modes."""
    size = 224 if "alexnet" in str(trunk) else 64
    module = graphmodel.compile({"inputs": {"images": [3, size, size]}, "trunk": trunk}, seed=0)
    graphmodel.save(module, tmp_path / "out", standalone=True)
    assert "import graphmodel" not in (tmp_path / "out" / "model.py").read_text()


@pytest.mark.slow
def test_a_real_environment_without_graphmodel(tmp_path: Path) -> None:
    """A virtual environment that sees this one's packages, except for graphmodel."""
    venv.create(tmp_path / "env", with_pip=False)
    site = next((tmp_path / "env" / "lib").iterdir()) / "site-packages"
    for path in (p for p in sys.path if p.endswith("site-packages")):
        for package in Path(path).iterdir():
            if "graphmodel" not in package.name and package.suffix != ".pth" and not (site / package.name).exists():
                (site / package.name).symlink_to(package)
    module = graphmodel.compile(CASES["an own vit"], seed=0)
    graphmodel.save(module, tmp_path / "out", standalone=True)
    write_case(module, tmp_path / "case.pt")
    python = tmp_path / "env" / "bin" / "python"
    command = [str(python), "-I", "-c", RUN, str(tmp_path / "out"), str(tmp_path / "case.pt"), "--real"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env={}, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout == "equal\n"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[graphmodel.CompiledModel, Path]:
    module = graphmodel.compile({**CASES["fused heads"], "freeze": ["trunk.conv1", "trunk.bn1"]}, seed=0)
    directory = tmp_path_factory.mktemp("alone") / "out"
    graphmodel.save(module, directory, standalone=True)
    return module, directory


def test_wrong_inputs_are_value_errors(alone: tuple[graphmodel.CompiledModel, Path]) -> None:
    made = load_standalone(alone[1])
    with pytest.raises(ValueError, match=r"the input `images` is 2×1×64×64 and the model takes N×3×H×W"):
        made(torch.zeros(2, 1, 64, 64))
    with pytest.raises(ValueError, match="is of type list"):
        made([1, 2])


def test_frozen_parts_stay_frozen_in_copies(alone: tuple[graphmodel.CompiledModel, Path]) -> None:
    made = load_standalone(alone[1])
    for each in (made, copy.deepcopy(made)):
        each.train()
        each.trunk.train()
        assert not each.trunk.bn1.training
        assert each.trunk.layer1[0].bn1.training
        assert not each.trunk.conv1.weight.requires_grad
        assert each.trunk.layer1[0].conv1.weight.requires_grad


def test_the_directory_still_loads_with_graphmodel(alone: tuple[graphmodel.CompiledModel, Path]) -> None:
    module, directory = alone
    again, made = graphmodel.load(directory), load_standalone(directory)
    assert list(again.state_dict()) == list(made.state_dict()) == list(module.state_dict())
    x = torch.randn(2, 3, 64, 64)
    for name, value in again.eval()(x).items():
        assert torch.equal(made.eval()(x)[name], value)


def test_damaged_weights_are_refused(alone: tuple[graphmodel.CompiledModel, Path], tmp_path: Path) -> None:
    (tmp_path / "model.py").write_bytes((alone[1] / "model.py").read_bytes())
    whole = (alone[1] / "weights.safetensors").read_bytes()
    damaged = {"a flipped bit": whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:], "cut off": whole[:-1], "empty": b""}
    for data in damaged.values():
        (tmp_path / "weights.safetensors").write_bytes(data)
        with pytest.raises(ValueError):  # noqa: PT011 (of the file's own format, or of its checksum)
            load_standalone(tmp_path)


def test_weights_of_another_model_are_refused(alone: tuple[graphmodel.CompiledModel, Path], tmp_path: Path) -> None:
    (tmp_path / "model.py").write_bytes((alone[1] / "model.py").read_bytes())
    weights = load_file(alone[1] / "weights.safetensors")
    name = "trunk.bn1.weight"
    others = {
        "unknown": {**weights, "trunk.other": torch.zeros(1)},
        "another shape": {**weights, name: torch.ones(65)},
        "missing": {key: value for key, value in weights.items() if key != name},
    }
    for problem, tensors in others.items():
        save_file(tensors, tmp_path / "weights.safetensors")
        with pytest.raises(ValueError, match=problem):
            load_standalone(tmp_path)


def test_writing_and_checking_leave_the_random_numbers_alone(
    alone: tuple[graphmodel.CompiledModel, Path],
) -> None:
    before = torch.get_rng_state()
    check_standalone(*alone)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_check_finds_other_numbers_and_other_frozen_parts(
    alone: tuple[graphmodel.CompiledModel, Path], tmp_path: Path
) -> None:
    module, directory = alone
    (tmp_path / "weights.safetensors").write_bytes((directory / "weights.safetensors").read_bytes())
    source = (directory / "model.py").read_text()
    edits = {
        "numbers differ in eval mode": ("layer1 = trunk.layer1(maxpool)", "layer1 = trunk.layer1(maxpool) * 1.01"),
        "`requires_grad` of": ("parameter.requires_grad_(False)", "pass"),
        "`trunk.conv1` is in another mode": (
            "modules() if name.startswith(('trunk.conv1', ",
            "modules() if name.startswith((",
        ),
    }
    for problem, (text, other) in edits.items():
        assert text in source
        (tmp_path / "model.py").write_text(source.replace(text, other))
        with pytest.raises(graphmodel.CompileError, match=problem):
            check_standalone(module, tmp_path)


def test_tensors_that_a_hook_computes_cannot_be_written() -> None:
    module = graphmodel.compile(
        {"inputs": IMAGES, "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25}}, seed=0
    )
    torch.nn.utils.weight_norm(module.trunk.conv1)
    with pytest.raises(graphmodel.CompileError, match=r"`trunk\.conv1\.weight` is computed from parameters"):
        standalone(module)


class Twice(nn.Module):
    """A module that is not installed: its code is copied."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3, 1, 1))
        self.table = torch.arange(100.0)
        self.register_buffer("shift", torch.ones(3, 1, 1), persistent=False)
        self.first = nn.Conv2d(3, 4, 3)
        self.second = self.first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return doubled(self.first(x * self.scale + self.shift)).mean((2, 3)) + self.table[3]


def doubled(x: torch.Tensor) -> torch.Tensor:
    return FACTOR * x


FACTOR = 2


def test_classes_of_files_that_are_not_installed_are_copied(tmp_path: Path) -> None:
    module = graphmodel.compile(
        {"inputs": {"images": [3, 32, 32]}, "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25}}, seed=0
    )
    module.trunk.layer1 = nn.Sequential(Twice(), nn.Unflatten(1, (4, 1, 1)), nn.Conv2d(4, 64, 1))
    module.trunk.maxpool = nn.Conv2d(64, 3, 1)
    made = standalone(module)
    assert "class Twice(nn.Module):" in made.source
    assert "def doubled(" in made.source
    assert list(made.constants) == ["trunk.layer1.0.table", "trunk.layer1.0.shift"]


def test_what_cannot_be_written_is_one_diagnostic(tmp_path: Path, run: Run) -> None:  # noqa: F811
    spec = {"inputs": {"images": [3, 32, 32]}, "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25}}
    module = graphmodel.compile(spec, seed=0)

    class Local(nn.ReLU):
        pass

    module.trunk.relu = Local()
    with pytest.raises(graphmodel.CompileError, match="cannot be found by its name") as caught:
        graphmodel.save(module, tmp_path / "out", standalone=True)
    assert [d.code for d in caught.value.diagnostics] == ["GM584"]
    module.trunk.relu = nn.ReLU()
    module.trunk.layer1.register_forward_hook(lambda layer, given, result: result + 1)
    with pytest.raises(graphmodel.CompileError, match="numbers differ in eval mode"):
        graphmodel.save(module, tmp_path / "out", standalone=True)
    with pytest.raises(graphmodel.CompileError, match="needs weights"):
        graphmodel.save(module, tmp_path / "out", standalone=True, weights=False)
    assert not list(tmp_path.iterdir())


def test_the_command_writes_standalone_code(tmp_path: Path, run: Run) -> None:  # noqa: F811
    spec = tmp_path / "spec.yaml"
    spec.write_text("inputs: {images: [3, 32, 32]}\ntrunk: {name: timm:test_resnet}\n")
    run("compile", spec, "-o", tmp_path / "out", "--seed", "3", "--standalone")
    assert load_standalone(tmp_path / "out").eval()(torch.zeros(1, 3, 32, 32))["features"].shape[0] == 1
    result = run("compile", spec, "--standalone", code=2)
    assert "-o DIR" in result.stdout + result.stderr
