"""VISSL's dialect: a configuration file with a MODEL block becomes a native document.

The documented meaning wins; where VISSL's own code does otherwise, a note says so. Source: VISSL 0.1.6 and its main
branch, `vissl/models/base_ssl_model.py`, `multiple_input_mapping.py`, `model_helpers.py` (behaviour).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphmodel.diagnostics import Collector
from graphmodel.dialects import InputShapes
from graphmodel.dialects.located import At, placed
from graphmodel.dialects.native.dialect import is_list_of_shapes, views_of
from graphmodel.dialects.vissl.heads import Heads, read_heads, wire
from graphmodel.dialects.vissl.inputs import shapes_from_transforms
from graphmodel.dialects.vissl.schema import CARRIED, IGNORED_BY_VISSL, VisslModel
from graphmodel.dialects.vissl.trunks import trunk_of
from graphmodel.spec.document import Document, KeyPath, dotted, kind_of
from graphmodel.spec.validate import validate

DETECTRON2_KEYS = ("META_ARCHITECTURE", "BACKBONE", "MASK_ON", "ROI_HEADS", "RPN", "PIXEL_MEAN", "FPN")


def translate(document: Document, inputs: InputShapes, report: Collector) -> Document:
    """The native document of a VISSL configuration.

    Raises:
        CompileError: as `read_model`.
    """
    base, model = read_model(document, report)
    return Translation(document, base, model, inputs, report).native()


def read_model(document: Document, report: Collector) -> tuple[KeyPath, VisslModel]:
    """The path of the MODEL block's parent and the validated block.

    Raises:
        CompileError: GM22x where there is no MODEL block or it is Detectron2's; GM201 and on for what is wrong in it.
    """
    data = document.data
    base: KeyPath = ("config",) if isinstance(data.get("config"), Mapping) else ()
    block = document.get((*base, "MODEL"))
    if "_BASE_" in data or (isinstance(block, Mapping) and any(k in block for k in DETECTRON2_KEYS)):
        key: KeyPath = ("_BASE_",) if "_BASE_" in data else (*base, "MODEL")
        report.error(
            "GM221",
            "this is a Detectron2 configuration, not a VISSL model",
            document.span(key, key=True),
            "give it to Detectron2; graphmodel compiles VISSL's MODEL blocks and its own format",
        )
    elif block is None:
        report.error(
            "GM220",
            "the configuration has no MODEL block",
            document.span(base, key=True),
            "this file is an overlay or configures something else: give the base file first, then this one",
        )
    elif not isinstance(block, Mapping):
        report.error(
            "GM202", f"`MODEL` is a mapping, this is {kind_of(block)}", document.span((*base, "MODEL")), "", "MODEL"
        )
    report.raise_errors()
    found = validate(VisslModel, document, block, (*base, "MODEL"))
    if isinstance(found, list):
        for finding in found:
            report.add(finding)
        report.raise_errors()
        raise AssertionError("validation failed without an error")
    return base, found


class Translation:
    """One file's way into the native format."""

    def __init__(
        self, document: Document, base: KeyPath, model: VisslModel, inputs: InputShapes, report: Collector
    ) -> None:
        self.document, self.base, self.model, self.given, self.report = document, base, model, inputs, report
        settings = model.FEATURE_EVAL_SETTINGS
        self.frozen = settings.EVAL_MODE_ON and (settings.FREEZE_TRUNK_ONLY or settings.FREEZE_TRUNK_AND_HEAD)
        self.extractor = self.frozen and bool(settings.LINEAR_EVAL_FEAT_POOL_OPS_MAP)
        self.features_only = settings.EVAL_MODE_ON and settings.EXTRACT_TRUNK_FEATURES_ONLY

    def path(self, *keys: str | int) -> KeyPath:
        """The place of a key of MODEL."""
        return (*self.base, "MODEL", *keys)

    def error(self, code: str, message: str, path: KeyPath, help: str = "") -> None:
        self.report.error(code, message, self.document.span(path), help, dotted(path))

    def note(self, message: str, path: KeyPath, help: str = "") -> None:
        self.report.note("GM230", message, self.document.span(path, key=True), help, dotted(path))

    def warning(self, message: str, path: KeyPath, help: str = "") -> None:
        self.report.warning("GM231", message, self.document.span(path, key=True), help, dotted(path))

    def native(self) -> Document:
        model = self.model
        heads = read_heads(self) if not self.features_only else Heads({}, [], False)
        wiring = wire(self, heads)
        self.report.raise_errors()
        trunk, unused = trunk_of(self)
        tree: dict[str, Any] = {
            "graphmodel": 1,
            "inputs": self.inputs(wiring.inputs),
            "trunk": trunk,
            "heads": heads.named,
            "mapping": wiring.edges,
        }
        defaults = {
            native: At(getattr(model.HEAD, key), self.path("HEAD", key))
            for native, key, usual in (
                ("bn_eps", "BATCHNORM_EPS", 1e-5),
                ("bn_momentum", "BATCHNORM_MOMENTUM", 0.1),
                ("init_scale", "PARAMS_MULTIPLIER", 1.0),
            )
            if getattr(model.HEAD, key) != usual
        }
        if defaults and heads.named:
            tree["head_defaults"] = defaults
        freeze = self.freeze(bool(heads.named))
        if freeze:
            tree["freeze"] = freeze
        if any(isinstance(item, list) for item in wiring.outputs):
            tree["outputs"] = wiring.outputs
        if model.ACTIVATION_CHECKPOINTING.USE_ACTIVATION_CHECKPOINTING:
            tree["checkpoint"] = At(
                model.ACTIVATION_CHECKPOINTING.NUM_ACTIVATION_CHECKPOINTING_SPLITS,
                self.path("ACTIVATION_CHECKPOINTING"),
            )
        weights = self.weights()
        if weights:
            tree["weights"] = At(weights, self.path("WEIGHTS_INIT"))
        self.report_keys(unused)
        return placed(tree, self.document)

    def freeze(self, with_heads: bool) -> list[Any]:
        settings, at = self.model.FEATURE_EVAL_SETTINGS, self.path("FEATURE_EVAL_SETTINGS")
        if not self.frozen:
            for key in ("FREEZE_TRUNK_ONLY", "FREEZE_TRUNK_AND_HEAD"):
                if getattr(settings, key):
                    self.warning(
                        f"{key} does nothing while EVAL_MODE_ON is false", (*at, key), "set EVAL_MODE_ON: True"
                    )
        names: list[Any] = [At("trunk", (*at, "FREEZE_TRUNK_ONLY"))] if self.frozen else []
        if self.frozen and settings.FREEZE_TRUNK_AND_HEAD and not settings.FREEZE_TRUNK_ONLY and with_heads:
            names = [At("trunk", (*at, "FREEZE_TRUNK_AND_HEAD")), At("heads", (*at, "FREEZE_TRUNK_AND_HEAD"))]
        for i, name in enumerate(self.model.NON_TRAINABLE_PARAMS):
            names.append(At(f"vissl:{name}", self.path("NON_TRAINABLE_PARAMS", i)))
        return names

    def weights(self) -> dict[str, Any]:
        init = self.model.WEIGHTS_INIT
        if not any(k in init.model_fields_set for k in ("PARAMS_FILE", "APPEND_PREFIX", "REMOVE_PREFIX")):
            return {}
        return {
            "file": At(init.PARAMS_FILE or "", self.path("WEIGHTS_INIT", "PARAMS_FILE")),
            "key": At(init.STATE_DICT_KEY_NAME or "", self.path("WEIGHTS_INIT", "STATE_DICT_KEY_NAME")),
            "skip": At(list(init.SKIP_LAYERS), self.path("WEIGHTS_INIT", "SKIP_LAYERS")),
            "remove_prefix": At(init.REMOVE_PREFIX or "", self.path("WEIGHTS_INIT", "REMOVE_PREFIX")),
            "append_prefix": At(init.APPEND_PREFIX or "", self.path("WEIGHTS_INIT", "APPEND_PREFIX")),
        }

    # -- inputs -------------------------------------------------------------------------------------------------------

    def inputs(self, names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """The native inputs: shapes from the caller, else from the transforms, else 3x224x224 with a note.

        Args:
            names: each input and its companions.
        """
        found = shapes_from_transforms(self.document, self.base, list(names))
        out: dict[str, Any] = {}
        for name in self.given:
            known = {*names, *(c for cs in names.values() for c in cs)}
            if name not in known:
                self.report.error(
                    "GM207",
                    f"a shape was given for `{name}`, which is no input of this model",
                    None,
                    f"inputs: {', '.join(sorted(known))}",
                )
        for name, companions in names.items():
            item: dict[str, Any] = {}
            if name in self.given:
                shape: Any = self.given[name]
                item = {"views": views_of(shape)} if is_list_of_shapes(shape) else {"shape": list(shape)}
            elif name in found:
                shape, where = found[name].shape, found[name].path
                item = (
                    {"views": At(views_of(shape), where)} if is_list_of_shapes(shape) else {"shape": At(shape, where)}
                )
            else:
                item = {"shape": [3, 224, 224]}
                self.note(
                    f"nothing says the shape of `{name}`: 3x224x224 is taken",
                    self.path(),
                    f"pass `--input {name}=3x224x224` (or another shape)",
                )
            if "views" in item:
                item["passes"] = self.passes()
            if companions:
                item["with"] = list(companions)
            out[name] = item
            for companion in companions:
                out[companion] = self.companion(companion)
        return out

    def passes(self) -> Any:
        if self.model.SINGLE_PASS_EVERY_CROP:
            return At("crop", self.path("SINGLE_PASS_EVERY_CROP"))
        return "consecutive"

    def companion(self, name: str) -> dict[str, Any]:
        if name in self.given:
            return {"shape": list(self.given[name]), "dtype": "bool" if name == "mask" else "float32"}
        vit = self.model.TRUNK.VISION_TRANSFORMERS
        side = vit.IMAGE_SIZE // max(vit.PATCH_SIZE, 1)
        if name != "mask":
            self.error(
                "GM301",
                f"the input `{name}` has no shape",
                self.path("MULTI_INPUT_HEAD_MAPPING"),
                f"pass `--input {name}=…`",
            )
        return {"shape": [side, side], "dtype": "bool"}

    # -- report -------------------------------------------------------------------------------------------------------

    def report_keys(self, unused: Sequence[KeyPath]) -> None:
        """Notes on what is carried but not used, warnings on what VISSL itself ignores."""
        for key, why in CARRIED.items():
            path = self.path(*key.split("."))
            if self.document.get(path) is not None:
                self.note(f"{key} is carried, not used: {why}", path)
        for key, why in IGNORED_BY_VISSL.items():
            path = self.path(*key.split("."))
            if self.document.get(path) is not None:
                self.warning(why, path)
        for path in unused:
            self.note(f"{dotted(path[len(self.base) + 1 :])} is not used by this trunk", path)
        if self.model.WEIGHTS_INIT.PARAMS_FILE:
            self.note(
                "weights are not loaded by compiling",
                self.path("WEIGHTS_INIT", "PARAMS_FILE"),
                "call `graphmodel.load_weights(module, file)` or pass `--weights FILE`",
            )
