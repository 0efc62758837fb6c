"""Codes GM3xx: wiring and shapes."""

from __future__ import annotations

from graphmodel.diagnostics.codes.entry import code

ENTRIES = (
    code(
        "GM301",
        "missing input shape",
        """Shapes are checked before any weight exists, so every input needs one: in the spec, with `--input
            images=3x224x224`, or with `compile(inputs=…)`. The shape does not include the batch.""",
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
        "The parameters have valid types, but the library's constructor rejects them. The message quotes its reason.",
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
        "the trunk cannot process the input",
        """The trunk was built, but its code fails for an input of this shape. Common causes are a wrong number of
            channels, an image too small for the strides, control flow that depends on tensor values or on the batch
            size, or a result that is not a tensor (select an item of it: `output.0`, `output.name`).""",
        """
            trunk: {name: regnet, variant: regnet_y_400mf}
            inputs: {images: [1, 64, 64]}
            """,
        """
            trunk: {name: regnet, variant: regnet_y_400mf}
            inputs: {images: [3, 64, 64]}
            """,
    ),
    code(
        "GM304",
        "the head does not fit the feature",
        """The head expects a width or layout that the feature does not have; the message gives both. Use the feature's
            width or `auto`, or pool or flatten the feature in the mapping. `layout: nchw` converts tokens and
            channels-last maps.""",
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
        "the trunk does not support the input",
        "The trunk supports only some shapes, such as one image size or multiples of the patch size.",
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
        "a feature cannot be converted or combined",
        """Pooling needs a feature map at least as large as the kernel, and features to be combined need matching sizes.
            `layout`, `tokens` and `norm` apply only to some features: a vector has no tokens, for example.""",
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
    code(
        "GM307",
        "outputs that read each other in a cycle",
        """An output can read another one (`from: z`), in any order of the mapping, as long as none needs itself. The
            message shows the cycle.""",
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            heads: {a: {mlp: {dims: [8, 8]}}, b: {mlp: {dims: [8, 8]}}}
            mapping:
              - {from: b, head: a}
              - {from: a, head: b}
            """,
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            heads: {a: {mlp: {dims: [auto, 8]}}, b: {mlp: {dims: [8, 8]}}}
            mapping:
              - {from: images.flatten, head: a}
              - {from: a, head: b}
            """,
    ),
)
