"""The names that users rely on; a change here is a change for them."""

import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import nn

import graphmodel

PUBLIC = {
    "CompileError",
    "CompiledModel",
    "Diagnostic",
    "ExportReport",
    "ExtractReport",
    "Feature",
    "FeatureDataset",
    "FreezeUntil",
    "HeadParams",
    "InferenceModel",
    "LoadReport",
    "ModelGraph",
    "ModelSpec",
    "PipelineSplit",
    "ProbeReport",
    "ProbeResult",
    "Span",
    "TensorInfo",
    "TrunkFamily",
    "build_graph",
    "compile",
    "diff",
    "draw",
    "export",
    "export_weights",
    "extract",
    "fused_cross_entropy",
    "load",
    "load_spec",
    "load_weights",
    "materialise",
    "probe",
    "profile",
    "optimize_for_inference",
    "param_groups",
    "register_head",
    "register_per_sample",
    "register_trunk",
    "save",
    "shard_plan",
    "shard_table",
    "split_frozen",
    "split_pipeline",
    "torch_compile",
    "update_teacher",
}


def test_exactly_the_promised_names_are_exported():
    assert set(graphmodel.__all__) == PUBLIC


def test_every_exported_name_exists_and_is_documented():
    for name in graphmodel.__all__:
        value = getattr(graphmodel, name)
        assert inspect.getdoc(value), name


def test_all_is_sorted_without_repeats():
    assert list(graphmodel.__all__) == sorted(set(graphmodel.__all__))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        graphmodel.no_such_name  # noqa: B018 (the look-up is the test)


def test_no_public_name_is_a_submodule():
    # Importing the submodule would put the module in the place of the function.
    assert PUBLIC.isdisjoint(module.name for module in pkgutil.iter_modules(graphmodel.__path__))


def test_signatures_keep_their_keywords():
    assert list(inspect.signature(graphmodel.load_spec).parameters)[:2] == ["source", "overrides"]
    keywords = inspect.signature(graphmodel.compile).parameters
    assert next(iter(keywords)) == "spec_or_path"
    for name in ("device", "seed", "outputs", "returns", "inputs", "overrides"):
        assert keywords[name].kind is inspect.Parameter.KEYWORD_ONLY
    assert "dialect" in inspect.signature(graphmodel.load_weights).parameters


@pytest.mark.parametrize("form", ["dict", "tuple", "list", "tensor"])
def test_a_result_form_given_as_outputs_is_told_apart(form: str):
    with pytest.raises(graphmodel.CompileError, match=f'write `returns="{form}"`') as caught:
        graphmodel.compile("no such file is read", outputs=form)
    assert [d.code for d in caught.value.diagnostics] == ["GM503"]


def test_a_bare_string_is_not_a_list_of_names(small):
    with pytest.raises(graphmodel.CompileError) as caught:
        graphmodel.compile(small, device="meta", outputs="head")
    assert [d.code for d in caught.value.diagnostics] == ["GM503"]
    model = graphmodel.compile(small, device="meta")
    for arguments in ({"outputs": "head"}, {"inputs": "images"}, {"outputs": [3]}):
        with pytest.raises(graphmodel.CompileError) as caught:
            model.slice(**arguments)
        assert [d.code for d in caught.value.diagnostics] == ["GM503"]


def test_outputs_keep_the_named_outputs_in_their_order(two_inputs):
    both = graphmodel.compile(two_inputs, device="meta", outputs=["jigsaw", "image"])
    assert list(both.model_graph.inputs) == ["images", "patches"], "execution follows the inputs"
    assert list(both.model_graph.structure) == ["jigsaw", "image"]
    one = graphmodel.compile(two_inputs, device="meta", outputs=("image",), returns="tensor")
    assert list(one.model_graph.inputs) == ["images"]
    assert not any("jigsaw" in key for key in one.state_dict())
    with pytest.raises(graphmodel.CompileError, match="did you mean `image`"):
        graphmodel.compile(two_inputs, device="meta", outputs=["imag"])


def test_the_text_of_a_spec_is_not_taken_for_a_path():
    with pytest.raises(graphmodel.CompileError, match="the text of a spec") as caught:
        graphmodel.compile("inputs: {images: [3, 64, 64]}\ntrunk: resnet\n")
    assert [d.code for d in caught.value.diagnostics] == ["GM100"]
    with pytest.raises(graphmodel.CompileError, match="no such file: trunk"):
        graphmodel.compile("trunk")


@pytest.mark.parametrize("given", ["spec.yaml", nn.Linear(2, 2)], ids=["a path", "a module"])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("save", ["out"]),
        ("load_weights", [{}]),
        ("export_weights", ["vissl"]),
        ("export", ["out.pt2"]),
        ("split_frozen", []),
        ("optimize_for_inference", []),
        ("param_groups", []),
        ("update_teacher", [0.9]),
    ],
)
def test_what_takes_a_compiled_model_refuses_others(function: str, arguments: list[object], given: object) -> None:
    options = {"lr": 0.1} if function == "param_groups" else {}
    with pytest.raises(graphmodel.CompileError, match=f"GM590.*`{function}` takes a compiled model.* not "):
        getattr(graphmodel, function)(given, *arguments, **options)


def test_a_seed_that_is_no_number_is_refused(small):
    with pytest.raises(graphmodel.CompileError, match="`seed` takes a whole number, not 'x'"):
        graphmodel.compile(small, seed="x")


def test_a_file_given_as_the_format_of_a_drawing(small):
    with pytest.raises(graphmodel.CompileError, match="write `draw\\(model, 'svg'\\)`"):
        graphmodel.draw(small, "model.svg")


def test_the_class_of_a_module_has_a_name(small):
    model = graphmodel.compile(small, device="meta")
    assert type(model).__qualname__ == type(model).__name__ == "CompiledModel"
    assert isinstance(model, graphmodel.CompiledModel)


def test_save_and_load_give_the_same_module(small, tmp_path):
    import torch

    model = graphmodel.compile(small, seed=3).eval()
    graphmodel.save(model, tmp_path / "out")
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(graphmodel.load(tmp_path / "out").eval()(x)["head"], model(x)["head"])
    fresh = graphmodel.load(tmp_path / "out", weights=False)
    assert all(torch.equal(v, fresh.state_dict()[k]) for k, v in model.state_dict().items())


def test_diff_and_draw_take_specs_graphs_and_modules(small):
    model = graphmodel.compile(small, device="meta")
    graph = graphmodel.build_graph(graphmodel.load_spec(small))
    assert graphmodel.diff(small, model).same
    assert not graphmodel.diff(graph, {**small, "returns": "tuple"}).same
    assert graphmodel.draw(small, "mmd") == graphmodel.draw(model, "mmd") == graphmodel.draw(graph, "mmd")


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


def test_every_public_name_is_on_the_page_with_an_example() -> None:
    """Reports are shown by the functions that return them."""
    page = (Path(graphmodel.__file__).parent.parent / "docs" / "api.md").read_text("utf-8")
    shown = set(re.findall(r"^\.\. auto\w+:: graphmodel\.(\w+)$", page, re.M))
    assert shown == set(graphmodel.__all__)
    without = {name for name in shown if ">>> " not in (getattr(graphmodel, name).__doc__ or "")}
    assert without == {"ExportReport", "ExtractReport", "ProbeReport", "ProbeResult"}


def test_a_graph_is_built_from_everything_that_compile_takes(small: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(small), encoding="utf-8")
    wanted = str(graphmodel.build_graph(graphmodel.load_spec(small)))
    assert str(graphmodel.build_graph(small)) == wanted
    assert str(graphmodel.build_graph(tmp_path / "spec.yaml")).splitlines()[1:] == wanted.splitlines()[1:]
    with pytest.raises(graphmodel.CompileError, match="GM105"):
        graphmodel.build_graph(3)  # type: ignore[arg-type]
