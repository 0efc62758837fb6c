"""Writes the generated pages of the documentation and the JSON Schemas. Run it after a change to their sources."""

from __future__ import annotations

from pathlib import Path

from graphmodel.codes import to_markdown
from graphmodel.schema import write_schemas

DOCS = Path(__file__).resolve().parent


def main() -> None:
    """Writes docs/diagnostics.md and schemas/."""
    (DOCS / "diagnostics.md").write_text(to_markdown(), "utf-8")
    write_schemas(DOCS.parent / "schemas")


if __name__ == "__main__":
    main()
