"""Typical mistakes of a first hour: what each prints, in essential parts. No other error is printed beside it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import graphmodel
from graphmodel.diagnostics import CompileError

IN, T = "inputs: {images: [3, 64, 64]}\n", "trunk: {name: resnet, depth: 18}\n"
H = "heads: {label: {mlp: {dims: [auto, 10]}}}\n"
SPEC = IN + T + H
MODEL = "MODEL:\n  TRUNK: {NAME: resnet, RESNETS: {DEPTH: 18}}\n"
HEAD = "  HEAD: {PARAMS: [['mlp', {'dims': [512, 10]}]]}\n"

# The text of spec.yaml, further arguments of `check`, where the first error is, and parts of its message and help.
MISTAKES: dict[str, tuple[str, list[str], str, tuple[str, ...]]] = {
    "two formats": (IN + "trunk: resnet\nMODEL: {TRUNK: {NAME: resnet}}\n", [], "2:1", ("VISSL's `MODEL`", "convert")),
    "two formats, in config": (
        "config:\n  MODEL: {}\nheads: {a: identity}\n",
        [],
        "3:1",
        ("`config.MODEL`", "`heads`"),
    ),
    "counts as views": (
        "inputs: {crops: {views: [2]}}\n" + T,
        [],
        "1:26",
        ("mapping, not 2", "{count: 2, shape: [3, 224"),
    ),
    "timm's name alone": (IN + "trunk: vit_small_patch16_224\n", [], "2:8", ("write `timm:vit_small_patch16_224`",)),
    "torchvision's name alone": (IN + "trunk: {name: swin_t}\n", [], "2:15", ("write `torchvision:swin_t`",)),
    "a name of both": (IN + "trunk: resnet50\n", [], "2:8", ("`timm:resnet50` or `torchvision:resnet50`",)),
    "channels last": (
        "inputs: {images: [224, 224, 3]}\n" + T,
        [],
        "1:10",
        ("its channels are last", "`[3, 224, 224]`"),
    ),
    "with the batch": ("inputs: {images: [32, 3, 224, 224]}\n" + T, [], "1:10", ("the batch", "`[3, 224, 224]`")),
    "no channels": ("inputs: {images: [224, 96]}\n" + T, [], "1:10", ("two dimensions", "`[3, 224, 96]`")),
    "a shape as text": ("inputs: {images: {shape: 3x224x224}}\n" + T, [], "1:26", ("is text", "`[3, 224, 224]`")),
    "a size as input": (
        "inputs: {images: 224}\n" + T,
        [],
        "1:18",
        ("a mapping or a list, not a number", "[3, 224, 224]"),
    ),
    "--input of a size": (SPEC, ["--input", "images=224"], "1:10", ("(224): it has one dimension", "`[3, 224, 224]`")),
    "--input of another name": (SPEC, ["--input", "imgs=3x64x64"], "", ("`imgs`", "did you mean `images`?")),
    "nam": (IN + "trunk: {nam: resnet}\n", [], "2:8", ("`trunk` has no `name` and an unknown key `nam`", "`name`?")),
    "--outputs tupel": (
        SPEC,
        ["--outputs", "tupel"],
        "",
        ("unknown output `tupel`", "outputs: label", "`returns`: `tuple`"),
    ),
    "returns: tupel": (
        SPEC + "returns: tupel\n",
        [],
        "4:10",
        ("`tupel` is not a valid value", "did you mean `tuple`?"),
    ),
    "no colon": (IN + "trunk\n  name: resnet\n", [], "2:1", ("a key without a colon", "`trunk:`")),
    "no colon below": ("trunk:\n  name resnet\n  depth: 18\n", [], "2:3", ("without a colon", "`name: resnet`")),
    "no colon, VISSL": ("MODEL:\n  TRUNK\n    NAME: resnet\n", [], "2:3", ("without a colon", "`TRUNK:`")),
    "no space": (IN + "trunk:\n  name:resnet\n", [], "3:3", ("`name: resnet`, with a space after the colon",)),
    "no space, head": (IN + T + "heads:\n  label:mlp\n", [], "4:3", ("`label: mlp`, with a space after the colon",)),
    "a tab": ("trunk:\n\tname: resnet\n", [], "2:1", ("a tab", "spaces")),
    "empty": ("", [], "1:1", ("empty", "graphmodel init", "graphmodel examples")),
    "another head": (
        IN + T + "heads: {a: {lineer: {}}}\n",
        [],
        "3:13",
        ("unknown head `lineer`", "did you mean `linear`?"),
    ),
    "a head's name for another": (
        IN + T + "heads: {a: {linear: {dims: [auto, 10]}}}\n",
        [],
        "3:13",
        ("add `out_features:`",),
    ),
    "freeze": (SPEC + "freeze: [trunk.layr1]\n", [], "4:10", ("covers nothing", "did you mean `trunk.layer1`?")),
    "freeze without trunk": (SPEC + "freeze: [layer1]\n", [], "4:10", ("did you mean `trunk.layer1`?",)),
    "--set of a head": (
        SPEC,
        ["--set", "heads.lable.mlp.dims=[1]"],
        "1:1",
        ("no `lable`", "`label`?", "`+heads.lable"),
    ),
    "--set of a key": (SPEC, ["--set", "trunk.dept=50"], "1:1", ("unknown key `dept`", "did you mean `depth`?")),
    "dims": (
        IN + T + "heads: {a: {mlp: {dims: [2048, 10]}}}\n",
        [],
        "3:26",
        ("wants 2048", "has 512", "512 or `auto`"),
    ),
    "dims as text": (IN + T + "heads: {a: {mlp: {dims: auto-10}}}\n", [], "3:25", ("takes a list", "in brackets")),
    "a feature": (
        SPEC + "mapping: {images: {res6: label}}\n",
        [],
        "4:20",
        ("no feature `res6`", "did you mean `res5`?"),
    ),
    "a map for a vector": (
        SPEC + "mapping: {images: {res4: label}}\n",
        [],
        "3:22",
        ("one vector", "adaptive_avg_pool2d"),
    ),
    "checkpoint": (SPEC + "checkpoint: always\n", [], "4:13", ("true or false, a number, a list or a mapping",)),
    "twice": (
        IN + T + "trunk: {name: regnet}\n",
        [],
        "3:1",
        ("duplicate key `trunk`", "line 2, column 1", "delete one"),
    ),
    "VISSL: DEPHT": (MODEL.replace("DEPTH", "DEPHT") + HEAD, [], "2:35", ("`DEPHT`", "did you mean `DEPTH`?")),
    "VISSL: mpl": (MODEL + HEAD.replace("mlp", "mpl"), [], "3:20", ("unknown head `mpl`", "did you mean `mlp`?")),
    "VISSL: timm's name": (
        "MODEL:\n  TRUNK: {NAME: vit_tiny_patch16_224}\n" + HEAD,
        [],
        "2:17",
        ("`timm:vit_tiny_patch",),
    ),
    "VISSL: an overlay": ("OPTIMIZER: {name: sgd}\n", [], "1:1", ("no MODEL block", "pass the base file first")),
    "VISSL: one head": (
        MODEL + "  HEAD: {PARAMS: ['mlp', {'dims': [512]}]}\n",
        [],
        "3:18",
        ("one head", '`[["mlp", {"dims": […]}]]`'),
    ),
    "VISSL: heads by name": (MODEL + "  HEAD: {PARAMS: {mlp: {}}}\n", [], "3:18", ("a list, not a mapping",)),
    "VISSL: frozen": (MODEL + HEAD + "  NON_TRAINABLE_PARAMS: [trunk.layr1]\n", [], "4:26", ("`trunk.layer1`?",)),
    "VISSL: channels last": (MODEL + HEAD, ["--input", "images=224x224x3"], "", ("channels are last", "[3, 224, 224]")),
}
PHRASES = re.compile(r"valid dictionary|instance of|Value error|Input should be|Traceback|RuntimeError|pydantic")
"""What Pydantic, torch and Typer would say."""


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_answer_at_its_place(run: Callable[..., Any], tmp_path: Path, name: str) -> None:
    text, arguments, place, says = MISTAKES[name]
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    try:
        found = run("check", path, *arguments, code=1).stderr
    except AssertionError:
        found = run("check", path, *arguments, code=2).stderr
    first = found.split("\n\n")[0]
    assert all(part in first for part in says), found
    assert not PHRASES.search(found), found
    assert not place or f":{place}\n" in first, found
    allowed = 2 if name == "a head's name for another" else 1
    assert len(re.findall("^error", found, re.M)) == allowed, found


def test_a_result_form_that_does_not_exist_names_those_that_do(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC)
    found = run("check", tmp_path / "spec.yaml", "--returns", "tupel", code=2).stderr
    assert "'tupel' is not one of 'dict', 'tuple', 'list', 'tensor'" in found
    assert not PHRASES.search(found)
    found = run("check", tmp_path / "spec.yaml", "--outputs", "tuple", code=2).stderr
    assert "for the form of the result write --returns tuple" in found


def test_a_spec_as_weights_is_called_one(run: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    assert "it is a YAML file, and weights are a checkpoint" in run("compile", path, "--weights", path, code=1).stderr


@pytest.mark.parametrize(
    ("given", "says"),
    [(3, "not int"), (None, "not NoneType"), (SPEC, "the text of a spec"), ({"trunk": 3}, "takes text or a mapping")],
)
def test_what_is_not_a_spec_is_said_in_python_too(given: Any, says: str) -> None:
    with pytest.raises(CompileError, match=says):
        graphmodel.compile(given)


def test_calls_with_something_else_than_the_model_takes_name_both() -> None:
    views = [{"count": 2, "shape": [3, 32, 32]}, {"count": 6, "shape": [3, 16, 16]}]
    trunk = {"name": "resnet", "depth": 18}
    crops = graphmodel.compile({"inputs": {"crops": {"views": views}}, "trunk": trunk}, seed=0)
    plain = graphmodel.compile({"inputs": {"images": [3, 32, 32]}, "trunk": trunk}, seed=0)
    x = torch.zeros(2, 3, 32, 32)
    for module, given, says in (
        (crops, [x] * 3, "the input `crops` has 3 views and the model takes 8"),
        (crops, x, "the input `crops` is of type Tensor and the model takes a list of 8 tensors"),
        (plain, [x], "the input `images` is of type list and the model takes a tensor"),
        (plain, x.permute(0, 2, 3, 1), "is 2×32×32×3 and the model takes N×3×H×W"),
        (plain, x[0], "is 3×32×32 and the model takes N×3×H×W"),
        (plain, x.byte(), "is torch.uint8 and the model takes a floating-point dtype"),
    ):
        with pytest.raises(CompileError) as caught:
            module(given)
        assert says in str(caught.value)
