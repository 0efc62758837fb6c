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
        "GM405",
        "the memory budget cannot be met",
        """No choice of stages to recompute makes a training step of that batch size fit the budget. The budget
            covers the parameters and buffers, their gradients, and the activations at the worst moment of forward and
            backward; the optimizer's state, the loss, and what libraries and the allocator need are not part of it.
            The message names the smallest budget that can be met.""",
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            checkpoint: {memory_budget: 50MiB, batch: 32}
            """,
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            checkpoint: {memory_budget: 250MiB, batch: 32}
            """,
    ),
    code(
        "GM406",
        "the memory budget is met without checkpointing",
        """A training step of that batch size fits the budget as it is. Nothing is recomputed, since that would
            only cost time.""",
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            checkpoint: {memory_budget: 4GiB, batch: 8}
            """,
    ),
    code(
        "GM407",
        "not a stage",
        """A list under `checkpoint:` names stages of a trunk: modules that the model calls one by one, such as
            `layer1`, or blocks inside of an `nn.Sequential`, such as `layer3.2`, but not both a stage and its block.
            With several trunks, a name without the trunk's is that of every trunk that has it.""",
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            checkpoint: [layer1, layer7]
            """,
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            checkpoint: [layer1, layer2]
            """,
    ),
    code(
        "GM408",
        "the memory of a training step cannot be counted",
        """The planner runs a training step on the meta device, without weights, to count what it keeps. A module
            of this model cannot run there in training mode, or not with that batch size: normalization over a batch
            needs more than one sample. Otherwise, name the stages to recompute.""",
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            heads: {a: {mlp: {dims: [auto, 16, 10], use_bn: true}}}
            checkpoint: {memory_budget: 1GiB, batch: 1}
            """,
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            heads: {a: {mlp: {dims: [auto, 16, 10], use_bn: true}}}
            checkpoint: {memory_budget: 1GiB, batch: 2}
            """,
    ),
    code(
        "GM409",
        "a stage cannot run again",
        """The first call of the stage (or segment) changes its input in place, for example with an in-place
            activation. Running it again in the backward pass would start from the changed value. Its activations are
            kept.""",
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            checkpoint: [relu, layer1]
            """,
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            checkpoint: [layer1]
            """,
    ),
    code(
        "GM415",
        "heads cannot be fused",
        """The pass `fuse_heads` runs heads of equal structure that read one value, or values of equal shape, as one
            computation. It knows what a chain of linear layers and ReLUs does. A head with anything else in it, such as
            normalization or dropout, runs by itself, and so does a head that would have to wait for a value that
            another of them leads to.""",
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            heads: {a: {eval_mlp: {dims: [auto, 10]}}, b: {eval_mlp: {dims: [auto, 10]}}}
            mapping: {images: {flatten: [a, b]}}
            """,
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            heads: {a: {mlp: {dims: [auto, 10]}}, b: {mlp: {dims: [auto, 10]}}}
            mapping: {images: {flatten: [a, b]}}
            """,
    ),
    code(
        "GM416",
        "heads are not worth fusing",
        """The pass `fuse_heads` joins the weights of heads at each call, which saves time if there are many heads with
            few weights. A few heads, or heads of many classes, are as fast or faster by themselves. There is nothing to
            fix.""",
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            heads: {a: {mlp: {dims: [auto, 1000]}}, b: {mlp: {dims: [auto, 1000]}}}
            mapping: {images: {flatten: [a, b]}}
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
