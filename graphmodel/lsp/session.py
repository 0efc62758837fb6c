"""The state of a session: the specs that open documents belong to, what is known of each, and what is published."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphmodel.diagnostics import Diagnostic, Span
from graphmodel.lsp.background import REST, Job, Worker
from graphmodel.lsp.catalogue import Catalogue, stored_catalogue
from graphmodel.lsp.documents import Documents, OpenDocument, resolved
from graphmodel.lsp.positions import Text
from graphmodel.lsp.settings import Checked, Settings
from graphmodel.lsp.shown import shown
from graphmodel.lsp.trunk_pages import TrunkPages

Target = tuple[Path, ...]
"""The files of one spec: a file, or a base and its overlays."""

DELAY = 0.05
"""Seconds without a change after which a document is checked."""
LONGEST_DELAY = 0.4
"""Seconds after which it is checked although it still changes."""


@dataclass
class Known:
    """What is known of a spec.

    Attributes:
        checked: the last check without torch.
        good: the last spec that could be resolved.
        revision: the number of checks so far.
        complete: the findings of the last whole check.
        complete_revision: the check that they belong to.
        model: the shapes that the last whole check found; None if it found mistakes.
        costs: parameters and operations of its components.
        paths: the files that it is read from, with links followed.
    """

    checked: Checked = field(default_factory=lambda: Checked(None, (), ()))
    good: Checked | None = None
    revision: int = 0
    complete: tuple[Diagnostic, ...] = ()
    complete_revision: int = 0
    model: dict[str, Any] | None = None
    costs: dict[str, Any] = field(default_factory=dict)
    paths: frozenset[Path] = frozenset()

    def findings(self, text_of: Callable[[str], Text]) -> list[Diagnostic]:
        """What is wrong: all of it, or what is known without torch and what still holds of the last whole check."""
        if self.complete_revision == self.revision:
            return list(self.complete)
        own = {(d.code, d.message, d.path) for d in self.checked.findings}
        compiled = (d for d in self.complete if d.code > "GM3")  # what needs torch
        later = [d for d in compiled if (d.code, d.message, d.path) not in own]
        return [*self.checked.findings, *(d for d in later if d.span is not None and _holds(d, text_of(d.span.file)))]


def _holds(finding: Diagnostic, text: Text) -> bool:
    """Whether the line of a finding is still as it was."""
    span = finding.span
    return span is not None and bool(span.text) and text.line(span.line - 1) == span.text


@dataclass
class Session:
    """The open documents and the specs that they belong to.

    Attributes:
        publish: sends the diagnostics of a document: its address, its version, and the list.
        refresh: tells the editor that hints have changed.
        worker: checks shapes.
    """

    publish: Callable[[str, int | None, list[dict[str, Any]]], None]
    refresh: Callable[[], None]
    worker: Worker
    documents: Documents = field(default_factory=Documents)
    settings: Settings = field(default_factory=Settings)
    catalogue: Catalogue | None = None
    known: dict[Target, Known] = field(default_factory=dict)
    due: dict[Target, tuple[float, float]] = field(default_factory=dict)
    published: dict[str, tuple[int | None, list[dict[str, Any]]]] = field(default_factory=dict)
    findings: dict[str, list[tuple[Diagnostic, dict[str, Any]]]] = field(default_factory=dict)
    pages: TrunkPages = field(init=False)

    def __post_init__(self) -> None:
        self.pages = TrunkPages(self.worker)

    def start(self) -> None:
        """Reads the catalogue, and starts the worker."""
        self.catalogue = None if self.worker.imports else stored_catalogue()
        self._start_worker()
        threading.Thread(target=_import_checks, daemon=True).start()
        if self.catalogue is None:
            self.worker.submit(Job("catalogue", {"kind": "catalogue"}, 0, self._take_catalogue))

    def _start_worker(self, rest: float = 0.0) -> None:
        """Starts the worker if it is wanted and does not run."""
        if self.settings.shapes or self.worker.imports:
            self.worker.start_again(time.monotonic(), rest)

    def _take_catalogue(self, found: dict[str, Any]) -> None:
        self.catalogue = Catalogue(found["components"], found["schemas"])
        self.all_changed()

    # -- which specs there are ----------------------------------------------------------------------------------------

    def targets_of(self, document: OpenDocument) -> list[Target]:
        """The specs that a document belongs to, its own first; those that extend it are among them."""
        groups = [group for group in self.settings.specs if document.path in group]
        own = groups or ([(document.path,)] if document.is_spec else [])
        others = [t for t, known in self.known.items() if t not in own and document.path in known.paths]
        return [*own, *others]

    def target_of(self, document: OpenDocument) -> Target | None:
        """The spec that questions about a document are about."""
        return next(iter(self.targets_of(document)), None)

    def known_of(self, document: OpenDocument) -> Known:
        """What is known of the spec of a document."""
        target = self.target_of(document)
        return self.known.get(target, Known()) if target is not None else Known()

    # -- changes ------------------------------------------------------------------------------------------------------

    def changed(self, document: OpenDocument) -> None:
        """Plans the checks that a change needs, and gives up what runs."""
        self._start_worker(REST)
        for target in self.targets_of(document):
            self.worker.drop(("check", target))
            self.worker.drop(("costs", target))
            self._plan(target)
        for target in [t for t in self.known if document.path in t and not self._is_wanted(t)]:
            self.forget(target)

    def all_changed(self) -> None:
        """Plans a check of everything: settings, or files on the disk, have changed."""
        self._start_worker()
        for document in list(self.documents.by_uri.values()):
            self.changed(document)

    def _plan(self, target: Target) -> None:
        now = time.monotonic()
        first = self.due.get(target, (now, now))[1]
        self.due[target] = (min(now + DELAY, first + LONGEST_DELAY), first)

    def closed(self, document: OpenDocument) -> None:
        """Forgets a document, and the specs that no open document needs."""
        targets = self.targets_of(document)
        self.documents.close(document.uri)
        for target in targets:
            if self._is_wanted(target):
                self._plan(target)
            else:
                self.forget(target)

    def _is_wanted(self, target: Target) -> bool:
        if len(target) > 1:
            return target in self.settings.specs and any(self.documents.at(p) is not None for p in target)
        document = self.documents.at(target[0])
        return document is not None and document.is_spec and target in self.targets_of(document)[:1]

    def forget(self, target: Target) -> None:
        """Takes back what was published of a spec."""
        for key in ("check", "costs"):
            self.worker.drop((key, target))
        self.due.pop(target, None)
        self.known.pop(target, None)
        self.show()

    # -- checks -------------------------------------------------------------------------------------------------------

    def next_due(self) -> float | None:
        """When the next check is due, on the monotonic clock."""
        return min((due for due, _ in self.due.values()), default=None)

    def run_due(self, now: float) -> None:
        """Checks what is due, without torch, and gives the rest to the worker."""
        ready = [target for target, (due, _) in self.due.items() if due <= now]
        for target in ready:
            del self.due[target]
            self.check(target)
        if ready:
            self.show()

    def check(self, target: Target) -> None:
        """Checks a spec without torch, and asks the worker for the rest."""
        from graphmodel.lsp.checking import check  # with Pydantic it takes longer to import than an editor should wait

        known = self.known.setdefault(target, Known())
        texts = self.documents.texts()
        known.checked = check(target, texts, self.settings, self.catalogue)
        known.paths = frozenset(resolved(Path(name)) for name in known.checked.files)
        known.revision += 1
        revision = known.revision
        if known.checked.spec is None:
            known.complete, known.complete_revision = known.checked.findings, revision
            return
        known.good = known.checked
        if not self.settings.shapes:
            known.complete, known.complete_revision = known.checked.findings, revision
            return

        def then(result: dict[str, Any]) -> None:
            self._take(target, revision, result)

        content = {
            "kind": "check",
            "paths": [str(path) for path in target],
            "texts": {str(path): text for path, text in texts.items() if path in known.paths},
            "overrides": list(self.settings.overrides),
            "inputs": {name: list(shape) for name, shape in self.settings.inputs.items()},
            "allow_extends_outside": self.settings.allow_extends_outside,
        }
        self.worker.submit(Job(("check", target), content, 1, then))

    def _take(self, target: Target, revision: int, result: dict[str, Any]) -> None:
        known = self.known.get(target)
        if known is None or revision != known.revision:
            return
        known.complete = tuple(_finding(d) for d in result["findings"])
        known.complete_revision, known.model = revision, result["model"]
        self.show()
        if known.model is not None:
            self.refresh()
            self.worker.submit(Job(("costs", target), {"kind": "costs"}, 2, known.costs.update))
        spec = known.checked.spec
        if spec is not None:
            self.pages.prepare(spec)

    # -- what the editor sees -----------------------------------------------------------------------------------------

    def text_of(self, file: str) -> Text:
        """The contents of a file that a finding names."""
        return self.documents.text_of(resolved(Path(file)))

    def show(self) -> None:
        """Publishes the diagnostics of every document that has changed, or whose diagnostics have."""
        found: dict[str, list[tuple[Diagnostic, dict[str, Any]]]] = {}
        paths: dict[str, Path] = {}
        for target, known in self.known.items():
            for finding in known.findings(self.text_of):
                file = finding.span.file if finding.span is not None else ""
                if file not in paths:
                    paths[file] = resolved(Path(file))
                path = paths[file] if file and _is_path(file) else target[0]
                uri = self.documents.uri_of(path)
                entry = shown(finding, self.documents.text_of(path))
                if all(entry != other for _, other in found.setdefault(uri, [])):
                    found[uri].append((finding, entry))
        self.findings = found
        checked = {d.uri for d in self.documents.by_uri.values() if any(t in self.known for t in self.targets_of(d))}
        for uri in dict.fromkeys([*found, *checked, *self.published]):
            document = self.documents.by_uri.get(uri)
            version = document.version if document is not None else None
            entries = [entry for _, entry in found.get(uri, [])]
            if self.published.get(uri) != (version, entries):
                self.publish(uri, version, entries)
                self.published[uri] = version, entries
            if uri not in found and document is None:
                del self.published[uri]


def _is_path(file: str) -> bool:
    """Whether the file of a finding is one, and not the `<--set>` of an override."""
    return not file.startswith("<")


def _finding(data: dict[str, Any]) -> Diagnostic:
    span = data["span"]
    return Diagnostic(**{**data, "span": Span(**span) if span is not None else None})


def _import_checks() -> None:
    """Imports what the first check needs, so that it does not wait for that."""
    from graphmodel.dialects.native import format, resolve  # noqa: F401
    from graphmodel.lsp import checking  # noqa: F401
