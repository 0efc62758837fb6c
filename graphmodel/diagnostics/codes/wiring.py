"""Codes GM3xx: wiring and shapes."""

from __future__ import annotations

from graphmodel.diagnostics.codes.entry import code

ENTRIES = (
    code(
        "GM301",
        "an input without a shape",
        """Shapes are checked before any weight exists, so every input needs one: in the file, by `--input
            images=3x224x224`, or by `compile(inputs=…)`. The batch stays free.""",
        """
            trunk: {name: resnet, depth: 18}
            """,
        """
            inputs: {images: {shape: [3, 224, 224]}}
            trunk: {name: resnet, depth: 18}
            """,
    ),
    code(
        "GM302",
        "the trunk cannot be built",
        "The parameters are of the right types and the library's own constructor refuses them; it says why.",
        """
            trunk: {name: resnet, depth: 18, groups: 32, width_per_group: 4}
            inputs: {images: [3, 64, 64]}
            """,
        """
            trunk: {name: resnet, depth: 50, groups: 32, width_per_group: 4}
            inputs: {images: [3, 64, 64]}
            """,
    ),
    code(
        "GM303",
        "the trunk cannot run on the input",
        """The trunk was built and its code fails on an input of this shape: the wrong number of channels, an image
            too small for its strides, control flow that depends on the values of tensors or on the batch size, or a
            result that is no tensor (its parts are features: `output.0`, `output.name`).""",
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [1, 64, 64]}
            """,
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            """,
    ),
    code(
        "GM304",
        "the head does not fit the feature",
        """The head wants another width or layout than the feature has; both are named. Write the feature's width or
            `auto`, or pool or flatten the feature on its way. Tokens and maps with channels last become maps by
            `layout: nchw`.""",
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            heads: {a: {mlp: {dims: [2048, 10]}}}
            """,
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            heads: {a: {mlp: {dims: [auto, 10]}}}
            """,
    ),
    code(
        "GM305",
        "the trunk takes other inputs",
        "The trunk's family knows which shapes it takes (a fixed image size, a multiple of the patch) and says so.",
        """
            trunk: {name: beit, image_size: 224}
            inputs: {images: [3, 240, 240]}
            """,
        """
            trunk: {name: beit, image_size: 240}
            inputs: {images: [3, 240, 240]}
            """,
    ),
    code(
        "GM306",
        "a feature cannot be prepared or joined",
        """Pooling needs feature maps at least as large as its kernel; features that are joined need sizes that
            agree. Layouts, tokens and norms are had of some features alone: a vector has no tokens.""",
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            mapping: {images: {res5: {pool: {avg_pool2d: 6}}}}
            """,
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            mapping: {images: {res5: {pool: {avg_pool2d: 2}}}}
            """,
    ),
)
