"""Codes GM410 to GM412: the pass `batch_inputs`."""

from __future__ import annotations

from graphmodel.diagnostics.codes.entry import code

_SHARED = """
            trunk: {name: resnet, depth: 18, freeze: true}
            inputs: {a: [3, 64, 64], b: [3, 64, 64]}
            mapping: {a: {res5: null}, b: {res5: null}}
            optimize: [batch_inputs]
            """

ENTRIES = (
    code(
        "GM410",
        "inputs cannot share a stage",
        """The pass `batch_inputs` joins inputs of one shape into one batch, as far as every stage of the trunk computes
            each sample on its own. From this stage on that is not so, or cannot be proved: it normalizes over the batch
            in training mode, draws random numbers, changes its buffers, or calls an operation that is not known to keep
            samples apart, or its result cannot be divided between them.
            The inputs go through it one by one. Freeze BatchNorm, or declare a module of your own with
            `graphmodel.register_per_sample`.""",
        """
            trunk: {name: resnet, depth: 18}
            inputs: {a: [3, 64, 64], b: [3, 64, 64]}
            mapping: {a: {res5: null}, b: {res5: null}}
            optimize: [batch_inputs]
            """,
        _SHARED,
    ),
    code(
        "GM411",
        "inputs cannot share a head",
        """Several inputs go through one head, and the pass `batch_inputs` runs it once for each: it normalizes over the
            batch in training mode, draws random numbers, returns several tensors, or one call waits for another.""",
        """
            trunk: {name: resnet, depth: 18, freeze: true}
            inputs: {a: [3, 64, 64], b: [3, 64, 64]}
            heads: {h: {mlp: {dims: [auto, 16, 8], use_bn: true}}}
            mapping: {a: {flatten: h}, b: {flatten: h}}
            optimize: [batch_inputs]
            """,
        """
            trunk: {name: resnet, depth: 18, freeze: true}
            inputs: {a: [3, 64, 64], b: [3, 64, 64]}
            heads: {h: {mlp: {dims: [auto, 16, 8]}}}
            mapping: {a: {flatten: h}, b: {flatten: h}}
            optimize: [batch_inputs]
            """,
    ),
    code(
        "GM412",
        "a shared stage was changed",
        """The pass `batch_inputs` joined inputs into one batch for stages that keep samples apart. Now a frozen module
            of such a stage is in training mode, a module has another type, or a dropout rate is no longer 0: the
            stage may mix the samples of all inputs. Put the module back, declare its type with
            `graphmodel.register_per_sample`, or compile without the pass.""",
        """
            spec = {
                "inputs": {"a": [3, 32, 32], "b": [3, 32, 32]},
                "trunk": {"name": "resnet", "depth": 18, "freeze": True},
                "mapping": {"a": {"flatten": None}, "b": {"flatten": None}},
                "optimize": {"batch_inputs": True},
            }
            module = graphmodel.compile(spec)
            module.trunk.bn1.training = True
            module(torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32))
            """,
        """
            spec = {
                "inputs": {"a": [3, 32, 32], "b": [3, 32, 32]},
                "trunk": {"name": "resnet", "depth": 18, "freeze": True},
                "mapping": {"a": {"flatten": None}, "b": {"flatten": None}},
                "optimize": {"batch_inputs": True},
            }
            module = graphmodel.compile(spec)
            module(torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32))
            """,
        "python",
    ),
)
