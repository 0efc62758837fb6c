"""The documents that an editor has open, their paths and addresses, and which of them are specs."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from graphmodel.lsp.positions import Text

_KEYS = re.compile(r"^(?:graphmodel|trunks?|heads|mapping|MODEL|config)\s*:", re.MULTILINE)
_SCHEMA = re.compile(r"^#.*yaml-language-server:.*(?:native|vissl)\.schema\.json", re.MULTILINE)
_MODEL = re.compile(r"^\s+MODEL\s*:", re.MULTILINE)


@dataclass
class OpenDocument:
    """A document that is open in an editor.

    Attributes:
        uri: its address, as the editor writes it.
        path: its path; that of a document without a file is made up.
        language: the editor's name of its language.
        version: the editor's count of its changes.
        text: its contents.
        was_spec: it has looked like a spec: it still is one while a line of it is rewritten.
    """

    uri: str
    path: Path
    language: str
    version: int
    text: Text
    was_spec: bool = False

    @property
    def is_spec(self) -> bool:
        """Whether it looks like a spec, or did before: other YAML files are left alone."""
        self.was_spec = self.was_spec or self._looks_like_a_spec()
        return self.was_spec

    def _looks_like_a_spec(self) -> bool:
        text = self.text.text
        if self.language == "graphmodel" or _SCHEMA.search(text):
            return True
        keys = {m[0].rstrip(": \t") for m in _KEYS.finditer(text)}
        if keys == {"config"}:
            return _MODEL.search(text) is not None
        # One key alone, such as `config` or `mapping`, is found in many YAML files.
        return bool(keys & {"graphmodel", "MODEL"}) or len(keys) > 1 or bool(keys & {"trunk", "trunks"})


@dataclass
class Documents:
    """The open documents.

    Attributes:
        root: where documents without a file are taken to be.
        by_uri: the documents by address.
    """

    root: Path = field(default_factory=Path.cwd)
    by_uri: dict[str, OpenDocument] = field(default_factory=dict)

    def open(self, uri: str, language: str, version: int, text: str) -> OpenDocument:
        """Adds a document."""
        path = path_of(uri) or self.root / (re.sub(r"[^\w.-]+", "_", unquote(uri)).strip("_") or "untitled")
        document = OpenDocument(uri, resolved(path), language, version, Text(text))
        self.by_uri[uri] = document
        return document

    def close(self, uri: str) -> None:
        """Removes a document; the file on the disk counts again."""
        self.by_uri.pop(uri, None)

    def at(self, path: Path) -> OpenDocument | None:
        """The open document of a path."""
        return next((d for d in self.by_uri.values() if d.path == path), None)

    def texts(self) -> dict[Path, str]:
        """The contents of all open documents by path."""
        return {d.path: d.text.text for d in self.by_uri.values()}

    def uri_of(self, path: Path) -> str:
        """The address of a path: the editor's own if the document is open."""
        document = self.at(path)
        return document.uri if document is not None else to_uri(path)

    def text_of(self, path: Path) -> Text:
        """The contents of a file, open or not; empty if it cannot be read."""
        document = self.at(path)
        if document is not None:
            return document.text
        try:
            return Text(path.read_text("utf-8-sig"))
        except (OSError, ValueError):
            return Text("")


def resolved(path: Path) -> Path:
    """A path with its links followed; itself if they form a loop."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):
        return path.absolute()


def path_of(uri: str) -> Path | None:
    """The path of a `file:` address; None for any other."""
    try:
        parts = urlsplit(uri)
    except ValueError:  # a host that is no address
        return None
    if parts.scheme != "file":
        return None
    text = unquote(parts.path)
    if os.name == "nt" or re.match(r"/[A-Za-z]:", text):
        text = text.lstrip("/") if re.match(r"/[A-Za-z]:", text) else text
    return Path(f"//{parts.netloc}{text}" if parts.netloc not in ("", "localhost") else text)


def to_uri(path: Path) -> str:
    """The `file:` address of a path.

    >>> to_uri(Path("/a b/c.yaml"))
    'file:///a%20b/c.yaml'
    """
    text = path.as_posix()
    return f"file://{'' if text.startswith('/') else '/'}{quote(text)}"
