"""Draws the gallery: `python scripts/gallery.py` writes docs/gallery.md and a picture of each native example.

A test draws the pictures again and compares boxes, arrows and their texts with the committed ones, so that outdated
pictures are found; positions are not compared.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import graphmodel
from graphmodel.api import build_graph
from graphmodel.visualize import Options, Picture, compare_pictures, draw, picture_of

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples" / "native"
DOCS = ROOT / "docs"


@dataclass(frozen=True)
class Look:
    """One picture of the second part: an example drawn with other options."""

    name: str
    title: str
    command: str
    spec: str
    options: Options = field(default_factory=Options)
    how: dict[str, Any] = field(default_factory=dict)
    other: str = ""


LOOKS = (
    Look(
        "split",
        "Each pass on its own",
        "graphmodel visualize examples/native/pirl.yaml -o split.svg --sharing split",
        "pirl",
        Options(sharing="split"),
    ),
    Look(
        "overview",
        "The trunk as one box, from left to right",
        "graphmodel visualize examples/native/multi_input.yaml -o overview.svg --depth 0 --orientation landscape",
        "multi_input",
        Options(depth=0),
        {"orientation": "landscape"},
    ),
    Look(
        "ghosts",
        "What the model leaves out of its trunk",
        "graphmodel visualize examples/native/multi_input.yaml -o ghosts.svg --ghosts",
        "multi_input",
        Options(ghosts=True),
    ),
    Look(
        "dark",
        "Dark",
        "graphmodel visualize examples/native/teacher_student.yaml -o dark.svg --theme dark",
        "teacher_student",
        how={"theme": "dark"},
    ),
    Look(
        "diff",
        "The differences between two models",
        "graphmodel diff examples/native/head_single.yaml examples/native/head_multi_task.yaml -o diff.svg",
        "head_single",
        other="head_multi_task",
    ),
)


def picture(name: str, options: Options | None = None) -> Picture:
    """The picture of an example."""
    return picture_of(build_graph(graphmodel.load_spec(EXAMPLES / f"{name}.yaml")), options)


def pictures() -> dict[str, tuple[Picture, dict[str, Any]]]:
    """Every picture of the gallery with how it is drawn, by the name of its file."""
    found: dict[str, tuple[Picture, dict[str, Any]]] = {}
    for path in sorted(EXAMPLES.glob("*.yaml")):
        found[path.stem] = picture(path.stem), {"theme": "auto"}
    for look in LOOKS:
        shown = picture(look.spec, look.options)
        if look.other:
            shown = compare_pictures(shown, picture(look.other, look.options))
        found[f"look_{look.name}"] = shown, {"theme": "auto", **look.how}
    return found


def caption(path: Path) -> str:
    """An example's own comment."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = [line.removeprefix("#").strip() for line in lines if line.startswith("# ")]
    return " ".join(c for c in comments if not c.startswith("yaml-language-server"))


def page() -> str:
    """docs/gallery.md."""
    lines = [
        "# Gallery",
        "",
        "<!-- Written by `python scripts/gallery.py`; a test compares what the pictures show. -->",
        "",
        "Every example of `examples/native/` as `graphmodel visualize FILE -o FILE.svg` draws it. The suffix of the",
        "file names the format: `svg`, `png`, `pdf`, `html` (an interactive page), `mmd` (Mermaid), `dot`, `json`;",
        "without `-o` a tree is printed. These pictures follow the dark mode of your system (`--theme auto`).",
    ]
    for path in sorted(EXAMPLES.glob("*.yaml")):
        file = f"../examples/native/{path.name}"
        lines += ["", f"## {path.stem}", "", f"{caption(path)} [{path.name}]({file})", ""]
        lines += [f"![The model graph of {path.name}](gallery/{path.stem}.svg)"]
    lines += ["", "## Other options"]
    for look in LOOKS:
        lines += [
            "",
            f"### {look.title}",
            "",
            f"`{look.command}`",
            "",
            f"![{look.title}](gallery/look_{look.name}.svg)",
        ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Draws all pictures, or the named ones only."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="pictures to draw again; all if none is named")
    chosen = parser.parse_args(arguments).names
    folder = DOCS / "gallery"
    folder.mkdir(parents=True, exist_ok=True)
    made = pictures()
    for name, (shown, how) in made.items():
        if not chosen or name in chosen:
            drawn = str(draw(shown, "svg", **how)).replace(f"{ROOT}/", "")  # no path of this machine in tooltips
            (folder / f"{name}.svg").write_text(drawn, encoding="utf-8")
    if not chosen:
        for old in folder.glob("*.svg"):
            if old.stem not in made:
                old.unlink()
    (DOCS / "gallery.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
