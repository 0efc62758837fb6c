"""`graphmodel compile`: the table, the totals, the files."""

import importlib.util
import json
import os
import re

import pytest
import torch
from safetensors import safe_open

import graphmodel
from tests.reference import NarrowResNet


def load_model_file(directory):
    """The module model.py of a written result."""
    found = importlib.util.spec_from_file_location("written_model", directory / "model.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_table_has_a_row_for_every_stage_with_feature_shape_and_parameters(run, write, small):
    out = run("compile", write(small)).stdout
    layer4 = next(line for line in out.splitlines() if line.startswith("layer4"))
    reference = sum(p.numel() for p in NarrowResNet().layer4.parameters())
    assert layer4.split()[1:4] == ["trunk.layer4", "res5", "N×128×2×2"]
    assert f"{reference / 1e3:.3g} k" in layer4


def test_totals_tell_trained_frozen_and_pruned_parameters(run, write, small):
    small["trunk"]["freeze"] = True
    data = json.loads(run("compile", write(small), "--format", "json").stdout)
    trunk = NarrowResNet()
    whole, classifier = sum(p.numel() for p in trunk.parameters()), sum(p.numel() for p in trunk.fc.parameters())
    assert data["totals"]["parameters"] == {
        "total": whole - classifier + 1290,
        "trained": 1290,
        "frozen": whole - classifier,
        "pruned": classifier,
    }


def test_flops_agree_with_a_count_by_hand(run, write):
    spec = {
        "inputs": {"images": [3, 64, 64]},
        "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
        "heads": {"head": {"mlp": {"dims": ["auto", 10]}}},
        "mapping": {"images": {"conv1": {"pool": {"adaptive_avg_pool2d": 1}, "head": "head"}}},
    }
    data = json.loads(run("compile", write(spec), "--format", "json").stdout)
    convolution = 2 * (7 * 7 * 3) * 16 * 32 * 32
    linear = 2 * 16 * 10
    assert data["totals"]["flops_per_sample"] == convolution + linear


def test_flops_of_views_count_every_view(run, write, small):
    one = json.loads(run("compile", write(small), "--format", "json").stdout)
    small["inputs"] = {"images": {"views": [{"count": 3, "shape": [3, 64, 64]}]}}
    three = json.loads(run("compile", write(small), "--format", "json").stdout)
    assert three["totals"]["flops_per_sample"] == 3 * one["totals"]["flops_per_sample"]


def test_shared_stages_count_their_parameters_once(run, write, two_inputs):
    data = json.loads(run("compile", write(two_inputs), "--format", "json").stdout)
    module = graphmodel.compile(two_inputs, device="meta")
    assert data["totals"]["parameters"]["total"] == sum(p.numel() for p in module.parameters())
    rows = {row["name"]: row for row in data["nodes"]}
    assert rows["images_layer1"]["parameters"] > 0
    assert rows["patches_layer1"]["parameters"] == 0
    assert rows["patches_layer1"]["shared"]


def test_warnings_go_to_stderr_and_the_table_to_stdout(run, write, small):
    small["heads"]["unused"] = "identity"
    small["mapping"] = {"images": {"flatten": "head"}}
    result = run("compile", write(small))
    assert "warning[GM210]" in result.stderr
    assert "GM210" not in result.stdout


def test_set_and_input_change_the_spec(run, write, small):
    data = json.loads(
        run(
            "compile", write(small), "--set", "trunk.depth=34", "--input", "images=2:3x64x64,1:3x32x32",
            "--format", "json",
        ).stdout
    )  # fmt: skip
    assert data["inputs"]["images"] == "[N×3×64×64, N×3×64×64, N×3×32×32]"
    assert data["outputs"] == {"head": "3N×10"}
    assert data["totals"]["parameters"]["total"] > 1_300_000


def test_equal_views_stand_as_one_in_the_table(run, write, small):
    small["inputs"] = {"images": {"views": [{"count": 2, "shape": [3, 64, 64]}, {"shape": [3, 32, 32]}]}}
    assert "[2 of N×3×64×64, N×3×32×32]" in run("compile", write(small)).stdout


def test_overlays_are_merged_in_order(run, write, small):
    base = write(small)
    first = write("trunk: {depth: 34}\n", "first.yaml")
    second = write("heads: {head: {mlp: {dims: [auto, 7]}}}\n", "second.yaml")
    data = json.loads(run("compile", base, first, second, "--format", "json").stdout)
    assert data["outputs"] == {"head": "N×7"}
    assert data["totals"]["parameters"]["total"] > 1_300_000


def test_one_tensor_of_several_outputs_is_refused(run, write, two_inputs):
    result = run("compile", write(two_inputs), "--returns", "tensor", code=1)
    assert "GM501" in result.stderr


def test_weights_are_reported_and_with_an_output_written(run, write, small, tmp_path):
    source = graphmodel.compile(small, seed=11)
    torch.save({"model": source.state_dict()}, tmp_path / "checkpoint.pt")
    path = write(small)
    assert "weights     loaded" in run("compile", path, "--weights", tmp_path / "checkpoint.pt").stdout
    data = json.loads(
        run("compile", path, "--weights", tmp_path / "checkpoint.pt", "-o", tmp_path / "out", "--format", "json").stdout
    )
    assert data["weights"]["missing"] == []
    assert set(data["weights"]["matched"]) == set(source.state_dict())
    module = load_model_file(tmp_path / "out").load()
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), source.parameters(), strict=True))


def test_weights_that_leave_the_trunk_out_are_an_error_unless_partial(run, write, small, tmp_path):
    state = {k: v for k, v in graphmodel.compile(small).state_dict().items() if "layer4" not in k}
    torch.save(state, tmp_path / "checkpoint.pt")
    assert "GM512" in run("compile", write(small), "--weights", tmp_path / "checkpoint.pt", code=1).stderr
    run("compile", write(small), "--weights", tmp_path / "checkpoint.pt", "--partial")


# -- files -------------------------------------------------------------------------------------------------------------


def test_written_files_give_the_same_module_back(run, write, two_inputs, tmp_path):
    spec = write(two_inputs)
    run("compile", spec, "-o", tmp_path / "out", "--seed", 5)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "graph.json",
        "manifest.json",
        "model.py",
        "spec.lock.yaml",
        "weights.safetensors",
    ]
    written = load_model_file(tmp_path / "out")
    module, direct = written.load().eval(), graphmodel.compile(spec, seed=5).eval()
    for name, tensor in direct.state_dict().items():
        assert torch.equal(module.state_dict()[name], tensor), name
    images, patches = torch.randn(2, 3, 64, 64), torch.randn(18, 3, 32, 32)
    with torch.no_grad():
        expected = direct(images, patches)
        for outputs in (module(images, patches), written.forward(module, images, patches)):
            assert outputs.keys() == expected.keys()
            assert all(torch.equal(outputs[k], expected[k]) for k in expected)


def test_the_lock_file_gives_the_same_module_without_the_spec(run, write, two_inputs, tmp_path):
    run("compile", write(two_inputs), "-o", tmp_path / "out", "--no-weights", "--seed", 3)
    locked = graphmodel.compile(tmp_path / "out" / "spec.lock.yaml", seed=3)
    direct = graphmodel.compile(two_inputs, seed=3)
    assert locked.code == direct.code
    assert all(torch.equal(a, b) for a, b in zip(locked.parameters(), direct.parameters(), strict=True))
    assert "auto" not in re.sub(r"#.*", "", (tmp_path / "out" / "spec.lock.yaml").read_text())


def test_no_weights_are_built_or_written_when_not_wanted(run, write, small, tmp_path):
    run("compile", write(small), "-o", tmp_path / "out", "--no-weights")
    assert not (tmp_path / "out" / "weights.safetensors").exists()
    assert load_model_file(tmp_path / "out").load(device="meta", weights=False).trunk.conv1.weight.is_meta


def test_tied_tensors_are_stored_once_and_tied_again(run, tmp_path, write):
    (tmp_path / "tied_heads.py").write_text(
        "import graphmodel\n"
        "from torch import nn\n\n\n"
        "@graphmodel.register_head('tied_test_head')\n"
        "class Tied(nn.Module):\n"
        "    '''Two layers with one weight.'''\n\n"
        "    def __init__(self, in_features: int):\n"
        "        super().__init__()\n"
        "        self.a = nn.Linear(in_features, in_features)\n"
        "        self.b = nn.Linear(in_features, in_features)\n"
        "        self.b.weight = self.a.weight\n\n"
        "    def forward(self, x):\n"
        "        return self.b(self.a(x))\n"
    )
    spec = write({"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18},
                  "heads": {"head": "tied_test_head"}})  # fmt: skip
    old = os.getcwd()
    os.chdir(tmp_path)
    try:
        run("compile", spec, "-o", "out", "--import", "tied_heads")
        with safe_open(tmp_path / "out" / "weights.safetensors", "pt") as file:
            assert len({"heads.head.a.weight", "heads.head.b.weight"} & set(file.keys())) == 1
        module = load_model_file(tmp_path / "out").load()
    finally:
        os.chdir(old)
    assert module.heads.head.a.weight is module.heads.head.b.weight


def test_a_directory_with_other_files_is_refused_and_left_alone(run, write, small, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    result = run("compile", write(small), "-o", tmp_path / "out", code=2)
    assert "GM520" in result.stderr
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_an_earlier_result_is_replaced_as_a_whole(run, write, small, tmp_path):
    run("compile", write(small), "-o", tmp_path / "out")
    run("compile", write(small), "-o", tmp_path / "out", "--no-weights", "--set", "name=second")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "graph.json",
        "manifest.json",
        "model.py",
        "spec.lock.yaml",
    ]
    assert "name: second" in (tmp_path / "out" / "spec.lock.yaml").read_text()


def test_a_lock_file_of_somebody_else_is_not_replaced(run, write, small, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "spec.lock.yaml").write_text("mine: true\n")
    run("compile", write(small), "-o", tmp_path / "out", code=2)
    assert (tmp_path / "out" / "spec.lock.yaml").read_text() == "mine: true\n"


def test_a_wrong_spec_leaves_nothing_behind(run, write, small, tmp_path):
    small["heads"]["head"]["mlp"]["dims"][0] = 5
    run("compile", write(small), "-o", tmp_path / "out", code=1)
    assert [p.name for p in tmp_path.iterdir()] == ["spec.yaml"]


def test_a_failure_while_writing_leaves_the_earlier_result(run, write, small, tmp_path, monkeypatch):
    run("compile", write(small), "-o", tmp_path / "out")
    before = (tmp_path / "out" / "spec.lock.yaml").read_text()

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("graphmodel.artifact._save_weights", fail)
    result = run("compile", write(small), "-o", tmp_path / "out", "--set", "name=second", code=2)
    assert "disk full" in result.stderr
    assert (tmp_path / "out" / "spec.lock.yaml").read_text() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "spec.yaml"]


@pytest.mark.parametrize("place", ["file", "file/below", "a" * 300, "/proc/nothing"])
def test_a_place_that_cannot_be_written_is_a_usage_error(run, write, small, tmp_path, place):
    (tmp_path / "file").write_text("")
    assert "error[GM520]" in run("compile", write(small), "--no-weights", "-o", tmp_path / place, code=2).stderr


def test_files_have_the_usual_permissions(run, write, small, tmp_path):
    run("compile", write(small), "-o", tmp_path / "out")
    mask = os.umask(0)
    os.umask(mask)
    for path in (tmp_path / "out").iterdir():
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_the_report_says_what_optimizations_did(tmp_path, run):
    (tmp_path / "spec.yaml").write_text(
        "inputs: {a: [3, 32, 32], b: [3, 32, 32]}\n"
        "trunk: {name: resnet, depth: 18, freeze: true}\n"
        "mapping: {a: {flatten: null}, b: {flatten: null}}\n"
        "optimize: [batch_inputs]\n"
    )
    result = run("compile", str(tmp_path / "spec.yaml"))
    assert "pass        batch_inputs: 2 passes through `trunk` -> 1 (`a` and `b`)" in result.stdout
