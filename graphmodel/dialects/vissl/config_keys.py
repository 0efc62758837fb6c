"""Every key of VISSL's MODEL block and how it is handled: the table of the documentation and of its test."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any, Union

from pydantic import BaseModel

from graphmodel.dialects.vissl.config import CARRIED, IGNORED_BY_VISSL, Trainer, VisslModel

HONOURED: dict[str, str] = {
    "NON_TRAINABLE_PARAMS": "`freeze:` (VISSL's names are translated)",
    "INPUT_TYPE": "`trunk.input_type`",
    "MULTI_INPUT_HEAD_MAPPING": "`mapping:`, `inputs.*.with`",
    "SINGLE_PASS_EVERY_CROP": "`inputs.*.grouping: crop`",
    "ACTIVATION_CHECKPOINTING": "`checkpoint:`, with the number of splits as the number of segments",
    "FEATURE_EVAL_SETTINGS.EVAL_MODE_ON": "with the FREEZE keys: `freeze:`",
    "FEATURE_EVAL_SETTINGS.FREEZE_TRUNK_ONLY": "`freeze: [trunk]`",
    "FEATURE_EVAL_SETTINGS.FREEZE_TRUNK_AND_HEAD": "`freeze: [trunk, heads]`",
    "FEATURE_EVAL_SETTINGS.EXTRACT_TRUNK_FEATURES_ONLY": "`mapping:` without heads",
    "FEATURE_EVAL_SETTINGS.SHOULD_FLATTEN_FEATS": "`mapping[].flatten`",
    "FEATURE_EVAL_SETTINGS.LINEAR_EVAL_FEAT_POOL_OPS_MAP": "`mapping[].from`, `mapping[].pool`",
    "TRUNK.NAME": "`trunk.name`",
    "TRUNK": "`trunk:`, keys in lower case (`name` of a block: `variant`)",
    "HEAD.PARAMS": "`heads:`",
    "HEAD.BATCHNORM_EPS": "`head_defaults.bn_eps`",
    "HEAD.BATCHNORM_MOMENTUM": "`head_defaults.bn_momentum`",
    "HEAD.PARAMS_MULTIPLIER": "`head_defaults.init_scale`",
    "WEIGHTS_INIT.PARAMS_FILE": "`weights.file`, read by `load_weights`",
    "WEIGHTS_INIT.STATE_DICT_KEY_NAME": "`weights.key`",
    "WEIGHTS_INIT.SKIP_LAYERS": "`weights.skip`",
    "WEIGHTS_INIT.REMOVE_PREFIX": "`weights.remove_prefix`",
    "WEIGHTS_INIT.APPEND_PREFIX": "`weights.append_prefix`",
}
"""Keys that affect the model, and their native counterparts; the longest prefix applies."""


def keys() -> list[str]:
    """The dotted path of every key of the MODEL block, leaves only."""
    return list(_leaves(VisslModel, ""))


def _leaves(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        inner = _model(field.annotation)
        if inner is None or issubclass(inner, Trainer):
            yield key
        else:
            yield from _leaves(inner, f"{key}.")


def _model(annotation: Any) -> type[BaseModel] | None:
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return next((m for a in typing.get_args(annotation) if (m := _model(a)) is not None), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def disposition(key: str) -> tuple[str, str]:
    """`honoured`, `carried` or `ignored by VISSL`, and its counterpart or the reason; the longest entry applies."""
    for table, name in ((IGNORED_BY_VISSL, "ignored by VISSL"), (CARRIED, "carried")):
        for entry, text in table.items():
            if key == entry or key.startswith(f"{entry}."):
                return name, text
    covering = [e for e in HONOURED if key == e or key.startswith(f"{e}.")]
    return "honoured", HONOURED[max(covering, key=len)]


def to_markdown() -> str:
    """The table."""
    lines = ["| key of MODEL | handling | counterpart or reason |", "| --- | --- | --- |"]
    for key in keys():
        name, text = disposition(key)
        lines.append(f"| `{key}` | {name} | {text} |")
    return "\n".join(lines) + "\n"
