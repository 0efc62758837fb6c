"""Translates a VISSL configuration, a file with a MODEL block, into a native document.

The documented meaning wins; if VISSL's own code does something else, a note says so. Source: VISSL 0.1.6 and its main
branch, `vissl/models/base_ssl_model.py`, `multiple_input_mapping.py`, `model_helpers.py` (behaviour).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphmodel.diagnostics import Collector
from graphmodel.dialects import InputShapes
from graphmodel.dialects.located import Located, to_document
from graphmodel.dialects.native.dialect import is_list_of_shapes, views_of
from graphmodel.dialects.vissl.config import CARRIED, IGNORED_BY_VISSL
from graphmodel.dialects.vissl.context import Context, read_context
from graphmodel.dialects.vissl.heads import Heads, read_heads, wire
from graphmodel.dialects.vissl.inputs import shapes_from_transforms, test_transforms
from graphmodel.dialects.vissl.trunks import trunk_of
from graphmodel.spec.document import Document, KeyPath, dotted

HEAD_DEFAULTS = (
    ("bn_eps", "BATCHNORM_EPS", 1e-5),
    ("bn_momentum", "BATCHNORM_MOMENTUM", 0.1),
    ("init_scale", "PARAMS_MULTIPLIER", 1.0),
)
"""Native parameters of every head, the keys of HEAD that set them, and VISSL's defaults."""


def translate(document: Document, inputs: InputShapes, report: Collector) -> Document:
    """The native document of a VISSL configuration.

    Args:
        document: the configuration.
        inputs: per-sample input shapes from the caller; they take precedence over the file's transforms.
        report: where findings go.

    Raises:
        CompileError: as `read_context`, and GM22x for heads and features that do not fit together.
    """
    context = read_context(document, inputs, report)
    model = context.model
    invalid = len(report.errors)  # of the keys alone: what is valid is translated, so that it is checked too
    heads = Heads({}, [], []) if context.has_features_only else read_heads(context)
    wiring = wire(context, heads)
    if len(report.errors) > invalid:
        report.raise_errors()
    trunk, unused = trunk_of(context)
    tree: dict[str, Any] = {
        "graphmodel": 1,
        "inputs": _inputs(context, wiring.inputs),
        "trunk": trunk,
        "heads": heads.named,
        "mapping": wiring.edges,
    }
    defaults = {
        native: Located(getattr(model.HEAD, key), context.path("HEAD", key))
        for native, key, default in HEAD_DEFAULTS
        if getattr(model.HEAD, key) != default
    }
    if defaults and heads.named:
        tree["head_defaults"] = defaults
    freeze = _freeze(context, bool(heads.named))
    if freeze:
        tree["freeze"] = freeze
    if any(isinstance(item, list) for item in wiring.outputs):
        tree["outputs"] = wiring.outputs
    if model.ACTIVATION_CHECKPOINTING.USE_ACTIVATION_CHECKPOINTING:
        tree["checkpoint"] = Located(
            model.ACTIVATION_CHECKPOINTING.NUM_ACTIVATION_CHECKPOINTING_SPLITS,
            context.path("ACTIVATION_CHECKPOINTING"),
        )
    weights = _weights(context, heads)
    if weights:
        tree["weights"] = Located(weights, context.path("WEIGHTS_INIT" if "file" in weights else "HEAD"))
    _report_keys(context, unused)
    return to_document(tree, document)


def _freeze(context: Context, with_heads: bool) -> list[Any]:
    settings, at = context.model.FEATURE_EVAL_SETTINGS, context.path("FEATURE_EVAL_SETTINGS")
    if not context.is_frozen:
        for key in ("FREEZE_TRUNK_ONLY", "FREEZE_TRUNK_AND_HEAD"):
            if getattr(settings, key):
                context.warning(f"{key} does nothing while EVAL_MODE_ON is false", (*at, key), "set EVAL_MODE_ON: True")
        if settings.LINEAR_EVAL_FEAT_POOL_OPS_MAP:
            context.warning(
                "LINEAR_EVAL_FEAT_POOL_OPS_MAP does nothing while the trunk is not frozen",
                (*at, "LINEAR_EVAL_FEAT_POOL_OPS_MAP"),
                "set EVAL_MODE_ON: True and FREEZE_TRUNK_ONLY: True",
            )
    names: list[Any] = [Located("trunk", (*at, "FREEZE_TRUNK_ONLY"))] if context.is_frozen else []
    if context.is_frozen and settings.FREEZE_TRUNK_AND_HEAD and not settings.FREEZE_TRUNK_ONLY and with_heads:
        names = [Located("trunk", (*at, "FREEZE_TRUNK_AND_HEAD")), Located("heads", (*at, "FREEZE_TRUNK_AND_HEAD"))]
    for i, name in enumerate(context.model.NON_TRAINABLE_PARAMS):
        names.append(Located(f"vissl:{name}", context.path("NON_TRAINABLE_PARAMS", i)))
    return names


def _weights(context: Context, heads: Heads) -> dict[str, Any]:
    naming: dict[str, Any] = {}
    if context.is_extractor:
        naming["feature_extractor"] = True
    if heads.composite:
        naming["composite_heads"] = heads.composite
    init = context.model.WEIGHTS_INIT
    if not any(k in init.model_fields_set for k in ("PARAMS_FILE", "APPEND_PREFIX", "REMOVE_PREFIX")):
        return {"vissl": naming} if naming else {}
    return {
        "file": Located(init.PARAMS_FILE or "", context.path("WEIGHTS_INIT", "PARAMS_FILE")),
        "key": Located(init.STATE_DICT_KEY_NAME or "", context.path("WEIGHTS_INIT", "STATE_DICT_KEY_NAME")),
        "skip": Located(list(init.SKIP_LAYERS), context.path("WEIGHTS_INIT", "SKIP_LAYERS")),
        "remove_prefix": Located(init.REMOVE_PREFIX or "", context.path("WEIGHTS_INIT", "REMOVE_PREFIX")),
        "append_prefix": Located(init.APPEND_PREFIX or "", context.path("WEIGHTS_INIT", "APPEND_PREFIX")),
        **({"vissl": naming} if naming else {}),
    }


def _inputs(context: Context, names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The native inputs: shapes from the caller, else from the transforms, else 3x224x224 with a note.

    Args:
        names: each input and its companions.
    """
    found = shapes_from_transforms(context.document, context.base, list(names))
    transforms = test_transforms(context.document, context.base)
    out: dict[str, Any] = {}
    for name in context.shapes:
        known = {*names, *(c for cs in names.values() for c in cs)}
        if name not in known:
            context.report.error(
                "GM207",
                f"a shape was given for `{name}`, which is not an input of this model",
                None,
                f"inputs: {', '.join(sorted(known))}",
            )
    for name, companions in names.items():
        item: dict[str, Any] = {}
        if name in context.shapes:
            shape: Any = context.shapes[name]
            item = {"views": views_of(shape)} if is_list_of_shapes(shape) else {"shape": list(shape)}
        elif name in found:
            shape, where = found[name].shape, found[name].path
            item = (
                {"views": Located(views_of(shape), where)}
                if is_list_of_shapes(shape)
                else {"shape": Located(shape, where)}
            )
        else:
            item = {"shape": [3, 224, 224]}
            context.note(
                f"no shape given for `{name}`; assuming 3x224x224",
                context.path(),
                f"pass `--input {name}=3x224x224` (or another shape)",
            )
        if "views" in item:
            item["grouping"] = _grouping(context)
        if companions:
            item["with"] = list(companions)
        if transforms is not None and len(names) == 1 and "shape" in item:
            item["transform"] = Located(*transforms)
        out[name] = item
        for companion in companions:
            out[companion] = _companion(context, companion)
    return out


def _grouping(context: Context) -> Any:
    if context.model.SINGLE_PASS_EVERY_CROP:
        return Located("crop", context.path("SINGLE_PASS_EVERY_CROP"))
    return "consecutive"


def _companion(context: Context, name: str) -> dict[str, Any]:
    if name in context.shapes:
        return {"shape": list(context.shapes[name]), "dtype": "bool" if name == "mask" else "float32"}
    vit = context.model.TRUNK.VISION_TRANSFORMERS
    side = vit.IMAGE_SIZE // max(vit.PATCH_SIZE, 1)
    if name != "mask":
        context.error(
            "GM301",
            f"the input `{name}` has no shape",
            context.path("MULTI_INPUT_HEAD_MAPPING"),
            f"pass `--input {name}=…`",
        )
    return {"shape": [side, side], "dtype": "bool"}


def _report_keys(context: Context, unused: Sequence[KeyPath]) -> None:
    """Notes on what is carried but not used, warnings on what VISSL itself ignores."""
    for key, why in CARRIED.items():
        path = context.path(*key.split("."))
        if context.document.get(path) is not None:
            context.note(f"{key} is carried, not used: {why}", path)
    for key, why in IGNORED_BY_VISSL.items():
        path = context.path(*key.split("."))
        if context.document.get(path) is not None:
            context.warning(why, path)
    for path in context.unread:
        context.warning(f"VISSL never reads {dotted(path[len(context.base) + 1 :])}", path)
    for path in unused:
        context.note(f"{dotted(path[len(context.base) + 1 :])} is not used by this trunk", path)
    if context.model.WEIGHTS_INIT.PARAMS_FILE:
        context.note(
            "weights are not loaded by compiling",
            context.path("WEIGHTS_INIT", "PARAMS_FILE"),
            "call `graphmodel.load_weights(module, file)` or pass `--weights FILE`",
        )
