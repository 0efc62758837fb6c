"""Reads a file and the files that its `extends:` names, each once, within limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from graphmodel.diagnostics import Collector, Span, fail, first_line
from graphmodel.spec.document import MAX_NODES, Document, read_file
from graphmodel.spec.merge import merge

MAX_CHAIN = 50
"""The most files that extend each other in a row."""
MAX_VALUES = 5 * MAX_NODES
"""The most values that are merged for one spec: files that name others many times would take for ever."""


class FileReader:
    """Reads specs with what they extend; every file is read and merged once.

    Args:
        report: where duplicate keys go, after which reading goes on; without it they are raised.
        allow_outside: whether `extends` may name a file outside the directory tree of the spec. It is refused by
            default, unread: a spec from somebody else must not bring files of this machine into messages.
        texts: contents that take precedence over those on the disk, by resolved path: files open in an editor.
    """

    def __init__(
        self,
        report: Collector | None = None,
        *,
        allow_outside: bool = False,
        texts: Mapping[Path, str] | None = None,
    ) -> None:
        self.report = report
        self.allow_outside = allow_outside
        self.texts = texts or {}
        self.merged: dict[Path, Document] = {}
        self.values = 0

    def read(self, path: str | Path, *, quote: bool = True) -> Document:
        """Reads a file and the files that its `extends:` names, the file itself last.

        Args:
            path: the file.
            quote: whether findings may quote its lines.

        Raises:
            CompileError: GM107 if files extend each other in a cycle or too deeply, or `extends` is not a path inside
                the spec's directory tree, else as `read_file`.
        """
        return self._read(Path(path), str(path), self._tree_of(path), (), quote)

    def _tree_of(self, path: str | Path) -> Path | None:
        try:
            return Path(path).parent.resolve()
        except (OSError, RuntimeError, ValueError):  # `read_file` reports what is wrong with the path
            return None

    def _read(self, path: Path, name: str, tree: Path | None, chain: tuple[Path, ...], quote: bool = True) -> Document:
        text = self.texts.get(path.resolve()) if self.texts else None
        document = read_file(name, quote=quote, report=self.report, text=text)
        if "extends" not in document.data:
            return document
        extends = document.data["extends"]
        names = extends if isinstance(extends, list) else [extends]
        chain = (*chain, path.resolve())
        bases: list[Document] = []
        for i, base in enumerate(names):
            at = document.span(("extends", i)) if isinstance(extends, list) else document.span(("extends",))
            if not isinstance(base, str):
                raise fail("GM107", "`extends` takes a path or a list of paths", at)
            bases.append(self._base(path.parent / base, base, at, tree, chain))
        del document.data["extends"]
        self.tally([*bases, document], document.span(("extends",)))
        return merge([*bases, document])

    def tally(self, documents: Sequence[Document], at: Span | None) -> None:
        """Counts the values that are about to be merged.

        Raises:
            CompileError: GM107 if there are too many in all.
        """
        self.values += sum(len(d.places) for d in documents)
        if self.values > MAX_VALUES:
            message = f"the files that this one is merged from have more than {MAX_VALUES:,} values in all"
            raise fail("GM107", message, at, "name every file once")

    def _base(self, path: Path, name: str, at: Span | None, tree: Path | None, chain: tuple[Path, ...]) -> Document:
        try:
            target = path.resolve()
            is_file = target in self.texts or target.is_file()
        except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name too long, a null character
            reason = getattr(error, "strerror", None) or first_line(error)
            raise fail("GM107", f"`extends` names a file that cannot be found: {reason}", at) from None
        if target in chain:
            cycle = " -> ".join(p.name for p in (*chain, target))
            raise fail("GM107", f"files extend each other in a cycle: {cycle}", at, "remove one `extends` of the cycle")
        if not self.allow_outside and (tree is None or not target.is_relative_to(tree)):
            raise fail(
                "GM107",
                f"`extends` names a file outside the directory of the spec: {name}",
                at,
                "move it into that directory, or allow it: `--allow-extends-outside`, "
                "`load_spec(allow_extends_outside=True)`",
            )
        if not is_file:
            raise fail("GM107", f"`extends` names a file that does not exist: {name}", at, f"looked for {target}")
        if len(chain) >= MAX_CHAIN:
            raise fail("GM107", f"more than {MAX_CHAIN} files extend each other in a row", at, "merge some of them")
        if target not in self.merged:
            self.merged[target] = self._read(target, str(path), tree, chain)
        return self.merged[target]
