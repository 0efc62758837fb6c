"""JSON-RPC messages over two streams, as the base protocol of the Language Server Protocol frames them.

Source: https://microsoft.github.io/language-server-protocol/specifications/lsp/3.17/specification/#baseProtocol
"""

from __future__ import annotations

import json
import threading
from typing import Any, BinaryIO

Message = dict[str, Any]

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL_ERROR = -32700, -32600, -32601, -32602, -32603
NOT_INITIALIZED, REQUEST_CANCELLED = -32002, -32800

MAX_MESSAGE = 64 * 1024 * 1024
"""The largest message that is read, in bytes: a header of an endless length must not fill the memory."""


class RpcError(Exception):
    """The refusal of a request.

    Attributes:
        code: an error code of the protocol.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class EndOfStream(Exception):
    """The other side has closed the stream, or sends something that is not the protocol."""


def read_message(stream: BinaryIO) -> Any:
    """The next message.

    Raises:
        EndOfStream: if there is none, or the stream cannot be read further.
        RpcError: PARSE_ERROR if its content is not JSON; the next one can be read.
    """
    length = -1
    while True:
        line = stream.readline(4096)
        if not line.endswith(b"\n"):
            raise EndOfStream
        if line in (b"\r\n", b"\n"):
            break
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            length = int(value)
    if not 0 <= length <= MAX_MESSAGE:
        raise EndOfStream
    body = stream.read(length)
    if len(body) < length:
        raise EndOfStream
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RpcError(PARSE_ERROR, f"not JSON: {error}") from None


class Writer:
    """Writes messages; several threads may.

    Args:
        stream: where they go.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.lock = threading.Lock()
        self.last = 0

    def send(self, message: Message) -> None:
        """Writes one message; nothing if the other side is gone."""
        body = json.dumps({"jsonrpc": "2.0", **message}, ensure_ascii=True, separators=(",", ":")).encode("ascii")
        with self.lock:
            try:
                self.stream.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
                self.stream.flush()
            except (OSError, ValueError):  # a closed pipe; the reader sees the end
                pass

    def notify(self, method: str, params: Any) -> None:
        """Sends a notification."""
        self.send({"method": method, "params": params})

    def request(self, method: str, params: Any = None) -> None:
        """Sends a request whose answer is of no interest."""
        self.last += 1
        self.send({"id": f"server-{self.last}", "method": method, **({"params": params} if params is not None else {})})

    def respond(self, id: Any, result: Any) -> None:
        """Answers a request."""
        self.send({"id": id, "result": result})

    def refuse(self, id: Any, error: RpcError) -> None:
        """Refuses a request."""
        self.send({"id": id, "error": {"code": error.code, "message": str(error)}})
