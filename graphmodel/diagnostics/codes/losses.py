"""Codes GM570 to GM574: losses."""

from __future__ import annotations

from graphmodel.diagnostics.codes.entry import code

ENTRIES = (
    code(
        "GM570",
        "not logits",
        """`fused_cross_entropy` takes at least one output, and each is a tensor of shape (N, classes). Flatten further
            dimensions into the first one.""",
        """
            graphmodel.fused_cross_entropy({"tokens": torch.randn(2, 7, 10)}, torch.zeros(14, dtype=torch.long))
            """,
        """
            logits = torch.randn(2, 7, 10)
            graphmodel.fused_cross_entropy({"tokens": logits.flatten(0, 1)}, torch.zeros(14, dtype=torch.long))
            """,
        "python",
    ),
    code(
        "GM571",
        "labels that do not fit the outputs",
        """The labels of `fused_cross_entropy` are one tensor for all outputs, or one for each: by the names of the
            outputs if these are a mapping, in their order if they are a sequence. A tensor of labels has shape (N,), or
            (N, classes) if it holds probabilities.""",
        """
            outputs = {"a": torch.randn(2, 10), "b": torch.randn(2, 10)}
            graphmodel.fused_cross_entropy(outputs, {"a": torch.tensor([0, 1]), "c": torch.tensor([0, 1])})
            """,
        """
            outputs = {"a": torch.randn(2, 10), "b": torch.randn(2, 10)}
            graphmodel.fused_cross_entropy(outputs, {"a": torch.tensor([0, 1]), "b": torch.tensor([0, 1])})
            """,
        "python",
    ),
    code(
        "GM572",
        "not a valid reduction",
        """`reduction` is `mean`, `sum` or `none`, as in `torch.nn.functional.cross_entropy`. The total needs one of the
            first two.""",
        """
            graphmodel.fused_cross_entropy([torch.randn(2, 10)], torch.tensor([0, 1]), reduction="average")
            """,
        """
            graphmodel.fused_cross_entropy([torch.randn(2, 10)], torch.tensor([0, 1]), reduction="mean")
            """,
        "python",
    ),
)
