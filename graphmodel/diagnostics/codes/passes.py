"""Codes GM4xx: passes."""

from __future__ import annotations

from graphmodel.diagnostics.codes.entry import code

ENTRIES = (
    code(
        "GM401",
        "equal calls are not merged",
        """Two outputs call the same module on the same value. Running it once would not be the same: it draws random
            numbers, or it updates buffers such as running statistics at every call. Both calls are kept. Write a single
            output and use its value twice if one call is meant.""",
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            heads: {a: {mlp: {dims: [auto, 16, 10], use_bn: true}}}
            mapping:
              - {from: images.flatten, head: a, as: one}
              - {from: images.flatten, head: a, as: two}
            """,
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            heads: {a: {mlp: {dims: [auto, 16, 10], use_bn: true}}}
            mapping:
              - {from: images.flatten, head: a, as: one}
            """,
    ),
    code(
        "GM402",
        "running statistics are not frozen",
        """A pattern of `freeze` covers some parameters of a normalization layer and not all, so the layer still
            normalizes over the batch in training mode and updates its running statistics. Name the layer to freeze it
            as a whole.""",
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            freeze: [trunk.bn1.bias]
            """,
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            freeze: [trunk.bn1]
            """,
    ),
    code(
        "GM403",
        "fewer stages than checkpoint segments",
        """`checkpoint: N` divides the stages of each trunk into N segments. A trunk with fewer stages gets one segment
            for each of them, as with `checkpoint: true`.""",
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            checkpoint: 7
            """,
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            checkpoint: 4
            """,
    ),
    code(
        "GM404",
        "nothing to checkpoint",
        """No gradient reaches the trunk, because it is frozen. It keeps no activations for the backward pass, so that
            recomputing them would save nothing.""",
        """
            trunk: {name: resnet, depth: 18, freeze: true}
            inputs: {images: [3, 64, 64]}
            checkpoint: true
            """,
        """
            trunk: {name: resnet, depth: 18, freeze: true}
            inputs: {images: [3, 64, 64]}
            """,
    ),
    code(
        "GM430",
        "not an optimization pass",
        """`optimize:` (and `passes=` in `graphmodel.compile`) turns optimization passes on or off by name: `true` for
            the default ones, `false` for none, a list for exactly those, or a mapping such as `{merge_calls: false}`.
            Passes that carry out what the spec says, such as `freeze`, always run.""",
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            optimize: {merge_call: false}
            """,
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            optimize: {merge_calls: false}
            """,
    ),
)
