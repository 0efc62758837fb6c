"""VISSL's TRUNK block as a native trunk: which block belongs to which name, keys in lower case."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from graphmodel.dialects.located import At
from graphmodel.spec.document import KeyPath

if TYPE_CHECKING:
    from graphmodel.dialects.vissl.translate import Translation

BLOCKS: dict[str, tuple[str, ...]] = {
    "resnet": ("RESNETS",),
    "resnet_sk": ("RESNETS_SK",),
    "regnet": ("REGNET",),
    "regnet_v2": ("REGNET",),
    "regnet_fsdp": ("REGNET",),
    "efficientnet": ("EFFICIENT_NETS",),
    "mobilenetv3_tv": ("MOBILE_NET",),
    "mobilenetv3_timm": ("MOBILE_NET",),
    "vision_transformer": ("VISION_TRANSFORMERS",),
    "vision_transformer_fsdp": ("VISION_TRANSFORMERS",),
    "vision_transformer_deit": ("VISION_TRANSFORMERS",),
    "classy_vit": ("VISION_TRANSFORMERS",),
    "convit": ("VISION_TRANSFORMERS", "CONVIT"),
    "beit": ("BEIT",),
    "xcit": ("XCIT",),
    "xcit_fsdp": ("XCIT",),
    "swin_transformer": ("SWIN_TRANSFORMER",),
    "swin_transformer_official": ("SWIN_TRANSFORMER",),
    "convnext": ("CONVNEXT",),
}
"""Trunk names and the blocks of TRUNK that they read."""

ONE_RESULT = {"resnet_sk", "convnext", "convit", "classy_vit", "swin_transformer", "swin_transformer_official"}
"""Trunks whose VISSL code ignores the names of features and gives one pooled vector."""

REGNET_LADDER = {"depth", "w_0", "w_a", "w_m", "group_width", "bottleneck_multiplier"}
REGNET_STAGES = {"depths", "widths", "group_widths", "bottleneck_multipliers", "strides"}

ALL_BLOCKS = sorted({b for blocks in BLOCKS.values() for b in blocks})


def trunk_of(translation: Translation) -> tuple[Any, list[KeyPath]]:
    """The native trunk, and blocks that the file fills in but this trunk does not read."""
    trunk = translation.model.TRUNK
    blocks = BLOCKS.get(trunk.NAME, ())
    native: dict[str, Any] = {"name": At(trunk.NAME, translation.path("TRUNK", "NAME"))}
    unused: list[KeyPath] = []
    for block in blocks:
        values = getattr(trunk, block)
        at = translation.path("TRUNK", block)
        given = set_values(values)
        for key, value in given.items():
            spelled = "variant" if key.lower() == "name" else key.lower()
            if value is None or key == "CONVIT" or not used(spelled):
                continue
            if key in unread(trunk.NAME, given):
                unused.append((*at, key))
                continue
            native[spelled] = At(value, (*at, key), str.upper) if isinstance(value, dict) else At(value, (*at, key))
    if translation.model.INPUT_TYPE != "rgb":
        native["input_type"] = At(translation.model.INPUT_TYPE, translation.path("INPUT_TYPE"))
    written = translation.document.get(translation.path("TRUNK"), {}) or {}
    unused += [translation.path("TRUNK", b) for b in ALL_BLOCKS if b not in blocks and written.get(b)]
    return At(native, translation.path("TRUNK")), unused


def used(key: str) -> bool:
    """Whether a trunk's parameter describes the model (checkpointing inside of blocks is a trainer's matter)."""
    return not key.startswith("checkpoint_")


def unread(trunk: str, given: Mapping[str, Any]) -> Collection[str]:
    """Keys of a trunk's own block that VISSL does not read: base files and overlays leave such behind."""
    if trunk == "mobilenetv3_tv":
        return {"TRUNK_ONLY"}
    if trunk == "mobilenetv3_timm":
        return {"TIMM_BN"}
    if not trunk.startswith("regnet"):
        return ()
    if given.get("name") not in (None, "anynet"):
        return given.keys() - {"name", "stage_checkpoints", "stage_checkpointing"}
    return REGNET_LADDER if given.get("name") == "anynet" else REGNET_STAGES


def set_values(block: Any) -> dict[str, Any]:
    """The keys that a block sets, nested blocks with their keys in lower case."""
    if not isinstance(block, BaseModel):
        return dict(block)
    out: dict[str, Any] = {}
    for key in block.model_fields_set:
        value = getattr(block, key)
        out[key] = {k.lower(): v for k, v in set_values(value).items()} if isinstance(value, BaseModel) else value
    return {key: out[key] for key in type(block).model_fields if key in out}
