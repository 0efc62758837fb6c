"""What is shown of a spec that is edited, without a browser."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("pygraphviz")

from graphmodel.visualize.page import WINDOWS
from graphmodel.watching import Settings, Watch
from graphmodel.watching.board import Shown
from graphmodel.watching.drawing import drawn, editor_link
from tests.visualize import toy  # noqa: F401 (registers the toy transformer)

SPEC = """\
name: toy
inputs: {images: [3, 16, 16]}
trunk: {name: toy_transformer}
heads: {label: {mlp: {dims: [auto, 4]}}}
mapping: {images: {last: label}}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return path


def last(name: str, before: Shown | None = None, settings: Settings | None = None) -> Shown:
    *_, shown = drawn(before or Shown(name), settings or Settings())
    return shown


def test_a_valid_spec_has_a_first_and_a_complete_picture(spec: Path) -> None:
    first, complete = drawn(Shown("spec.yaml"), Settings())
    assert (first.state, first.picture, first.complete) == ("valid", 1, False)
    assert (complete.state, complete.picture, complete.complete) == ("valid", 2, True)
    assert first.title == "toy"
    drawing = "\\u003csvg"  # in the page's data
    assert first.page.count(drawing) == len(WINDOWS)  # one level
    assert complete.page.count(drawing) > len(WINDOWS)
    assert "FLOPs" in complete.page
    assert [f["text"] for f in complete.files] == [SPEC]


def test_mistakes_leave_the_last_picture(spec: Path) -> None:
    valid = last("spec.yaml")
    spec.write_text(SPEC.replace("last: label", "lst: label"))
    shown = last("spec.yaml", valid)
    assert shown.state == "invalid"
    assert (shown.page, shown.picture) == (valid.page, valid.picture)
    (finding,) = [d for d in shown.diagnostics if d["severity"] == "error"]
    assert (finding["file"], finding["line"]) == ("spec.yaml", 5)
    assert "^^^" in finding["text"]
    assert finding["link"] == f"{editor_link('spec.yaml')}:5:20"
    assert "lst" in shown.files[0]["text"]


def test_code_that_fails_is_a_finding_and_not_the_end(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **settings: object) -> None:
        raise RuntimeError("out of luck\nand more")

    monkeypatch.setattr("graphmodel.api.build_graph", fail)
    shown = last("spec.yaml")
    assert [d["message"] for d in shown.diagnostics] == ["the spec cannot be drawn: RuntimeError: out of luck"]


def test_overlays_overrides_and_inputs_apply(spec: Path, tmp_path: Path) -> None:
    (tmp_path / "wide.yaml").write_text("heads: {label: {mlp: {dims: [auto, 77]}}}\n")
    shown = last("spec.yaml", settings=Settings(("wide.yaml",), ("name=other",)))
    assert shown.title == "other"
    assert "77" in shown.page
    assert [f["name"] for f in shown.files] == ["spec.yaml", "wide.yaml"]


def test_links_for_editors_are_absolute_and_quoted() -> None:
    assert editor_link("/a b/é#?.yaml") == "vscode://file/a%20b/%C3%A9%23%3F.yaml"
    assert editor_link("spec.yaml") == f"vscode://file{Path.cwd()}/spec.yaml"


class Running:
    """A watch in a thread, and what it showed."""

    def __init__(self, *specs: str) -> None:
        self.shown: list[Shown] = []
        self.watch = Watch(specs, report=self.shown.append)
        self.thread = threading.Thread(target=self.watch.run)
        self.thread.start()

    def until(self, true: Callable[[Shown], bool]) -> Shown:
        """Waits for something to be shown, and forgets what was shown until then."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            for i, shown in enumerate(self.shown):
                if true(shown):
                    del self.shown[: i + 1]
                    return shown
            time.sleep(0.01)
        raise AssertionError(self.shown)


@pytest.fixture
def watch() -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def start(*specs: str) -> Running:
        made.append(Running(*specs))
        return made[-1]

    yield start
    for each in made:
        each.watch.stop()
        each.thread.join(60)
        assert not each.thread.is_alive()


def titled(title: str) -> Callable[[Shown], bool]:
    return lambda shown: shown.state == "valid" and shown.title == title


def is_invalid(shown: Shown) -> bool:
    return shown.state == "invalid"


@pytest.mark.slow
def test_every_way_of_saving_is_seen(spec: Path, watch: Callable[..., Running]) -> None:
    page = watch("spec.yaml")
    page.until(titled("toy"))
    spec.write_text(SPEC.replace("toy\n", "first\n", 1))
    page.until(titled("first"))
    new = spec.with_suffix(".new")
    new.write_text(SPEC.replace("toy\n", "renamed\n", 1))
    os.replace(new, spec)
    page.until(titled("renamed"))
    spec.rename(spec.with_suffix(".bak"))  # as Vim does with `backupcopy=no`
    spec.write_text(SPEC.replace("toy\n", "moved\n", 1))
    seen = page.until(lambda shown: is_invalid(shown) or shown.title == "moved")
    assert seen.state == "valid", "not that the file was gone for a moment"
    spec.write_text(SPEC.replace("]", "", 1))
    assert page.until(is_invalid).diagnostics[0]["code"] == "GM101"
    spec.unlink()
    gone = page.until(is_invalid)
    assert gone.diagnostics[0]["code"] == "GM100"
    assert gone.title == "moved"
    spec.write_text(SPEC)
    page.until(titled("toy"))


@pytest.mark.slow
def test_bases_are_watched_even_those_that_come_later(
    spec: Path, tmp_path: Path, watch: Callable[..., Running]
) -> None:
    (tmp_path / "child.yaml").write_text("extends: base.yaml\nname: child\n")
    page = watch("child.yaml", "spec.yaml")
    assert page.until(is_invalid).diagnostics[0]["code"] == "GM107"
    assert page.until(titled("toy")).name == "spec.yaml"
    (tmp_path / "base.yaml").write_text(SPEC)
    found = page.until(titled("child"))
    assert found.name == "child.yaml"
    assert [f["name"] for f in found.files] == ["child.yaml", "base.yaml"]
    (tmp_path / "base.yaml").write_text(SPEC.replace("label", "renamed"))
    page.until(lambda shown: shown.name == "child.yaml" and "renamed" in shown.page)
