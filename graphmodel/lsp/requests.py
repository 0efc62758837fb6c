"""The questions that the server answers, by the method's name, and what it tells editors that it can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from graphmodel.lsp import rpc
from graphmodel.lsp.documents import OpenDocument
from graphmodel.lsp.positions import overlap
from graphmodel.lsp.session import Session

Answer = Callable[[Session, Any], Any]
Question = Callable[[Session, OpenDocument, Any], Any]

CAPABILITIES: Mapping[str, Any] = {
    "positionEncoding": "utf-16",
    "textDocumentSync": {"openClose": True, "change": 2, "save": True},
    "completionProvider": {"triggerCharacters": [".", ":", "{", "[", " "]},
    "hoverProvider": True,
    "definitionProvider": True,
    "referencesProvider": True,
    "documentHighlightProvider": True,
    "renameProvider": {"prepareProvider": True},
    "inlayHintProvider": True,
    "documentSymbolProvider": True,
    "foldingRangeProvider": True,
    "documentFormattingProvider": True,
    "codeActionProvider": {"codeActionKinds": ["quickfix"]},
    "workspace": {"workspaceFolders": {"supported": True, "changeNotifications": True}},
}

# What answers a question is imported with the first one: the server has to start before that.


def _code_actions(session: Session, document: OpenDocument, params: Any) -> Any:
    from graphmodel.lsp.fixes import code_action

    found = session.findings.get(document.uri, [])
    touched = [(f, d) for f, d in found if overlap(d["range"], params["range"])]
    return [a for f, d in touched if (a := code_action(f, d, document.uri, document.text)) is not None]


def _completion(session: Session, document: OpenDocument, params: Any) -> Any:
    from graphmodel.lsp.completion import complete

    return complete(session, document, document.text.offset(params["position"]))


def _hover(session: Session, document: OpenDocument, params: Any) -> Any:
    from graphmodel.lsp.hover import hover

    return hover(session, document, params["position"])


def _definition(session: Session, document: OpenDocument, params: Any) -> Any:
    from graphmodel.lsp.references import definition
    from graphmodel.lsp.vissl_references import head_definitions

    found = definition(session, document, params["position"])
    return found or head_definitions(session, document, params["position"])


def _references(session: Session, document: OpenDocument, params: Any) -> Any:
    from graphmodel.lsp.references import references

    context = params.get("context") or {}
    wanted = context.get("includeDeclaration", True)
    return references(session, document, params["position"], with_definition=bool(wanted))


def _highlights(session: Session, document: OpenDocument, params: Any) -> Any:
    from graphmodel.lsp.references import highlights

    return highlights(session, document, params["position"])


def _refuse_vissl(document: OpenDocument) -> None:
    from graphmodel.lsp.vissl_references import CANNOT_RENAME, is_vissl

    if is_vissl(document):
        raise rpc.RpcError(rpc.INVALID_PARAMS, CANNOT_RENAME)


def _prepare_rename(session: Session, document: OpenDocument, params: Any) -> Any:
    from graphmodel.lsp.references import prepare_rename

    _refuse_vissl(document)
    return prepare_rename(session, document, params["position"])


def _rename(session: Session, document: OpenDocument, params: Any) -> Any:
    from graphmodel.lsp.references import CannotRename, rename

    _refuse_vissl(document)
    try:
        return rename(session, document, params["position"], str(params["newName"]))
    except CannotRename as error:
        raise rpc.RpcError(rpc.INVALID_PARAMS, str(error)) from None


def _hints(session: Session, document: OpenDocument, params: Any) -> Any:
    from graphmodel.lsp.hints import hints

    return hints(session, document, params["range"])


def _symbols(session: Session, document: OpenDocument, params: Any) -> Any:
    from graphmodel.lsp.outline import symbols

    return symbols(document.text) if document.is_spec else []


def _folds(session: Session, document: OpenDocument, params: Any) -> Any:
    from graphmodel.lsp.outline import folds

    return folds(document.text) if document.is_spec else []


def _formatting(session: Session, document: OpenDocument, params: Any) -> Any:
    from graphmodel.lsp.formatting import formatting

    return formatting(document.text) if document.is_spec else []


_POSITION = (("position", "line"), ("position", "character"))
_RANGE = tuple(("range", end, part) for end in ("start", "end") for part in ("line", "character"))
_PARTS: Mapping[tuple[str, ...], tuple[tuple[tuple[str, ...], ...], type]] = {
    ("completion", "hover", "definition", "references", "documentHighlight", "prepareRename", "rename"): (
        _POSITION,
        int,
    ),
    ("codeAction", "inlayHint"): (_RANGE, int),
    ("rename",): ((("newName",),), str),
}
"""The parts that the parameters of methods must have besides the document, and their type."""


def has(params: Any, *path: Any) -> bool:
    """Whether there is a value at a path, of the type that ends it."""
    *keys, kind = path
    for key in keys:
        params = params.get(key) if isinstance(params, dict) else None
    return isinstance(params, kind)


def check_notification(method: str, params: Any) -> None:
    """Refuses a notification about a document whose parameters are not those of the protocol.

    Raises:
        RpcError: INVALID_PARAMS.
    """
    if method not in ("textDocument/didOpen", "textDocument/didChange", "textDocument/didClose"):
        return
    missing = "" if has(params, "textDocument", "uri", str) else "textDocument.uri"
    if method.endswith("didOpen") and not has(params, "textDocument", "text", str):
        missing = missing or "textDocument.text"
    if method.endswith("didChange"):
        changes = params.get("contentChanges") if isinstance(params, dict) else None
        if not isinstance(changes, list) or not all(map(_is_change, changes)):
            missing = missing or "contentChanges"
    if missing:
        raise rpc.RpcError(rpc.INVALID_PARAMS, f"`{missing}` is missing or not valid")


def _is_change(change: Any) -> bool:
    """Whether it is the new text of a document, or of a range of it."""
    if not has(change, "text", str):
        return False
    return change.get("range") is None or all(has(change, *path, int) for path in _RANGE)


def _about_a_document(method: str, question: Question) -> Answer:
    """A question about an open document; nothing is answered about others."""

    def answer(session: Session, params: Any) -> Any:
        if not has(params, "textDocument", "uri", str):
            raise rpc.RpcError(rpc.INVALID_PARAMS, "`textDocument.uri` is missing")
        for methods, (paths, kind) in _PARTS.items():
            if method in methods and not all(has(params, *path, kind) for path in paths):
                raise rpc.RpcError(rpc.INVALID_PARAMS, f"`{paths[0][0]}` is missing or not valid")
        document = session.documents.by_uri.get(params["textDocument"]["uri"])
        return question(session, document, params) if document is not None else None

    return answer


REQUESTS: Mapping[str, Answer] = {
    f"textDocument/{name}": _about_a_document(name, question)
    for name, question in {
        "codeAction": _code_actions,
        "completion": _completion,
        "hover": _hover,
        "definition": _definition,
        "references": _references,
        "documentHighlight": _highlights,
        "prepareRename": _prepare_rename,
        "rename": _rename,
        "inlayHint": _hints,
        "documentSymbol": _symbols,
        "foldingRange": _folds,
        "formatting": _formatting,
    }.items()
}
