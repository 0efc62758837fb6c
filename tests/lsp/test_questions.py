"""Hover, definitions, renaming, hints, outline, folding and formatting."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import graphmodel
from graphmodel.lsp import checking, jobs
from graphmodel.lsp.background import Worker
from graphmodel.lsp.formatting import format_text
from graphmodel.lsp.hints import hints
from graphmodel.lsp.positions import Text
from graphmodel.lsp.session import Known, Session
from tests.lsp.client import Client, applied
from tests.lsp.test_diagnostics import PIRL, RESNET, ROOT, VISSL

EXAMPLES = sorted((ROOT / "examples").glob("*/*.yaml"))
SPEC = """\
graphmodel: 1
inputs:
  images: {shape: [3, 64, 64]}
trunks:
  student: {name: resnet, depth: 18}
  teacher: {copy: student}
heads:
  project: {mlp: {dims: [auto, 16]}}
  predict: {mlp: {dims: [16, 16]}}
mapping:
  - {from: images.student.flatten, head: project, as: z}
  - {from: z, head: predict, as: p}
  - {from: [images.teacher.flatten, images.student.flatten], as: both}
freeze: [heads.predict, teacher]
outputs: [p, z, both]
"""


def at(text: str, marked: str) -> tuple[int, int]:
    """The position of a mark `|` in a part of a text."""
    position = Text(text).position(text.index(marked.replace("|", "")) + marked.index("|"))
    return position["line"], position["character"]


def under(text: str, range_: Any) -> str:
    lines = Text(text)
    return text[lines.offset(range_["start"]) : lines.offset(range_["end"])]


def test_hover_says_what_a_key_means(quick: Client, uri: str) -> None:
    quick.open(uri, PIRL)
    found = quick.question("textDocument/hover", uri, at(PIRL, "num_to|wers"))
    assert under(PIRL, found["range"]) == "num_towers"
    assert "integer" in found["contents"]["value"]
    found = quick.question("textDocument/hover", uri, at(PIRL, "sha|pe: [3, 224"))
    assert "Per-sample shape" in found["contents"]["value"]


def test_hover_documents_a_head_with_its_source(quick: Client, uri: str) -> None:
    quick.open(uri, PIRL)
    text = quick.question("textDocument/hover", uri, at(PIRL, "siamese_|concat"))["contents"]["value"]
    assert "num_towers" in text
    path, line = re.search(r"\(file://(.*)#L(\d+)\)", text).groups()  # type: ignore[union-attr]
    assert "class" in Path(path).read_text().splitlines()[int(line) - 1]


@pytest.mark.parametrize(
    ("use", "defined"),
    [
        ("head: pro|ject", "  project:"),
        ("from: ima|ges.student.flatten, head", "  images:"),
        ("from: images.stu|dent.flatten, head", "  student:"),
        ("copy: stud|ent", "  student:"),
        ("from: |z,", "as: z}"),
        ("heads.pre|dict", "  predict:"),
        (", tea|cher]\noutputs", "  teacher:"),
        ("[p, z, bo|th]", "as: both"),
    ],
)
def test_the_definition_of_a_name_is_found(quick: Client, uri: str, use: str, defined: str) -> None:
    quick.open(uri, SPEC)
    found = quick.question("textDocument/definition", uri, at(SPEC, use))
    assert [f["range"]["start"]["line"] for f in found] == [SPEC[: SPEC.index(defined)].count("\n")]


def test_a_definition_in_an_extended_file_and_the_file_itself_are_found(quick: Client, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "graphmodel: 1\ninputs: {images: [3, 64, 64]}\ntrunk: {name: resnet, depth: 18}\n"
    )
    text = "extends: base.yaml\nheads: {a: {mlp: {dims: [auto, 2]}}}\nmapping: {images: {flatten: a}}\n"
    uri = quick.open((tmp_path / "spec.yaml").as_uri(), text, "graphmodel")
    quick.published_for(uri, 1)
    base = (tmp_path / "base.yaml").as_uri()
    found = quick.question("textDocument/definition", uri, at(text, "{ima|ges: {fl"))
    assert [(f["uri"], f["range"]["start"]["line"]) for f in found] == [(base, 1)]
    assert quick.question("textDocument/definition", uri, at(text, "ba|se.yaml"))[0]["uri"] == base
    edit = quick.question("textDocument/rename", uri, at(text, "{ima|ges: {fl"), newName="photos")["changes"]
    assert set(edit) == {uri, base}


@pytest.mark.parametrize(
    ("use", "new", "count"),
    [("head: pro|ject", "projector", 2), ("ima|ges:", "photos", 4), ("stud|ent:", "online", 4), ("as: |z", "latent", 3), ("pre|dict:", "q", 3)],
)  # fmt: skip
def test_a_renamed_spec_is_the_same_model(quick: Client, uri: str, use: str, new: str, count: int) -> None:
    quick.open(uri, SPEC)
    assert quick.question("textDocument/prepareRename", uri, at(SPEC, use)) is not None
    edits = quick.question("textDocument/rename", uri, at(SPEC, use), newName=new)["changes"][uri]
    assert len(edits) == count
    old = {under(SPEC, e["range"]) for e in edits}
    assert len(old) == 1
    text = applied(SPEC, edits)
    before, after = (graphmodel.load_spec(yaml.safe_load(t)) for t in (SPEC, text))
    word = re.compile(rf"\b{old.pop()}\b")
    assert word.sub(new, before.model_dump_json()) == after.model_dump_json()


@pytest.mark.parametrize("new", ["1x", "class", "project", "trunk"])
def test_a_name_that_is_not_valid_or_taken_is_refused(quick: Client, uri: str, new: str) -> None:
    quick.open(uri, SPEC)
    line, character = at(SPEC, "head: pre|dict")
    params = {"textDocument": {"uri": uri}, "position": {"line": line, "character": character}, "newName": new}
    assert quick.ask("textDocument/rename", params, fails=True)["code"] == -32602


def test_a_name_that_yaml_does_not_read_as_text_is_refused(quick: Client, uri: str) -> None:
    quick.open(uri, SPEC)
    line, character = at(SPEC, "head: pre|dict")
    params = {"textDocument": {"uri": uri}, "position": {"line": line, "character": character}}
    for new in ("null", "true"):
        assert "YAML" in quick.ask("textDocument/rename", {**params, "newName": new}, fails=True)["message"]


def test_a_rename_that_would_break_the_name_of_an_output_is_refused(quick: Client, uri: str) -> None:
    text = """graphmodel: 1
inputs: {images: [3, 64, 64], views: [3, 64, 64]}
trunk: {name: resnet, depth: 18}
heads: {label: {mlp: {dims: [auto, 10]}}}
mapping: {images: {flatten: label}, views: {flatten: label}}
outputs: [label_images]
"""
    quick.open(uri, text)
    assert "GM209" not in [d["code"] for d in quick.published_for(uri, 1)]
    for use, new in (("lab|el:", "cls"), ("imag|es:", "pics")):
        line, character = at(text, use)
        params = {"textDocument": {"uri": uri}, "position": {"line": line, "character": character}, "newName": new}
        assert "label_images" in quick.ask("textDocument/rename", params, fails=True)["message"]
    edits = quick.question("textDocument/rename", uri, at(text, "vie|ws:"), newName="crops")["changes"][uri]
    graphmodel.load_spec(yaml.safe_load(applied(text, edits)))


def test_the_mapping_of_a_vissl_file_leads_to_its_heads(quick: Client, uri: str) -> None:
    text = """config:
  MODEL:
    TRUNK: {NAME: resnet, RESNETS: {DEPTH: 50}}
    HEAD:
      PARAMS: [["mlp", {"dims": [2048, 128]}], ["mlp", {"dims": [2048, 12]}]]
    MULTI_INPUT_HEAD_MAPPING:
      - ["images", ["res5", "flatten"]]
"""
    quick.open(uri, text)
    quick.published_for(uri, 1)

    def found(use: str) -> list[str]:
        return [under(text, f["range"]) for f in quick.question("textDocument/definition", uri, at(text, use))]

    first, second = '["mlp", {"dims": [2048, 128]}]', '["mlp", {"dims": [2048, 12]}]'
    assert found('"res|5') == [first]
    assert found('"flat|ten') == [second]
    assert found('"ima|ges') == [first, second]
    assert found("DEP|TH") == []
    line, character = at(text, '"ima|ges')
    params = {"textDocument": {"uri": uri}, "position": {"line": line, "character": character}}
    assert "VISSL" in quick.ask("textDocument/prepareRename", params, fails=True)["message"]
    assert "VISSL" in quick.ask("textDocument/rename", {**params, "newName": "x"}, fails=True)["message"]


def test_the_outline_has_every_key(quick: Client, uri: str) -> None:
    quick.open(uri, PIRL)
    found = {s["name"]: s for s in quick.question("textDocument/documentSymbol", uri)}
    assert list(found) == ["graphmodel", "name", "inputs", "trunk", "heads", "mapping"]
    assert [c["name"] for c in found["heads"]["children"]] == ["image", "jigsaw"]
    assert under(PIRL, found["heads"]["selectionRange"]) == "heads"
    lines = {s["name"]: s["range"]["end"]["line"] - s["range"]["start"]["line"] for s in found.values()}
    assert lines["heads"] == 5


def test_what_is_indented_can_be_folded_while_the_text_is_malformed(quick: Client, uri: str) -> None:
    text = PIRL.replace("mapping:", "mapping: [")
    quick.open(uri, text)
    found = quick.question("textDocument/foldingRange", uri)
    lines = text.splitlines()
    starts = {lines[f["startLine"]].strip(): lines[f["endLine"]].strip() for f in found}
    assert starts["inputs:"] == "patches: {shape: [3, 64, 64]}"
    assert starts["jigsaw:"] == "- mlp: {dims: [auto, 128]}"


UNTIDY = """\
# a comment


graphmodel:   1   
trunk: { name: resnet,depth: 18 } # the trunk
inputs:
    images: {shape: [ 3 ,224,  224 ]}   # aligned
name: "a  ,  b"
heads: {a: {mlp: {dims: [auto,
    2  ]}}}


"""  # noqa: W291


def test_formatting_keeps_comments_data_and_lines(quick: Client, uri: str) -> None:
    quick.open(uri, UNTIDY)
    text = applied(UNTIDY, quick.question("textDocument/formatting", uri, options={"tabSize": 2, "insertSpaces": True}))
    assert "trunk: {name: resnet, depth: 18}  # the trunk\n" in text
    assert "    images: {shape: [3, 224, 224]}   # aligned\n" in text
    assert 'name: "a  ,  b"\n' in text
    assert "\n\n\n" not in text
    assert text.endswith("]}}}\n")
    assert yaml.safe_load(text) == yaml.safe_load(UNTIDY)
    assert format_text(text) == text


def test_what_cannot_be_read_is_not_formatted(quick: Client, uri: str) -> None:
    text = UNTIDY.replace("[ 3 ", "[[ 3 ")
    quick.open(uri, text)
    assert quick.question("textDocument/formatting", uri, options={}) == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_examples_are_formatted_without_a_change_of_their_data(path: Path) -> None:
    text = path.read_text("utf-8")
    result = format_text(text)
    assert result is not None
    assert yaml.safe_load(result) == yaml.safe_load(text)
    assert re.findall(r"#.*", result) == re.findall(r"#.*", text)
    assert format_text(result) == result


@pytest.mark.parametrize(
    "text",
    [
        "a: |\n  x   \n\n\n  y\nb: 1\n",
        "a: 'x\n\n\n  y  '\nb: 1 # c\n",
        "a: b\n\n  c\n",
        "a: x # c\n\n\n\nb: 'q\n\n\n  r'\n",  # lines go before the scalar that ends the text
        "? a\n: b\n",
        "a: &x [1,2]\nb: *x\n",
    ],
)
def test_scalars_of_several_lines_and_rare_syntax_survive(text: str) -> None:
    result = format_text(text)
    assert result is None or yaml.safe_load(result) == yaml.safe_load(text)
    assert result is None or format_text(result) == result


def test_what_a_mapping_pools_has_a_hint(tmp_path: Path) -> None:
    text = RESNET + (
        "mapping:\n- {from: images.res4, pool: {adaptive_avg_pool2d: 2}, as: pooled}\n- {from: images.res3, as: raw}\n"
    )
    session = Session(lambda *_: None, lambda: None, Worker(lambda line: None))
    document = session.documents.open((tmp_path / "spec.yaml").as_uri(), "yaml", 1, text)
    path = str(document.path)
    job = {"paths": [path], "texts": {path: text}, "overrides": [], "inputs": {}, "allow_extends_outside": False}
    checked = checking.check((document.path,), {document.path: text}, session.settings, None)
    session.known[(document.path,)] = Known(checked, model=jobs.check(job)["model"])
    found = hints(session, document, document.text.range(0, len(text)))
    shown = {re.split(r"[ {}]", text[: document.text.offset(h["position"])])[-1]: h["label"] for h in found}
    model = graphmodel.compile(yaml.safe_load(text), device="meta")
    real = {
        name: "×".join(map(str, v.shape[1:])) for name, v in model(torch.empty(2, 3, 64, 64, device="meta")).items()
    }
    assert shown == {
        "images.res4": ": N×64×4×4",
        "pooled": f": N×{real['pooled']}",
        "images.res3": f": N×{real['raw']}",
    }


@pytest.mark.slow
def test_every_edge_has_hints_with_its_shapes(whole: Client, uri: str) -> None:
    seen = whole.requests.count("workspace/inlayHint/refresh")
    whole.open(uri, PIRL)
    whole.until(lambda: whole.requests.count("workspace/inlayHint/refresh") > seen)
    everything = Text(PIRL).range(0, len(PIRL))
    hints = whole.question("textDocument/inlayHint", uri, range=everything)
    lines = PIRL.splitlines()
    shown = {
        lines[h["position"]["line"]][: h["position"]["character"]].split()[-1].strip("{"): h["label"]
        for h in hints
        if "patches" in lines[h["position"]["line"]]
    }
    assert shown == {"flatten": ": N×2048", "jigsaw": ": N/9×128"}
    assert len(hints) == 4
    text = whole.question("textDocument/hover", uri, at(PIRL, "  jig|saw:"))["contents"]["value"]
    assert "`N×2048` → `jigsaw: N/9×128`" in text


@pytest.mark.slow
def test_hover_counts_parameters_and_operations(whole: Client, uri: str) -> None:
    seen = whole.requests.count("workspace/inlayHint/refresh")
    whole.open(uri, PIRL)
    whole.until(lambda: whole.requests.count("workspace/inlayHint/refresh") > seen)
    text = ""
    for _ in range(600):
        text = (
            (whole.question("textDocument/hover", uri, at(PIRL, "name: res|net")) or {})
            .get("contents", {})
            .get("value", "")
        )
        if "FLOPs" in text and "res4" in text:
            break
        time.sleep(0.1)  # the worker computes them
    assert "23.5 M parameters" in text
    assert "| `res4` | N×1024×14×14 | 16 | layer3 |" in text
    assert "torchvision.models.resnet" in text


@pytest.mark.slow
def test_files_of_vissl_have_hints(whole: Client, uri: str) -> None:
    whole.open(uri, VISSL)
    hints: list[dict[str, Any]] = []
    for _ in range(600):  # a refresh may be about the document of another test
        hints = whole.question("textDocument/inlayHint", uri, range=Text(VISSL).range(0, len(VISSL)))
        if hints:
            break
        time.sleep(0.05)
    assert [h["label"] for h in hints] == [": N×2048×7×7", ": N×1024×14×14", ": N×512×8×8"]
