"""The names that users rely on; a change here is a change for them."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import graphmodel

PUBLIC = {
    "CompileError",
    "CompiledModel",
    "Diagnostic",
    "Feature",
    "HeadParams",
    "ModelGraph",
    "ModelSpec",
    "Span",
    "TensorInfo",
    "TrunkFamily",
    "build_graph",
    "compile",
    "load_spec",
    "load_weights",
    "register_head",
    "register_trunk",
}


def test_the_promised_names_are_exported():
    assert PUBLIC - set(graphmodel.__all__) == set()


def test_every_exported_name_exists_and_is_documented():
    for name in graphmodel.__all__:
        value = getattr(graphmodel, name)
        assert inspect.getdoc(value), name


def test_all_is_sorted_without_repeats():
    assert list(graphmodel.__all__) == sorted(set(graphmodel.__all__))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        graphmodel.no_such_name  # noqa: B018 (the look-up is the test)


def test_signatures_keep_their_keywords():
    assert list(inspect.signature(graphmodel.load_spec).parameters)[:2] == ["source", "overrides"]
    keywords = inspect.signature(graphmodel.compile).parameters
    assert next(iter(keywords)) == "spec_or_path"
    for name in ("device", "seed", "outputs", "inputs", "overrides"):
        assert keywords[name].kind is inspect.Parameter.KEYWORD_ONLY
    assert "dialect" in inspect.signature(graphmodel.load_weights).parameters


def test_importing_the_package_and_loading_a_spec_imports_no_torch(tmp_path: Path):
    (tmp_path / "spec.yaml").write_text("inputs: {images: [3, 64, 64]}\ntrunk: {name: resnet}\n")
    program = (
        "import sys, graphmodel\n"
        f"graphmodel.load_spec({str(tmp_path / 'spec.yaml')!r})\n"
        "print(sorted({'torch', 'torchvision', 'timm', 'networkx'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_the_package_is_typed():
    assert (Path(graphmodel.__file__).parent / "py.typed").is_file()
