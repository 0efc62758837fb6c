"""A client that was written by others reads every answer: pygls structures it into the types of the protocol."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.lsp.test_questions import SPEC, at


@pytest.mark.slow
def test_pygls_understands_every_answer(tmp_path: Path) -> None:
    from lsprotocol import types
    from pygls.lsp.client import LanguageClient

    async def session() -> dict[str, Any]:
        client = LanguageClient("test", "1")
        published: asyncio.Queue[Any] = asyncio.Queue()
        client.feature(types.TEXT_DOCUMENT_PUBLISH_DIAGNOSTICS)(lambda params: published.put_nowait(params))
        await client.start_io(sys.executable, "-m", "graphmodel", "lsp")
        options = types.InitializeParams(types.ClientCapabilities(), initialization_options={"shapes": False})
        made = await client.initialize_async(options)
        assert made.capabilities.rename_provider is not None
        client.initialized(types.InitializedParams())
        uri = (tmp_path / "spec.yaml").as_uri()
        text = SPEC.replace("copy: student", "copy: studnt")
        item = types.TextDocumentItem(uri, "yaml", 1, text)
        client.text_document_did_open(types.DidOpenTextDocumentParams(item))
        diagnostics = (await asyncio.wait_for(published.get(), 60)).diagnostics
        document = types.TextDocumentIdentifier(uri)
        everything = types.Range(types.Position(0, 0), types.Position(99, 0))
        place = types.Position(*at(text, "head: pro|ject"))
        found = {
            "diagnostics": diagnostics,
            "fixes": await client.text_document_code_action_async(
                types.CodeActionParams(document, everything, types.CodeActionContext(diagnostics))
            ),
            "items": (await client.text_document_completion_async(types.CompletionParams(document, place))).items,  # type: ignore[union-attr]
            "hover": await client.text_document_hover_async(
                types.HoverParams(document, types.Position(*at(text, "de|pth")))
            ),
            "definition": await client.text_document_definition_async(types.DefinitionParams(document, place)),
            "references": await client.text_document_references_async(
                types.ReferenceParams(types.ReferenceContext(True), document, place)
            ),
            "highlights": await client.text_document_document_highlight_async(
                types.DocumentHighlightParams(document, place)
            ),
            "rename": await client.text_document_rename_async(types.RenameParams(document, place, "projector")),
            "symbols": await client.text_document_document_symbol_async(types.DocumentSymbolParams(document)),
            "folds": await client.text_document_folding_range_async(types.FoldingRangeParams(document)),
        }
        await client.shutdown_async(None)
        client.exit(None)
        await client.stop()
        return found

    found = asyncio.run(asyncio.wait_for(session(), 120))
    assert [d.code for d in found["diagnostics"]] == ["GM205"]
    assert [a.title for a in found["fixes"]] == ["Change to `student`"]
    assert {i.label for i in found["items"]} >= {"project"}
    assert all(found.values())
