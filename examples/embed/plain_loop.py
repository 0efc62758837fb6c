"""A plain training loop: the compiled model is an ordinary module.

python examples/embed/plain_loop.py
"""

from __future__ import annotations

from pathlib import Path

import torch

import graphmodel

SPEC = Path(__file__).parent.parent / "native" / "pirl.yaml"


def main(steps: int = 5) -> list[float]:
    model = graphmodel.compile(
        SPEC, seed=0, inputs={"images": (3, 64, 64), "patches": (3, 32, 32)}, overrides=["trunk.depth=18"]
    )
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 64, 64, generator=generator)
    patches = torch.randn(36, 3, 32, 32, generator=generator)
    losses = []
    for step in range(steps):
        out = model(images, patches)
        image, jigsaw = (torch.nn.functional.normalize(v, dim=1) for v in out.values())
        loss = torch.nn.functional.cross_entropy(image @ jigsaw.T / 0.1, torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        print(f"step {step}: loss {losses[-1]:.3f}")
    return losses


if __name__ == "__main__":
    main()
