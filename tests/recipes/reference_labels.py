"""Models that are trained with labels, by hand: several tasks, color and depth, linear evaluation, CLIP."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.recipes.cases import Case, Outputs, images, labels, trunk
from tests.recipes.reference_text import TextEncoder, texts
from tests.recipes.reference_vit import ViT


class MultiTask(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.object, self.scene, self.attributes = trunk(), *(nn.Linear(512, n) for n in (1000, 365, 40))

    def forward(self, images: torch.Tensor) -> Outputs:
        x = self.trunk(images)
        return {"object": self.object(x), "scene": self.scene(x), "attributes": self.attributes(x)}


def multi_task_loss(out: Outputs) -> torch.Tensor:
    attributes = out["attributes"]
    classes = [F.cross_entropy(out[name], labels(3, 300)) for name in ("object", "scene")]
    return sum(classes) + F.binary_cross_entropy_with_logits(
        attributes, labels(3, 2)[:, None].expand_as(attributes).double()
    )


class RgbDepth(nn.Module):
    """Eitel et al. 2015, figure 2: the features of both trunks side by side, one hidden layer, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.color, self.depth = trunk(), trunk()
        self.depth.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
        self.head = nn.Sequential(nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 51))

    def forward(self, color: torch.Tensor, depth: torch.Tensor) -> Outputs:
        return {"label": self.head(torch.cat([self.color(color), self.depth(depth)], 1))}


class LinearEvaluation(nn.Module):
    """facebookresearch/dinov2, dinov2/eval/linear.py, create_linear_input."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = ViT(28, 14, 16, 12, 4, 64)
        for block in self.trunk.blocks:
            for name in ("ls1", "ls2"):
                block.add_module(name, nn.ParameterDict({"gamma": nn.Parameter(torch.ones(16))}))
        self.trunk.requires_grad_(False)
        self.one, self.one_mean, self.four, self.four_mean = (nn.Linear(16 * n, 1000) for n in (1, 2, 4, 5))

    def blocks(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The normalised tokens after each block."""
        trunk = self.trunk
        tokens = trunk.patch_embed["proj"](x).flatten(2).transpose(1, 2)
        tokens = torch.cat([trunk.cls_token.expand(len(x), -1, -1), tokens], 1) + trunk.pos_embed
        found = []
        for block in trunk.blocks:
            tokens = tokens + block.ls1["gamma"] * block.attn(block.norm1(tokens))
            hidden = F.gelu(block.mlp["fc1"](block.norm2(tokens)))
            tokens = tokens + block.ls2["gamma"] * block.mlp["fc2"](hidden)
            found.append(trunk.norm(tokens))
        return found

    def forward(self, images: torch.Tensor) -> Outputs:
        last = self.blocks(images)[-4:]
        cls, mean = [tokens[:, 0] for tokens in last], last[-1][:, 1:].mean(1)
        return {
            "one": self.one(cls[-1]),
            "one_mean": self.one_mean(torch.cat([cls[-1], mean], -1)),
            "four": self.four(torch.cat(cls, -1)),
            "four_mean": self.four_mean(torch.cat([*cls, mean], -1)),
        }


class CLIP(nn.Module):
    """openai/CLIP, clip/model.py, the image encoder as timm has it, and the text encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = ViT(64, 32, 16, 2, 4, 64, eps=1e-5)
        self.trunk.patch_embed["proj"] = nn.Conv2d(3, 16, 32, 32, bias=False)
        self.trunk.norm_pre = nn.LayerNorm(16)
        self.image, self.text = nn.Linear(16, 512, bias=False), TextEncoder(30, 6, 16, 2, 4, 512)

    def forward(self, images: torch.Tensor, texts: torch.Tensor) -> Outputs:
        trunk = self.trunk
        tokens = trunk.patch_embed["proj"](images).flatten(2).transpose(1, 2)
        tokens = torch.cat([trunk.cls_token.expand(len(images), -1, -1), tokens], 1) + trunk.pos_embed
        tokens = trunk.norm_pre(tokens)
        for block in trunk.blocks:
            tokens = block(tokens)
        z, t = self.image(trunk.norm(tokens[:, 0])), self.text(texts)
        return {"z_images": z / z.norm(dim=1, keepdim=True), "z_texts": t / t.norm(dim=1, keepdim=True)}


def clip_loss(out: Outputs) -> torch.Tensor:
    """The symmetric cross-entropy; the temperature, which trains, belongs to the loss."""
    scores = out["z_images"] @ out["z_texts"].T / 0.07
    pairs = torch.arange(len(scores))
    return (F.cross_entropy(scores, pairs) + F.cross_entropy(scores.T, pairs)) / 2


CASES = {
    "clip": Case(
        [
            "inputs.images=[3,64,64]",
            "trunk={name: 'timm:vit_base_patch32_clip_224', img_size: 64, embed_dim: 16, depth: 2, num_heads: 4}",
            "inputs.texts={shape: [6], dtype: int64, trunk: none}",
            "heads.text.text_transformer={vocab_size: 30, width: 16, depth: 2, num_heads: 4}",
        ],
        CLIP,
        {"trunk": "trunk", "image": "heads.image", "text": "heads.text"},
        lambda: [images(3, 64), texts(3, 6, 30)],
        clip_loss,
    ),
    "multi_task": Case(
        ["trunk.depth=18", "inputs.images=[3,32,32]"],
        MultiTask,
        {"trunk": "trunk", **{n: f"heads.{n}.clf.0" for n in ("object", "scene", "attributes")}},
        lambda: [images(3, 32)],
        multi_task_loss,
    ),
    "rgb_depth": Case(
        ["inputs.color=[3,32,32]", "inputs.depth=[1,32,32]"],
        RgbDepth,
        {"color": "trunks.of_color", "depth": "trunks.of_depth", "head": "heads.label.clf"},
        lambda: [images(3, 32), images(3, 32, 1)],
        lambda out: F.cross_entropy(out["label"], labels(3, 51)),
    ),
    "dinov2_linear": Case(
        ["inputs.images=[3,28,28]", "trunk.img_size=28", "trunk.embed_dim=16", "trunk.num_heads=4"],
        LinearEvaluation,
        {"trunk": "trunk", **{n: f"heads.{n}.clf.0" for n in ("one", "one_mean", "four", "four_mean")}},
        lambda: [images(3, 28)],
        lambda out: sum(F.cross_entropy(scores, labels(3, 1000)) for scores in out.values()),
    ),
}
