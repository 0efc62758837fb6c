"""The stored catalogue: what the registries say, read without importing torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def in_new_process(program: str, **environment: str) -> str:
    """What a program prints in a process that has registered no head or trunk of its own."""
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env).stdout


@pytest.mark.slow
def test_it_is_what_the_registries_say_and_the_libraries_list() -> None:
    program = (
        "import json, timm, torchvision\n"
        "from graphmodel.cli.catalogue import document\n"
        "from graphmodel.components.library.model_names import library_models\n"
        "models = {'timm': timm.list_models(), 'torchvision': torchvision.models.list_models(module=torchvision.models)}\n"
        "read = {name: list(found) for name, found in library_models().items()}\n"
        "print(json.dumps([document(), models, read]))"
    )
    document, models, read = json.loads(in_new_process(program))
    stored = json.loads((ROOT / "schemas" / "catalogue.json").read_text("utf-8"))
    assert stored == document, "the catalogue has changed: run `python docs/generate.py`"
    assert read == models
    assert len(models["timm"]) > 1000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["heads"], "\nmlp "),
        (["heads", "mlp"], "\ndims "),
        (["heads", "mlp", "--format", "json"], '"name": "dims"'),
        (["trunks"], "\nresnet "),
        (["trunks", "timm:vit_tiny*"], "timm:vit_tiny_patch16_224\n"),
        (["schema", "native"], '"graphmodel\'s native format"'),
        (["schema"], '"vissl": {'),
    ],
    ids=" ".join,
)
def test_lists_and_schemas_import_no_torch(arguments: list[str], says: str) -> None:
    program = (
        "import sys\nfrom graphmodel.cli import app\n"
        f"try: app({arguments!r}, prog_name='graphmodel')\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'timm', 'torchvision', 'networkx'} & set(sys.modules)))"
    )
    *text, imported = in_new_process(program).splitlines()
    assert imported == "[]"
    assert says in "\n".join(["", *text, ""])


def test_tables_fit_the_columns_of_the_terminal() -> None:
    program = (
        "from graphmodel.cli import app\n"
        "for arguments in (['heads'], ['heads', 'mlp'], ['trunks']):\n"
        "    try: app(arguments, prog_name='graphmodel')\n    except SystemExit: pass\n"
    )
    for columns in (60, 100):
        assert max(map(len, in_new_process(program, COLUMNS=str(columns)).splitlines())) <= columns


def test_json_has_typed_values(run) -> None:
    page = json.loads(run("heads", "mlp", "--format", "json").stdout)
    found = {p["name"]: p for p in page["parameters"]}
    assert found["bn_eps"] == {**found["bn_eps"], "type": "number", "required": False, "default": 1e-5}
    assert found["use_bn"]["default"] is False
    assert found["dims"]["required"] is True
