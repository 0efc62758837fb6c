"""`check`, `show`, `explain`, `trunks`, `heads`, `schema`."""

import json
from importlib import import_module

import pytest

import graphmodel
from graphmodel.components.registry import find_trunk
from graphmodel.spec.document import read_text


def test_check_says_fine_and_the_shapes_of_outputs(run, write, two_inputs):
    out = run("check", write(two_inputs)).stdout
    assert "fine" in out
    assert "image N×8, jigsaw N/9×8" in out


def test_check_finds_everything_at_once(run, write, small):
    small["heads"]["other"] = {"mlp": {"dimms": ["auto", 3], "use_bn": 3}}
    small["trunk"]["depht"] = 18
    result = run("check", write(small), code=1)
    assert result.stderr.count("error[") == 4
    assert "did you mean `dims`?" in result.stderr
    assert "did you mean `depth`?" in result.stderr


def test_check_builds_no_weights(run, write, monkeypatch, small):
    import torch

    def no_random_weights(*args, **kwargs):
        raise AssertionError("weights were built")

    # By its module: `graphmodel.lower` also has a function of that name.
    monkeypatch.setattr(import_module("graphmodel.lower.materialise"), "seeded", no_random_weights)
    run("check", write(small))
    assert torch.get_default_device().type == "cpu"


def test_github_annotations_point_at_the_line(run, write):
    path = write("inputs: {images: [3, 64, 64]}\nheds: {}\ntrunk: {name: resnet}\n")
    line = run("check", path, "--format", "github", code=1).stdout
    assert line.startswith(f"::error file={path},line=2,col=1,title=GM201::unknown key `heds` in the spec%0Ahelp: ")


def test_sarif_names_rule_and_place(run, write):
    path = write("inputs: {images: [3, 64, 64]}\nheds: {}\ntrunk: {name: resnet}\n")
    log = json.loads(run("check", path, "--format", "sarif", code=1).stdout)
    result = log["runs"][0]["results"][0]
    assert result["ruleId"] == log["runs"][0]["tool"]["driver"]["rules"][0]["id"] == "GM201"
    place = result["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == str(path)
    assert place["region"] == {"startLine": 2, "startColumn": 1, "endColumn": 5}


def test_sarif_of_a_sound_spec_has_no_results(run, write, small):
    log = json.loads(run("check", write(small), "--format", "sarif").stdout)
    assert log["runs"][0]["results"] == []


# -- show --------------------------------------------------------------------------------------------------------------


def test_show_prints_the_merged_spec(run, write, small):
    base = write(small)
    top = write(f"extends: {base.name}\ntrunk: {{depth: 34}}\n", "top.yaml")
    data = read_text(run("show", top, "--set", "name=other").stdout).data
    assert data == {**small, "trunk": {**small["trunk"], "depth": 34}, "name": "other"}


def test_show_resolved_spells_out_every_default_and_reads_back(run, write, two_inputs):
    text = run("show", write(two_inputs), "--resolved").stdout
    data = read_text(text).data
    assert data["trunk"]["norm"] == "BatchNorm"
    assert data["heads"]["image"]["mlp"]["dims"] == [128, 8]
    assert data["heads"]["jigsaw"][2]["mlp"]["dims"] == [36, 8]
    direct, again = graphmodel.load_spec(two_inputs), graphmodel.load_spec(data)
    assert str(graphmodel.build_graph(again)) == str(graphmodel.build_graph(direct))


def test_show_as_json_is_the_same_data(run, write, small):
    path = write(small)
    assert json.loads(run("show", path, "--resolved", "--format", "json").stdout) == (
        read_text(run("show", path, "--resolved").stdout).data
    )


# -- explain -----------------------------------------------------------------------------------------------------------


def test_explain_prints_the_page_of_a_code(run):
    out = run("explain", "gm102").stdout
    assert out.startswith("GM102: duplicate key")
    assert "depth: 50, depth: 18" in out


def test_explain_knows_every_code(run):
    from graphmodel.diagnostics.codes import CODES

    pages = json.loads(run("explain", *CODES, "--format", "json").stdout)
    assert [p["code"] for p in pages] == list(CODES)


def test_explain_of_an_unknown_code_is_a_usage_error(run):
    assert "GM101" in run("explain", "GM199", code=2).stderr


def test_explain_takes_codes_or_a_spec_and_not_both(run):
    assert "`base.yaml` is not a code" in run("explain", "GM101", "base.yaml", code=2).stderr


@pytest.mark.slow
def test_explain_says_what_runs_how_often_and_what_is_never_built(run, write, two_inputs):
    two_inputs["freeze"] = ["trunk.layer1"]
    path = write(two_inputs)
    out = run("explain", path).stdout
    assert "not built, since no output needs them: fc" in out
    assert "runs 2 times in a forward: conv1" in out
    plan = json.loads(run("explain", path, "--format", "json").stdout)
    assert plan["frozen"] == ["trunk.layer1"]
    assert plan["components"][0]["pruned"] == ["trunk.fc"]
    assert plan["passes"][0] == "prune"


def test_explain_tells_what_each_pass_saved_and_declined(run, write, small):
    path = write({**small, "checkpoint": ["layer1", "relu"]})
    out = run("explain", path).stdout
    assert "of activations per sample" in next(line for line in out.splitlines() if "  checkpoint: " in line)
    assert "declined: not checkpointed: `trunk.relu` changes its input in place" in out
    assert f"(GM409, {path}:" in out
    plan = json.loads(run("explain", path, "--format", "json").stdout)
    (effect,) = (e for e in plan["effects"] if e["name"] == "checkpoint")
    assert (effect["status"], effect["declined"][0]["code"]) == ("changed", "GM409")
    assert effect["saved"] == {"activations": plan["before"]["activations"] - plan["after"]["activations"]}
    assert plan["before"]["trunk_passes"] == plan["after"]["trunk_passes"] == 1
    off = json.loads(run("explain", path, "--set", "optimize=false", "--format", "json").stdout)
    assert {e["name"] for e in off["effects"] if e["status"] == "off"} >= {"merge_calls"}


# -- trunks and heads --------------------------------------------------------------------------------------------------


def test_trunks_lists_every_registered_name(run):
    from graphmodel.components.registry import trunk_names

    rows = json.loads(run("trunks", "--format", "json").stdout)
    assert sorted(n for r in rows for n in (r["name"], *r["aliases"])) == trunk_names()
    assert "resnet" in run("trunks").stdout


def test_a_trunk_shows_features_with_channels_and_strides(run):
    page = json.loads(run("trunks", "resnet", "--set", "depth=18", "--format", "json").stdout)
    features = {f["name"]: (f["channels"], f["stride"]) for f in page["features"]}
    assert features["res2"] == (64, 4)
    assert features["res5"] == (512, 32)
    assert [f["name"] for f in page["features"] if f["default"]] == ["flatten"]
    assert {p["name"]: p["default"] for p in page["parameters"]}["depth"] == 50


def test_a_trunk_can_be_shown_at_another_size(run):
    page = json.loads(run("trunks", "resnet", "--set", "depth=18", "--input", "3x64x96", "--format", "json").stdout)
    assert {f["name"]: f["shape"] for f in page["features"]}["res5"] == "N×512×2×3"


@pytest.mark.slow
def test_every_family_can_be_shown(run):
    for row in json.loads(run("trunks", "--format", "json").stdout):
        # Other tests of this process may have registered trunks of their own.
        ours = type(find_trunk(row["name"])).__module__.startswith("graphmodel.components.trunks")
        if ours and row["models"] is None:
            page = json.loads(run("trunks", row["name"], "--format", "json").stdout)
            assert page["features"] or page["needed"], row["name"]


def test_a_trunk_with_required_parameters_says_which(run):
    page = json.loads(run("trunks", "efficientnet", "--format", "json").stdout)
    assert page["needed"] == "it needs `model_version`"
    assert page["features"] == []
    assert "it needs `model_version`" in run("trunks", "efficientnet").stdout


@pytest.mark.parametrize("args", [["renset"], ["resnet", "--set", "depth=19"], ["resnet", "--set", "dep=18"]])
def test_a_wrong_trunk_is_a_usage_error(run, args):
    result = run("trunks", *args, code=2)
    assert "error[GM2" in result.stderr


def test_a_pattern_lists_the_models_of_a_library(run):
    import timm
    from torchvision.models import list_models

    assert run("trunks", "timm:resnet1*").stdout.split() == [f"timm:{n}" for n in timm.list_models("resnet1*")]
    listed = json.loads(run("trunks", "torchvision:", "--format", "json").stdout)
    assert {n.removeprefix("torchvision:") for n in listed} <= set(list_models())
    assert "torchvision:resnet18" in listed
    assert run("trunks", "resn*").stdout.split() == ["resnet", "resnet_sk"]


def test_a_library_alone_is_no_trunk(run):
    assert "`timm` needs a model" in run("trunks", "timm", code=2).stderr


def test_a_librarys_model_shows_its_features(run):
    page = json.loads(run("trunks", "torchvision:resnet18", "--format", "json").stdout)
    features = {f["name"]: (f["channels"], f["stride"]) for f in page["features"]}
    assert (512, 32) in features.values()


def test_heads_lists_every_registered_name_and_shows_parameters(run):
    from graphmodel.components.registry import head_names

    rows = json.loads(run("heads", "--format", "json").stdout)
    assert sorted(n for r in rows for n in (r["name"], *r["aliases"])) == head_names()
    page = json.loads(run("heads", "mlp", "--format", "json").stdout)
    assert {"name": "dims", "type": "list of integer | auto", "required": True}.items() <= next(
        p for p in page["parameters"] if p["name"] == "dims"
    ).items()
    assert "Dropout (0.5)" in run("heads", "mlp").stdout


def test_an_unknown_head_is_a_usage_error(run):
    assert "did you mean `mlp`?" in run("heads", "mpl", code=2).stderr


# -- schema ------------------------------------------------------------------------------------------------------------


def test_schema_prints_one_or_both_or_writes_files(run, tmp_path):
    both = json.loads(run("schema").stdout)
    assert json.loads(run("schema", "native").stdout) == both["native"]
    run("schema", "-o", tmp_path / "made")
    assert json.loads((tmp_path / "made" / "vissl.schema.json").read_text()) == both["vissl"]
    assert "not a dialect" in run("schema", "toml", code=2).stderr


def test_schemas_that_cannot_be_written_are_a_usage_error(run, tmp_path):
    (tmp_path / "file").write_text("")
    assert "GM520" in run("schema", "-o", tmp_path / "file", "--format", "text", code=2).stderr
