"""`graphmodel probe`."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from typer.testing import CliRunner

from graphmodel.cli import app
from tests.probing.helpers import HEADS, SPEC, extracted, images, model

pytest.importorskip("zarr")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A spec, features of 60 samples of 6 classes, and what is wrong with four other stores."""
    folder = tmp_path_factory.mktemp("probe")
    (folder / "spec.yaml").write_text(yaml.safe_dump(SPEC, sort_keys=False))
    module = model()
    data = images()
    pictures, labels = data.tensors
    extracted(folder / "features", data, module)
    extracted(folder / "unlabelled", torch.utils.data.TensorDataset(pictures[:8]), module)
    extracted(folder / "more", torch.utils.data.TensorDataset(pictures[:8], labels[:8] + 5), module)
    broken = pictures[:8].clone()
    broken[3, 0, 0, 0] = torch.nan
    extracted(folder / "broken", torch.utils.data.TensorDataset(broken, labels[:8]), module)
    return folder


@pytest.fixture
def call(place):
    def run(*more, features="features", spec="spec.yaml"):
        arguments = ["probe", f"{place}/{spec}", "--features", f"{place}/{features}", *more]
        result = CliRunner().invoke(app, arguments)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run


def test_heads_are_printed_by_accuracy_and_written(call, tmp_path):
    result = call("--lr", "0.01", "--lr", "f*=0.1", "--epochs", "8", "-o", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    rows = [line.split()[0] for line in result.stdout.splitlines()[2:] if "%" in line]
    assert rows == [row["name"] for row in found["results"]]
    assert set(rows) == HEADS.keys()
    assert "█" in result.stdout
    assert {row["name"]: row["settings"]["lr"] for row in found["results"]}["fast"] == 0.1
    assert f"wrote {tmp_path / 'out' / 'results.json'}" in result.stdout
    assert call("--epochs", "1", "-o", str(tmp_path / "out")).exit_code == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text())["settings"]["epochs"] == 1


def test_events_as_json(call, validate_output):
    result = call("--format", "json", "--epochs", "2", "--outputs", "fast")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in events] == ["progress", "progress", "report"]
    assert events[-1]["ok"]
    assert events[-1]["best"] == "fast"
    for line in result.stdout.splitlines():
        validate_output("probe", line)


def test_neighbours_of_two_numbers(call):
    result = call("--method", "knn", "-k", "3", "-k", "5")
    assert result.exit_code == 0, result.output
    assert "pre_logits k=3" in result.stdout
    assert "pre_logits k=5" in result.stdout


@pytest.mark.parametrize(
    ("more", "code", "texts"),
    [
        (("--features", "nowhere"), 1, ["GM608", "nowhere"]),
        (("--test", "nowhere"), 1, ["GM608", "nowhere"]),
        (("--epochs", "0", "--batch-size", "0", "--holdout", "1"), 2, ["`epochs`", "`batch_size`", "`holdout`"]),
        (("--lr", "x"), 2, ["--lr", "`x`"]),
        (("--lr", "fats=1", "--weight-decay", "-1"), 2, ["`weight_decay`"]),
        (("--lr", "fats=1"), 2, ["did you mean `fast`?"]),
        (("--outputs", "fats"), 1, ["did you mean `fast`?"]),
        (("--method", "knn", "-k", "100"), 2, ["48 training samples"]),
        (("--no-weights",), 2, ["need weights"]),
        (("--seed", "1"), 1, ["GM611", "with other weights", "--weights"]),
        (("--set", "inputs.images=[3, 64, 64]"), 1, ["GM611", "by another model"]),
        (("--set", 'heads.fast={"torch.nn:Conv2d": {in_channels: 96, out_channels: 6, kernel_size: 1}}', "--set", "mapping.images={res5: fast}"), 1, ["GM615", "spec.yaml"]),
        (("--set", "trunk.freeze=false"), 1, ["GM565"]),
    ],
)  # fmt: skip
def test_mistakes(call, more, code, texts):
    result = call(*more)
    assert result.exit_code == code, result.output
    for text in texts:
        assert text in result.output


def test_everything_wrong_with_two_stores_is_reported_at_once(call, place):
    result = call("--test", f"{place}/more", "--seed", "1", features="broken")
    assert result.exit_code == 1
    for text in ("GM611", "gives 6 logits", "11 classes", "GM613", "not finite for 1 sample", ": 3"):
        assert text in result.output, text
    assert "no labels" in call(features="unlabelled").output


def test_directory_with_other_files_is_refused_before_training(call, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    result = call("-o", str(tmp_path))
    assert result.exit_code == 2
    assert "mine.txt" in result.output
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_results_that_cannot_be_written_leave_the_old_ones(call, tmp_path, monkeypatch):
    call("--epochs", "1", "-o", str(tmp_path / "out"))
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("graphmodel.probing.results.save_file", full)
    result = call("--epochs", "2", "-o", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert "No space left" in result.output
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
