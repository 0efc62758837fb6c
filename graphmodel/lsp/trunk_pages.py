"""Features of trunks at image sizes, computed by the worker once each and answered from memory."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graphmodel.lsp.background import Job, Worker

if TYPE_CHECKING:
    from graphmodel.spec.model import ModelSpec

Page = Mapping[str, Any]

MOST = 256
"""How many pages are kept; the one that was not asked for the longest goes."""


class TrunkPages:
    """The pages of trunks.

    Args:
        worker: computes them.
    """

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.known: OrderedDict[str, Page] = OrderedDict()

    def find(self, name: str, params: Mapping[str, Any], shape: Sequence[int] | None) -> Page | None:
        """The page of a trunk at an image size; None if it is not known yet: it is computed then."""
        key = _key(name, params, shape)
        if key in self.known:
            self.known.move_to_end(key)
            return self.known[key]
        if self.worker.has(("trunk", key)):  # a job that is asked for again must not start again
            return None

        def then(page: dict[str, Any]) -> None:
            self.known[key] = page
            while len(self.known) > MOST:
                self.known.popitem(last=False)

        content = {"kind": "trunk", "name": name, "params": dict(params), "shape": list(shape) if shape else None}
        self.worker.submit(Job(("trunk", key), content, 3, then))
        return None

    def prepare(self, spec: ModelSpec) -> None:
        """Computes the pages that the completion of features in a spec needs."""
        for name, family, params, shape in trunk_inputs(spec):
            del name
            self.find(family, params, shape)


def trunk_inputs(spec: ModelSpec) -> list[tuple[str, str, dict[str, Any], tuple[int, ...]]]:
    """Each trunk of a spec with each size of image: its name, its family, its parameters, the per-sample shape."""
    companions = {c for item in spec.inputs.values() for c in item.companions}
    items = [i for i in spec.inputs.values() if not i.raw and i.name not in companions]
    shapes = [s for i in items for s in (i.views or (i.shape,)) if s]
    trunks = [t for t in spec.trunks.values() if not t.imports and not t.family.startswith("<")]
    found = [(t.name, t.family, dict(t.params), s) for t in trunks for s in dict.fromkeys(shapes)]
    return found[:32]


def _key(name: str, params: Mapping[str, Any], shape: Sequence[int] | None) -> str:
    return json.dumps([name, dict(params), list(shape) if shape else None], sort_keys=True, default=str)
