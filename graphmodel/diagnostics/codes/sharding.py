"""Codes GM575 to GM579 and GM585: sharding and pipelines."""

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
    code(
        "GM576",
        "the weights cannot be built",
        """`materialise` builds the weights of a module that was compiled for the meta device. This one has weights
            already, or a part of it is a module that was given without weights, or it came out of a pickle and no
            longer knows how its weights are made.""",
        """
            spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
            graphmodel.materialise(graphmodel.compile(spec))
            """,
        """
            spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
            graphmodel.materialise(graphmodel.compile(spec, device="meta"), seed=0)
            """,
        language="python",
    ),
    code(
        "GM577",
        "not a valid mesh",
        """`materialise` takes a `DeviceMesh`, and a module that is sharded already keeps the mesh that it is sharded
            over.""",
        """
            spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
            graphmodel.materialise(graphmodel.compile(spec, device="meta"), mesh=2)
            """,
        """
            spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
            graphmodel.materialise(graphmodel.compile(spec, device="meta"))
            """,
        language="python",
    ),
    code(
        "GM578",
        "not a valid number of stages",
        """A pipeline has one stage or more, and `stage` takes the number of one of them, from 0.""",
        """
            spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
            graphmodel.split_pipeline(graphmodel.compile(spec), stages=0)
            """,
        """
            spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
            graphmodel.split_pipeline(graphmodel.compile(spec), stages=2)
            """,
        language="python",
    ),
    code(
        "GM579",
        "the graph cannot be cut into so many stages",
        """A pipeline is cut between calls. Calls that share parameters stay in one stage, and only tensors with a row
            for each sample pass from one stage to the next.""",
        """
            spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
            graphmodel.split_pipeline(graphmodel.compile(spec), stages=100)
            """,
        """
            spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
            graphmodel.split_pipeline(graphmodel.compile(spec), stages=4)
            """,
        language="python",
    ),
    code(
        "GM585",
        "not a valid number of processes, or optimizer",
        """`shard_table` computes costs for numbers of processes, for an optimizer that it knows, and for a number of
            samples.""",
        """
            spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
            graphmodel.shard_table(graphmodel.compile(spec, device="meta"), world_sizes=(8, 0))
            """,
        """
            spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
            graphmodel.shard_table(graphmodel.compile(spec, device="meta"), world_sizes=(8, 16))
            """,
        language="python",
    ),
)
