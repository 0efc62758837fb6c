"""Codes GM575 to GM579: sharding and pipelines."""

from __future__ import annotations

from graphmodel.diagnostics.codes.entry import code

ENTRIES = (
    code(
        "GM575",
        "not a compiled module",
        """Sharding and pipelines follow the graph of a compiled module. A wrapped module (DDP) or one that
            `torch.compile` returned has none: plan, shard or split first, then wrap.""",
        """
            graphmodel.shard_plan(torch.nn.Linear(2, 2))
            """,
        """
            spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
            graphmodel.shard_plan(graphmodel.compile(spec, device="meta"))
            """,
        language="python",
    ),
)
