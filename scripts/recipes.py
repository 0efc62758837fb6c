"""Writes docs/recipes.md and a picture of each recipe: `python scripts/recipes.py [NAME...]`.

A test compares the page, and what the pictures show, with what this script would write.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import graphmodel
from graphmodel.api import build_graph
from graphmodel.visualize import Picture, draw, picture_of

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples" / "recipes"
DOCS = ROOT / "docs"


@dataclass(frozen=True)
class Recipe:
    """A row of the table.

    Attributes:
        title: the method.
        papers: its papers, by what the table calls them.
        outside: what training needs beside the spec.
    """

    title: str
    papers: dict[str, str]
    outside: str


RECIPES = {
    "simclr": Recipe("SimCLR", {"Chen et al. 2020": "2002.05709"}, "NT-Xent between the two halves of `z`"),
    "moco_v3": Recipe(
        "MoCo v3", {"Chen et al. 2021": "2104.02057"}, "InfoNCE of predictions and the other view, `update_teacher`"
    ),
    "byol": Recipe(
        "BYOL", {"Grill et al. 2020": "2006.07733"}, "cosine distance of predictions and targets, `update_teacher`"
    ),
    "simsiam": Recipe("SimSiam", {"Chen & He 2021": "2011.10566"}, "cosine distance of predictions and targets"),
    "barlow_twins": Recipe(
        "Barlow Twins", {"Zbontar et al. 2021": "2103.03230"}, "the cross-correlation of `z1` and `z2` and its weights"
    ),
    "vicreg": Recipe(
        "VICReg", {"Bardes et al. 2022": "2105.04906"}, "invariance, variance and covariance of `z1` and `z2`"
    ),
    "swav": Recipe(
        "SwAV",
        {"Caron et al. 2020": "2006.09882"},
        "Sinkhorn assignments of the large crops; after each step, normalize the rows of the prototypes",
    ),
    "dino": Recipe(
        "DINO",
        {"Caron et al. 2021": "2104.14294"},
        "cross-entropy of crops and sharpened targets, a running center of the targets, `update_teacher`",
    ),
    "ibot": Recipe(
        "iBOT",
        {"Zhou et al. 2022": "2111.07832"},
        "block-wise masks; DINO's loss for class tokens and for hidden patches, two centers, `update_teacher`",
    ),
    "pirl": Recipe(
        "PIRL",
        {"Misra & van der Maaten 2020": "1912.01991"},
        "a memory bank of embeddings, NCE against it for images and for patches",
    ),
    "jigsaw": Recipe(
        "Jigsaw",
        {"Noroozi & Favaro 2016": "1603.09246", "Goyal et al. 2019": "1905.01235"},
        "the 2,000 permutations, cross-entropy",
    ),
    "masked_images": Recipe(
        "Masked images, in the style of MAE",
        {"He et al. 2022": "2111.06377", "Xie et al. 2022": "2111.09886"},
        "random masks; the squared error of hidden patches, whose pixels are normalized",
    ),
    "clip": Recipe(
        "CLIP",
        {"Radford et al. 2021": "2103.00020"},
        "a tokenizer, a learned temperature, cross-entropy in both directions",
    ),
    "dinov2_linear": Recipe(
        "Linear evaluation of DINOv2",
        {"Oquab et al. 2023": "2304.07193"},
        "the sum of cross-entropies; heads for other learning rates, each in a parameter group of its own",
    ),
    "fpn_detection": Recipe(
        "Features for detection", {"Lin et al. 2017": "1612.03144"}, "proposals, heads for boxes and their losses"
    ),
    "segmentation": Recipe(
        "Segmentation with an auxiliary head",
        {"Long et al. 2015": "1411.4038", "Zhao et al. 2017": "1612.01105"},
        "cross-entropy of `out`, and half of that of `aux`",
    ),
    "multi_task": Recipe(
        "Multi-task classification",
        {"Kokkinos 2017": "1609.02132"},
        "cross-entropy for each task (binary for attributes), and their weights",
    ),
    "rgb_depth": Recipe("Color and depth", {"Eitel et al. 2015": "1507.06821"}, "cross-entropy"),
}
"""The recipes in the order of the page."""

INTRODUCTION = """\
# Recipes

<!-- Written by `python scripts/recipes.py`; a test compares it. -->

Methods of the field as specs, in `examples/recipes/`. A test compares each with the same model written by hand in
PyTorch, with the same weights: outputs, loss, every gradient, running statistics, and teachers after an update. Sizes
are those of the papers; `--set` (`overrides=` in Python) and `extends` change them. What belongs to training and not to
the model (augmentation, loss, schedules) is yours; the table says what a method needs.

A teacher's BatchNorm uses the statistics of its batch in the code of BYOL and MoCo v3: `batchnorm: train`. Without it a
frozen copy keeps its statistics, and `update_teacher` averages them, as in EMAN (Cai et al. 2021,
[arXiv:2101.08482](https://arxiv.org/abs/2101.08482)).

```py
import graphmodel
import torch

model = graphmodel.compile(
    "examples/recipes/dino.yaml",
    inputs={"large": [(3, 32, 32)] * 2, "small": [(3, 16, 16)] * 8},
    overrides=["trunks.student.image_size=32", "heads.project.dino_head.num_clusters=[64]"],
)
optimizer = torch.optim.AdamW(graphmodel.param_groups(model, lr=5e-4, weight_decay=0.04))
crops = [torch.randn(2, 3, 32, 32) for _ in range(2)], [torch.randn(2, 3, 16, 16) for _ in range(8)]
out = model(*crops)
target = (out["target"] / 0.04).softmax(-1)
loss = torch.nn.functional.cross_entropy(out["of_large"] / 0.1, target.roll(2, 0))     # a part of DINO's loss
loss.backward()
optimizer.step()
graphmodel.update_teacher(model, 0.996)
```
"""


def picture(name: str) -> Picture:
    """The picture of a recipe."""
    return picture_of(build_graph(graphmodel.load_spec(EXAMPLES / f"{name}.yaml")))


def caption(path: Path) -> str:
    """A recipe's own comment at its beginning, without the links."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = [line.removeprefix("#").strip() for line in lines if line.startswith("# ")]
    words = " ".join(c for c in comments if not c.startswith("yaml-language-server")).split()
    return " ".join(word for word in words if not word.startswith("https://"))


def page() -> str:
    """docs/recipes.md."""
    lines = [
        INTRODUCTION,
        "| recipe | paper | lines of YAML | what training needs beside the spec |",
        "|---|---|---|---|",
    ]
    for name, recipe in RECIPES.items():
        papers = ", ".join(f"[{text}](https://arxiv.org/abs/{number})" for text, number in recipe.papers.items())
        count = len((EXAMPLES / f"{name}.yaml").read_text("utf-8").splitlines())
        lines.append(f"| [{recipe.title}](../examples/recipes/{name}.yaml) | {papers} | {count} | {recipe.outside} |")
    for name, recipe in RECIPES.items():
        path = EXAMPLES / f"{name}.yaml"
        lines += ["", f"## {recipe.title}", "", f"{caption(path)} [{path.name}](../examples/recipes/{path.name})", ""]
        lines += [f"![The model graph of {path.name}](recipes/{name}.svg)"]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Draws all pictures, or the named ones only, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="recipes to draw again; all if none is named")
    chosen = parser.parse_args(arguments).names
    folder = DOCS / "recipes"
    folder.mkdir(parents=True, exist_ok=True)
    for name in chosen or RECIPES:
        drawn = str(draw(picture(name), "svg", theme="auto")).replace(f"{ROOT}/", "")
        (folder / f"{name}.svg").write_text(drawn, encoding="utf-8")
    for old in folder.glob("*.svg"):
        if old.stem not in RECIPES:
            old.unlink()
    (DOCS / "recipes.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
