"""The JSON Schemas: valid, as the code says, right about the examples and about typical mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from graphmodel.components.registry import head_names
from graphmodel.schema import SCHEMAS, schema_path, write_schemas
from graphmodel.spec.document import read_file

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*/*.yaml"))
VALIDATORS = {name: jsonschema.Draft202012Validator(make()) for name, make in SCHEMAS.items()}

SOUND: dict[str, Any] = {
    "inputs": {"images": {"shape": [3, 224, 224]}},
    "trunk": {"name": "resnet", "depth": 50},
    "heads": {"a": {"mlp": {"dims": ["auto", 10]}}},
    "mapping": {"images": {"flatten": "a"}},
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_valid_json_schema_2020_12(name: str) -> None:
    schema = SCHEMAS[name]()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)


def test_the_files_are_what_the_code_says(tmp_path: Path) -> None:
    """The schemas as a fresh process writes them: other tests register heads of their own in this one."""
    subprocess.run([sys.executable, "-m", "graphmodel", "schema", "-o", str(tmp_path)], check=True, capture_output=True)
    changed = [
        name
        for name in SCHEMAS
        for file in [f"{name}.schema.json"]
        if (ROOT / "schemas" / file).read_text("utf-8") != (tmp_path / file).read_text("utf-8")
    ]
    assert not changed, "run `python docs/generate.py`"


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_reference_leads_somewhere(name: str) -> None:
    schema = SCHEMAS[name]()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if "$ref" in value:
                assert value["$ref"].removeprefix("#/$defs/") in schema["$defs"], value["$ref"]
            for child in value.values():
                walk(child)
        elif isinstance(value, list):
            for child in value:
                walk(child)

    walk(schema)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_examples_are_valid_and_name_their_schema(path: Path) -> None:
    dialect = path.parent.name if path.parent.name in VALIDATORS else "native"
    first = path.read_text("utf-8").splitlines()[0]
    assert first == f"# yaml-language-server: $schema=../../schemas/{dialect}.schema.json"
    errors = [f"{e.json_path}: {e.message[:200]}" for e in VALIDATORS[dialect].iter_errors(read_file(path).data)]
    assert errors == []


def test_every_head_and_its_parameters_can_be_completed() -> None:
    schema = SCHEMAS["native"]()
    named = schema["$defs"]["Module"]["anyOf"][0]["properties"]
    assert sorted(named) == head_names()
    assert {"dims", "use_bn", "use_relu"} <= schema["$defs"]["MlpParams"]["properties"].keys()
    assert schema["$defs"]["MlpParams"]["additionalProperties"] is False


def change(**parts: Any) -> dict[str, Any]:
    """The sound spec with parts replaced."""
    return {**SOUND, **parts}


@pytest.mark.parametrize(
    "spec",
    [
        SOUND,
        change(trunk="resnet"),
        change(trunk="timm:vit_small_patch16_224") if "timm" in json.dumps(SCHEMAS["native"]()) else SOUND,
        {"extends": "base.yaml", "trunk": {"name": "resnet"}},
        {"extends": ["a.yaml", "b.yaml"]},
        change(heads={"a": [{"mlp": {"dims": ["auto", 10]}}, "identity"]}),
        change(
            mapping={"images": {"res5": {"pool": {"avg_pool2d": {"kernel_size": [6, 6], "stride": 1}}, "head": "a"}}}
        ),
        change(mapping={"images": {"res5": {"pool": {"adaptive_avg_pool2d": 1}, "heads": ["a"]}}}),
        change(mapping=[{"from": ["images.res4", {"from": "images.res5", "flatten": True}], "head": "a", "as": "b"}]),
        change(outputs=[["a"]]),
        change(inputs={"images": [3, 224, 224]}),
    ],
)
def test_sound_specs_are_valid(spec: dict[str, Any]) -> None:
    assert [e.message for e in VALIDATORS["native"].iter_errors(spec)] == []


@pytest.mark.parametrize(
    "spec",
    [
        {"inputs": SOUND["inputs"]},
        change(heds={}),
        change(trunk="renset"),
        change(trunk={"name": "renset"}),
        change(trunk={"name": "resnet", "dept": 50}),
        change(trunk={"name": "resnet", "depth": 49}),
        change(trunk={"name": "resnet", "depth": "50"}),
        change(trunk={"depth": 50}),
        change(trunks={"a": "resnet"}),
        change(heads={"a": {"mpl": {"dims": ["auto", 10]}}}),
        change(heads={"a": {"mlp": {"dims": "wide"}}}),
        change(heads={"a": {"mlp": {"use_bn": True}}}),
        change(heads={"a": {"mlp": {"dims": ["auto", 10], "use_bm": True}}}),
        change(heads={"a": "mlp"}),
        change(heads={"a": {"mlp": {"dims": ["auto", 10]}, "identity": {}}}),
        change(heads={"a": []}),
        change(inputs={"images": {"shap": [3, 224, 224]}}),
        change(inputs={"images": [3, 0, 224]}),
        change(mapping={"images": {"res5": {"pool": {"avgpool": 2}, "head": "a"}}}),
        change(mapping={"images": {"res5": {"head": 3}}}),
        change(mapping=[{"head": "a"}]),
        change(returns="tuples"),
        change(graphmodel=2),
        change(outputs=[3]),
    ],
)
def test_typical_mistakes_are_not_valid(spec: dict[str, Any]) -> None:
    assert not VALIDATORS["native"].is_valid(spec)


VISSL: dict[str, Any] = {
    "TRUNK": {"NAME": "resnet", "RESNETS": {"DEPTH": 50}},
    "HEAD": {"PARAMS": [["mlp", {"dims": [2048, 10]}]]},
}


@pytest.mark.parametrize(
    "spec",
    [
        {"MODEL": VISSL},
        {"config": {"MODEL": VISSL, "DATA": {"NUM_DATALOADER_WORKERS": 5}}},
        {"MODEL": {**VISSL, "HEAD": {"PARAMS": [[["mlp", {"dims": [2048, 10]}]], [["mlp", {"dims": [2048, 4]}]]]}}},
        {"MODEL": {**VISSL, "AMP_PARAMS": {"USE_AMP": True, "AMP_TYPE": "apex"}}},
    ],
)
def test_sound_vissl_files_are_valid(spec: dict[str, Any]) -> None:
    assert [e.message for e in VALIDATORS["vissl"].iter_errors(spec)] == []


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"MODEL": {**VISSL, "TRUNC": {}}},
        {"MODEL": {**VISSL, "TRUNK": {"NAME": "renset"}}},
        {"MODEL": {**VISSL, "TRUNK": {"NAME": "resnet", "RESNETS": {"DEPHT": 50}}}},
        {"MODEL": {**VISSL, "TRUNK": {"NAME": "resnet", "RESNETS": {"DEPTH": "deep"}}}},
        {"MODEL": {**VISSL, "HEAD": {"PARAMS": ["mlp"]}}},
        {"MODEL": {**VISSL, "HEAD": {"PARAMS": [["mpl", {"dims": [2048, 10]}]]}}},
        {"MODEL": {**VISSL, "HEAD": {"PARAMS": [["mlp", {"dims": "wide"}]]}}},
        {"MODEL": {**VISSL, "INPUT_TYPE": "hsv"}},
    ],
)
def test_typical_mistakes_in_vissl_files_are_not_valid(spec: dict[str, Any]) -> None:
    assert not VALIDATORS["vissl"].is_valid(spec)


def test_schema_files_are_found_in_a_checkout_and_in_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert schema_path("native") == ROOT / "schemas" / "native.schema.json"
    package = tmp_path / "graphmodel"
    write_schemas(package / "_schemas")
    monkeypatch.setattr("graphmodel.stored.__file__", str(package / "stored.py"))
    assert schema_path("vissl") == package / "_schemas" / "vissl.schema.json"


def test_a_missing_schema_says_how_to_write_it() -> None:
    with pytest.raises(FileNotFoundError, match=r"docs/generate\.py"):
        schema_path("toml")
