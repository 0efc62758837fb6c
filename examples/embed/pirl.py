"""PIRL: an image and its nine shuffled patches agree with the image's entry in a memory bank, against others.

python examples/embed/pirl.py

Source: Misra & van der Maaten 2020 (arXiv:1912.01991).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from digits import TRUNK, mnist, nearest_neighbours, summary

import graphmodel

TOWERS = 9
SPEC = {
    "inputs": {"images": [3, 24, 24], "patches": [3, 8, 8]},
    "trunk": TRUNK,
    "heads": {
        "image": {"mlp": {"dims": ["auto", 64]}},
        "jigsaw": [
            {"mlp": {"dims": ["auto", 64]}},
            {"siamese_concat_view": {"num_towers": TOWERS}},
            {"mlp": {"dims": ["auto", 64]}},
        ],
    },
    "mapping": {"images": {"flatten": "image"}, "patches": {"flatten": "jigsaw"}},
}


def jigsaw(images: torch.Tensor) -> torch.Tensor:
    """The nine patches of each image in a random order, (9 N, 3, 8, 8); those of one image follow each other."""
    patches = images.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).reshape(len(images), TOWERS, 3, 8, 8)
    order = torch.rand(len(images), TOWERS).argsort(1)
    return patches[torch.arange(len(images))[:, None], order].flatten(0, 1)


def contrast(anchors: torch.Tensor, positives: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
    """The cross-entropy of telling the positive of each anchor from the negatives, by similarity."""
    scores = torch.cat([(anchors * positives).sum(1, keepdim=True), anchors @ negatives.T], 1)
    return F.cross_entropy(scores / 0.07, torch.zeros(len(anchors), dtype=torch.long))


def main(steps: int = 120, negatives: int = 512) -> tuple[list[float], float, float]:
    torch.manual_seed(0)
    data = mnist(24)
    images = data[0]
    model = graphmodel.compile(SPEC, seed=0)
    optimizer = torch.optim.AdamW(graphmodel.param_groups(model, lr=1e-3, weight_decay=1e-4))
    with torch.no_grad():
        encoder = model.slice(outputs=["image"], returns="tensor")
        bank = F.normalize(torch.cat([encoder(x) for x in images.split(500)]), dim=1)
    losses = []
    for step in range(steps):
        batch = torch.randint(len(images), (64,))
        x = torch.roll(images[batch], tuple(torch.randint(-2, 3, (2,)).tolist()), (2, 3))
        out = {name: F.normalize(value, dim=1) for name, value in model(x, jigsaw(x)).items()}
        noise = bank[torch.randint(len(bank), (negatives,))]
        loss = (contrast(out["image"], bank[batch], noise) + contrast(out["jigsaw"], bank[batch], noise)) / 2
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        bank[batch] = F.normalize(bank[batch] * 0.5 + out["image"].detach() * 0.5, dim=1)
        losses.append(loss.item())
        if step % 20 == 0:
            print(f"step {step}: loss {losses[-1]:.3f}")
    accuracy, untrained = nearest_neighbours(data, model.trunk), nearest_neighbours(data)
    summary(losses, accuracy, untrained)
    return losses, accuracy, untrained


if __name__ == "__main__":
    main()
