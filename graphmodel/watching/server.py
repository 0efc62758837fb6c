"""Serves the page to browsers on this machine that know its address; nothing else is answered.

The address contains a random token, so that other users and other pages cannot guess it. The `Host` header must name
this machine, so that a foreign name that resolves to it does not open the page (DNS rebinding). Answers carry a content
security policy and no permission for other origins.
"""

from __future__ import annotations

import hmac
import re
import secrets
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from graphmodel.watching.board import Board

ASSETS = Path(__file__).parent / "assets"
RESOURCES = {
    "": ("watch.html", "text/html"),
    "watch.css": ("watch.css", "text/css"),
    "watch.js": ("watch.js", "text/javascript"),
}
"""Files of this package that are served, by address."""
KEEP_ALIVE = 15.0
"""Seconds after which a silent stream of events says that it is still there."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PICTURE_POLICY = "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
"""The page of a picture names its own scripts in a policy of its own; this one adds to it."""


class Server(ThreadingHTTPServer):
    """Serves a board on the loopback address.

    Args:
        board: what to show.
        port: the port; 0 takes a free one.
    """

    daemon_threads = True
    allow_reuse_address = False

    def __init__(self, board: Board, port: int = 0) -> None:
        self.board = board
        self.token = secrets.token_urlsafe(24)
        super().__init__(("127.0.0.1", port), Handler)
        self.hosts = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}

    @property
    def url(self) -> str:
        """The address of the page, its token included."""
        return f"http://127.0.0.1:{self.server_port}/{self.token}/"

    def start(self) -> None:
        """Serves in a thread that ends with the process."""
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()

    def stop(self) -> None:
        """Ends the streams of events and closes the port."""
        self.board.close()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is not worth a traceback."""


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Server
    server_version, sys_version = "graphmodel", ""
    timeout = 60

    def do_GET(self) -> None:
        board = self.server.board
        # Compared before anything else is looked at, so that an error tells a stranger nothing.
        if self.headers.get("Host") not in self.server.hosts:
            return self.refuse(HTTPStatus.FORBIDDEN)
        token, slash, name = self.path.partition("?")[0].removeprefix("/").partition("/")
        if not slash or not hmac.compare_digest(token.encode(), self.server.token.encode()):
            return self.refuse(HTTPStatus.NOT_FOUND)
        if name in RESOURCES:
            file, kind = RESOURCES[name]
            return self.answer((ASSETS / file).read_bytes(), kind, POLICY)
        if name == "events":
            return self.stream()
        picture = re.fullmatch(r"picture/([0-9]{1,4})", name)
        page = board[int(picture[1])].page if picture and int(picture[1]) < len(board) else ""
        if page:
            return self.answer(page.encode(), "text/html", PICTURE_POLICY)
        return self.refuse(HTTPStatus.NOT_FOUND)

    def refuse(self, status: HTTPStatus) -> None:
        self.answer(f"{status.value} {status.phrase}\n".encode(), "text/plain", "default-src 'none'", status)

    def answer(self, body: bytes, kind: str, policy: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_policies(kind, policy)
        self.wfile.write(body)

    def send_policies(self, kind: str, policy: str) -> None:
        for name, value in (
            ("Content-Type", f"{kind}; charset=utf-8"),
            ("Content-Security-Policy", policy),
            ("X-Content-Type-Options", "nosniff"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Cross-Origin-Opener-Policy", "same-origin"),
            ("Referrer-Policy", "no-referrer"),
            ("Cache-Control", "no-store"),
        ):
            self.send_header(name, value)
        self.end_headers()

    def stream(self) -> None:
        """Server-sent events: the state of the board, now and after each change."""
        self.send_response(HTTPStatus.OK)
        self.send_policies("text/event-stream", POLICY)
        version = 0
        try:
            while True:
                found = self.server.board.after(version, KEEP_ALIVE)
                if found is None:
                    self.wfile.write(b": still here\n\n")
                else:
                    version, text = found
                    self.wfile.write(f"data: {text}\n\n".encode())
                self.wfile.flush()
        except (OSError, EOFError):  # the browser or the command has gone
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged: their addresses contain the token."""
