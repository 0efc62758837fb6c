"""The page in real, headless Chromium: it loads without a word in the console, and every control does what it says."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pygraphviz")

import graphmodel
from graphmodel.visualize import draw, picture_of, save
from graphmodel.visualize.page import embedded
from tests.conftest import TWO_INPUTS
from tests.visualize.conftest import drawn, probes

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --force-prefers-reduced-motion"
).split()


def test_data_cannot_end_its_script() -> None:
    text = embedded({"a": "</script><script>alert(1)</script><!-- \u2028 & ]]>"})
    assert not set("<>&\u2028\u2029") & set(text)
    import json

    assert json.loads(text)["a"].startswith("</script>")


def test_the_page_asks_nothing_of_the_network(small: dict[str, Any]) -> None:
    import re

    page = str(draw(small, "html"))
    assert "default-src 'none'" in page
    assert page.count("<script") == 3
    assert not re.search(r"<(?:link|img|iframe|object|base)\b|@import|url\((?!data:)", page)
    scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
    import base64
    import hashlib

    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in page


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("Chromium is not installed (apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}", "--window-size=1400,900"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    os.environ.setdefault("SE_AVOID_STATS", "true")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


class Page:
    """A page in the browser, by what a reader does with it."""

    def __init__(self, browser: Any, path: Path) -> None:
        self.browser = browser
        browser.get("about:blank")
        browser.get(path.as_uri())

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def all(self, selector: str) -> list[Any]:
        return list(self.browser.find_elements("css selector", selector))

    def titles(self, selector: str) -> list[str]:
        """Bold first lines of the boxes that match."""
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.querySelector('text').textContent)"
        return list(self.run(script, selector))

    def box(self, title: str) -> Any:
        (found,) = [b for b in self.all("#canvas .box") if self.run(
            "return arguments[0].querySelector('text').textContent", b) == title]  # fmt: skip
        return found

    def click(self, element: Any, **held: bool) -> None:
        kind = "dblclick" if held.pop("double", False) else "click"
        event = {"bubbles": True, "shiftKey": held.get("shift", False)}
        self.run("arguments[0].dispatchEvent(new MouseEvent(arguments[1], arguments[2]))", element, kind, event)

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        for key in keys:
            ActionChains(self.browser).send_keys(key).perform()

    def card(self) -> str:
        (card,) = self.all("#card")
        return str(card.text) if card.is_displayed() else ""

    def pressed(self, group: str) -> str:
        (button,) = self.all(f"#{group} button[aria-pressed=true]")
        return str(button.text)

    def soon(self, true: Callable[[], bool]) -> bool:
        """Whether something comes true within a few frames of the browser's."""
        from selenium.webdriver.support.wait import WebDriverWait

        return bool(WebDriverWait(self.browser, 5).until(lambda _: true()))

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.browser.get_log("browser")]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page that most tests open; making it takes seconds."""
    import yaml

    place = tmp_path_factory.mktemp("page")
    (place / "spec.yaml").write_text(yaml.safe_dump(TWO_INPUTS, sort_keys=False))
    return save(place / "spec.yaml", place / "page.html")


@pytest.fixture
def opened(browser: Any, saved: Path) -> Page:
    return Page(browser, saved)


@pytest.mark.slow
def test_it_loads_in_silence_and_shows_the_model(opened: Page) -> None:
    assert opened.complaints() == []
    assert opened.browser.title == "pirl"
    assert "layer4" in opened.titles("#canvas .box")
    assert opened.all("#sums")[0].text.startswith("2 inputs · 2 outputs")
    drawing, canvas = (opened.all(s)[0].rect for s in ("#canvas svg .cluster", "#canvas"))
    assert drawing["height"] > canvas["height"] / 3
    assert opened.run("return document.fonts.check('12px Inter')")


@pytest.mark.slow
def test_search_finds_by_name_path_and_class(opened: Page) -> None:
    (find,) = opened.all("#find")
    opened.press("/")
    assert opened.run("return document.activeElement.id") == "find"
    find.send_keys("layer3")
    assert opened.titles("#canvas .hit") == ["layer3"]
    find.clear()
    find.send_keys("jigsaw mlp")
    assert opened.titles("#canvas .hit") == ["mlp", "mlp"]
    find.send_keys("\n")
    assert "heads.jigsaw.0" in opened.card()
    find.send_keys("\n")
    assert "heads.jigsaw.2" in opened.card()
    assert opened.all("#found")[0].text == "2 / 2"
    find.clear()
    find.send_keys("no such thing")
    assert opened.titles("#canvas .hit") == []
    assert opened.all("#found")[0].text == "0"


@pytest.mark.slow
def test_a_click_opens_the_card(opened: Page) -> None:
    opened.click(opened.box("layer2"))
    card = opened.card()
    assert "trunk.layer2" in card
    assert "spec.yaml:" in card
    stage = graphmodel.compile(TWO_INPUTS, device="meta").trunk.layer2
    assert f"{sum(p.numel() for p in stage.parameters()):,} (all train)" in card
    assert f"images_layer2: N×{stage[0].conv1.out_channels}×8×8" in card
    assert "BasicBlock" in card
    opened.press("\ue00c")  # Escape
    assert opened.card() == ""


@pytest.mark.slow
def test_a_box_lights_its_way_and_passes_that_share_boxes_keep_apart(opened: Page) -> None:
    opened.click(opened.box("siamese_concat_view"))
    lit = opened.titles("#canvas .box.on")
    assert {"patches", "layer1", "jigsaw"} <= set(lit)
    assert "images" not in lit
    assert "image" not in lit


@pytest.mark.slow
def test_a_path_runs_from_an_input_to_an_output(opened: Page) -> None:
    def choose(first: str, second: str) -> None:
        from selenium.webdriver.support.select import Select

        Select(opened.all("#from")[0]).select_by_visible_text(first)
        Select(opened.all("#to")[0]).select_by_visible_text(second)

    choose("images", "image")
    lit = opened.titles("#canvas .box.on")
    assert {"images", "layer4"} <= set(lit)
    assert not {"patches", "mlp", "jigsaw"} & set(lit)
    choose("images", "jigsaw")  # no way leads there
    assert "layer4" not in opened.titles("#canvas .box.on")


@pytest.mark.slow
def test_shift_click_shows_what_lies_between(opened: Page) -> None:
    opened.click(opened.box("layer2"))
    opened.click(opened.box("layer4"), shift=True)
    assert opened.titles("#canvas .box.on") == ["layer2", "layer3", "layer4"]


@pytest.mark.slow
def test_detail_opens_and_closes(opened: Page) -> None:
    assert opened.pressed("detail") == "stages"
    opened.press("[")
    assert opened.pressed("detail") == "overview"
    assert "layer1" not in opened.titles("#canvas .box")
    opened.press("[")
    assert opened.pressed("detail") == "overview"
    opened.press("]", "]")
    assert opened.pressed("detail") == "stages"
    assert opened.complaints() == []


@pytest.mark.slow
def test_a_double_click_opens_a_stack(browser: Any, tmp_path: Path) -> None:
    page = Page(browser, save(probes(2, 5), tmp_path / "page.html"))
    stack = "layer1_probe0 … layer1_probe4"
    heads = [b for b in page.all("#canvas .box.head") if stack in (b.get_attribute("textContent") or "")]
    page.click(heads[0], double=True)
    assert page.pressed("detail") == "all stages"
    assert "layer1_probe3" in page.titles("#canvas .box")
    assert "layer1_probe0" in page.card()


CORNERS = """
    return [...document.querySelectorAll('#canvas .box > path:first-of-type, #canvas .box a > path:first-of-type')]
        .filter((path) => !path.closest('.inner'))
        .map((path) => {
            const all = path.getAttribute('d').match(/-?[0-9.]+/g).map(Number);
            return [0, 1].flatMap((axis) => {
                const some = all.filter((_, i) => i % 2 === axis), low = Math.min(...some), high = Math.max(...some);
                return some.map((at) => Math.min(at - low, high - at));
            });
        });
"""
"""How far the points of each rounded box are from its sides."""


@pytest.mark.slow
def test_blocks_open_in_place_to_any_depth(opened: Page) -> None:
    place = "const b = arguments[0].querySelector('path').getBoundingClientRect(); return [b.left, b.top]"
    layer2 = opened.box("layer2")
    before, corners = opened.run(place, layer2), opened.run(CORNERS)
    opened.click(layer2, double=True)
    assert opened.run(place, layer2) == pytest.approx(before, abs=1)
    for now, then in zip(opened.run(CORNERS), corners, strict=True):
        assert now == pytest.approx(then, abs=0.05)
    assert layer2.get_attribute("aria-expanded") == "true"
    (inner,) = opened.all("#canvas .inner")
    blocks = [b for b in inner.find_elements("css selector", ".box") if b.get_attribute("aria-expanded") == "false"]
    assert len(blocks) == 2
    opened.click(blocks[0], double=True)
    assert {"conv1", "bn1", "downsample"} <= set(opened.titles("#canvas .inner .inner .box"))
    overlap = """
        const rects = [...document.querySelectorAll('#canvas .graph > .box, #canvas svg .box')]
            .map((e) => e.querySelector('path, polygon').getBoundingClientRect());
        const out = (a, b) => a.right <= b.left + 1 || b.right <= a.left + 1 || a.bottom <= b.top + 1 || b.bottom <= a.top + 1;
        const holds = (a, b) => a.left <= b.left && a.top <= b.top && a.right >= b.right && a.bottom >= b.bottom;
        return rects.flatMap((a, i) => rects.slice(i + 1).filter((b) => !out(a, b) && !holds(a, b) && !holds(b, a))).length;
    """
    assert opened.run(overlap) == 0
    opened.click(opened.all("#canvas .inner .inner .box")[1])
    assert "trunk.layer2.0." in opened.card()
    was = opened.run("return window.graphmodelPage.viewState()")
    assert was["opened"] == ["trunk/layer2#1", "trunk/layer2#1/0#1"]
    opened.browser.refresh()
    opened.run("window.graphmodelPage.restore(arguments[0])", was)
    now = opened.run("return window.graphmodelPage.viewState()")
    assert now.pop("pan") == pytest.approx(was.pop("pan"), abs=0.5)
    assert now.pop("zoom") == pytest.approx(was.pop("zoom"))
    assert now == was
    opened.click(opened.box("layer2"), double=True)
    assert opened.all("#canvas .inner") == []
    assert opened.complaints() == []


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(1400, 900), (390, 844)])
def test_it_fills_the_window_and_can_be_read(opened: Page, width: int, height: int) -> None:
    how = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    opened.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", how)
    try:
        opened.browser.refresh()
        drawing = opened.run(
            "const b = document.querySelector('#canvas .graph').getBoundingClientRect(); return [b.width, b.height]"
        )
        canvas = opened.all("#canvas")[0].rect
        assert drawing[0] > 0.6 * canvas["width"] or drawing[1] > 0.85 * canvas["height"]
        smallest = opened.run(
            "return Math.min(...[...document.querySelectorAll('#canvas text')].map((e) =>"
            " e.getScreenCTM().a * parseFloat(getComputedStyle(e).fontSize)))"
        )
        assert smallest >= 7
        assert opened.run("return document.documentElement.scrollWidth") <= width
        assert opened.complaints() == []
    finally:
        opened.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.slow
def test_screen_readers_hear_what_a_box_shows(opened: Page) -> None:
    (drawing,) = opened.all("#canvas svg")
    assert (drawing.get_attribute("role"), drawing.get_attribute("aria-roledescription")) == ("group", "graph")
    box = opened.box("layer2")
    assert box.get_attribute("role") == "button"
    assert box.get_attribute("aria-label").startswith("stage, layer2, 2 × BasicBlock")
    assert box.get_attribute("data-yaml").split(":")[0].endswith("spec.yaml")
    opened.run("arguments[0].focus()", box)
    opened.press("\ue007", "\ue007")  # Enter chooses, Enter again opens
    assert box.get_attribute("aria-expanded") == "true"
    opened.press("o")
    assert box.get_attribute("aria-expanded") == "false"


@pytest.mark.slow
def test_before_and_after_the_passes(browser: Any, small: dict[str, Any], tmp_path: Path) -> None:
    page = Page(browser, save(small | {"freeze": ["trunk.layer1"]}, tmp_path / "page.html"))
    text = "return document.getElementById('canvas').textContent"
    assert page.pressed("passes") == "after passes"
    assert "frozen" in page.run(text)
    page.press("b")
    assert page.pressed("passes") == "before"
    assert "frozen" not in page.run(text)
    page.press("b")
    page.click(page.box("layer1"))
    assert "does not train" in page.card()


@pytest.mark.slow
def test_the_keyboard_is_enough(opened: Page) -> None:
    opened.press("p")
    assert opened.run("return document.activeElement.id") == "from"
    opened.run("arguments[0].focus()", opened.box("images"))
    opened.press("\ue007")  # Enter
    assert opened.titles("#canvas .chosen") == ["images"]
    opened.press("\ue015")  # down
    assert opened.titles("#canvas .chosen") == ["conv1 · bn1 · relu · maxpool"]
    opened.press("\ue015", "\ue013")  # down, up
    assert opened.titles("#canvas .chosen") == ["conv1 · bn1 · relu · maxpool"]
    opened.press("?")
    assert opened.all("#help")[0].is_displayed()
    opened.press("\ue00c")
    assert not opened.all("#help")[0].is_displayed()


@pytest.mark.slow
def test_zoom_and_fit(opened: Page) -> None:
    scale = "return document.querySelector('.svg-pan-zoom_viewport').getCTM().a"
    fitted = opened.run(scale)
    opened.press("+")
    assert opened.soon(lambda: opened.run(scale) > fitted)
    opened.press("0")
    assert opened.soon(lambda: opened.run(scale) == pytest.approx(fitted, rel=1e-3))


@pytest.mark.slow
def test_dark_mode_recolours_the_drawing(opened: Page) -> None:
    fill = "return getComputedStyle(arguments[0].querySelector('path')).fill"
    box = opened.box("layer1")
    assert opened.run(fill, box) == "rgb(226, 238, 249)"
    opened.press("d")
    assert opened.run(fill, box) == "rgb(23, 52, 80)"
    assert opened.run("return getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 27)"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["<script>window.hit = 1</script>", "<img src=x onerror='window.hit = 1'>", "\"'><svg onload=window.hit=1>"]
)
def test_names_are_only_text_on_the_page(browser: Any, small: dict[str, Any], tmp_path: Path, name: str) -> None:
    picture = drawn(small)
    nasty = replace(
        picture,
        title=name,
        lines=(name,),
        boxes=tuple(
            replace(b, title=name, lines=(name,), badges=(name,), features=(name,), card={**b.card, "paths": [name]})
            for b in picture.boxes
        ),
    )
    page = Page(browser, save(nasty, tmp_path / "page.html"))
    page.click(page.all("#canvas .box")[0])
    assert page.run("return window.hit") is None
    assert page.complaints() == []
    assert name in page.card()
    assert page.browser.title == " ".join(name.split())


@pytest.mark.slow
def test_a_comparison_has_a_page_too(browser: Any, small: dict[str, Any], tmp_path: Path) -> None:
    from graphmodel.visualize import compare_pictures

    both = compare_pictures(picture_of(small), picture_of({**small, "trunk": {"name": "resnet", "depth": 34}}))
    page = Page(browser, save(both, tmp_path / "page.html"))
    assert "~ layer3" in page.titles("#canvas .box")
    assert page.complaints() == []
