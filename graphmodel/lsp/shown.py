"""A finding as an editor shows it."""

from __future__ import annotations

from typing import Any

from graphmodel.diagnostics import Diagnostic
from graphmodel.lsp.positions import Text

_SEVERITIES = {"error": 1, "warning": 2, "note": 3}
_UNNECESSARY = 1
PAGE = "https://github.com/graphmodel/graphmodel/blob/main/docs/diagnostics.md"


def shown(finding: Diagnostic, text: Text) -> dict[str, Any]:
    """The diagnostic of the protocol.

    Args:
        finding: the finding.
        text: the document that its span is in.
    """
    start = {"line": 0, "character": 0}
    out: dict[str, Any] = {
        "range": text.span_range(finding.span) if finding.span is not None else {"start": start, "end": start},
        "severity": _SEVERITIES[finding.severity],
        "code": finding.code,
        "codeDescription": {"href": f"{PAGE}#{finding.code.lower()}"},
        "source": "graphmodel",
        "message": finding.message + (f"\nhelp: {finding.help}" if finding.help else ""),
    }
    if finding.code == "GM210":  # it is left out of the model
        out["tags"] = [_UNNECESSARY]
    return out
