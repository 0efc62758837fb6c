"""The gallery shows what the code draws: the same boxes, arrows, frames and texts, wherever Graphviz puts them."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

pytest.importorskip("pygraphviz")

from graphmodel.visualize import Picture, draw
from tests.conftest import EXAMPLES, ROOT
from tests.visualize.geometry import groups, texts

FOLDER = ROOT / "docs" / "gallery"
HELP = "run `python scripts/gallery.py`, look at the pictures, and commit them"


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gallery", ROOT / "scripts" / "gallery.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["gallery"] = module
    spec.loader.exec_module(module)
    return module


GALLERY = script()
NAMES = sorted([p.stem for p in (EXAMPLES / "native").glob("*.yaml")] + [f"look_{look.name}" for look in GALLERY.LOOKS])


def structure(svg: str) -> dict[str, list[tuple[str, ...]]]:
    """The texts of each part of a drawing, by the sort of part; no position."""
    root = ElementTree.fromstring(svg)
    found = {}
    for kind in ("box", "frame", "frame-label", "arrow", "arrow-text"):
        parts = groups(root, kind)
        found[kind] = sorted((g.get("class", ""), *(" ".join((t.text or "").split()) for t in texts(g))) for g in parts)
    return found


def expected(name: str) -> tuple[Picture, dict[str, object]]:
    looks = {f"look_{look.name}": look for look in GALLERY.LOOKS}
    if name not in looks:
        return GALLERY.picture(name), {}
    look = looks[name]
    shown = GALLERY.picture(look.spec, look.options)
    if look.other:
        from graphmodel.visualize import compare_pictures

        shown = compare_pictures(shown, GALLERY.picture(look.other, look.options))
    return shown, look.how


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_picture_shows_what_the_code_draws(name: str) -> None:
    shown, how = expected(name)
    committed = (FOLDER / f"{name}.svg").read_text("utf-8")
    assert structure(committed) == structure(str(draw(shown, "svg", **how))), HELP  # type: ignore[arg-type]


def test_the_gallery_is_whole() -> None:
    assert sorted(p.stem for p in FOLDER.glob("*.svg")) == NAMES, HELP
    assert (ROOT / "docs" / "gallery.md").read_text("utf-8") == GALLERY.page(), HELP


def test_the_page_links_to_what_there_is() -> None:
    text = (ROOT / "docs" / "gallery.md").read_text("utf-8")
    links = re.findall(r"\]\((\S+?)\)", text)
    assert len(links) >= 2 * len(list((EXAMPLES / "native").glob("*.yaml")))
    assert all((Path(ROOT) / "docs" / link).exists() for link in links)
    names = [name for _, name in re.findall(r"^(##+) (\w+)$", text, re.M)]
    assert len(names) == len(set(names))
