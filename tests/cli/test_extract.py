"""`graphmodel extract`."""

from __future__ import annotations

import json

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from graphmodel import FeatureDataset
from graphmodel.cli import app
from graphmodel.cli.extract import storage_options
from tests.extraction.helpers import SPEC, TRUNK, write_images

pytest.importorskip("zarr")


@pytest.fixture
def place(tmp_path):
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(SPEC, sort_keys=False))
    write_images(tmp_path / "images")
    return tmp_path


def call(place, *more, spec="spec.yaml"):
    paths = ("--data", f"{place}/images", "-o", f"{place}/out")
    return CliRunner().invoke(app, ["extract", f"{place}/{spec}", *paths, "--rows", "4", *more])


def test_store_is_written_and_found(place):
    result = call(place)
    assert result.exit_code == 0, result.output
    assert "8 samples" in result.stdout
    assert "flatten  8×512" in result.stdout
    stored = FeatureDataset(place / "out")
    assert stored.outputs == ["res2", "flatten"]
    assert stored.classes == ["cat", "dog"]
    assert "8 found" in call(place).stdout


def test_events_as_json(place, validate_output):
    result = call(place, "--format", "json", "--outputs", "flatten", "--dtype", "float16")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [e["event"] for e in events] == ["progress", "report"]
    assert events[0]["done"] == events[0]["total"] == 8
    assert events[1]["outputs"] == {"flatten": [512]}
    assert events[1]["ok"]
    for line in result.stdout.splitlines():
        validate_output("extract", line)


def test_errors_are_one_line_of_json(place, validate_output):
    """A program that reads events line by line reads errors, too."""
    result = call(place, "--format", "json", "--data", "nowhere")
    (line,) = result.stdout.splitlines()
    validate_output("error", line)
    assert json.loads(line)["diagnostics"][0]["code"] == "GM601"


def test_warnings_are_plain(place):
    Image.new("RGB", (20, 20)).save(place / "images/stray.png")
    result = call(place)
    assert result.exit_code == 0, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"warning: `{place}/images` has directories of images")


def test_frozen_part_of_a_spec_with_heads_and_the_note_of_a_default(place):
    spec = {"inputs": {"images": [3, 16, 16]}, "trunk": TRUNK, "heads": {"a": {"mlp": {"dims": ["auto", 3]}}}}
    (place / "heads.yaml").write_text(yaml.safe_dump(spec))
    result = call(place, "--frozen", spec="heads.yaml")
    assert result.exit_code == 0, result.output
    assert "GM610" in result.stderr
    assert FeatureDataset(place / "out").outputs == ["flatten"]


@pytest.mark.parametrize(
    ("more", "code", "text"),
    [(("--data", "nowhere"), 2, "GM601"), (("--no-weights",), 2, "need weights"), (("--device", "x"), 2, "device")],
)
def test_mistakes(place, more, code, text):
    result = call(place, *more)
    assert result.exit_code == code
    assert text in result.output


@pytest.mark.parametrize("variables", [{"RANK": "first"}, {"WORLD_SIZE": "2.5"}, {"RANK": "2", "WORLD_SIZE": "2"}])
def test_invalid_rank_is_one_diagnostic(place, monkeypatch, variables):
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    result = call(place)
    assert result.exit_code == 2
    assert result.output.count("error[GM620]") == 1


def test_storage_options_of_a_url(place):
    """`memory://` keeps files in this process; its options come as text, as JSON, and nested."""
    import fsspec

    options = ("--storage-options", "asynchronous=true", "--storage-options", '{"a": {"b": 1}}')
    result = call(place, "-o", "memory://features", *options)
    assert result.exit_code == 0, result.output
    assert fsspec.filesystem("memory").exists("/features/zarr.json")
    found = storage_options(["a.b=1", "a.c=x=y", '{"d": [true]}', "e="])
    assert found == {"a": {"b": 1, "c": "x=y"}, "d": [True], "e": ""}
    assert storage_options(None) is None


@pytest.mark.parametrize("wrong", ["key", "=value", "{not json", "a..b=1"])
def test_storage_options_that_are_not_valid(place, wrong):
    result = call(place, "--storage-options", wrong)
    assert result.exit_code == 2
    assert "--storage-options" in result.output


@pytest.mark.parametrize("command", ["extract", "probe", "profile"])
def test_a_device_that_does_not_exist_is_refused_before_anything_is_read(tmp_path, command):
    (tmp_path / "spec.yaml").write_text("inputs: {images: [3, 64, 64]}\ntrunk: resnet\n")
    needed = {
        "extract": ("--data", "nowhere", "-o", "out"),
        "probe": ("--features", "nowhere"),
        "profile": ("--measure",),
    }
    result = CliRunner().invoke(app, [command, "spec.yaml", *needed[command], "--device", "gpu:0"])
    assert result.exit_code == 2, result.output
    assert "--device" in result.output
    assert "Traceback" not in result.output
