"""Recognises VISSL's configurations; the translation itself is imported only for those."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphmodel.diagnostics import Collector
from graphmodel.dialects import InputShapes
from graphmodel.spec.document import Document, KeyPath

TRAINER_BLOCKS = frozenset("CHECKPOINT DATA DISTRIBUTED HOOKS LOSS MACHINE METERS OPTIMIZER TRAINER".split())
"""Blocks beside MODEL: a file with these alone is an overlay, or configures something else."""


class VisslDialect:
    """Files with a `MODEL:` block, alone or under `config:`, and overlays of such files."""

    name = "vissl"
    any_layout = True
    named_sections = ()

    def recognises(self, document: Document) -> bool:
        data = document.data
        config = data.get("config")
        in_config = isinstance(config, Mapping) and any(str(k).isupper() for k in config)
        in_file = not TRAINER_BLOCKS.isdisjoint(data)
        return "graphmodel" not in data and ("MODEL" in data or "_BASE_" in data or in_config or in_file)

    def override_prefixes(self, document: Document) -> Sequence[KeyPath]:
        return (("config",), ()) if "config" in document.data else ((),)

    def to_native(self, document: Document, inputs: InputShapes, report: Collector) -> Document:
        from graphmodel.dialects.vissl.translate import translate  # Pydantic models of every VISSL key: slow to import

        return translate(document, inputs, report)


DIALECT = VisslDialect()
