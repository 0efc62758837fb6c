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
    code(
        "GM565",
        "no line to split at",
        """`split_frozen` divides a module into frozen features and what trains on them. If the spec freezes nothing
            that comes first, there are no features to store; if it freezes everything, there is nothing to train. Only
            `freeze` counts, not `requires_grad` set on a parameter later.""",
        """
            import graphmodel

            spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
            graphmodel.split_frozen(graphmodel.compile(spec))
            """,
        """
            import graphmodel

            trunk = {"name": "resnet", "depth": 18, "freeze": True}
            heads = {"label": {"mlp": {"dims": ["auto", 10]}}}
            spec = {"inputs": {"images": [3, 64, 64]}, "trunk": trunk, "heads": heads}
            graphmodel.split_frozen(graphmodel.compile(spec))
            """,
        "python",
    ),
    code(
        "GM566",
        "a frozen parameter trains",
        """The spec freezes a part and one of its parameters has `requires_grad=True`. Features that are stored once
            would not follow what it learns, so the module is not split. Leave the part out of `freeze`, or leave the
            parameter frozen.""",
        """
            import graphmodel

            trunk = {"name": "resnet", "depth": 18, "freeze": True}
            heads = {"label": {"mlp": {"dims": ["auto", 10]}}}
            model = graphmodel.compile({"inputs": {"images": [3, 64, 64]}, "trunk": trunk, "heads": heads})
            model.trunk.layer4.requires_grad_(True)
            graphmodel.split_frozen(model)
            """,
        """
            import graphmodel

            trunk = {"name": "resnet", "depth": 18}
            heads = {"label": {"mlp": {"dims": ["auto", 10]}}}
            freeze = ["trunk.conv1", "trunk.bn1", "trunk.layer1", "trunk.layer2", "trunk.layer3"]
            model = graphmodel.compile(
                {"inputs": {"images": [3, 64, 64]}, "trunk": trunk, "heads": heads, "freeze": freeze}
            )
            graphmodel.split_frozen(model)
            """,
        "python",
    ),
)
