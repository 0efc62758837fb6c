"""Codes GM611 to GM616: probes of stored features."""

from __future__ import annotations

from graphmodel.diagnostics.codes.entry import code

ENTRIES = (
    code(
        "GM611",
        "a store does not have the features of the spec",
        """A probe reads from the store what its heads read, by name. The store must have been made by the same layers
            with the same weights; it may have other features besides.""",
        "graphmodel probe spec.yaml --set trunk.depth=18 --features features-of-resnet50",
        "graphmodel probe spec.yaml --weights swav.pth --features features",
        "shell",
    ),
    code(
        "GM612",
        "the labels do not fit",
        """A probe needs one class index for each sample, from 0 to the number of outputs of the head less one, and the
            same names of classes for training and test samples.""",
        "graphmodel probe spec.yaml --set 'heads.label.mlp.dims=[auto, 2]' --features features",
        "graphmodel probe spec.yaml --set 'heads.label.mlp.dims=[auto, 10]' --features features",
        "shell",
    ),
    code(
        "GM613",
        "a stored feature is not finite",
        """A feature that is infinite or not a number would make every head that reads it useless. The message lists the
            samples. The cause is in the images, the weights, or the dtype of the store.""",
        "graphmodel probe spec.yaml --features features-with-nan",
        "graphmodel extract spec.yaml --frozen --data images --dtype float32 -o features",
        "shell",
    ),
    code(
        "GM614",
        "not a valid option of a probe",
        """Rates and decays are not negative, fractions are between 0 and 1, and `k` is at most the number of training
            samples. `test` names a store to evaluate on, and `holdout` a fraction of the training samples.""",
        """
            import graphmodel

            spec = {"inputs": {"images": [3, 32, 32]}, "trunk": {"name": "resnet", "depth": 18}}
            graphmodel.probe(graphmodel.compile(spec), "features", holdout=1.5)
            """,
        "",
        "python",
    ),
    code(
        "GM615",
        "an output does not give logits",
        """A probe trains outputs of the shape N×classes with the cross-entropy. Choose those outputs (`--outputs`), or
            pool the feature in front of the head.""",
        "graphmodel probe swav.yaml --features features",
        "graphmodel probe swav.yaml --outputs label --features features",
        "shell",
    ),
    code(
        "GM616",
        "a result to be read with care",
        """A head diverged, a logistic regression did not converge, or the test samples are not comparable with the
            training samples.""",
        "graphmodel probe spec.yaml --lr 1e6 --features features",
        "graphmodel probe spec.yaml --lr 0.1 --features features",
        "shell",
    ),
)
