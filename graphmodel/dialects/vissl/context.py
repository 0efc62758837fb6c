"""What every part of the VISSL translation reads: the validated MODEL block, its place in the file, and the report."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphmodel.diagnostics import LONGEST_NAME, Collector
from graphmodel.dialects import InputShapes
from graphmodel.dialects.vissl.config import TRUNK_BLOCK_KEYS, VisslModel
from graphmodel.spec.document import Document, KeyPath, dotted, kind_of
from graphmodel.spec.validate import validate

DETECTRON2_KEYS = ("META_ARCHITECTURE", "BACKBONE", "MASK_ON", "ROI_HEADS", "RPN", "PIXEL_MEAN", "FPN")


@dataclass(frozen=True)
class Context:
    """A VISSL configuration under translation.

    Attributes:
        document: the configuration, for places.
        base: the path of the MODEL block's parent: `("config",)`, or empty if MODEL is at the top.
        model: the validated MODEL block.
        shapes: per-sample input shapes from the caller.
        report: where findings go.
        unread: paths of keys in trunk blocks that VISSL never reads.
    """

    document: Document
    base: KeyPath
    model: VisslModel
    shapes: InputShapes
    report: Collector
    unread: tuple[KeyPath, ...] = ()

    @property
    def is_frozen(self) -> bool:
        """Whether FEATURE_EVAL_SETTINGS freezes the trunk."""
        settings = self.model.FEATURE_EVAL_SETTINGS
        return settings.EVAL_MODE_ON and (settings.FREEZE_TRUNK_ONLY or settings.FREEZE_TRUNK_AND_HEAD)

    @property
    def is_extractor(self) -> bool:
        """Whether VISSL wraps the trunk in a frozen feature extractor, with state-dict keys under `base_model.`."""
        return self.is_frozen and bool(self.model.FEATURE_EVAL_SETTINGS.LINEAR_EVAL_FEAT_POOL_OPS_MAP)

    @property
    def has_features_only(self) -> bool:
        """Whether the model returns trunk features and has no heads."""
        settings = self.model.FEATURE_EVAL_SETTINGS
        return settings.EVAL_MODE_ON and settings.EXTRACT_TRUNK_FEATURES_ONLY

    def path(self, *keys: str | int) -> KeyPath:
        """The path of a key of MODEL."""
        return (*self.base, "MODEL", *keys)

    def error(self, code: str, message: str, path: KeyPath, help: str = "") -> None:
        """Reports an error at a path of the document."""
        self.report.error(code, message, self.document.span(path), help, dotted(path))

    def note(self, message: str, path: KeyPath, help: str = "") -> None:
        """Reports GM230: a documented difference, or a key that is carried but not used."""
        self.report.note("GM230", message, self.document.span(path, key=True), help, dotted(path))

    def warning(self, message: str, path: KeyPath, help: str = "") -> None:
        """Reports GM231: something that VISSL itself ignores."""
        self.report.warning("GM231", message, self.document.span(path, key=True), help, dotted(path))


def is_chain(item: object) -> bool:
    """Whether an entry of HEAD.PARAMS is a list of modules, not one module."""
    return isinstance(item, list) and bool(item) and isinstance(item[0], list)


def read_context(document: Document, inputs: InputShapes, report: Collector) -> Context:
    """Finds and validates the MODEL block.

    Args:
        document: a VISSL configuration.
        inputs: per-sample input shapes from the caller.
        report: where findings go.

    Raises:
        CompileError: GM22x if there is no MODEL block or it is Detectron2's; GM2xx for everything wrong in it.
    """
    data = document.data
    base: KeyPath = ("config",) if isinstance(data.get("config"), Mapping) else ()
    known = len(report.errors)
    block = document.get((*base, "MODEL"))
    if "_BASE_" in data or (isinstance(block, Mapping) and any(k in block for k in DETECTRON2_KEYS)):
        key: KeyPath = ("_BASE_",) if "_BASE_" in data else (*base, "MODEL")
        report.error(
            "GM221",
            "this is a Detectron2 configuration, not a VISSL model",
            document.span(key, key=True),
            "use it with Detectron2; graphmodel compiles VISSL's MODEL blocks and its own format",
        )
    elif block is None:
        report.error(
            "GM220",
            "the configuration has no MODEL block",
            document.span(base, key=True),
            "this file is an overlay or configures something else: pass the base file first, then this one",
        )
    elif not isinstance(block, Mapping):
        report.error(
            "GM202", f"`MODEL` takes a mapping, not {kind_of(block)}", document.span((*base, "MODEL")), "", "MODEL"
        )
    if len(report.errors) > known:
        report.raise_errors()
    block, unread = _without_unread_keys(block, (*base, "MODEL"))
    model = validate(VisslModel, document, report, block, (*base, "MODEL"))
    return Context(document, base, model, inputs, report, unread)


def _without_unread_keys(model: Mapping[str, Any], path: KeyPath) -> tuple[Mapping[str, Any], tuple[KeyPath, ...]]:
    """MODEL without the keys of trunk blocks that VISSL never reads, and their paths.

    Files of VISSL have such keys, left over from other versions (`CONVIT.QKV_BIAS`). A key that resembles one that is
    read stays, and is reported as unknown.
    """
    trunk = model.get("TRUNK")
    if not isinstance(trunk, Mapping):
        return model, ()
    kept: dict[str, Any] = dict(trunk)
    unread: list[KeyPath] = []
    for name, known in TRUNK_BLOCK_KEYS.items():
        values = trunk.get(name)
        if isinstance(values, Mapping):
            strange = [key for key in values if key not in known and not resembles(key, known)]
            unread += [(*path, "TRUNK", name, key) for key in strange]
            kept[name] = {key: value for key, value in values.items() if key not in strange}
    return {**model, "TRUNK": kept}, tuple(unread)


def resembles(key: str, known: Sequence[str]) -> bool:
    """Whether a key is a misspelled one of these."""
    lowered = [name.lower() for name in known]
    cutoff = min(0.75, (len(key) - 1) / len(key)) if key else 1.0  # of three letters, two agree despite one slip
    return len(key) <= LONGEST_NAME and bool(difflib.get_close_matches(key.lower(), lowered, n=1, cutoff=cutoff))
