"""VISSL's recipe for weights and inputs, and the comparison of one case (see the docstring of `run`).

The cases are VISSL's own numbers: 0.1.6 and its main branch run in float32 on the CPU, with weights and inputs that are
a pure function of names (CRC-32 of the name seeds PCG64), so that nothing needs to be downloaded.
"""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import graphmodel

CASES = Path(__file__).parent / "cases"
TOKENS = {
    "cls_token", "class_token", "pos_embed", "pos_embedding", "masked_embed", "absolute_pos_embed",
    "relative_position_bias_table",
}  # fmt: skip


def generator(text: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(zlib.crc32(text.encode())))


def weight(key: str, shape: tuple[int, ...], dtype: str) -> np.ndarray | None:
    """One state-dict entry; None where the value that the model builds stays."""
    leaf = key.rsplit(".", 1)[-1]
    if not dtype.startswith("float"):
        return np.zeros(shape, np.int64) if leaf == "num_batches_tracked" else None
    draw = generator(key)
    if leaf == "running_var":
        return draw.uniform(0.5, 1.5, size=shape).astype(np.float32)
    z = draw.standard_normal(size=shape)
    if leaf == "running_mean":
        z = 0.1 * z
    elif leaf in {"weight_g", "temperature", "alpha"}:
        z = 1 + 0.1 * z
    elif leaf.startswith("gamma"):
        z = 0.3 + 0.1 * z
    elif leaf.endswith("bias"):
        z = 0.05 * z
    elif leaf in TOKENS:
        z = 0.2 * z
    elif leaf == "weight" and len(shape) == 1:
        z = 1 + 0.1 * z
    elif len(shape) >= 2:
        z = z / math.sqrt(math.prod(shape[1:]))
    else:
        z = 0.1 * z
    return np.asarray(z, dtype=np.float32)


def state_dict(case: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The case's weights under VISSL's keys."""
    out = {}
    for key, shape, dtype in case["state_dict"]:
        value = weight(key, tuple(shape), dtype)
        if value is not None:
            out[key] = torch.from_numpy(np.ascontiguousarray(value))
    for later, first in case.get("aliases", []):
        if later in out:
            out[first] = out[later]
    return out


def tensor(item: dict[str, Any]) -> torch.Tensor:
    """An input of the recipe."""
    draw = generator(f"input:{item['key']}:{'x'.join(str(d) for d in item['shape'])}")
    if item["dtype"] == "bool":
        return torch.from_numpy(draw.random(size=tuple(item["shape"])) < 0.3)
    return torch.from_numpy(draw.standard_normal(size=tuple(item["shape"])).astype(np.float32))


def without_randomness(module: nn.Module) -> None:
    """Dropout and stochastic depth off, as in the recorded runs."""
    for part in module.modules():
        if isinstance(part, (nn.Dropout, nn.Dropout2d)) or type(part).__name__ == "StochasticDepth":
            part.p = 0.0
        if isinstance(part, nn.MultiheadAttention):
            part.dropout = 0.0
        for name in ("drop_prob", "drop_path_rate", "drop_connect_rate"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)


def leaves(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [leaf for item in (value.values() if isinstance(value, dict) else value) for leaf in leaves(item)]


def load(name: str) -> dict[str, Any]:
    case: dict[str, Any] = json.loads((CASES / f"{name}.json").read_text())
    return case


def arguments(case: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Shapes for `compile` and tensors for `forward`."""
    spec = case["input_spec"]
    if spec["kind"] == "dict":
        items = spec["items"]
        return {k: tuple(v["shape"][1:]) for k, v in items.items()}, {k: tensor(v) for k, v in items.items()}
    if spec["kind"] == "list":
        return (
            {"images": [tuple(i["shape"][1:]) for i in spec["items"]]},
            {"images": [tensor(i) for i in spec["items"]]},
        )
    return {"images": tuple(spec["items"]["shape"][1:])}, {"images": tensor(spec["items"])}


def run(name: str, mode: str, expected: str | None = None) -> float:
    """Runs a case in `eval` or `train` mode and compares with what VISSL gave in that mode (or in `expected`).

    Returns:
        The largest error as a share of the case's tolerance: of each output's largest value, 1e-5 or ten times VISSL's
        own rounding against float64, whichever is larger.
    """
    case = load(name)
    data = np.load(CASES / f"{name}.npz")
    shapes, tensors = arguments(case)
    module = graphmodel.compile({"MODEL": case["model_diff"]}, inputs=shapes, returns="list", seed=0)
    graphmodel.load_weights(module, state_dict(case), dialect="vissl")
    module.train(mode == "train")
    without_randomness(module)
    with torch.no_grad():
        got = leaves(module(**tensors))
    leaves_expected = case["outputs"][expected or mode]["leaves"]
    assert len(got) == len(leaves_expected)
    worst = 0.0
    for ours, theirs in zip(got, leaves_expected, strict=True):
        assert ours.numel() == math.prod(theirs["shape"])
        values = ours.detach().float().reshape(-1)[:: theirs["stride"]].numpy()
        error = float(np.abs(values - data[theirs["array"]].reshape(-1)).max()) / max(theirs["absmax"], 1e-12)
        worst = max(worst, error / max(1e-5, 10 * theirs["noise"]["max_abs_over_absmax"]))
    if (expected or mode) == "train":
        check_statistics(case, module)
    return worst


def check_statistics(case: dict[str, Any], module: nn.Module) -> None:
    """BatchNorm's running statistics after one training forward, as `[mean, L2 norm]` of each recorded buffer."""
    from graphmodel.build.vissl_state_dict_keys import VisslKeys

    graph = module.model_graph
    buffers = dict(module.named_buffers())
    translate = VisslKeys(graph.spec, graph.components, set(buffers)).translate
    compared = 0
    recorded = case["outputs"]["train"].get("buffers_after") or {}
    for key, (mean, norm) in recorded.items():
        ours = buffers.get(translate(key) or "")
        if ours is None:
            continue
        compared += 1
        value = ours.double()
        assert abs(float(value.mean()) - mean) <= 1e-3 * max(abs(mean), 1e-2), key
        assert abs(float(value.norm()) - norm) <= 1e-3 * max(abs(norm), 1e-2), key
    assert compared or not recorded
