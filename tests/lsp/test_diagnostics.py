"""Diagnostics while a spec is written: exact ranges, both dialects, `extends`, overlays, unsaved documents."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from graphmodel.diagnostics import CompileError
from graphmodel.lsp.positions import Text
from tests.lsp.client import Client, applied

ROOT = Path(__file__).resolve().parents[2]
PIRL = (ROOT / "examples" / "native" / "pirl.yaml").read_text("utf-8")
VISSL = (ROOT / "examples" / "vissl" / "multi_input.yaml").read_text("utf-8")
RESNET = "graphmodel: 1\ninputs: {images: [3, 64, 64]}\ntrunk: {name: resnet, depth: 18, width_multiplier: 0.25}\n"


def marked(text: str, found: list[dict[str, Any]]) -> dict[str, str]:
    """The text under each diagnostic by its code."""
    lines = Text(text)
    return {d["code"]: text[lines.offset(d["range"]["start"]) : lines.offset(d["range"]["end"])] for d in found}


@pytest.mark.parametrize(
    ("old", "new", "code", "under"),
    [
        ("trunk: {name: resnet", "trnk: {name: resnet", "GM201", "trnk"),
        ("name: resnet", "name: resnt", "GM205", "resnt"),
        ("name: resnet", "name: timm:resnet5", "GM205", "timm:resnet5"),
        ("depth: 50", "dept: 50", "GM201", "dept"),
        ("siamese_concat_view", "siamese_concat_vew", "GM206", "siamese_concat_vew"),
        ("num_towers", "num_tower", "GM201", "num_tower"),
        ("flatten: jigsaw", "flatten: jigsw", "GM206", "jigsw"),
        ("  patches: {flatten", "  ptches: {flatten", "GM207", "ptches"),
        ("[3, 64, 64]", "[3, 64, 64", "GM101", ""),
        ("name: pirl", "name: pirl\nname: pirl", "GM102", "name"),
    ],
)  # fmt: skip
def test_mistakes_are_found_without_torch_at_their_place(
    quick: Client, uri: str, old: str, new: str, code: str, under: str
) -> None:
    text = PIRL.replace(old, new)
    quick.open(uri, text)
    found = quick.published_for(uri, 1)
    assert code in [d["code"] for d in found]
    if under:
        assert marked(text, found)[code] == under


def test_names_of_vissl_files_are_checked_too(quick: Client, uri: str) -> None:
    text = VISSL.replace("NAME: resnet", "NAME: resnt").replace("mlp", "mlpp", 1)
    quick.open(uri, text)
    found = marked(text, [d for d in quick.published_for(uri, 1) if d["severity"] == 1])
    assert set(found) == {"GM205", "GM206"}
    assert found["GM205"] == "resnt"


def test_what_is_found_without_torch_is_what_the_compiler_finds(tmp_path: Path, quick: Client) -> None:
    import graphmodel

    path = tmp_path / "spec.yaml"
    path.write_text(
        PIRL.replace("name: resnet", "name: rsnet").replace("siamese_concat_view", "siamese_vew").replace("mlp: {dims: [auto, 128]}", "mlp: {dimz: [auto, 128]}", 1)
    )  # fmt: skip
    with pytest.raises(CompileError) as error:
        graphmodel.compile(path, device="meta")
    expected = [(d.code, f"{d.message}\nhelp: {d.help}", d.span.line - 1) for d in error.value.diagnostics if d.span]
    uri = path.as_uri()
    quick.open(uri, path.read_text())
    found = [(d["code"], d["message"], d["range"]["start"]["line"]) for d in quick.published_for(uri, 1)]
    assert sorted(found) == sorted(e for e in expected if e[0] != "GM203")  # what is missing is told by the schemas


def test_columns_count_utf16_units(quick: Client, uri: str) -> None:
    text = RESNET + 'heads: {"😀é": {mlp: {dims: [auto, 2]}}, a: {mlpp: {}}}\n'
    quick.open(uri, text)
    found = next(d for d in quick.published_for(uri, 1) if d["code"] == "GM206")
    line = text.splitlines()[3]
    assert found["range"]["start"]["character"] == len(line[: line.index("mlpp")].encode("utf-16-le")) // 2


def test_a_quick_fix_changes_the_name(quick: Client, uri: str) -> None:
    text = (
        PIRL.replace("name: resnet", "name: resnt")
        .replace("num_towers", "num_tower")
        .replace("flatten: jigsaw", "flatten: jigsw")
    )
    quick.open(uri, text)
    edits = []
    for found in quick.published_for(uri, 1):
        actions = quick.question("textDocument/codeAction", uri, range=found["range"], context={"diagnostics": [found]})
        edits += [e for a in actions for e in a["edit"]["changes"][uri]]
    assert applied(text, edits) == PIRL


def test_a_document_that_was_never_saved_is_checked(quick: Client) -> None:
    uri = quick.open("untitled:Untitled-1", RESNET.replace("resnet", "resnt"), "graphmodel")
    assert [d["code"] for d in quick.published_for(uri, 1)] == ["GM205"]


def test_other_yaml_files_are_left_alone(quick: Client, tmp_path: Path) -> None:
    other = (tmp_path / "compose.yaml").as_uri()
    quick.open(other, "services: {web: {image: nginx}}\nconfig: {a: 1}\nmapping: [1]\n"[:40])
    spec = (tmp_path / "spec.yaml").as_uri()
    quick.open(spec, RESNET + "outputs: [nothing]\n")
    quick.published_for(spec, 1)
    assert other not in quick.diagnostics


def test_extends_reads_open_documents_before_the_disk(quick: Client, tmp_path: Path) -> None:
    base, spec = tmp_path / "base.yaml", tmp_path / "spec.yaml"
    base.write_text(RESNET)
    opened = quick.open(spec.as_uri(), "extends: base.yaml\ngraphmodel: 1\nheads: {a: {mlp: {dims: [auto, 2]}}}\n")
    assert quick.published_for(opened, 1) == []
    quick.open(base.as_uri(), RESNET)
    quick.change(base.as_uri(), 2, RESNET.replace("resnet", "resnt"))
    quick.until(lambda: quick.codes(base.as_uri()) == ["GM205"])
    assert quick.codes(opened) == []  # the mistake is in the base
    quick.change(base.as_uri(), 3, RESNET)
    quick.until(lambda: quick.codes(base.as_uri()) == [])


def test_overlays_are_read_with_their_base(tmp_path: Path) -> None:
    base, overlay = tmp_path / "base.yaml", tmp_path / "more" / "overlay.yaml"
    overlay.parent.mkdir()
    base.write_text(VISSL)
    overlay.write_text("")
    client = Client(tmp_path, {"shapes": False, "specs": [["base.yaml", "more/overlay.yaml"]]})
    try:
        uri = client.open(overlay.as_uri(), "config: {MODEL: {TRUNK: {NAME: resnt}}}\n")
        assert [d["code"] for d in client.published_for(uri, 1) if d["severity"] == 1] == ["GM205"]
        client.change(uri, 2, "config: {MODEL: {TRUNK: {NAME: regnet_y_16gf}}}\n")
        client.until(lambda: not [d for d in client.diagnostics[uri] if d["severity"] == 1])
    finally:
        client.end()


def test_nothing_is_left_of_a_closed_document(quick: Client, uri: str) -> None:
    quick.open(uri, PIRL.replace("resnet", "resnt"))
    assert quick.published_for(uri, 1)
    quick.tell("textDocument/didClose", {"textDocument": {"uri": uri}})
    quick.until(lambda: quick.diagnostics[uri] == [])


def test_the_server_imports_no_torch(tmp_path: Path) -> None:
    program = (
        "import io, json, sys\n"
        "from graphmodel.lsp.server import Server\n"
        f"text = {PIRL!r}\n"
        "messages = [{'id': 1, 'method': 'initialize', 'params': {'capabilities': {}, 'initializationOptions': {'shapes': False}}},\n"
        "  {'method': 'initialized', 'params': {}}, {'method': 'textDocument/didOpen', 'params': {'textDocument':\n"
        f"  {{'uri': 'file:///x/spec.yaml', 'languageId': 'yaml', 'version': 1, 'text': text}}}}}}]\n"
        "raw = b''.join(b'Content-Length: %d\\r\\n\\r\\n%s' % (len(b), b) for b in (json.dumps(m).encode() for m in messages))\n"
        "server = Server(io.BytesIO(raw), io.BytesIO())\n"
        "server.run()\n"
        "server.session.run_due(1e18)\n"
        "assert server.session.known, 'the document was checked'\n"
        "print(sorted({'torch', 'timm', 'torchvision', 'networkx'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.slow
def test_shapes_are_checked_in_the_background(whole: Client, uri: str) -> None:
    text = RESNET + "heads: {a: {mlp: {dims: [100, 2]}}}\nmapping: {images: {res6: a}}\n"
    whole.open(uri, text)
    whole.until(lambda: whole.codes(uri) == ["GM213"])
    assert marked(text, whole.diagnostics[uri]) == {"GM213": "res6"}
    action = whole.question(
        "textDocument/codeAction", uri, range=whole.diagnostics[uri][0]["range"], context={"diagnostics": []}
    )
    text = applied(text, action[0]["edit"]["changes"][uri])
    assert "{res5: a}" in text or "{res4: a}" in text
    whole.change(uri, 2, text)
    whole.until(lambda: whole.codes(uri) == ["GM304"])
    whole.change(
        uri, 3, text.replace("[100, 2]", "[auto, 2]").replace("a}}", "{pool: {adaptive_avg_pool2d: 1}, head: a}}}")
    )
    whole.until(lambda: whole.codes(uri) == [])


@pytest.mark.slow
def test_a_spec_of_vissl_is_compiled_too(whole: Client, uri: str) -> None:
    text = VISSL.replace("DEPTH: 50", "DEPTH: 51")
    assert text != VISSL
    whole.open(uri, text)
    whole.until(lambda: any(d["severity"] == 1 for d in whole.diagnostics.get(uri, [])))
    assert marked(text, [d for d in whole.diagnostics[uri] if d["severity"] == 1]) == {"GM202": "51"}


def test_folders_of_a_workspace_do_not_mix(tmp_path: Path) -> None:
    client = Client(tmp_path, start=False)
    try:
        folders = [tmp_path / name for name in ("one", "two")]
        for folder, trunk in zip(folders, ("resnet", "resnt"), strict=True):
            folder.mkdir()
            (folder / "base.yaml").write_text(RESNET.replace("resnet", trunk))
        client.ask(
            "initialize",
            {
                "capabilities": {},
                "workspaceFolders": [{"uri": f.as_uri(), "name": f.name} for f in folders],
                "initializationOptions": {"shapes": False},
            },
        )
        client.tell("initialized", {})
        specs = [
            client.open((f / "spec.yaml").as_uri(), "extends: base.yaml\ngraphmodel: 1\nheads: {a: {mlp: {dims: [auto, 2]}}}\n")
            for f in folders
        ]  # fmt: skip
        for spec in specs:
            assert client.published_for(spec, 1) == []
        assert client.codes((folders[0] / "base.yaml").as_uri()) == []
        assert client.codes((folders[1] / "base.yaml").as_uri()) == ["GM205"]
    finally:
        client.end()


def test_specs_are_looked_up_in_every_folder_of_the_workspace(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two", "three")]
    for folder in folders:
        folder.mkdir()
        (folder / "base.yaml").write_text(RESNET)
    items = [{"uri": folder.as_uri(), "name": folder.name} for folder in folders]
    client = Client(tmp_path, start=False)
    try:
        options = {"shapes": False, "specs": [["base.yaml", "overlay.yaml"]]}
        params = {"capabilities": {}, "workspaceFolders": items[:2], "initializationOptions": options}
        client.ask("initialize", params)
        client.tell("initialized", {})
        for folder in folders:  # without its base it lacks inputs
            uri = client.open((folder / "overlay.yaml").as_uri(), "trunk: {width_multiplier: 0.5}\n")
            assert [d["code"] for d in client.published_for(uri, 1)] == (["GM202"] if folder.name == "three" else [])
        client.tell("workspace/didChangeWorkspaceFolders", {"event": {"added": items[2:], "removed": items[:1]}})
        client.until(
            lambda: [bool(client.codes((f / "overlay.yaml").as_uri())) for f in folders] == [True, False, False]
        )
        assert client.close() == 0
    finally:
        client.end()
