"""The questions that the server answers, by the method's name, and what it tells editors that it can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from graphmodel.lsp.fixes import code_action
from graphmodel.lsp.positions import overlap
from graphmodel.lsp.session import Session

Answer = Callable[[Session, Any], Any]

CAPABILITIES: Mapping[str, Any] = {
    "positionEncoding": "utf-16",
    "textDocumentSync": {"openClose": True, "change": 2, "save": True},
    "codeActionProvider": {"codeActionKinds": ["quickfix"]},
    "workspace": {"workspaceFolders": {"supported": True, "changeNotifications": False}},
}


def code_actions(session: Session, params: Any) -> list[dict[str, Any]]:
    """Quick fixes for the findings in a range."""
    uri = params["textDocument"]["uri"]
    document = session.documents.by_uri.get(uri)
    if document is None:
        return []
    touched = [(f, d) for f, d in session.findings.get(uri, []) if overlap(d["range"], params["range"])]
    return [a for f, d in touched if (a := code_action(f, d, uri, document.text)) is not None]


REQUESTS: Mapping[str, Answer] = {
    "textDocument/codeAction": code_actions,
}
