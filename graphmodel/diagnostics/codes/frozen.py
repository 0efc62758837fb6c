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
        "GM425",
        "a frozen trunk cannot run in channels-last format",
        """The pass `channels_last` runs each frozen call on meta with values and weights in channels-last format. A
            trunk that has weights of five dimensions, or code that takes a view of a feature map, cannot run in it and
            keeps the usual format.""",
        """
            trunk: {name: "timm:lambda_resnet26t", freeze: true}
            inputs: {images: [3, 64, 64]}
            optimize: [channels_last]
            """,
        """
            trunk: {name: resnet, depth: 18, freeze: true}
            inputs: {images: [3, 64, 64]}
            optimize: [channels_last]
            """,
    ),
    code(
        "GM426",
        "channels-last format has no effect",
        """The pass `channels_last` leaves a frozen part alone that has no more than one convolution, such as a
            vision transformer, which only cuts the image into patches with one.""",
        """
            trunk: {name: "timm:vit_tiny_patch16_224", freeze: true}
            inputs: {images: [3, 224, 224]}
            optimize: [channels_last]
            """,
        """
            trunk: {name: resnet, depth: 18, freeze: true}
            inputs: {images: [3, 64, 64]}
            optimize: [channels_last]
            """,
    ),
    code(
        "GM427",
        "a trunk cannot run in the memory format of the spec",
        """`memory_format: channels_last` was asked for, and the trunk has weights of five dimensions, or code that
            takes a view of a feature map, so that it fails on maps in that format.""",
        """
            trunk: {name: "timm:lambda_resnet26t", memory_format: channels_last}
            inputs: {images: [3, 64, 64]}
            """,
        """
            trunk: {name: resnet, depth: 18, memory_format: channels_last}
            inputs: {images: [3, 64, 64]}
            """,
    ),
    code(
        "GM560",
        "a module for inference cannot train",
        """`optimize_for_inference` folds BatchNorm into the weights, so nothing is left to normalize a batch or to
            update statistics. Train the module that it was made from.""",
        """
            import graphmodel

            model = graphmodel.compile({"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}})
            graphmodel.optimize_for_inference(model).train()
            """,
        """
            import graphmodel

            model = graphmodel.compile({"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}})
            graphmodel.optimize_for_inference(model).eval()
            model.train()
            """,
        "python",
    ),
    code(
        "GM561",
        "a module for inference is no longer the model of its spec",
        """The code and the weights of a module for inference differ from those of its graph, so it cannot be sliced,
            split or saved as an artifact, and weights of the spec's model cannot be loaded into it. Do that first, and
            optimize the result.""",
        """
            import graphmodel

            model = graphmodel.compile({"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}})
            graphmodel.optimize_for_inference(model).slice(inputs=["images"])
            """,
        """
            import graphmodel

            model = graphmodel.compile({"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}})
            graphmodel.optimize_for_inference(model.slice(inputs=["images"]))
            """,
        "python",
    ),
    code(
        "GM562",
        "optimize_for_inference was called with something else than it takes",
        """`example` is what the module is called with (a tuple if it has several inputs), and `memory_format` is
            `contiguous` or `channels_last`.""",
        """
            import graphmodel

            model = graphmodel.compile({"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}})
            graphmodel.optimize_for_inference(model, memory_format="nhwc")
            """,
        """
            import graphmodel

            model = graphmodel.compile({"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}})
            graphmodel.optimize_for_inference(model, memory_format="channels_last")
            """,
        "python",
    ),
    code(
        "GM563",
        "the optimized module gives other results",
        """`optimize_for_inference` runs the module before and after on the example (or on random inputs) and refuses a
            result that differs by more than rounding. Code that draws random numbers in eval mode does, and
            statistics far from those of the data can. Use the module as it is.""",
        """
            import graphmodel, torch

            class Noisy(torch.nn.Module):
                def forward(self, x):
                    return torch.rand_like(x)

            trunks = {"trunk": torch.nn.Sequential(Noisy())}
            spec = {"inputs": {"images": [3, 8, 8]}, "trunk": "resnet", "mapping": {"images": {"0": None}}}
            graphmodel.optimize_for_inference(graphmodel.compile(spec, trunks=trunks))
            """,
        """
            import graphmodel

            model = graphmodel.compile({"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}})
            graphmodel.optimize_for_inference(model)
            """,
        "python",
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
