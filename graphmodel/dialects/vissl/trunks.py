"""VISSL's TRUNK block as a native trunk: the block of each trunk name, with its keys in lower case."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel

from graphmodel.dialects.located import Located
from graphmodel.dialects.vissl.context import Context, resembles
from graphmodel.spec.document import KeyPath, dotted

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
"""Trunk names and the blocks of TRUNK that VISSL reads for them."""

ONE_RESULT = {"resnet_sk", "convnext", "convit", "classy_vit", "swin_transformer", "swin_transformer_official"}
"""Trunks whose VISSL code ignores feature names and returns one pooled vector."""

NO_INPUT_TYPE = {"alexnet_bvlc", "alexnet_deepcluster", "alexnet_jigsaw", "alexnet_rotnet", "efficientnet"}
"""Trunks with three input channels whose VISSL code ignores INPUT_TYPE."""

REGNET_LADDER = {"depth", "w_0", "w_a", "w_m", "group_width", "bottleneck_multiplier"}
REGNET_STAGES = {"depths", "widths", "group_widths", "bottleneck_multipliers", "strides"}

ALL_BLOCKS = sorted({b for blocks in BLOCKS.values() for b in blocks})


def trunk_of(context: Context) -> tuple[Any, list[KeyPath]]:
    """The native trunk, and the paths of blocks that the file sets but this trunk does not read."""
    trunk = context.model.TRUNK
    blocks = BLOCKS.get(trunk.NAME, ())
    native: dict[str, Any] = {"name": Located(trunk.NAME, context.path("TRUNK", "NAME"))}
    unused: list[KeyPath] = []
    for block in blocks:
        values = getattr(trunk, block)
        at = context.path("TRUNK", block)
        given = set_values(values)
        for key, value in given.items():
            if key.lower() != "name" and resembles(key, ["name"]):  # the native format calls it `variant`
                span, message = context.document.span((*at, key), key=True), f"unknown key `{key}` in `{dotted(at)}`"
                context.report.error("GM201", message, span, "did you mean `name`?", dotted((*at, key)))
                continue
            spelled = "variant" if key.lower() == "name" else key.lower()
            if value is None or key == "CONVIT" or not used(spelled):
                continue
            if key in unread(trunk.NAME, given):
                unused.append((*at, key))
                continue
            native[spelled] = (
                Located(value, (*at, key), str.upper) if isinstance(value, dict) else Located(value, (*at, key))
            )
    input_type = context.model.INPUT_TYPE
    if input_type == "lab" and trunk.NAME in NO_INPUT_TYPE:
        context.note(
            f"VISSL's `{trunk.NAME}` ignores INPUT_TYPE: it reads all three channels of a Lab image",
            context.path("INPUT_TYPE"),
        )
    elif input_type != "rgb":
        native["input_type"] = Located(input_type, context.path("INPUT_TYPE"))
    others = (context.path("TRUNK", block) for block in ALL_BLOCKS if block not in blocks)
    unused += [path for path in others if context.document.get(path)]  # TRUNK may be anything, which has been reported
    return Located(native, context.path("TRUNK")), unused


def used(key: str) -> bool:
    """Whether a parameter of a trunk describes the model; checkpointing inside blocks is up to the trainer."""
    return not key.startswith("checkpoint_")


def unread(trunk: str, given: Mapping[str, Any]) -> Collection[str]:
    """Keys of a trunk's own block that VISSL does not read; base files and overlays leave such keys behind."""
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
