"""`attentive_probe` is the probe of V-JEPA, of CAE, or the pooler of CoCa, with a classifier."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import graphmodel
from graphmodel import CompileError
from tests.head_helpers import assert_same, built


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    """Attention of one head after the other."""
    found = []
    for a, b, c in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        found.append((a @ b.transpose(1, 2) / math.sqrt(a.shape[-1])).softmax(-1) @ c)
    return torch.cat(found, -1)


class VJepa(nn.Module):
    """`AttentiveClassifier`; the parameters are in the order of the head's."""

    def __init__(self, dim: int, queries: int, classes: int) -> None:
        super().__init__()
        self.query_tokens = nn.Parameter(torch.zeros(1, queries, dim))
        self.norm1 = nn.LayerNorm(dim)
        self.q, self.k, self.v, self.proj = (nn.Linear(dim, dim) for _ in range(4))
        self.norm2 = nn.LayerNorm(dim)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.linear = nn.Linear(dim, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self.query_tokens.repeat(len(x), 1, 1)
        x = self.norm1(x)
        q = q + self.proj(attention(self.q(q), self.k(x), self.v(x), 2))
        q = q + self.fc2(F.gelu(self.fc1(self.norm2(q))))
        return self.linear(q).squeeze(1)


class Cae(nn.Module):
    """`AttentiveBlock` with positions of zero, `fc_norm` and `head`."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.query_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.norm_q, self.norm_k, self.norm_v = (nn.LayerNorm(dim, eps=1e-6) for _ in range(3))
        self.q, self.k, self.v = nn.Linear(dim, dim), nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        self.fc_norm = nn.BatchNorm1d(dim, affine=False, eps=1e-6)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self.norm_q(self.query_token.expand(len(x), -1, -1))
        read = self.proj(attention(self.q(q), self.k(self.norm_k(x)), self.v(self.norm_v(x)), 2))
        return self.head(self.fc_norm(read[:, 0]))


class CoCa(nn.Module):
    """`AttentionalPooler`, with torch's own attention."""

    def __init__(self, dim: int, queries: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, queries, dim))
        self.ln_q, self.ln_k = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q, self.k, self.v, self.proj = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.ln_k(x).transpose(0, 1)
        q = self.ln_q(self.query[0]).unsqueeze(1).expand(-1, x.shape[1], -1)
        weight = torch.cat([self.q.weight, self.k.weight, self.v.weight])
        bias = torch.cat([self.q.bias, self.k.bias, self.v.bias])
        found, _ = F.multi_head_attention_forward(
            q, x, x, q.shape[-1], 2, weight, bias, None, None, False, 0.0, self.proj.weight, self.proj.bias
        )
        return found.transpose(0, 1)


REFERENCES: dict[str, tuple[dict[str, Any], nn.Module]] = {
    "vjepa": ({"num_classes": 5}, VJepa(8, 1, 5)),
    "vjepa with several queries": ({"num_classes": 5, "num_queries": 3}, VJepa(8, 3, 5)),
    "cae": ({"num_classes": 5, "style": "cae", "eps": 1e-6}, Cae(8, 5)),
    "coca": ({"num_classes": 0, "num_queries": 3, "style": "coca"}, CoCa(8, 3)),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_it_is_the_probe_of_its_method(name: str) -> None:
    options, reference = REFERENCES[name]
    assert_same(built("attentive_probe", in_dim=8, num_heads=2, **options), reference, (4, 7, 8))


def test_initial_weights_are_those_of_vjepa() -> None:
    head = built("attentive_probe", in_dim=64, num_heads=2, num_classes=5)
    found = {n: p.std().item() for n, p in head.named_parameters() if p.ndim > 1}
    scaled = ("attention.proj.weight", "mlp.2.weight")
    for name, std in found.items():
        assert std == pytest.approx(0.02 / (2**0.5 if name in scaled else 1), rel=0.25), name


SPEC: dict[str, Any] = {
    "inputs": {"images": [3, 32, 32]},
    "trunk": {"name": "timm:vit_tiny_patch16_224", "img_size": 32, "depth": 1},
    "heads": {"probe": {"attentive_probe": {"num_classes": 5, "num_heads": 3}}},
    "mapping": [{"from": "images.features", "detach": True, "head": "probe"}],
}


def test_it_reads_the_tokens_of_a_transformer() -> None:
    model = graphmodel.compile(SPEC, seed=0)
    found = model(torch.randn(2, 3, 32, 32))["probe"]
    assert found.shape == (2, 5)
    assert model(torch.randn(0, 3, 32, 32))["probe"].shape == (0, 5)
    found.sum().backward()
    assert all(p.grad is None for n, p in model.named_parameters() if n.startswith("trunk."))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"heads": {"probe": {"attentive_probe": {"num_classes": 5, "num_heads": 7}}}}, "do not divide the width 192"),
        ({"mapping": [{"from": "images.features", "tokens": "class", "head": "probe"}]}, "wants a sequence of tokens"),
    ],
)
def test_what_it_cannot_read_is_said(change: dict[str, Any], text: str) -> None:
    with pytest.raises(CompileError) as caught:
        graphmodel.compile({**SPEC, **change}, device="meta")
    assert [d.code for d in caught.value.diagnostics] == ["GM304"]
    assert text in str(caught.value)
