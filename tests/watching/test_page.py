"""The page in headless Chromium, beside a file that is edited."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pygraphviz")

from graphmodel.watching import Watch
from tests.cli.conftest import validate_output  # noqa: F401 (a fixture)
from tests.visualize.test_page import browser  # noqa: F401 (a fixture)
from tests.watching.test_watch import SPEC, Running

TWO = """\
name: <b id=bold>two
inputs: {images: [3, 16, 16]}
trunk: {name: toy_transformer}
heads:
  first:
    - mlp: {dims: [auto, 8]}
    - mlp: {dims: [8, 4]}
  second: {mlp: {dims: [auto, 4]}}
mapping:
  images: {last: [first, second]}
"""


class Page:
    """The page, by what a reader sees and does."""

    def __init__(self, browser: Any, running: Running) -> None:  # noqa: F811
        self.browser = browser
        browser.get_log("browser")
        browser.get(running.watch.url)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def picture(self, script: str, *arguments: Any) -> Any:
        """Runs a script with `page`, the window of the picture that is shown."""
        frame = "const page = document.querySelector('#stage iframe:not(.next)').contentWindow; const a = arguments;"
        return self.run(f"{frame} return (() => {{ {script} }})()", *arguments)

    def until(self, script: str, *arguments: Any) -> Any:
        """Waits until a script gives something true."""
        from selenium.webdriver.support.wait import WebDriverWait

        return WebDriverWait(self.browser, 60, 0.05).until(lambda _: self.run(f"return {script}", *arguments))

    def drawn(self) -> None:
        """Waits for the complete picture of what is shown."""
        self.until("/^drawn/.test(document.getElementById('status').textContent)")
        self.until("!document.querySelector('iframe.next') && !!document.querySelector('#stage iframe')")

    def chosen(self) -> list[str]:
        script = "return [...document.querySelectorAll('#source .chosen code')].map((e) => e.textContent.trim())"
        return list(self.run(script))

    def click_line(self, number: int) -> None:
        self.run("document.querySelectorAll('#source > div')[arguments[0] - 1].querySelector('code').click()", number)

    def selected(self) -> str:
        return str(self.picture("return page.graphmodelPage.selected()"))


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(TWO)
    return path


@pytest.fixture
def page(browser: Any, spec: Path) -> Iterator[Page]:  # noqa: F811
    (spec.parent / "other.yaml").write_text(SPEC)
    running = Running("spec.yaml", "other.yaml")
    opened = Page(browser, running)
    opened.drawn()
    yield opened
    browser.get("about:blank")
    running.watch.stop()
    running.thread.join(60)


@pytest.mark.slow
def test_a_page_follows_its_file(page: Page, spec: Path) -> None:
    """One test, since each start of a watch takes seconds: nodes and lines, saves, mistakes, tabs."""
    # From a node to its line, and back.
    page.picture("page.graphmodelPage.select('head:heads.first.1')")
    assert page.chosen() == ["- mlp: {dims: [8, 4]}"]
    link = page.run("return document.querySelector('#place a').href")
    assert link == f"vscode://file{spec.parent}/spec.yaml:7:7"
    assert page.run("return document.querySelectorAll('#source a')[6].href").endswith("/spec.yaml:7")
    page.click_line(8)
    assert page.selected() == "head:heads.second"
    assert page.chosen() == ["second: {mlp: {dims: [auto, 4]}}"]
    page.click_line(5)  # the key above a chain: nothing is written there, nor above it in its section
    assert page.selected() == "head:heads.second"

    # A save keeps the zoom, the level of detail and the selection.
    page.picture("page.document.getElementById('in').click(); page.document.getElementById('in').click()")
    page.until("document.querySelector('#stage iframe').contentWindow.graphmodelPage.viewState().zoom > 1.2")
    before = page.picture("return page.graphmodelPage.viewState()")
    version = page.run("return Number(document.querySelector('#stage iframe').dataset.picture)")
    spec.write_text(TWO.replace("second: {mlp: {dims: [auto, 4]}}", "second: {mlp: {dims: [auto, 5]}}"))
    page.until("Number(document.querySelector('#stage iframe').dataset.picture) > arguments[0]", version)
    page.drawn()
    after = page.picture("return page.graphmodelPage.viewState()")
    assert after["selected"] == before["selected"] == "head:heads.second"
    assert after["level"] == before["level"]
    assert after["zoom"] == pytest.approx(before["zoom"], rel=1e-3)
    assert "dims: [auto, 5]" in page.chosen()[0]
    assert page.picture("return page.document.querySelector('#canvas').textContent.includes('→ 5')")

    # Mistakes stand beside the last picture.
    spec.write_text(TWO.replace("second: {mlp", "second: {'<i id=evil>': {mlp").replace("4]}}\nmap", "4]}}}\nmap"))
    page.until("!document.getElementById('findings').hidden")
    assert page.run("return document.getElementById('stage').className") == "stale"
    assert "last valid picture" in page.run("return document.getElementById('stale').textContent")
    text = page.run("return document.getElementById('findings').textContent")
    assert "<i id=evil>" in text
    assert "^^^" in text
    assert page.run("return document.getElementById('evil') || document.getElementById('bold')") is None
    assert page.run("return document.querySelectorAll('#source .error').length") == 1
    assert page.selected() == "head:heads.second"
    page.picture("page.graphmodelPage.select('input:images')")
    page.run("document.querySelector('#findings article pre').click()")
    assert page.selected() == "head:heads.second", "the node of the diagnostic's line"
    spec.write_text(TWO)
    page.until("document.getElementById('findings').hidden")
    page.drawn()
    assert page.run("return document.getElementById('stage').className") == ""

    # Each spec has a tab, and keeps its view.
    page.run("document.querySelectorAll('#tabs button')[1].click()")
    page.until("document.title.startsWith('toy') && !!document.querySelector('#stage iframe:not(.next)')")
    assert page.picture("return page.document.title") == "toy"
    page.run("document.querySelectorAll('#tabs button')[0].click()")
    page.until("document.title.startsWith('<b id=bold>two') && !!document.querySelector('#stage iframe:not(.next)')")
    assert page.selected() == "head:heads.second"
    assert page.browser.get_log("browser") == []


@pytest.mark.slow
def test_a_page_without_its_command_says_so(browser: Any, spec: Path) -> None:  # noqa: F811
    spec.write_text("trunk: [\n")  # which takes no torch
    watch = Watch(["spec.yaml"])
    thread = threading.Thread(target=watch.run)
    thread.start()
    browser.get(watch.url)
    page = Page.__new__(Page)
    page.browser = browser
    page.until("document.getElementById('status').className === 'invalid'")
    assert "no picture yet" in page.run("return document.getElementById('empty').textContent")
    watch.stop()
    thread.join(30)
    page.until("document.getElementById('status').className === 'lost'")
    browser.get("about:blank")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["text", "json"])
def test_ctrl_c_ends_the_command_without_a_traceback(tmp_path: Path, form: str, validate_output: Any) -> None:  # noqa: F811
    (tmp_path / "spec.yaml").write_text("trunk: [\n")
    command = [sys.executable, "-m", "graphmodel", "watch", "spec.yaml", "--format", form]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
    )
    assert running.stdout is not None
    lines = [running.stdout.readline()]
    while not ("not drawn" in lines[-1] or '"drawn"' in lines[-1]):
        lines.append(running.stdout.readline())
    assert "http://127.0.0.1:" in lines[0]
    if form == "json":
        for line in lines:
            validate_output("watch", line)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 0
    assert "Traceback" not in errors
