"""Each format contains what the picture contains, in its own syntax."""

from __future__ import annotations

import io
import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

import graphmodel
from graphmodel.visualize import FORMATS, Options, draw, mimebundle, picture_of, save
from graphmodel.visualize.graphviz import VENDOR
from graphmodel.visualize.mermaid import escaped
from graphmodel.visualize.palette import DARK, LIGHT
from graphmodel.visualize.render import SVG, render
from graphmodel.visualize.terminal import to_tree
from tests.effort import steps
from tests.visualize.conftest import drawn, probes
from tests.visualize.geometry import groups, texts

needs_graphviz = pytest.mark.skipif(find_spec("pygraphviz") is None, reason="pygraphviz is not installed")


def tree_of(picture: Any, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(to_tree(picture))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return str(text)


@needs_graphviz
def test_an_svg_has_a_group_for_each_part_and_carries_its_font(two_inputs: dict[str, Any]) -> None:
    picture = drawn(two_inputs)
    root = ElementTree.fromstring(str(draw(picture, "svg")))
    assert [g.get("id") for g in groups(root, "box")] != []
    assert len(groups(root, "box")) == len(picture.boxes)
    assert len(groups(root, "frame")) == len(picture.frames)
    assert len(groups(root, "arrow-text")) == len(picture.arrows)
    for i, box in enumerate(picture.boxes):
        (group,) = [g for g in groups(root, "box") if g.get("id") == f"b-{i}"]
        shown = [t.text for t in texts(group)]
        assert box.title in shown
        assert set(box.lines) <= set(shown)
    style = root.findtext(f"{{{SVG}}}style") or ""
    assert style.count("@font-face") == 2
    assert "http" not in style
    assert {t.get("font-family") for t in texts(root)} == {"Inter,Helvetica,Arial,sans-serif"}


@needs_graphviz
def test_hovering_tells_paths_and_places(two_inputs: dict[str, Any]) -> None:
    picture = drawn(two_inputs)
    root = ElementTree.fromstring(str(draw(picture, "svg")))
    (index,) = [i for i, b in enumerate(picture.boxes) if b.title == "layer1"]
    (group,) = [g for g in groups(root, "box") if g.get("id") == f"b-{index}"]
    assert (group.findtext(f"{{{SVG}}}title") or "").splitlines() == ["layer1", "trunk.layer1"]


@needs_graphviz
def test_themes_change_every_colour(small: dict[str, Any]) -> None:
    light, dark = (str(draw(drawn(small), "svg", theme=t)) for t in ("light", "dark"))  # type: ignore[arg-type]
    used = set(re.findall(r'="(#[0-9a-f]{6})"', light))
    assert used <= set(LIGHT.values())
    assert set(re.findall(r'="(#[0-9a-f]{6})"', dark)) <= set(DARK.values())
    follows = str(draw(drawn(small), "svg", theme="auto"))
    assert "prefers-color-scheme: dark" in follows
    for colour in used:
        assert f'[fill="{colour}"]' in follows


@needs_graphviz
def test_orientation_turns_the_picture(small: dict[str, Any]) -> None:
    def shape(orientation: Any) -> tuple[float, float]:
        root = ElementTree.fromstring(str(draw(drawn(small), "svg", orientation=orientation)))
        _, _, width, height = map(float, root.get("viewBox", "").split())
        return width, height

    tall, wide = shape("portrait"), shape("landscape")
    assert tall[0] < tall[1]
    assert wide[0] > wide[1]


@needs_graphviz
def test_legend_and_title_can_be_left_out(small: dict[str, Any]) -> None:
    whole, bare = draw(drawn(small), "svg"), draw(drawn(small), "svg", legend=False, title=False)
    assert ">batch size<" in str(whole)
    assert ">1 input" in str(whole)
    assert ">batch size<" not in str(bare)
    assert ">1 input" not in str(bare)


@needs_graphviz
def test_a_png_is_a_png_of_the_asked_resolution(small: dict[str, Any]) -> None:
    small_png, large_png = (bytes(draw(drawn(small), "png", dpi=d)) for d in (50, 100))  # type: ignore[arg-type]

    def width(png: bytes) -> int:
        assert png.startswith(b"\x89PNG\r\n\x1a\n")
        return int.from_bytes(png[16:20], "big")

    assert width(large_png) == pytest.approx(2 * width(small_png), abs=3)


@needs_graphviz
def test_a_pdf_is_text_in_the_embedded_font(small: dict[str, Any]) -> None:
    pypdf = pytest.importorskip("pypdf")
    reader = pypdf.PdfReader(io.BytesIO(bytes(draw(drawn(small), "pdf"))))  # type: ignore[arg-type]
    (page,) = reader.pages
    assert "layer1" in page.extract_text()
    fonts = page["/Resources"]["/Font"]
    assert fonts
    assert all("Inter" in str(fonts[f].get_object()["/BaseFont"]) for f in fonts)


def test_json_is_the_picture(small: dict[str, Any]) -> None:
    picture = drawn(small)
    data = json.loads(str(draw(picture, "json")))
    assert data["graphmodel_picture"] == 1
    assert [b["title"] for b in data["boxes"]] == [b.title for b in picture.boxes]
    assert data["boxes"][1]["card"]["paths"] == list(picture.boxes[1].card["paths"])


def test_dot_names_every_box_and_is_the_same_each_time(two_inputs: dict[str, Any]) -> None:
    picture = drawn(two_inputs)
    dot = str(draw(picture, "dot"))
    assert all(f'"{b.id}" [' in dot for b in picture.boxes)
    assert dot == draw(drawn(two_inputs), "dot")


# -- Mermaid ----------------------------------------------------------------------------------------------------------


def test_mermaid_draws_frames_stacks_and_flows(two_inputs: dict[str, Any]) -> None:
    text = str(draw(drawn(two_inputs), "mmd"))
    assert text.splitlines()[1] == "flowchart TB"
    assert text.count("subgraph ") == 2
    assert text.count("\n  end\n") == 2
    assert '-->|"N×64×16×16"|' in text
    assert "linkStyle" in text
    assert '[["' in str(draw(drawn(probes(1, 6)), "mmd"))
    assert str(draw(drawn(two_inputs), "mmd", orientation="landscape")).splitlines()[1] == "flowchart LR"


@pytest.mark.parametrize(
    "text", ['"quote"', "<script>", "a --> b", "`x`", "#35;", "[a](b)", "1. list", "- list", "**b**"]
)
def test_mermaid_text_is_letters_and_numbers_only(text: str) -> None:
    safe = escaped(text)
    assert re.fullmatch(r"(?:[A-Za-z0-9 _,.]|#\d+;)*", safe)
    assert "".join(chr(int(c[1:-1])) if c.startswith("#") else c for c in re.findall(r"#\d+;|.", safe)) == text


def test_mermaid_keeps_decimal_points() -> None:
    assert escaped("23.5 M. end") == "23.5 M#46; end"


# -- the terminal -----------------------------------------------------------------------------------------------------


def test_the_tree_reads_from_inputs_to_outputs(two_inputs: dict[str, Any]) -> None:
    lines = tree_of(drawn(two_inputs)).splitlines()
    assert lines[0].startswith("pirl  2 inputs · 2 outputs")
    assert any("layer2  2 × BasicBlock" in line and "← N×64×16×16, N×64×8×8" in line for line in lines)
    assert any("image  mlp · 512 → 8" in line and "← flatten (images) N×512" in line for line in lines)
    assert lines[-1].strip("│├└─ ").startswith("jigsaw  ← jigsaw (patches) N/9×8")


def test_markup_in_names_is_text_in_the_tree(small: dict[str, Any]) -> None:
    small["name"] = "[bold]x[/bold] [link=http://x]"
    assert "[bold]x[/bold] [link=http://x]" in tree_of(drawn(small))


# -- files and notebooks ----------------------------------------------------------------------------------------------


@needs_graphviz
@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_written_whole(small: dict[str, Any], format: str, tmp_path: Path) -> None:
    path = save(small, tmp_path / "deep" / f"model.{format.upper()}", Options(depth=0))
    assert path.stat().st_size > 500
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_an_unknown_format_is_refused(small: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(graphmodel.CompileError, match="GM530") as error:
        save(small, tmp_path / "model.svgz")
    assert "did you mean `svg`" in str(error.value)
    with pytest.raises(graphmodel.CompileError, match="suffix that names a format"):
        save(small, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_finding(small: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(graphmodel.CompileError, match=r"GM530.*cannot write"):
        save(small, tmp_path / "file" / "model.json")


def test_without_pygraphviz_the_finding_says_what_to_install(small: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.setattr("graphmodel.visualize.render.find_spec", lambda name: None)
    picture = drawn(small)
    with pytest.raises(graphmodel.CompileError, match=r"pip install 'graphmodel\[visualize\]'"):
        draw(picture, "svg")
    assert draw(picture, "mmd")


@needs_graphviz
def test_what_graphviz_refuses_is_one_finding() -> None:
    with pytest.raises(graphmodel.CompileError, match=r"GM530.*cannot draw"):
        render("digraph { this is no dot", "svg")


@needs_graphviz
def test_notebooks_show_specs_graphs_and_modules(small: dict[str, Any]) -> None:
    spec = graphmodel.load_spec(small)
    for shown in (spec, graphmodel.build_graph(spec), graphmodel.compile(spec, device="meta")):
        bundle = shown._repr_mimebundle_(include=None, exclude=None)
        assert set(bundle) == {"image/svg+xml", "text/plain"}
        root = ElementTree.fromstring(bundle["image/svg+xml"])
        assert "layer1" in [t.text for t in texts(root)]


def test_notebooks_without_pygraphviz_show_mermaid(small: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.setattr("graphmodel.visualize.find_spec", lambda name: None)
    bundle = mimebundle(graphmodel.load_spec(small))
    assert bundle["text/vnd.mermaid"].startswith("%%{init")


def test_a_spec_that_does_not_build_is_shown_as_text(small: dict[str, Any]) -> None:
    small["heads"]["head"]["mlp"]["dims"] = [3, 10]
    bundle = mimebundle(graphmodel.load_spec(small))
    assert set(bundle) == {"text/plain"}
    assert "GM304" in bundle["text/plain"]


def test_a_picture_can_be_drawn_without_its_spec(small: dict[str, Any]) -> None:
    assert draw(picture_of(small), "json") == draw(small, "json")


@needs_graphviz
@pytest.mark.slow
@pytest.mark.parametrize("stack", [4, 0])
def test_two_hundred_heads_on_twelve_layers_are_drawn_in_linear_time(stack: int) -> None:
    def graph(each: int) -> graphmodel.graph.ModelGraph:
        return graphmodel.build_graph(graphmodel.load_spec(probes(12, each)))

    few, many = graph(4), graph(16)
    assert "layer11_probe15" in str(draw(many, "svg", Options(stack=stack)))
    counts = [steps(lambda graph=graph: draw(graph, "svg", Options(stack=stack)))[0] for graph in (few, many)]
    assert counts[1] / counts[0] < 6, counts


@needs_graphviz
def test_drawing_leaves_nothing_beside_the_fonts(small: dict[str, Any]) -> None:
    before = sorted(VENDOR.iterdir())
    draw(drawn(small), "svg")
    assert sorted(VENDOR.iterdir()) == before
    assert not (VENDOR / ".uuid").exists()
