"""The protocol: malformed messages, requests out of order, very fast typing, the end of a session."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest

from graphmodel.lsp.positions import Text
from graphmodel.lsp.server import Server
from tests.lsp.client import Client
from tests.lsp.test_diagnostics import PIRL, VISSL


def test_requests_before_initialize_are_refused_and_unknown_ones_answered(tmp_path: Path) -> None:
    client = Client(tmp_path, start=False)
    try:
        assert client.ask("textDocument/hover", {}, fails=True)["code"] == -32002
        client.write(b"Content-Length: 9\r\n\r\nnot json!")
        client.until(lambda: None in client.answers)
        assert client.answers[None]["error"]["code"] == -32700
        assert client.ask("initialize", None, fails=True)["code"] == -32602
        client.ask("initialize", {"capabilities": {}, "initializationOptions": {"shapes": False}})
        client.tell("initialized", {})
        assert client.ask("initialize", {"capabilities": {}}, fails=True)["code"] == -32600
        assert client.ask("textDocument/nothing", {}, fails=True)["code"] == -32601
        for params in (None, [], {}, {"textDocument": None}, {"textDocument": {"uri": 5}}):
            assert client.ask("textDocument/formatting", params, fails=True)["code"] == -32602
        for method, more in (("hover", {}), ("codeAction", {}), ("rename", {"position": {"line": 0, "character": 0}})):
            params = {"textDocument": {"uri": "file:///any.yaml"}, **more}
            assert client.ask(f"textDocument/{method}", params, fails=True)["code"] == -32602
        client.tell("$/unknown", {})
        client.send({"method": "textDocument/didChange", "params": {}})  # malformed: no document
        client.tell(
            "textDocument/didChange",
            {"textDocument": {"uri": "file:///never/opened.yaml", "version": 3}, "contentChanges": []},
        )
        assert client.close() == 0
    finally:
        client.end()


def test_the_server_ends_with_the_editor(tmp_path: Path) -> None:
    client = Client(tmp_path, {"shapes": False})
    assert client.process.stdin is not None
    client.process.stdin.close()
    assert client.process.wait(timeout=30) == 1
    client.end()


def test_notifications_with_wrong_parameters_are_one_line_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    server = Server(io.BytesIO(), io.BytesIO())
    server.session.worker.start = lambda: None  # type: ignore[method-assign]
    server._result("initialize", {"capabilities": None, "workspaceFolders": {}, "rootUri": 3}, 1, True)
    document = {"uri": "file://[no host/a.yaml", "text": "graphmodel: 1\n"}
    server._message({"method": "textDocument/didOpen", "params": {"textDocument": {**document, "version": "one"}}})
    assert [d.text.text for d in server.session.documents.by_uri.values()] == ["graphmodel: 1\n"]
    wrong = [
        ("didOpen", [None, [], {}, {"textDocument": {"uri": "file:///a.yaml"}}, {"textDocument": {"uri": 1, "text": ""}}]),
        ("didChange", [{}, *({"textDocument": document, "contentChanges": c} for c in (None, {}, [1], [{"text": 1}]))]),
        ("didClose", [None, {"textDocument": "a"}]),
    ]  # fmt: skip
    wrong[1][1].append({"textDocument": document, "contentChanges": [{"text": "", "range": {"start": 1}}]})
    for name, several in wrong:
        for params in several:
            server._message({"method": f"textDocument/{name}", "params": params})
            assert capfd.readouterr().err.startswith(f"graphmodel lsp: textDocument/{name} is ignored: `")
    for params in (None, [], {}, {"settings": 1}):
        server._message({"method": "workspace/didChangeConfiguration", "params": params})
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("text", [PIRL, VISSL], ids=["native", "vissl"])
def test_text_is_in_step_after_very_fast_typing(quick: Client, tmp_path: Path, text: str) -> None:
    uri = (tmp_path / "typed.yaml").as_uri()
    quick.open(uri, "")
    version, written = 1, Text("")
    for c in text:  # letter by letter, without a pause
        version += 1
        end = written.position(len(written.text))
        quick.change(uri, version, c, {"start": end, "end": end})
        written = Text(written.text + c)
    quick.published_for(uri, version)
    assert not [d for d in quick.diagnostics[uri] if d["severity"] == 1]
    checks = len([v for u, v in quick.published if u == uri])
    assert checks < version / 2


def test_any_text_on_the_way_is_survived(quick: Client, tmp_path: Path) -> None:
    uri = (tmp_path / "damaged.yaml").as_uri()
    quick.open(uri, PIRL)
    chance, text = random.Random(0), Text(PIRL)
    for version in range(2, 80):
        start = chance.randrange(len(text.text) + 1)
        end = min(len(text.text), start + chance.choice((0, 0, 1, 5)))
        new = chance.choice(
            ("{", "}", ":", "\n", "\t", "- ", "&a ", "*a", "é😀", "\u2028", "!!python/x ", "[", '"', "<<: ", "\r\n")
        )
        change = {"range": text.range(start, end), "text": new}
        quick.change(uri, version, new, change["range"])
        text = text.changed(change)
        if version % 10 == 0:
            quick.published_for(uri, version)
    quick.change(uri, 100, PIRL)
    assert quick.published_for(uri, 100) == []


def test_positions_are_those_of_utf16() -> None:
    text = "a\r\nb😀c\rd\u2028e\n"
    found = Text(text)
    for offset in (0, 1, 3, 4, 5, 6, 7, 8, 9, 10, len(text)):
        assert found.offset(found.position(offset)) == offset
    assert found.position(text.index("c")) == {"line": 1, "character": 3}
    assert found.position(text.index("e")) == {"line": 2, "character": 2}
    assert found.offset({"line": 99, "character": 0}) == len(text)
    assert found.offset({"line": 1, "character": 99}) == text.index("\r", 3)
