"""A client of the language server: messages written out, over the standard streams of the real command."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TIMEOUT = 120.0


class Client:
    """An editor.

    Args:
        root: the workspace.
        options: the initialization options.
        start: whether to send `initialize` and `initialized`.
    """

    def __init__(
        self, root: Path, options: dict[str, Any] | None = None, *, start: bool = True, arguments: tuple[str, ...] = ()
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "graphmodel", "lsp", *arguments], cwd=root, env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.diagnostics: dict[str, list[dict[str, Any]]] = {}
        self.published: list[tuple[str, int | None]] = []
        self.requests: list[str] = []
        self.answers: dict[Any, dict[str, Any]] = {}
        self.ids = 0
        threading.Thread(target=self._read, daemon=True).start()
        if start:
            self.capabilities = self.ask(
                "initialize",
                {
                    "processId": os.getpid(),
                    "rootUri": root.as_uri(),
                    "capabilities": {"workspace": {"inlayHint": {"refreshSupport": True}}},
                    "initializationOptions": options or {},
                },
            )["capabilities"]
            self.tell("initialized", {})

    def _read(self) -> None:
        stream = self.process.stdout
        assert stream is not None
        while True:
            length = 0
            while (line := stream.readline()) not in (b"\r\n", b""):
                length = int(line.split(b":")[1])
            if line == b"":
                self.messages.put(None)
                return
            self.messages.put(json.loads(stream.read(length)))

    def write(self, raw: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(raw)
        self.process.stdin.flush()

    def send(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))

    def tell(self, method: str, params: Any) -> None:
        self.send({"method": method, "params": params})

    def take(self, timeout: float = TIMEOUT) -> Any:
        """The next message, after it was noted."""
        message = self.messages.get(timeout=timeout)
        if message is None:
            raise EOFError
        if message.get("method") == "textDocument/publishDiagnostics":
            params = message["params"]
            self.diagnostics[params["uri"]] = params["diagnostics"]
            self.published.append((params["uri"], params.get("version")))
        elif "method" in message:
            self.requests.append(message["method"])
        else:
            self.answers[message["id"]] = message
        return message

    def until(self, condition: Callable[[], bool], timeout: float = TIMEOUT) -> None:
        """Takes messages until a condition holds."""
        end = time.monotonic() + timeout
        while not condition():
            self.take(max(0.01, end - time.monotonic()))

    def request(self, method: str, params: Any) -> Any:
        """The id of a request that was sent."""
        self.ids += 1
        self.send({"id": self.ids, "method": method, "params": params})
        return self.ids

    def ask(self, method: str, params: Any, *, fails: bool = False) -> Any:
        """The result of a request, or its error."""
        number = self.request(method, params)
        self.until(lambda: number in self.answers)
        answer = self.answers.pop(number)
        assert ("error" in answer) == fails, answer
        return answer["error" if fails else "result"]

    # -- documents ----------------------------------------------------------------------------------------------------

    def open(self, uri: str, text: str, language: str = "yaml", version: int = 1) -> str:
        self.tell(
            "textDocument/didOpen",
            {"textDocument": {"uri": uri, "languageId": language, "version": version, "text": text}},
        )
        return uri

    def change(self, uri: str, version: int, text: str, range_: Any = None) -> None:
        change = {"text": text} if range_ is None else {"range": range_, "text": text}
        self.tell(
            "textDocument/didChange", {"textDocument": {"uri": uri, "version": version}, "contentChanges": [change]}
        )

    def published_for(self, uri: str, version: int) -> list[dict[str, Any]]:
        """The first diagnostics of a version of a document."""
        self.until(lambda: (uri, version) in self.published)
        return self.diagnostics[uri]

    def codes(self, uri: str) -> list[str]:
        return [d["code"] for d in self.diagnostics.get(uri, [])]

    def question(self, method: str, uri: str, position: tuple[int, int] | None = None, **more: Any) -> Any:
        """The answer to a question about a document, at a position if given."""
        params: dict[str, Any] = {"textDocument": {"uri": uri}, **more}
        if position is not None:
            params["position"] = {"line": position[0], "character": position[1]}
        return self.ask(method, params)

    def close(self) -> int:
        """Ends the session as the protocol says; the exit code."""
        self.ask("shutdown", None)
        self.tell("exit", None)
        code = self.process.wait(timeout=30)
        self.end()
        return code

    def end(self) -> None:
        """Ends the process whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


def applied(text: str, edits: list[dict[str, Any]]) -> str:
    """A text after edits."""
    from graphmodel.lsp.positions import Text

    found = Text(text)
    spans = sorted(
        ((found.offset(e["range"]["start"]), found.offset(e["range"]["end"]), e["newText"]) for e in edits),
        reverse=True,
    )
    for start, end, new in spans:
        text = text[:start] + new + text[end:]
    return text
