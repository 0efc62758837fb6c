"""The server: reads messages, keeps documents in step, checks them after a pause, and answers questions.

Everything happens in one thread, one event after the other; two further threads only read, from the editor and from the
worker. So nothing is locked, and an answer never waits for torch.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from graphmodel import __version__
from graphmodel.lsp import rpc
from graphmodel.lsp.background import Worker
from graphmodel.lsp.documents import OpenDocument, path_of
from graphmodel.lsp.requests import CAPABILITIES, REQUESTS, check_notification, has
from graphmodel.lsp.session import Session
from graphmodel.lsp.settings import settings_of

Handler = Callable[["Server", Any], Any]


class Server:
    """A language server.

    Args:
        reader: what the editor sends.
        writer: what it receives.
        imports: modules that register heads and trunks, which the worker imports.
    """

    def __init__(self, reader: BinaryIO, writer: BinaryIO, imports: Sequence[str] = ()) -> None:
        self.reader = reader
        self.writer = rpc.Writer(writer)
        self.events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self.worker = Worker(lambda line: self.events.put(("worker", line)), imports, self._warn)
        self.session = Session(self._publish, self._refresh, self.worker)
        self.cancelled: set[Any] = set()
        self.can_refresh = False
        self.folders: list[Path] = []
        self.options: Any = None
        self.state = "new"
        self.exit_code: int | None = None

    def run(self) -> int:
        """Serves until the editor is gone; the exit code."""
        threading.Thread(target=self._read, daemon=True).start()
        try:
            while self.exit_code is None:
                self._step()
        finally:
            self.worker.stop()
        return self.exit_code

    def _read(self) -> None:
        while True:
            try:
                message = rpc.read_message(self.reader)
            except rpc.EndOfStream:
                self.events.put(("end", None))
                return
            except rpc.RpcError as error:
                self.events.put(("malformed", error))
                continue
            if isinstance(message, dict) and message.get("method") == "$/cancelRequest":
                params = message.get("params")
                self.cancelled.add(str(params.get("id")) if isinstance(params, dict) else "")
            else:
                self.events.put(("message", message))

    def _step(self) -> None:
        """Handles one event, or what is due; messages that wait go first."""
        due = self.session.next_due()
        now = time.monotonic()
        wait = 1.0 if due is None else max(0.0, min(due - now, 1.0))
        try:
            kind, content = self.events.get(timeout=wait) if wait else self.events.get_nowait()
        except queue.Empty:
            now = time.monotonic()
            self.worker.tick(now)
            self._guarded(lambda: self.session.run_due(now))
            return
        if kind == "end":
            self.exit_code = 0 if self.state == "shut down" else 1
        elif kind == "malformed":
            self.writer.refuse(None, content)
        elif kind == "worker":
            self._guarded(lambda: self.worker.handle(content))
        else:
            self._message(content)

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception:  # a fault of ours in one document must not end the session
            traceback.print_exc(file=sys.stderr)

    def _message(self, message: Any) -> None:
        if not isinstance(message, dict):
            self.writer.refuse(None, rpc.RpcError(rpc.INVALID_REQUEST, "not a message"))
            return
        if not isinstance(message.get("method"), str):
            return  # an answer to a request of ours
        is_request = "id" in message
        try:
            result = self._result(message["method"], message.get("params"), message.get("id"), is_request)
        except rpc.RpcError as error:
            if is_request:
                self.writer.refuse(message["id"], error)
            elif error.code == rpc.INVALID_PARAMS:  # nothing answers a notification: the log has to say it
                print(f"graphmodel lsp: {message['method']} is ignored: {error}", file=sys.stderr, flush=True)
            return
        except Exception as error:  # a fault of ours
            traceback.print_exc(file=sys.stderr)
            if is_request:
                text = f"{type(error).__name__}: {error}"
                self.writer.refuse(message["id"], rpc.RpcError(rpc.INTERNAL_ERROR, text))
            return
        if is_request:
            self.writer.respond(message["id"], result)

    def _result(self, method: str, params: Any, id: Any, is_request: bool) -> Any:
        if is_request and str(id) in self.cancelled:
            self.cancelled.discard(str(id))
            raise rpc.RpcError(rpc.REQUEST_CANCELLED, "cancelled")
        if self.state == "new" and method not in ("initialize", "exit"):
            raise rpc.RpcError(rpc.NOT_INITIALIZED, "the first request is `initialize`")
        if self.state == "shut down" and method != "exit":
            raise rpc.RpcError(rpc.INVALID_REQUEST, "the server is shut down")
        if method in LIFECYCLE:
            check_notification(method, params)
            return LIFECYCLE[method](self, params)
        if method in REQUESTS:
            return REQUESTS[method](self.session, params)
        if is_request:
            raise rpc.RpcError(rpc.METHOD_NOT_FOUND, f"no such method: {method}")
        return None

    def _publish(self, uri: str, version: int | None, diagnostics: list[dict[str, Any]]) -> None:
        params = {"uri": uri, "diagnostics": diagnostics}
        self.writer.notify(
            "textDocument/publishDiagnostics", params if version is None else {**params, "version": version}
        )

    def _warn(self, text: str) -> None:
        """Shows the user a warning."""
        self.writer.notify("window/showMessage", {"type": 2, "message": text})

    def _refresh(self) -> None:
        if self.can_refresh:
            self.writer.request("workspace/inlayHint/refresh")

    # -- the session --------------------------------------------------------------------------------------------------

    def initialize(self, params: Any) -> Any:
        if self.state != "new":
            raise rpc.RpcError(rpc.INVALID_REQUEST, "`initialize` was sent twice")
        if not isinstance(params, dict):
            raise rpc.RpcError(rpc.INVALID_PARAMS, "`initialize` has no parameters")
        self.state = "running"
        self.folders = _folders(params.get("workspaceFolders")) or _folders([{"uri": params.get("rootUri")}])
        self.options = params.get("initializationOptions")
        self._read_settings()
        path = ("capabilities", "workspace", "inlayHint", "refreshSupport")
        self.can_refresh = has(params, *path, bool) and params["capabilities"]["workspace"]["inlayHint"][path[-1]]
        return {"capabilities": CAPABILITIES, "serverInfo": {"name": "graphmodel", "version": __version__}}

    def initialized(self, params: Any) -> None:
        self.session.start()
        self.session.all_changed()

    def shutdown(self, params: Any) -> None:
        self.state = "shut down"

    def exit(self, params: Any) -> None:
        self.exit_code = 0 if self.state == "shut down" else 1

    def did_open(self, params: Any) -> None:
        item = params["textDocument"]
        version = item.get("version")
        document = self.session.documents.open(
            item["uri"], str(item.get("languageId", "")), version if isinstance(version, int) else 0, item["text"]
        )
        self.session.changed(document)

    def did_change(self, params: Any) -> None:
        document = self._document(params)
        if document is None:
            return
        for change in params["contentChanges"]:
            document.text = document.text.changed(change)
        version = params["textDocument"].get("version")
        document.version = version if isinstance(version, int) else document.version + 1
        self.session.changed(document)

    def did_close(self, params: Any) -> None:
        document = self._document(params)
        if document is not None:
            self.session.closed(document)

    def did_save(self, params: Any) -> None:
        self.session.all_changed()

    def did_change_configuration(self, params: Any) -> None:
        settings = params.get("settings") if isinstance(params, Mapping) else None
        own = settings.get("graphmodel", settings) if isinstance(settings, Mapping) else None
        if own is not None:
            self.options = own
        self._read_settings()
        self.session.all_changed()

    def did_change_folders(self, params: Any) -> None:
        event = params.get("event") if isinstance(params, Mapping) else None
        if isinstance(event, Mapping):
            removed = _folders(event.get("removed"))
            self.folders = [f for f in self.folders if f not in removed] + _folders(event.get("added"))
            self._read_settings()
            self.session.all_changed()

    def _read_settings(self) -> None:
        folders = self.folders or [Path.cwd()]
        self.session.documents.root = folders[0]
        self.session.settings = settings_of(self.options, folders)

    def _document(self, params: Any) -> OpenDocument | None:
        return self.session.documents.by_uri.get(params["textDocument"]["uri"])


def _folders(items: Any) -> list[Path]:
    """The folders of a workspace that are on the disk."""
    uris = [item.get("uri") for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []
    return [path for uri in uris if isinstance(uri, str) and (path := path_of(uri)) is not None]


LIFECYCLE: Mapping[str, Handler] = {
    "initialize": Server.initialize,
    "initialized": Server.initialized,
    "shutdown": Server.shutdown,
    "exit": Server.exit,
    "textDocument/didOpen": Server.did_open,
    "textDocument/didChange": Server.did_change,
    "textDocument/didClose": Server.did_close,
    "textDocument/didSave": Server.did_save,
    "workspace/didChangeConfiguration": Server.did_change_configuration,
    "workspace/didChangeWatchedFiles": Server.did_save,
    "workspace/didChangeWorkspaceFolders": Server.did_change_folders,
}


def serve(imports: Sequence[str] = ()) -> None:
    """Serves on the standard streams, and ends the process."""
    # What anything prints must not come between the messages.
    writer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    code = Server(sys.stdin.buffer, writer, imports).run()
    # The reading thread still waits for input, and Python would wait for it.
    os._exit(code)
