"""Writes the generated pages of the documentation and the JSON Schemas. Run it after a change to their sources."""

from __future__ import annotations

from pathlib import Path

from graphmodel.cli import catalogue
from graphmodel.diagnostics import json_text
from graphmodel.diagnostics.codes import to_markdown
from graphmodel.dialects.vissl import config_keys
from graphmodel.schema import write_schemas

DOCS = Path(__file__).resolve().parent


def vissl_page(text: str) -> str:
    """docs/vissl.md with its table of keys made anew."""
    written, mark, _ = text.partition("config_keys.py -->\n")
    return f"{written}{mark}\n{config_keys.to_markdown()}"


def main() -> None:
    """Writes docs/diagnostics.md, the table of docs/vissl.md, and schemas/, the catalogue of components included."""
    (DOCS / "diagnostics.md").write_text(to_markdown(), "utf-8")
    page = DOCS / "vissl.md"
    page.write_text(vissl_page(page.read_text("utf-8")), "utf-8")
    write_schemas(DOCS.parent / "schemas")
    (DOCS.parent / "schemas" / "catalogue.json").write_text(json_text(catalogue.document()) + "\n", "utf-8")


if __name__ == "__main__":
    main()
