"""Codes GM5xx: lowering, weights and pictures."""

from __future__ import annotations

from graphmodel.diagnostics.codes.entry import code

ENTRIES = (
    code(
        "GM501",
        "not that form of result",
        "One tensor can be returned where there is one output. Otherwise take a dict, a tuple or a list.",
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            mapping: {images: {res4: , res5: }}
            returns: tensor
            """,
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            mapping: {images: {res4: }}
            returns: tensor
            """,
    ),
    code(
        "GM502",
        "unknown inputs or outputs",
        """`slice(…)` and `compile(outputs=…)` name inputs and outputs of the model, and each output needs the inputs
            that it is computed from.""",
        """
            module = graphmodel.compile({"trunk": "resnet", "inputs": {"images": [3, 64, 64]}}, device="meta")
            module.slice(outputs=["flaten"])
            """,
        """
            module = graphmodel.compile({"trunk": "resnet", "inputs": {"images": [3, 64, 64]}}, device="meta")
            module.slice(outputs=list(module.model_graph.outputs))
            """,
        "python",
    ),
    code(
        "GM503",
        "a list of names is expected",
        """`outputs` and `inputs` take lists of names. A bare string would be taken for its letters. For the form of the
            result write `returns="tuple"`.""",
        """
            module = graphmodel.compile({"trunk": "resnet", "inputs": {"images": [3, 64, 64]}}, device="meta")
            module.slice(outputs="flatten")
            """,
        """
            module = graphmodel.compile({"trunk": "resnet", "inputs": {"images": [3, 64, 64]}}, device="meta")
            module.slice(outputs=list(module.model_graph.outputs))
            """,
        "python",
    ),
    code(
        "GM510",
        "the checkpoint cannot be read",
        """There is no such file, it is no checkpoint, or it wants to run code while it is read (only tensors and
            plain data are loaded).""",
        """
            module = graphmodel.compile({"trunk": "resnet", "inputs": {"images": [3, 64, 64]}}, device="meta")
            graphmodel.load_weights(module, "no_such_file.safetensors")
            """,
        "",
        "python",
    ),
    code(
        "GM511",
        "the checkpoint does not fit at all",
        "No key of the checkpoint names a tensor of the model with the same shape, in any known spelling.",
        """
            module = graphmodel.compile({"trunk": "resnet", "inputs": {"images": [3, 64, 64]}}, device="meta")
            graphmodel.load_weights(module, {"weight": torch.zeros(3)})
            """,
        """
            module = graphmodel.compile({"trunk": "resnet", "inputs": {"images": [3, 64, 64]}}, device="cpu")
            graphmodel.load_weights(module, module.state_dict())
            """,
        "python",
    ),
    code(
        "GM512",
        "the checkpoint leaves the trunk partly random",
        """Some tensors of the trunk are not in the checkpoint or have another shape there. That is a wrong
            checkpoint more often than a wish; `partial=True` loads what fits.""",
        """
            module = graphmodel.compile({"trunk": "resnet", "inputs": {"images": [3, 64, 64]}}, device="cpu")
            some = {k: v for k, v in module.state_dict().items() if "layer4" not in k}
            graphmodel.load_weights(module, some)
            """,
        """
            module = graphmodel.compile({"trunk": "resnet", "inputs": {"images": [3, 64, 64]}}, device="cpu")
            some = {k: v for k, v in module.state_dict().items() if "layer4" not in k}
            graphmodel.load_weights(module, some, partial=True)
            """,
        "python",
    ),
    code(
        "GM513",
        "weights cannot be exported in that layout",
        """A trunk of one library has no names in another's layout, and a trunk that VISSL does not know has none in
            VISSL's. With several trunks say which one is meant.""",
        """
            module = graphmodel.compile({"trunk": "resnet", "inputs": {"images": [3, 64, 64]}}, device="cpu")
            graphmodel.export_weights(module, "timm")
            """,
        """
            module = graphmodel.compile({"trunk": "resnet", "inputs": {"images": [3, 64, 64]}}, device="cpu")
            graphmodel.export_weights(module, "torchvision")
            """,
        "python",
    ),
    code(
        "GM520",
        "the output cannot be written",
        """`compile -o DIR` replaces an earlier result as a whole. A directory that holds anything else is left
            alone, and so is everything where the disk or its permissions forbid writing.""",
        "graphmodel compile spec.yaml -o .",
        "graphmodel compile spec.yaml -o build/model",
        "shell",
    ),
    code(
        "GM521",
        "a model that a spec cannot name",
        """The files of `graphmodel.save` build the model again from its spec. A trunk that was handed in as a module
            (`compile(…, trunks=…)`) is in no spec.""",
        """
            spec = {"trunk": "resnet", "inputs": {"images": [3, 64, 64]}}
            given = {"trunk": torch.nn.Conv2d(3, 8, 3)}
            graphmodel.save(graphmodel.compile(spec, trunks=given), "build/model")
            """,
        "",
        "python",
    ),
    code(
        "GM530",
        "the picture cannot be drawn",
        """The form is unknown, the file cannot be written, or pygraphviz is missing.""",
        "graphmodel visualize spec.yaml -o model.bmp",
        "graphmodel visualize spec.yaml -o model.svg",
        "shell",
    ),
)
