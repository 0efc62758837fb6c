"""Completion at a cursor, marked `|` in a text that is being written."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from graphmodel.lsp.cursor import cursors
from graphmodel.lsp.positions import Text
from graphmodel.lsp.scope import scope_of
from tests.lsp.client import TIMEOUT, Client
from tests.lsp.test_diagnostics import PIRL, RESNET, VISSL

SPEC = """\
graphmodel: 1
inputs:
  images: {shape: [3, 64, 64]}
  masks: {shape: [1, 64, 64], dtype: float32}
trunk: {name: resnet, depth: 18, width_multiplier: 0.25}
heads:
  label: {mlp: {dims: [auto, 10]}}
  other: {linear: {num_classes: 3}}
mapping:
  images: {flatten: [label, other]}
"""
versions = iter(range(2, 10**6))


def completed(client: Client, uri: str, marked: str) -> dict[str, dict[str, Any]]:
    """The completions at the mark by label."""
    offset = marked.index("|")
    text = marked[:offset] + marked[offset + 1 :]
    if uri not in client.diagnostics:
        client.open(uri, text)
    else:
        client.change(uri, next(versions), text)
    position = Text(text).position(offset)
    found = client.ask("textDocument/completion", {"textDocument": {"uri": uri}, "position": position})
    return {item["label"]: item for item in found["items"]}


@pytest.mark.parametrize(
    ("old", "new", "wanted", "unwanted"),
    [
        ("trunk: {name: resnet", "trunk: {name: resne|", ["resnet", "resnet_sk", "timm:resnet50", "torchvision:resnet18"], ["mlp"]),
        ("trunk: {name: resnet, depth: 18, width_multiplier: 0.25}", "trunk: |", ["resnet", "regnet"], []),
        ("depth: 18, width_multiplier: 0.25}", "de|}", ["depth"], ["name"]),
        ("depth: 18, width_multiplier: 0.25}", "depth: |}", ["18", "50", "101"], []),
        ("depth: 18, width_multiplier: 0.25}", "freeze: |}", ["true", "false"], []),
        ("depth: 18, width_multiplier: 0.25}", "de|", ["depth"], []),  # the bracket is not closed yet
        ("label: {mlp: {", "label: {m|: {", ["mlp", "msn_head"], []),
        ("label: {mlp: {dims: [auto, 10]}}", "label: {mlp: {dims: [auto, 10], |}}", ["norm", "use_bn", "preset"], ["dims"]),
        ("other: {linear: {num_classes: 3}}", "other: li|", ["linear"], []),
        ("other: {linear: {num_classes: 3}}", "other:\n    |", ["linear", "copy"], []),
        ("flatten: [label, other]", "flatten: [label, o|]", ["other"], ["images"]),
        ("flatten: [label, other]", "flatten: |", ["label", "other"], []),
        ("  images: {flatten: [label, other]}", "  im|", ["images"], []),
        ("  images: {flatten: [label, other]}", "  - {from: im|}", ["images"], []),
        ("  images: {flatten: [label, other]}", "  - {from: images.flatten, he|}", ["head"], ["from"]),
        ("  images: {flatten: [label, other]}", "  - {from: images.flatten, head: |}", ["label", "other"], []),
        ("mapping:", "freeze: [heads.|]\nmapping:", ["heads.label", "heads.other"], []),
        ("mapping:", "op|\nmapping:", ["outputs", "optimize"], []),
        ("mapping:", "returns: |\nmapping:", ["dict", "tuple", "list", "tensor"], []),
        ("dtype: float32", "dtype: |", ["float16", "uint8"], []),
        ("dtype: float32", "with: [|]", ["images"], []),
    ],
)  # fmt: skip
def test_what_can_be_written_is_completed(
    quick: Client, tmp_path_factory: pytest.TempPathFactory, old: str, new: str, wanted: list[str], unwanted: list[str]
) -> None:
    uri = (tmp_path_factory.getbasetemp() / "completed.yaml").as_uri()
    assert old in SPEC
    found = completed(quick, uri, SPEC.replace(old, new))
    assert set(wanted) <= set(found)
    assert not set(unwanted) & set(found)


def test_every_model_of_the_libraries_is_completed(quick: Client, uri: str) -> None:
    from graphmodel.components.library.model_names import timm_models, torchvision_models

    for library, names in (("timm", timm_models()), ("torchvision", torchvision_models())):
        for name in (names[0], names[-1]):
            found = completed(quick, uri, SPEC.replace("name: resnet", f"name: {library}:{name}|"))
            assert f"{library}:{name}" in found


def test_parameters_have_types_defaults_and_meanings(quick: Client, uri: str) -> None:
    found = completed(quick, uri, SPEC.replace("dims: [auto, 10]", "|"))
    assert found["dims"]["detail"] == "list of integer | auto"
    assert found["use_bn"]["detail"] == "boolean = false"
    assert found["dims"]["documentation"]["value"] == "Widths; the first may be `auto`."
    assert found["dims"]["textEdit"]["newText"] == "dims: "
    found = completed(quick, uri, SPEC.replace("linear: {num_classes: 3}", "attentive_probe: {|}"))
    assert found["num_classes"]["detail"].endswith("(required)")


def test_a_word_is_replaced_as_a_whole(quick: Client, uri: str) -> None:
    text = SPEC.replace("name: resnet", "name: res|net")
    edit = completed(quick, uri, text)["resnet"]["textEdit"]
    line = text.replace("|", "").splitlines()[4]
    start, end = edit["range"]["start"]["character"], edit["range"]["end"]["character"]
    assert line[start:end] == "resnet"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("mapping:", "outputs: [la|]\nmapping:"),
        ("mapping:", "outputs:\n- la|\nmapping:"),
        ("shape: [1, 64, 64]", "shape: [1, 64, 64], with: [im|]"),
    ],
)
def test_a_name_in_a_list_is_no_key(quick: Client, uri: str, old: str, new: str) -> None:
    found = completed(quick, uri, SPEC.replace(old, new))
    assert [item["textEdit"]["newText"] for item in found.values()] == list(found) != []


TRUNKS = "trunks: {one: {name: resnet, depth: 18}, two: {copy: one}}"


@pytest.mark.parametrize(
    ("old", "new", "wanted", "unwanted"),
    [
        ("trunk: {name: resnet", "trunk:\n  |\n  name: resnet\nx: {y: 1", ["freeze"], ["resnet", "timm:resnet18"]),
        ("  label: {mlp", "  new:\n    |\n    freeze: true\n  label: {mlp", ["mlp", "copy"], ["freeze"]),
        ("  label: {mlp: {dims: [auto, 10]}}", "  label: {mlp: {dims: [auto, 10]}, |}", ["freeze"], ["mlp", "linear"]),
        ("flatten: [label, other]}", "flatten: label}\n  |", ["masks"], ["images", "label"]),
        ("  images: {flatten: [label, other]}", "- {from: images.flatten, head: label, as: z}\noutputs: [|]", ["z"], ["label"]),
    ],
)  # fmt: skip
def test_what_is_there_already_or_does_not_fit_is_not_completed(
    quick: Client, uri: str, old: str, new: str, wanted: list[str], unwanted: list[str]
) -> None:
    found = completed(quick, uri, SPEC.replace(old, new))
    assert set(wanted) <= set(found)
    assert not set(unwanted) & set(found)


def test_a_trunk_that_copies_another_is_one_more_trunk() -> None:
    found = scope_of(yaml.safe_load(TRUNKS), None)
    assert found.trunks == {name: ("resnet", {"depth": 18}) for name in ("one", "two")}


def test_nothing_is_completed_in_a_comment(quick: Client, uri: str) -> None:
    assert completed(quick, uri, SPEC.replace("graphmodel: 1", "graphmodel: 1  # a |")) == {}


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("NAME: resnet", "NAME: re|", ["resnet", "regnet"]),
        ("DEPTH: 50", "|", ["DEPTH", "WIDTH_MULTIPLIER"]),
        ('["eval_mlp"', '["eval_m|"', ["eval_mlp"]),
        ('{"in_channels": 2048, ', '{"|": 2048, ', ["in_channels"]),
        ('["images", ["res5"', '["|", ["res5"', ["images", "patches"]),
    ],
)
def test_files_of_vissl_are_completed(quick: Client, tmp_path: Path, old: str, new: str, wanted: list[str]) -> None:
    uri = (tmp_path / "vissl.yaml").as_uri()
    quick.open(uri, VISSL)
    quick.published_for(uri, 1)
    assert old in VISSL
    found = completed(quick, uri, VISSL.replace(old, new, 1))
    assert set(wanted) <= set(found)
    assert "out_features" not in found, "a parameter of another head"


def test_every_place_of_a_document_has_a_cursor_or_none() -> None:
    for text in (PIRL, VISSL, RESNET):
        for offset in range(0, len(text) + 1, 5):
            for cursor in cursors(text, offset):
                assert cursor.start <= offset <= cursor.end
                assert text[cursor.start : offset] == cursor.word


def eventually(client: Client, uri: str, position: dict[str, int], wanted: str) -> dict[str, dict[str, Any]]:
    """The completions at a place once one of them is there; the worker computes features in the background."""
    end = time.monotonic() + TIMEOUT
    while True:
        answer = client.ask("textDocument/completion", {"textDocument": {"uri": uri}, "position": position})
        found = {item["label"]: item for item in answer["items"]}
        if wanted in found:
            return found
        assert time.monotonic() < end, answer
        time.sleep(0.05)


@pytest.mark.slow
def test_features_are_completed_with_their_shapes(whole: Client, uri: str) -> None:
    text = SPEC.replace("  masks: {shape: [1, 64, 64], dtype: float32}\n", "")
    mapping = "  images: {flatten: [label, other]}"
    short, long = (text.replace(mapping, m) for m in ("  images: {re: label}", "  - {from: images.re, head: label}"))
    whole.open(uri, short)
    offset = short.index("re: label") + 2
    found = eventually(whole, uri, Text(short).position(offset), "res4")
    assert found["res4"]["detail"] == "N×64×4×4"
    assert found["res5"]["detail"] == "N×128×2×2"
    whole.change(uri, 2, long)
    found = eventually(whole, uri, Text(long).position(long.index("images.re,") + 9), "images.res3")
    assert found["images.res3"]["detail"] == "N×32×8×8"
