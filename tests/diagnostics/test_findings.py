"""Every kind of bad input gets one clear diagnostic at the place, through the real command line, and no traceback."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

import graphmodel
from graphmodel import CompileError, Diagnostic, Span
from graphmodel.cli import app

ROOT = "inputs: {images: [3, 64, 64]}\ntrunk: {name: resnet, depth: 18}\n"
HEAD = "heads: {h: {mlp: {dims: [auto, 10]}}}\n"
VISSL = "MODEL:\n  TRUNK: {NAME: resnet, RESNETS: {DEPTH: 18}}\n"


@dataclass(frozen=True)
class Bad:
    """A broken spec: its text, the code it gets, where, and words of the answer."""

    name: str
    text: str | bytes
    code: str
    line: int
    column: int
    says: tuple[str, ...] = ()


TABLE = [
    # -- YAML ---------------------------------------------------------------------------------------------------------
    Bad("empty file", "", "GM105", 1, 1, ("empty", "graphmodel examples")),
    Bad("only a comment", "# nothing\n", "GM105", 1, 1, ("empty",)),
    Bad("two documents", f"{ROOT}---\ntrunk: resnet\n", "GM105", 4, 1, ("more than one",)),
    Bad("a list", "- trunk: resnet\n", "GM105", 1, 1, ("not a list",)),
    Bad("a word", "resnet\n", "GM105", 1, 1, ("not text",)),
    Bad("open bracket", f"{ROOT}heads: {{a: [1\n", "GM101", 3, 12),
    Bad("open quote", f"{ROOT}name: 'x\n", "GM101", 3, 7),
    Bad("tab", "trunk:\n\tname: resnet\n", "GM101", 2, 1, ("tab",)),
    Bad("missing colon", "trunk\n  name: resnet\n", "GM101", 1, 1, ("`trunk:`",)),
    Bad("unknown alias", "trunk: *resnet\n", "GM101", 1, 8, ("anchor",)),
    Bad("null byte", b"trunk: res\0net\n", "GM101", 1, 11, ("not allowed",)),
    Bad("control character", b"trunk: res\x07net\n", "GM101", 1, 11, ("not allowed",)),
    Bad("latin-1", b"name: caf\xe9\ntrunk: resnet\n", "GM101", 1, 1, ("UTF-8",)),
    Bad("utf-16", "trunk: resnet\n".encode("utf-16"), "GM101", 1, 1, ("UTF-8",)),
    Bad("deep flow nesting", "a: " + "[" * 5000 + "]" * 5000 + "\n", "GM104", 1, 103, ("deep",)),
    Bad("unclosed deep nesting", "[" * 100_000, "GM104", 1, 101, ("deep",)),
    Bad("deep block nesting", "".join(f"{' ' * i}a:\n" for i in range(300)), "GM104", 101, 101, ("deep",)),
    Bad(
        "alias bomb",
        "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{n}: &{n} [{','.join([f'*{p}'] * 10)}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)),
        "GM103",
        1,
        24,
        ("200000 values",),
    ),
    Bad("value in itself", "trunk: &t {name: resnet, again: *t}\n", "GM103", 1, 8, ("contains itself",)),
    Bad("over-large file", b"# " + b"x" * (4 * 1024 * 1024) + b"\n", "GM104", 1, 1, ("4 MB",)),
    Bad("repeated key", f"{ROOT}trunk: {{name: resnet}}\n", "GM102", 3, 1, ("line 2, column 1",)),
    Bad("repeated key in flow", "inputs: {images: [3, 64, 64]}\ntrunk: {name: resnet, depth: 18, depth: 50}\n", "GM102", 2, 34),
    Bad("key that is a list", "trunk: {name: resnet, [a, b]: 1}\n", "GM106", 1, 23),
    Bad("empty key", "trunk: {name: resnet, : 1}\n", "GM101", 1, 23),
    Bad("tag that names code", "trunk: !!python/object/apply:os.system [ls]\n", "GM106", 1, 8),
    Bad("unknown tag", "trunk: !resnet {}\n", "GM106", 1, 8),
    # -- extends ------------------------------------------------------------------------------------------------------
    Bad("extends itself", "extends: spec.yaml\ntrunk: resnet\n", "GM107", 1, 10, ("cycle",)),
    Bad("extends nothing", "extends: base.yaml\ntrunk: resnet\n", "GM107", 1, 10, ("does not exist",)),
    Bad("extends a directory", "extends: .\ntrunk: resnet\n", "GM107", 1, 10),
    Bad("extends a number", "extends: [3]\ntrunk: resnet\n", "GM107", 1, 11),
    # -- keys and values ----------------------------------------------------------------------------------------------
    Bad("unknown key", f"{ROOT}heds: {{}}\n", "GM201", 3, 1, ("did you mean `heads`?",)),
    Bad("unknown key of an input", "inputs: {images: {shap: [3, 64, 64]}}\ntrunk: resnet\n", "GM201", 1, 19, ("`shape`",)),
    Bad("keys of two formats", "MODEL: {TRUNK: {NAME: resnet}}\ntrunk: resnet\n", "GM110", 2, 1, ("`trunk`", "MODEL")),
    Bad("counts for views", "inputs: {images: {views: [2]}}\ntrunk: resnet\n", "GM202", 1, 27, ("takes a mapping, not 2", "{count: 2, shape: [3, 224, 224]}")),
    Bad("a shape as text", "inputs: {images: {shape: 3x224x224}}\ntrunk: resnet\n", "GM202", 1, 26, ("is text, not a shape", "`[3, 224, 224]`")),
    Bad("a shape with the batch", "inputs: {images: [32, 3, 64, 64]}\ntrunk: resnet\n", "GM305", 1, 10, ("without the batch: `[3, 64, 64]`",)),
    Bad("a shape with the channels last", "inputs: {images: [64, 64, 3]}\ntrunk: resnet\n", "GM305", 1, 10, ("channels first: `[3, 64, 64]`",)),
    Bad("a shape of one number", "inputs: {images: [224]}\ntrunk: resnet\n", "GM305", 1, 10, ("`[3, 224, 224]`",)),
    Bad("a misspelled name of a trunk", "inputs: {images: [3, 64, 64]}\ntrunk: {nam: resnet}\n", "GM202", 2, 8, ("did you mean `name`?",)),
    Bad("a missing colon", "inputs: {images: [3, 64, 64]}\ntrunk\n  name: resnet\n", "GM101", 2, 1, ("`trunk:`",)),
    Bad("a model of timm without its library", "inputs: {images: [3, 64, 64]}\ntrunk: vit_small_patch16_224\n", "GM205", 2, 8, ("write `timm:vit_small_patch16_224`",)),
    Bad("a model of two libraries", "inputs: {images: [3, 64, 64]}\ntrunk: convnext_tiny\n", "GM205", 2, 8, ("`timm:convnext_tiny` or `torchvision:convnext_tiny`",)),
    Bad("a list for the inputs", "inputs: [images]\ntrunk: resnet\n", "GM202", 1, 9, ("takes a mapping, not a list",)),
    Bad("number that is a key", f"{ROOT}3: 4\n", "GM201", 3, 1, ("`3`",)),
    Bad("unknown parameter of a trunk", "inputs: {images: [3, 64, 64]}\ntrunk: {name: resnet, dept: 18}\n", "GM201", 2, 23, ("`depth`",)),
    Bad("unknown parameter of a head", f"{ROOT}heads: {{h: {{mlp: {{dims: [auto, 10], use_bm: true}}}}}}\n", "GM201", 3, 37, ("`use_bn`",)),
    Bad("text for a list", f"{ROOT}heads: {{h: {{mlp: {{dims: wide}}}}}}\n", "GM202", 3, 25),
    Bad("a width that is neither a size nor auto", f"{ROOT}heads: {{h: {{mlp: {{dims: [auto, -1]}}}}}}\n", "GM202", 3, 32, ("`heads.h.mlp.dims[1]` should be greater than 0", "`auto`")),
    Bad("a bare head without its parameters", f"{ROOT}heads: {{h: mlp}}\n", "GM203", 3, 9, ("`dims`",)),
    Bad("text for a number", "inputs: {images: [3, 64, 64]}\ntrunk: {name: resnet, depth: deep}\n", "GM202", 2, 30),
    Bad("a number in quotes", "inputs: {images: [3, 64, 64]}\ntrunk: {name: resnet, depth: '18'}\n", "GM202", 2, 30, ("not the text '18'", "without quotes")),
    Bad("a number near another", "inputs: {images: [3, 64, 64]}\ntrunk: {name: resnet, depth: 20}\n", "GM202", 2, 30, ("one of: 18, 34",)),
    Bad("a type near two", "inputs: {images: {shape: [3, 64, 64], dtype: float}}\ntrunk: {name: resnet, depth: 18}\n", "GM202", 1, 46, ("did you mean `float32`?",)),
    Bad("a file for a mapping", f"{ROOT}weights: model.pth\n", "GM202", 3, 10, ("`{file: checkpoint.pth}`",)),
    Bad("the pooling near several", f"{ROOT}{HEAD}mapping: {{images: {{res5: {{pool: avgpool, head: h}}}}}}\n", "GM202", 4, 33, ("did you mean `avg_pool2d`?",)),
    Bad("parts of a trunk in it", "inputs: {images: [3, 64, 64]}\ntrunk: {name: resnet, freeze: [layer1]}\n", "GM202", 2, 31, ("true or false, not a list", "`freeze: [trunk.layer1]`")),
    Bad("two heads in one entry", f"{ROOT}{HEAD}mapping: [{{from: images, head: [h, h]}}]\n", "GM202", 4, 32, ("text, not a list", "one entry for each head")),
    Bad("heads of one entry", f"{ROOT}{HEAD}mapping: [{{from: images, heads: [h]}}]\n", "GM201", 4, 26, ("one entry for each head",)),
    Bad("layers of the wrong head", f"{ROOT}heads: {{h: {{torch.nn:Linear: {{}}}}, g: {{linear: {{out_features: 3, dims: [3]}}}}}}\nmapping: {{images: {{flatten: g}}}}\n", "GM201", 3, 65, ("`mlp` takes `dims`",)),
    Bad("fraction for a size", "inputs: {images: [3, 64.5, 64]}\ntrunk: resnet\n", "GM202", 1, 22),
    Bad("negative size", "inputs: {images: [3, -64, 64]}\ntrunk: resnet\n", "GM202", 1, 22),
    Bad("no sizes", "inputs: {images: []}\ntrunk: resnet\n", "GM301", 1, 10, ("no dimensions beside the batch",)),
    Bad("a list for a mapping", f"{ROOT}heads: [mlp]\n", "GM202", 3, 8, ("without dashes",)),
    Bad("a list for a trunk", "inputs: {images: [3, 64, 64]}\ntrunk: [resnet]\n", "GM202", 2, 8),
    Bad("nothing for a trunk", "inputs: {images: [3, 64, 64]}\ntrunk:\n", "GM202", 1, 1, ("trunk",)),
    Bad("choice that is none", f"{ROOT}returns: tuples\n", "GM202", 3, 10, ("did you mean `tuple`?",)),
    Bad("missing parameter", f"{ROOT}heads: {{h: {{mlp: {{use_bn: true}}}}}}\n", "GM203", 3, 13, ("`dims`",)),
    Bad("another version of the format", f"graphmodel: 2\n{ROOT}", "GM202", 1, 13),
    Bad("two forms of input", "inputs: {images: {shape: [3, 64, 64], views: [{shape: [3, 64, 64]}]}}\ntrunk: resnet\n", "GM202", 1, 18, ("both",)),
    Bad("both trunk and trunks", f"{ROOT}trunks: {{a: resnet}}\n", "GM202", 1, 1, ("both",)),
    # -- names --------------------------------------------------------------------------------------------------------
    Bad("reserved head", f"{ROOT}heads: {{type: {{mlp: {{dims: [auto, 10]}}}}}}\n", "GM204", 3, 9, ("reserved",)),
    Bad("keyword as head", f"{ROOT}heads: {{class: {{mlp: {{dims: [auto, 10]}}}}}}\n", "GM204", 3, 9, ("keyword",)),
    Bad("reserved input", "inputs: {self: [3, 64, 64]}\ntrunk: {name: resnet, depth: 18}\n", "GM204", 1, 10),
    Bad("input that is no identifier", "inputs: {img-1: [3, 64, 64]}\ntrunk: {name: resnet, depth: 18}\n", "GM204", 1, 10, ("`img_1`",)),
    Bad("reserved output", f"{ROOT}{HEAD}mapping: [{{from: images, head: h, as: forward}}]\n", "GM204", 4, 11),
    Bad("unknown trunk", "inputs: {images: [3, 64, 64]}\ntrunk: {name: renset}\n", "GM205", 2, 15, ("did you mean `resnet`?",)),
    Bad("unknown trunk of several", f"inputs: {{images: [3, 64, 64]}}\ntrunks: {{a: resnet, b: resnet}}\n{HEAD}mapping: {{images: {{c.res5: h}}}}\n", "GM205", 4, 20, ("`c`",)),
    Bad("unknown head module", f"{ROOT}heads: {{h: {{mpl: {{dims: [auto, 10]}}}}}}\n", "GM206", 3, 13, ("did you mean `mlp`?",)),
    Bad("unknown head", f"{ROOT}{HEAD}mapping: {{images: {{res5: hh}}}}\n", "GM206", 4, 26, ("did you mean `h`?",)),
    Bad("unknown input", f"{ROOT}{HEAD}mapping: {{image: {{res5: h}}}}\n", "GM207", 4, 11, ("did you mean `images`?",)),
    Bad("unknown input in the long form", f"{ROOT}{HEAD}mapping: [{{from: imgs.res5, head: h}}]\n", "GM207", 4, 18),
    Bad("unknown companion", "inputs: {images: {shape: [3, 64, 64], with: [mask]}}\ntrunk: {name: resnet, depth: 18}\n", "GM207", 1, 46),
    Bad("unknown feature", f"{ROOT}{HEAD}mapping: {{images: {{res6: h}}}}\n", "GM213", 4, 20, ("did you mean `res5`?",)),
    Bad("unknown output", f"{ROOT}{HEAD}outputs: [g]\n", "GM209", 4, 11),
    Bad("two outputs of one name", f"{ROOT}{HEAD}mapping: [{{from: images, head: h, as: a}}, {{from: images, head: h, as: a}}]\n", "GM209", 4, 43),
    Bad("no mapping for two inputs", f"inputs: {{a: [3, 64, 64], b: [3, 64, 64]}}\ntrunk: {{name: resnet, depth: 18}}\n{HEAD}", "GM208", 1, 1),
    Bad("freeze pattern that covers nothing", f"{ROOT}freeze: [trunk.layer7]\n", "GM211", 3, 10, ("did you mean `trunk.layer",)),
    Bad("code to import", "inputs: {images: [3, 64, 64]}\ntrunk: {module: 'os:system'}\n", "GM212", 2, 17, ("allow",)),
    Bad("unknown pooling", f"{ROOT}{HEAD}mapping: {{images: {{res5: {{pool: {{avgpool2d: 2}}, head: h}}}}}}\n", "GM202", 4, 34, ("`avg_pool2d`",)),
    # -- wiring and shapes --------------------------------------------------------------------------------------------
    Bad("no inputs", "trunk: {name: resnet, depth: 18}\n", "GM301", 1, 1, ("add `images: {shape: [3, 224, 224]}`",)),
    Bad("missing shape", f"trunk: {{name: resnet, depth: 18}}\n{HEAD}mapping: {{images: {{flatten: h}}}}\n", "GM301", 3, 11, ("--input images=3x224x224",)),
    Bad("input that a declared shape lacks", "inputs: {images: }\ntrunk: {name: resnet, depth: 18}\n", "GM301", 1, 10),
    Bad("head of another width", f"{ROOT}heads: {{h: {{mlp: {{dims: [2048, 10]}}}}}}\n", "GM304", 3, 26, ("wants 2048", "has 512", "`images.flatten`", "N×512")),
    Bad("head of another width in a chain", f"{ROOT}heads:\n  h:\n    - mlp: {{dims: [auto, 100]}}\n    - mlp: {{dims: [99, 10]}}\n", "GM304", 6, 20, ("wants 99", "has 100")),
    Bad("vector wanted, map given", f"{ROOT}{HEAD}mapping: {{images: {{res5: h}}}}\n", "GM304", 3, 18, ("N×512×2×2", "pool")),
    Bad("channels of the input", "inputs: {images: [4, 64, 64]}\ntrunk: {name: resnet, depth: 18}\n", "GM305", 1, 10, ("4×64×64", "in_chans: 4")),
    Bad("pooling larger than the map", f"{ROOT}{HEAD}mapping: {{images: {{res5: {{pool: {{avg_pool2d: 9}}, head: h}}}}}}\n", "GM306", 4, 33, ("N×512×2×2",)),
    Bad("one head for two widths", f"{ROOT}heads: {{h: identity, g: {{mlp: {{dims: [auto, 3]}}}}}}\nmapping: [{{from: images.flatten, head: g, as: a}}, {{from: images.res4, pool: {{adaptive_avg_pool2d: 1}}, head: g, as: b}}]\n", "GM304", 4, 51, ("shared",)),
    Bad("features that do not join", f"{ROOT}{HEAD}mapping: [{{from: [images.res4, images.res5], head: h}}]\n", "GM306", 4, 11),
    Bad("one tensor of two", f"{ROOT}mapping: {{images: {{res4: , res5: }}}}\nreturns: tensor\n", "GM501", 4, 10),
    # -- VISSL --------------------------------------------------------------------------------------------------------
    Bad("VISSL: unknown key", "MODEL:\n  TRUNC: {NAME: resnet}\n  HEAD: {PARAMS: [['mlp', {'dims': [2048, 10]}]]}\n", "GM201", 2, 3, ("did you mean `TRUNK`?",)),
    Bad("VISSL: wrong type", "MODEL:\n  TRUNK: {NAME: resnet, RESNETS: {DEPTH: deep}}\n  HEAD: {PARAMS: [['mlp', {'dims': [512, 10]}]]}\n", "GM202", 2, 42),
    Bad("VISSL: unknown trunk", "MODEL:\n  TRUNK: {NAME: renset}\n  HEAD: {PARAMS: [['mlp', {'dims': [512, 10]}]]}\n", "GM205", 2, 17, ("`resnet`",)),
    Bad("VISSL: unknown head", f"{VISSL}  HEAD: {{PARAMS: [['mpl', {{'dims': [512, 10]}}]]}}\n", "GM206", 3, 20, ("`mlp`",)),
    Bad("VISSL: head count against feature count", f"{VISSL}  FEATURE_EVAL_SETTINGS:\n    EVAL_MODE_ON: true\n    FREEZE_TRUNK_ONLY: true\n    LINEAR_EVAL_FEAT_POOL_OPS_MAP: [['res4', ['AvgPool2d', [[4, 4], 1, 0]]], ['res5', ['AvgPool2d', [[2, 2], 1, 0]]], ['res5avg', ['Identity', []]]]\n  HEAD: {{PARAMS: [['eval_mlp', {{'in_channels': 256, 'dims': [256, 10]}}], ['eval_mlp', {{'in_channels': 512, 'dims': [512, 10]}}]]}}\n", "GM225", 7, 18, ("2 heads", "3 features")),
    Bad("VISSL: dimension mismatch", f"{VISSL}  HEAD: {{PARAMS: [['mlp', {{'dims': [2048, 10]}}]]}}\n", "GM304", 3, 37, ("wants 2048", "has 512")),
    Bad("VISSL: unknown feature", f"{VISSL}  MULTI_INPUT_HEAD_MAPPING: [['images', ['res6']]]\n  HEAD: {{PARAMS: [['mlp', {{'dims': [512, 10]}}]]}}\n", "GM213", 3, 42, ("res5",)),
    Bad("VISSL: no head", VISSL, "GM222", 2, 3),
    Bad("VISSL: a head of another form", f"{VISSL}  HEAD: {{PARAMS: ['mlp']}}\n", "GM223", 3, 18),
    Bad("VISSL: repeated key", f"{VISSL}  TRUNK: {{NAME: resnet}}\n  HEAD: {{PARAMS: [['mlp', {{'dims': [512, 10]}}]]}}\n", "GM102", 3, 3),
    Bad("VISSL: MODEL is not a mapping", "MODEL: resnet\n", "GM202", 1, 8),
    Bad("VISSL: Detectron2", "MODEL: {META_ARCHITECTURE: GeneralizedRCNN}\n", "GM221", 1, 1),
]  # fmt: skip


def check(*args: object, code: int) -> list[dict[str, object]]:
    """The diagnostics of `graphmodel check`, after the text form was looked at too."""
    result = CliRunner().invoke(app, ["check", *map(str, args)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    assert "pydantic" not in result.stderr.lower()
    found = json.loads(CliRunner().invoke(app, ["check", *map(str, args), "--format", "json"]).stdout)
    diagnostics: list[dict[str, object]] = found["diagnostics"]
    return diagnostics


@pytest.mark.parametrize("bad", TABLE, ids=lambda b: b.name)
def test_a_broken_spec_gets_one_diagnostic_at_its_place(bad: Bad, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_bytes(bad.text if isinstance(bad.text, bytes) else bad.text.encode())
    found = [d for d in check(path, code=1) if d["severity"] == "error"]
    assert [(d["code"], d["line"], d["column"]) for d in found] == [(bad.code, bad.line, bad.column)], found
    for word in bad.says:
        assert word in f"{found[0]['message']} {found[0]['help']}"


def test_the_text_form_shows_the_line_a_caret_and_help(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(f"{ROOT}heds: {{}}\n")
    result = CliRunner().invoke(app, ["check", str(path)])
    assert result.stderr.splitlines()[:5] == [
        "error[GM201]: unknown key `heds` in the spec",
        f"  --> {path}:3:1",
        "   |",
        " 3 | heds: {}",
        "   | ^^^^",
    ]
    assert result.stderr.splitlines()[5].startswith("  help: did you mean `heads`?")


def test_all_mistakes_are_reported_at_once_in_source_order(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(
        "inputs: {images: [3, 64, -64]}\ntrunk: {name: resnet, freeze: perhaps}\nheds: {}\nreturns: list_of\n"
    )
    assert [(d["code"], d["line"]) for d in check(path, code=1)] == [
        ("GM202", 1), ("GM202", 2), ("GM201", 3), ("GM202", 4),
    ]  # fmt: skip


# -- what is shown ----------------------------------------------------------------------------------------------------

HOSTILE = {
    "escape": "\x1b[2J",
    "c1": "\x9b31m",
    "right to left": "\u202e",
    "isolate": "\u2066",
    "line separator": "\u2028",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("form", ["text", "json", "github", "sarif"])
def test_names_and_source_lines_never_reach_the_terminal_raw(text: str, form: str, tmp_path: Path) -> None:
    escape = text.encode("unicode_escape").decode()
    path = tmp_path / "spec.yaml"
    # As an escape in a quoted key, and as the character itself: where YAML allows it, it is part of the quoted line.
    for key in (f'"he{escape}ds"', f"he{text}ds"):
        path.write_text(f"{ROOT}{key}: {{}}\n")
        result = CliRunner().invoke(app, ["check", str(path), "--format", form])
        assert result.exit_code == 1
        shown = result.output + result.stderr
        assert all(c.isprintable() or c == "\n" for c in shown)
        if key.startswith('"'):
            assert (escape if form in ("text", "github") else escape.replace("\\x", "\\u00")) in shown


def test_the_caret_points_behind_what_is_escaped() -> None:
    span = Span("a.yaml", 1, 3, 2, "\x1b\u202exy z")
    shown, caret = Diagnostic("GM101", "wrong", span).render().splitlines()[3:5]
    assert shown == r" 1 | \x1b\u202exy z"
    assert caret == "   | " + " " * len(r"\x1b\u202e") + "^^"


def test_at_most_a_hundred_findings_are_shown_and_the_rest_counted(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(ROOT + "".join(f"key{i}: 1\n" for i in range(250)))
    result = CliRunner().invoke(app, ["check", str(path)])
    assert result.stderr.count("error[GM201]") == 100
    assert result.stderr.endswith("… and 150 more findings\n")
    found = json.loads(CliRunner().invoke(app, ["check", str(path), "--format", "json"]).stdout)
    assert len(found["diagnostics"]) == 100
    assert found["omitted"] == 150
    with pytest.raises(CompileError) as caught:
        graphmodel.load_spec(path)
    assert (len(caught.value.diagnostics), caught.value.omitted) == (100, 150)


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_directory_instead_of_a_file(tmp_path: Path) -> None:
    assert [d["code"] for d in check(tmp_path, code=2)] == ["GM100"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert [d["code"] for d in check(tmp_path / "no.yaml", code=2)] == ["GM100"]
    (tmp_path / "pirl.yaml").write_text(ROOT)
    [found] = check(tmp_path / "pril.yaml", code=2)
    assert found["help"] == "did you mean `pirl.yaml`?"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(ROOT)
    path.chmod(0)
    assert [d["code"] for d in check(path, code=2)] == ["GM100"]


@pytest.mark.parametrize("name", ["/dev/null", "spec\n.yaml", "ü.yaml", "a" * 300, "nul\0l.yaml"])
def test_odd_paths(name: str) -> None:
    result = CliRunner().invoke(app, ["check", name])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.exit_code in (1, 2)
    assert "error[GM10" in result.stderr


def test_a_long_cycle_of_extends_names_the_files(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "c"), ("c", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"extends: {other}.yaml\n{ROOT}")
    found = check(tmp_path / "a.yaml", code=1)
    assert [(d["code"], Path(str(d["file"])).name, d["line"]) for d in found] == [("GM107", "c.yaml", 1)]
    assert "a.yaml -> b.yaml -> c.yaml -> a.yaml" in str(found[0]["message"])


def test_a_mistake_in_an_overlay_points_at_the_overlay(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(ROOT + HEAD)
    (tmp_path / "top.yaml").write_text("trunk:\n  depht: 34\n")
    found = check(tmp_path / "base.yaml", tmp_path / "top.yaml", code=1)
    assert [(d["code"], Path(str(d["file"])).name, d["line"], d["column"]) for d in found] == [
        ("GM201", "top.yaml", 2, 3)
    ]


# -- --set and --input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "item",
    ["trunk.depth", "=3", "trunk..depth=3", "trunk.depth=[1", "trunk.name.x=3", "inputs.images[9]=3", "", ".=1", "trunk.depth=&a [*a]"],
)  # fmt: skip
def test_nonsense_overrides_are_usage_errors(item: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(ROOT)
    found = check(path, "--set", item, code=2)
    assert [d["code"] for d in found] == ["GM108"]
    assert found[0]["file"] == "<--set>"


@pytest.mark.parametrize(
    ("item", "code"),
    [("trunk.dep=18", "GM201"), ("trunk.depth=19", "GM202"), ("trunk.depth=", "GM202"), ("trunk=null", "GM202"), ("trunk.name=renset", "GM205"), ("x.y.z=1", "GM201"), ("name.x=3", "GM202")],
)  # fmt: skip
def test_an_override_that_makes_the_spec_wrong_is_pointed_at(item: str, code: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(ROOT)
    found = check(path, "--set", item, code=1)
    assert [d["code"] for d in found] == [code]
    if item != "trunk=null":
        assert found[0]["file"] == "<--set>"


def test_a_shape_for_an_input_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(ROOT)
    found = check(path, "--input", "imges=3x64x64", code=1)
    assert [d["code"] for d in found] == ["GM207"]
    assert "did you mean `images`?" in str(found[0]["help"])


def test_a_shape_with_commas(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(ROOT)
    result = CliRunner().invoke(app, ["check", str(path), "--input", "images=3,64,64"])
    assert result.exit_code == 2
    assert "write images=3x64x64" in " ".join(result.stderr.split())
