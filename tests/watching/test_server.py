"""What the server answers, and to whom."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from graphmodel.watching.board import Board, Shown
from graphmodel.watching.server import Server


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(Board([Shown("a.yaml", page="<p>picture</p>", picture=1), Shown("b.yaml")]))
    made.start()
    yield made
    made.stop()


def ask(server: Server, path: str, *, host: str | None = None, method: str = "GET") -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{server.server_port}")
    connection.putheader("Origin", "https://example.org")
    connection.endheaders()
    answer = connection.getresponse()
    answer.text = "" if path.endswith("/events") and answer.status == 200 else answer.read().decode()  # type: ignore[attr-defined]
    return answer


def test_the_page_and_its_parts_are_served(server: Server) -> None:
    base = f"/{server.token}/"
    for name, text, kind in [
        ("", "<!doctype html>", "text/html"),
        ("watch.css", "#source", "text/css"),
        ("watch.js", "EventSource", "text/javascript"),
        ("picture/0?v=1", "<p>picture</p>", "text/html"),
    ]:
        answer = ask(server, base + name)
        assert answer.status == 200, name
        assert text in answer.text  # type: ignore[attr-defined]
        assert answer.headers["Content-Type"] == f"{kind}; charset=utf-8"


def test_it_listens_on_the_loopback_address_alone(server: Server) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.server_port}/{server.token}/"
    assert len(server.token) >= 32
    assert Server(Board([])).token != server.token


@pytest.mark.parametrize(
    "host", ["example.org", "example.org:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.nip.io:{port}", "[::1]:{port}"]
)
def test_another_host_is_refused_even_with_the_token(server: Server, host: str) -> None:
    answer = ask(server, f"/{server.token}/", host=host.format(port=server.server_port))
    assert answer.status == 403


def test_a_request_without_a_host_is_refused(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as raw:
        raw.sendall(f"GET /{server.token}/ HTTP/1.0\r\n\r\n".encode())
        assert b" 403 " in raw.recv(1000)


def test_localhost_is_this_machine(server: Server) -> None:
    assert ask(server, f"/{server.token}/", host=f"localhost:{server.server_port}").status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/", "/watch.js", "/wrong/", "/{token}", "/{short}/", "/{token}x/", "/%2e%2e/{token}/", "/?{token}/", "/é/",
        "/{token}/../server.py", "/{token}/assets/watch.js", "/{token}//etc/passwd", "/{token}/%2e%2e/server.py", "/{token}/watch.html",
        "/{token}/picture/1", "/{token}/picture/2", "/{token}/picture/-1", "/{token}/picture/0/", "/{token}/picture/99999999999", "/{token}/picture/٠",
    ],
)  # fmt: skip
def test_everything_else_is_not_found(server: Server, path: str) -> None:
    path = path.format(token=server.token, short=server.token[:-1])
    path = path.encode().decode("latin-1")  # http.client sends Latin-1
    if not path.isascii():
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as raw:
            raw.sendall(f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{server.server_port}\r\n\r\n".encode("latin-1"))
            assert b" 404 " in raw.recv(1000)
    else:
        assert ask(server, path).status == 404


def test_only_get_is_answered(server: Server) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert ask(server, f"/{server.token}/", method=method).status == 501


def test_every_answer_has_a_policy_and_none_allows_other_origins(server: Server) -> None:
    for path in ("", "watch.js", "picture/0", "none", "events"):
        headers = ask(server, f"/{server.token}/{path}").headers
        assert "frame-ancestors" in headers["Content-Security-Policy"] or path == "none"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"
        assert not [name for name in headers if name.lower().startswith("access-control")]
    policy = ask(server, f"/{server.token}/").headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_events_tell_the_state_at_once_and_after_each_change(server: Server) -> None:
    answer = ask(server, f"/{server.token}/events")
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"

    def event() -> list[dict[str, object]]:
        line = answer.fp.readline().decode()
        assert answer.fp.readline() == b"\n"
        assert line.startswith("data: ")
        return json.loads(line.removeprefix("data: "))["specs"]  # type: ignore[no-any-return]

    assert [s["name"] for s in event()] == ["a.yaml", "b.yaml"]
    server.board.put(1, replace(server.board[1], state="invalid", files=({"text": "a\n\u2028é"},)))
    second = event()[1]
    assert second["state"] == "invalid"
    assert second["files"] == [{"text": "a\n\u2028é"}]
    server.stop()
    assert answer.fp.readline() == b""
