"""Codes GM555 to GM559: profiles."""

from __future__ import annotations

from graphmodel.diagnostics.codes.entry import code

ENTRIES = (
    code(
        "GM555",
        "the model cannot be profiled at this batch size",
        """`graphmodel profile` runs a training step on the meta device to count what it keeps. A module of this model
            cannot run there in training mode, or not with that batch size: normalization over a batch needs more than
            one sample.""",
        """
            heads = {"a": {"mlp": {"dims": ["auto", 16, 10], "use_bn": True}}}
            spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}, "heads": heads}
            graphmodel.profile(spec, batch=1)
            """,
        """
            heads = {"a": {"mlp": {"dims": ["auto", 16, 10], "use_bn": True}}}
            spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}, "heads": heads}
            graphmodel.profile(spec, batch=2)
            """,
        language="python",
    ),
    code(
        "GM556",
        "not a valid chart",
        """`graphmodel profile -o FILE` draws a bar chart as `svg` or `png`.""",
        """
            graphmodel profile spec.yaml -o stages.pdf
            """,
        """
            graphmodel profile spec.yaml -o stages.svg
            """,
        language="shell",
    ),
)
