"""Codes GM42x and GM56x: frozen parts, inference, and splitting."""

from __future__ import annotations

from graphmodel.diagnostics.codes.entry import code

ENTRIES = (
    code(
        "GM420",
        "a frozen BatchNorm is not folded",
        """The pass `fold_batchnorm` folds a frozen BatchNorm into the frozen convolution or linear layer whose result
            it reads, if nothing else reads that result and both are called once by the same module. It declines where
            this cannot be proved, and the layers run as they are. The note names the first such layer and the
            reason.""",
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            freeze: [trunk.bn1]
            optimize: [fold_batchnorm]
            """,
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            freeze: [trunk.conv1, trunk.bn1]
            optimize: [fold_batchnorm]
            """,
    ),
    code(
        "GM421",
        "no frozen BatchNorm to fold",
        """The pass `fold_batchnorm` was asked for and nothing is frozen that has BatchNorm. While a BatchNorm trains it
            normalizes over the batch, which no weight can do. Freeze the part if it does not train.""",
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            optimize: [fold_batchnorm]
            """,
        """
            trunk: {name: resnet, depth: 18, freeze: true}
            inputs: {images: [3, 64, 64]}
            optimize: [fold_batchnorm]
            """,
    ),
)
