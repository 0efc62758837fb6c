"""Projection heads of self-supervised methods, as presets of `mlp`: `mlp: {preset: byol}`.

The widths are those of the reference code for ResNet-50 (for DINO and MoCo v3, of a vision transformer). A predictor
of BYOL or MoCo v3 has the structure of the projector: set its `dims`.

Sources:
    byol: Grill et al. 2020 (arXiv:2006.07733); google-deepmind/deepmind-research, `byol/utils/networks.py`, `MLP`.
    simclr_v2: Chen et al. 2020 (arXiv:2006.10029); google-research/simclr, `model_util.py`, `projection_head` with
        three layers (biases only where no BatchNorm follows, so nowhere; the last BatchNorm has a scale and no shift).
    moco_v3: Chen et al. 2021 (arXiv:2104.02057); facebookresearch/moco-v3, `moco/builder.py`, `MoCo_ViT` (three
        layers; that of a ResNet has two).
    simsiam: Chen and He 2021 (arXiv:2011.10566); facebookresearch/simsiam, `simsiam/builder.py` (the projector; the
        last bias, which is not trained there and which BatchNorm cancels, is left out).
    vicreg: Bardes et al. 2022 (arXiv:2105.04906); facebookresearch/vicreg, `main_vicreg.py`, `Projector`.
    barlow_twins: Zbontar et al. 2021 (arXiv:2103.03230); facebookresearch/barlowtwins, `main.py`, `BarlowTwins`.
    dino: Caron et al. 2021 (arXiv:2104.14294); facebookresearch/dino, `vision_transformer.py`, `DINOHead` up to the
        bottleneck; `prototypes: {num_prototypes: 65536, weight_norm: fixed}` is the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Preset = Literal["byol", "simclr_v2", "moco_v3", "simsiam", "vicreg", "barlow_twins", "dino"]

_BATCH_NORM: dict[str, Any] = {"norm": "batch", "activation": "relu"}
PRESETS: dict[str, dict[str, Any]] = {
    "byol": {"dims": ["auto", 4096, 256], **_BATCH_NORM, "use_bias": True, "last_bias": False},
    "simclr_v2": {"dims": ["auto", 2048, 2048, 128], **_BATCH_NORM, "use_bias": False, "last_norm": "scale"},
    "moco_v3": {"dims": ["auto", 4096, 4096, 256], **_BATCH_NORM, "use_bias": False, "last_norm": "plain"},
    "simsiam": {"dims": ["auto", 2048, 2048, 2048], **_BATCH_NORM, "use_bias": False, "last_norm": "plain"},
    "vicreg": {"dims": ["auto", 8192, 8192, 8192], **_BATCH_NORM, "use_bias": True, "last_bias": False},
    "barlow_twins": {"dims": ["auto", 8192, 8192, 8192], **_BATCH_NORM, "use_bias": False},
    "dino": {"dims": ["auto", 2048, 2048, 256], "norm": "none", "activation": "gelu", "init": "trunc_normal"},
}
"""What each preset sets."""

_SAME = {"use_bn": "norm", "use_relu": "activation"}


def expand_preset(values: Any) -> Any:
    """The parameters of an MLP with those that its preset sets, unless they are set beside it.

    >>> expand_preset({"preset": "dino", "dims": ["auto", 64, 32]})["activation"]
    'gelu'

    Raises:
        ValueError: if a parameter beside the preset says again what the preset says under another name.
    """
    if not isinstance(values, Mapping) or not isinstance(values.get("preset"), str):
        return values
    preset = PRESETS.get(values["preset"])
    if preset is None:  # the unknown name is reported, and not also the widths that it would have set
        return {"dims": ["auto", 1], **values}
    for name, other in _SAME.items():
        if name in values:
            raise ValueError(f"has both `preset` and `{name}`; help: write `{other}` beside a preset")
    return {**preset, **{k: v for k, v in values.items() if k != "preset"}}
