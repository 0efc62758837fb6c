"""Drawings are readable: nothing overlaps or overflows, contrast is high, text is only ever text."""

from __future__ import annotations

import io
import math
import re
from itertools import combinations
from typing import Any
from xml.etree import ElementTree

import pytest

pytest.importorskip("pygraphviz")

import graphmodel
from graphmodel.visualize import Options, Picture, compare_pictures, draw
from graphmodel.visualize.compose import compose
from graphmodel.visualize.palette import DARK, LIGHT
from graphmodel.visualize.render import SVG
from tests.visualize.conftest import NATIVE, drawn, example_graph, probes
from tests.visualize.geometry import Area, groups, points, shape_area, shapes, text_area, texts

LOOKS = [
    (Options(), {}),
    pytest.param(Options(sharing="split", ghosts=True), {"theme": "dark"}, marks=pytest.mark.slow),
    pytest.param(Options(), {"orientation": "landscape"}, marks=pytest.mark.slow),
    pytest.param(Options(depth=3), {"orientation": "landscape"}, marks=pytest.mark.slow),
]


def root_of(picture: Picture, **how: Any) -> ElementTree.Element:
    return ElementTree.fromstring(str(draw(picture, "svg", **how)))


def check_geometry(root: ElementTree.Element) -> None:
    """Texts stay inside of their boxes and apart from each other; boxes stay apart; labels touch no box."""
    boxes = [(shape_area(shapes(g)[0]), g) for g in groups(root, "box")]
    assert boxes
    every: list[Area] = []
    for area, group in boxes:
        whole = Area(
            min(shape_area(s).left for s in shapes(group)), area.top, max(shape_area(s).right for s in shapes(group)),
            max(shape_area(s).bottom for s in shapes(group)),
        )  # fmt: skip
        for text in texts(group):
            place = text_area(text)
            assert whole.holds(place), f"`{place.what}` overflows its box"
            every.append(place)
    for one, other in combinations([area for area, _ in boxes], 2):
        assert not one.overlaps(other)
    labels = [text_area(t) for name in ("arrow-text", "frame-label") for g in groups(root, name) for t in texts(g)]
    for label in labels:
        for area, _ in boxes:
            assert not label.overlaps(area), f"`{label.what}` lies on a box"
    for one, other in combinations([*every, *labels], 2):
        assert not one.overlaps(other), f"`{one.what}` and `{other.what}` overlap"
    of_lines = [
        (g.get("class", "").split(), shape_area(shapes(g)[0]), [text_area(t) for t in texts(g)])
        for g in groups(root, "arrow-text")
    ]
    titles = [text_area(t) for g in groups(root, "frame-label") for t in texts(g)]
    for arrow in groups(root, "arrow"):
        (number,) = [c for c in arrow.get("class", "").split() if re.fullmatch(r"a\d+", c)]
        (path,) = [s for s in shapes(arrow) if "C" in s.get("d", "")]
        along = points(path.get("d", ""))
        assert along
        for classes, whole, parts in of_lines:
            if number in classes:
                assert any(whole.has(p) for p in along), "a label lies beside its line"
            else:
                for text in parts:
                    assert not any(text.has(p) for p in along), f"a line runs through `{text.what}`"
        for label in titles:
            assert not any(label.has(p) for p in along), f"a line runs through `{label.what}`"
        for area, group in boxes:
            assert sum(area.has(p, 3) for p in along) == 0, f"a line runs through the box {group.get('id')}"
        check_smooth(path.get("d", ""))
    paper = shape_area(shapes(groups(root, "graph")[0])[0])
    for element in texts(root):
        assert paper.holds(text_area(element)), f"`{element.text}` leaves the page"


def check_smooth(path: str) -> None:
    """A line is one piece without corners: each curve starts in the direction in which the one before ends."""
    assert path.count("M") == 1
    ends = [tuple(map(float, p.split(","))) for p in re.findall(r"-?[\d.]+,-?[\d.]+", path)]
    for i in range(3, len(ends) - 1, 3):
        before, here, after = ends[i - 1], ends[i], ends[i + 1]
        one, other = (here[0] - before[0], here[1] - before[1]), (after[0] - here[0], after[1] - here[1])
        lengths = math.hypot(*one) * math.hypot(*other)
        if lengths > 0.05:
            assert one[0] * other[0] + one[1] * other[1] > 0.9 * lengths, f"a corner at {here}"


@pytest.mark.parametrize(("look", "how"), LOOKS, ids=str)
@pytest.mark.parametrize("name", NATIVE)
def test_nothing_overlaps_or_overflows(name: str, look: Options, how: dict[str, Any]) -> None:
    check_geometry(root_of(compose(example_graph(name), look, {}), **how))


@pytest.mark.parametrize(("name", "text"), [("title", "W" * 90), ("title", "名前" * 40), ("title", "i l | . " * 20)])
def test_long_names_are_cut_and_fit(small: dict[str, Any], name: str, text: str) -> None:
    small["name"] = text
    small["heads"] = {"h" * 120: {"mlp": {"dims": ["auto", 10]}}}
    check_geometry(root_of(drawn(small)))


def test_a_comparison_is_as_readable(two_inputs: dict[str, Any], small: dict[str, Any]) -> None:
    check_geometry(root_of(compare_pictures(drawn(two_inputs), drawn(small))))


def test_many_single_heads_are_as_readable() -> None:
    check_geometry(root_of(drawn(probes(2, 10, unlike=True))))


def test_frames_hold_their_boxes(two_inputs: dict[str, Any]) -> None:
    picture = drawn(two_inputs, sharing="split")
    root = root_of(picture)
    frames = {g.get("id"): shape_area(shapes(g)[0]) for g in groups(root, "frame")}
    boxes = {g.get("id"): shape_area(shapes(g)[0]) for g in groups(root, "box")}
    assert len(frames) == len(picture.frames)
    for f, frame in enumerate(picture.frames):
        for b, box in enumerate(picture.boxes):
            area, border = boxes[f"b-{b}"], frames[f"f-{f}"]
            assert border.holds(area) if box.frame == frame.id else not border.overlaps(area)


# -- colours ----------------------------------------------------------------------------------------------------------

GROUNDS = ["paper", "trunk_frame", "head_frame", "frozen_frame"]
FILLS = ["input", "stage", "op", "head", "output", "frozen", "same", "added", "removed", "changed"]
ON = [
    *((text, ground) for text in ("text", "muted") for ground in (*GROUNDS, *FILLS)),
    *((f"flow{i}", ground) for i in range(6) for ground in GROUNDS),
    *((text, ground) for text in ("shape", "added_line", "removed_line", "changed_line") for ground in GROUNDS[::3]),
    *(("ghost_text", ground) for ground in ("ghost", "trunk_frame", "frozen_frame")),
    ("feature_text", "feature"),
    ("badge_text", "badge"),
]


def contrast(first: str, second: str) -> float:
    """The contrast ratio of two colours, 1 to 21 (WCAG 2)."""

    def luminance(colour: str) -> float:
        parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize(("text", "ground"), ON)
def test_text_stands_out(palette: dict[str, str], text: str, ground: str) -> None:
    assert contrast(palette[text], palette[ground]) >= 4.5


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_lines_stand_out(palette: dict[str, str]) -> None:
    for role in ("arrow", "input_line", "stage_line", "head_line", "output_line", "frozen_line"):
        assert contrast(palette[role], palette["paper"]) >= 3


def protanope(colour: str) -> tuple[float, ...]:
    """A colour as dichromats without long-wave cones see it (Viénot, Brettel and Mollon 1999)."""
    r, g, b = (((int(colour[i : i + 2], 16) / 255) ** 2.2) for i in (1, 3, 5))
    seen = 0.11238 * r + 0.88762 * g
    return seen, seen, 0.00401 * r - 0.00401 * g + b


def deuteranope(colour: str) -> tuple[float, ...]:
    """The same without middle-wave cones."""
    r, g, b = (((int(colour[i : i + 2], 16) / 255) ** 2.2) for i in (1, 3, 5))
    seen = 0.29275 * r + 0.70725 * g
    return seen, seen, -0.02234 * r + 0.02234 * g + b


@pytest.mark.parametrize("sight", [protanope, deuteranope])
@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize(
    "pair", [("flow0", "flow1"), ("stage", "head"), ("added", "removed"), ("stage_line", "head_line")]
)
def test_colour_blind_readers_can_tell_pairs_apart(palette: dict[str, str], sight: Any, pair: tuple[str, str]) -> None:
    one, other = (sight(palette[role]) for role in pair)
    assert max(abs(a - b) for a, b in zip(one, other, strict=True)) > 0.02


def test_every_role_has_a_colour_of_its_own() -> None:
    assert LIGHT.keys() == DARK.keys()
    assert len(set(LIGHT.values())) == len(LIGHT)
    assert len(set(DARK.values())) == len(DARK)


# -- escaping ---------------------------------------------------------------------------------------------------------

NASTY = [
    '<script>alert("x")</script>',
    "\"quoted\" & 'more'",
    "a -> b; }",
    "back\\slash \\n \\",
    "]]>",
    "<!-- x -->",
    "&lt;",
    "{a|b}",
    "%00 \x00\x07 \u202e bidi",
    "<b>",
    "label=<x>",
    "𝔘nicode ✓ ❄",
]


@pytest.mark.parametrize("name", NASTY)
def test_names_are_only_text_in_a_drawing(small: dict[str, Any], name: str, tmp_path: Any) -> None:
    """What a spec may call freely: its name, its file, and (without a check of names) whatever a graph holds."""
    from dataclasses import replace

    picture = drawn(small)
    nasty = replace(
        picture,
        title=name,
        boxes=tuple(replace(b, title=name, lines=(name,), features=(name,), id=b.id + name) for b in picture.boxes[:1]),
        frames=(),
        arrows=(),
    )
    root = root_of(nasty)
    plain = "".join(c if c.isprintable() else " " for c in name)
    shown = {" ".join((t.text or "").split()) for t in texts(root)}
    assert " ".join(plain.split()) in shown
    allowed = {"svg", "g", "title", "path", "polygon", "text", "style", "polyline"}
    assert {e.tag.removeprefix(f"{{{SVG}}}") for e in root.iter()} <= allowed
    for element in root.iter():
        assert not any(k.lower().startswith("on") or k.endswith("href") for k in element.attrib)
        assert element.tag != f"{{{SVG}}}style" or name not in (element.text or "")


# -- paper ------------------------------------------------------------------------------------------------------------

PAPERS = [(84.0, "portrait", 7.0), (178.0, "landscape", 2.0)]


def check_paper(picture: Picture, millimetres: float, orientation: Any, longest: float) -> None:
    """The SVG has that width, its smallest text 6 points, and it is no strip."""
    root = root_of(picture, width=millimetres / 25.4 * 72, orientation=orientation)
    width, height = (float(root.get(name, "").removesuffix("mm")) for name in ("width", "height"))
    assert width == pytest.approx(millimetres, abs=0.1)
    assert 1 / 3 < height / width < longest
    _, _, across, down = map(float, root.get("viewBox", "").split())
    assert height / width == pytest.approx(down / across, rel=0.01)
    points_of_unit = millimetres / 25.4 * 72 / across
    sizes = [float(t.get("font-size", "")) * points_of_unit for t in texts(root)]
    assert min(sizes) >= 6 - 0.01
    check_geometry(root)


@pytest.mark.parametrize("paper", PAPERS, ids=str)
@pytest.mark.parametrize("name", ["pirl", pytest.param("", marks=pytest.mark.slow)])
def test_a_figure_has_the_width_of_a_column_or_page_and_text_of_six_points(name: str, paper: Any) -> None:
    graphs = [example_graph(name)] if name else [example_graph(n) for n in NATIVE if n != "pirl"]
    for graph in graphs:
        check_paper(compose(graph, Options(), {}), *paper)


def test_long_texts_of_the_legend_and_lines_beside_boxes_fit_a_column() -> None:
    probe = {"mlp": {"dims": ["auto", 10]}}
    layers = ("res2", "res3", "res4", "res5")
    pool = {"pool": {"adaptive_avg_pool2d": 1}}
    spec = {
        "inputs": {"images": [3, 64, 64]},
        "trunk": {"name": "resnet", "depth": 18, "freeze": True, "batchnorm": "train"},
        "heads": {f"{layer}_probe_{i}": probe for layer in layers for i in range(4)},
        "mapping": {"images": {r: {**pool, "heads": [f"{r}_probe_{i}" for i in range(4)]} for r in layers}},
    }
    check_paper(compose(graphmodel.build_graph(graphmodel.load_spec(spec)), Options(), {}), *PAPERS[0])


def test_a_width_that_is_too_small_for_the_text_is_refused(small: dict[str, Any]) -> None:
    with pytest.raises(graphmodel.CompileError, match=r"less than 6 points[\s\S]*--width \d+mm"):
        draw(drawn(small), "svg", width=60.0)


@pytest.mark.parametrize("format", ["svg", "pdf"])
def test_text_stays_text(small: dict[str, Any], format: Any) -> None:
    pypdf = pytest.importorskip("pypdf")
    made = draw(drawn(small), format, width=238.0)
    if format == "svg":
        found = " ".join(t.text or "" for t in texts(ElementTree.fromstring(str(made))))
    else:
        (page,) = pypdf.PdfReader(io.BytesIO(bytes(made))).pages  # type: ignore[arg-type]
        assert float(page.mediabox.width) == pytest.approx(238, abs=1)
        found = page.extract_text()
    for word in ("layer1", "BasicBlock", "images"):
        assert word in found
