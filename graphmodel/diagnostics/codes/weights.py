"""Codes GM5xx: lowering, weights and pictures."""

from __future__ import annotations

from graphmodel.diagnostics.codes.entry import code

ENTRIES = (
    code(
        "GM501",
        "not that form of result",
        "A single tensor can be returned only if there is one output. Otherwise take a dict, a tuple or a list.",
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
        "GM504",
        "the module's graph was edited",
        """Slices and artifacts are made from the spec, and `module.graph` was edited after the module was compiled, so
            that they would do something else. Slice first and edit the slice. `copy.deepcopy` and `torch.save` keep
            edits; the functions that the edited graph calls must be importable for that.""",
        """
            module = graphmodel.compile({"trunk": "resnet", "inputs": {"images": [3, 64, 64]}}, device="meta")
            next(node for node in module.graph.nodes if node.name == "layer4").target = "trunk.layer4.0"
            module.recompile()
            module.slice(outputs=list(module.model_graph.outputs))
            """,
        """
            module = graphmodel.compile({"trunk": "resnet", "inputs": {"images": [3, 64, 64]}}, device="meta")
            module = module.slice(outputs=list(module.model_graph.outputs))
            next(node for node in module.graph.nodes if node.name == "layer4").target = "trunk.layer4.0"
            module.recompile()
            """,
        "python",
    ),
    code(
        "GM505",
        "a part of the module cannot be copied",
        """A slice has module objects of its own around the same tensors. A part that cannot be copied, because it was
            sharded by FSDP or holds something like a lock, cannot be sliced. Slice first.""",
        """
            import threading
            module = graphmodel.compile({"trunk": "resnet", "inputs": {"images": [3, 64, 64]}}, device="meta")
            module.trunk.layer1.lock = threading.Lock()
            module.slice(outputs=list(module.model_graph.outputs))
            """,
        """
            import threading
            module = graphmodel.compile({"trunk": "resnet", "inputs": {"images": [3, 64, 64]}}, device="meta")
            module = module.slice(outputs=list(module.model_graph.outputs))
            module.trunk.layer1.lock = threading.Lock()
            """,
        "python",
    ),
    code(
        "GM506",
        "a layer has lost a tensor that a slice shares",
        """A slice and its parent hold the same tensors. Parametrizations (`weight_norm`, `spectral_norm`, pruning) take
            a tensor out of a layer and compute it anew on the side that they are applied to, which the layer of the
            other side does not know. Apply them first, and slice afterwards.""",
        """
            module = graphmodel.compile({"trunk": {"name": "resnet", "depth": 18}, "inputs": {"images": [3, 32, 32]}})
            part = module.slice(outputs=list(module.model_graph.outputs))
            torch.nn.utils.parametrizations.weight_norm(module.trunk.conv1)
            part(torch.zeros(2, 3, 32, 32))
            """,
        """
            module = graphmodel.compile({"trunk": {"name": "resnet", "depth": 18}, "inputs": {"images": [3, 32, 32]}})
            torch.nn.utils.parametrizations.weight_norm(module.trunk.conv1)
            part = module.slice(outputs=list(module.model_graph.outputs))
            part(torch.zeros(2, 3, 32, 32))
            """,
        "python",
    ),
    code(
        "GM510",
        "the checkpoint cannot be read",
        """The file does not exist, is not a checkpoint, or would run code while it is read (only tensors and plain
            data are loaded; the message names the class that the file asks for).""",
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
        "No key of the checkpoint names a tensor of the model with the same shape, in any known layout.",
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
        "the checkpoint is not of this trunk",
        """Some tensors of the trunk are not in the checkpoint or have another shape there, or the checkpoint has layers
            after the trunk's last one. It is probably the wrong checkpoint. `partial=True`
            loads what fits; `interpolate=True` resizes position embeddings.""",
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
        """A trunk of one library cannot be written in another's layout, nor a trunk that VISSL does not have in
            VISSL's. If the model has several trunks, pass `trunk`.""",
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
        "GM514",
        "which network of the checkpoint is meant",
        """A checkpoint may hold several networks of one architecture: student and teacher, query and key encoder,
            weights and their moving average. If they fit equally well, one is chosen by its name and a warning lists
            them all. If the model has several trunks, say which network fills which.""",
        """
            spec = {"trunk": {"name": "resnet", "depth": 18}, "inputs": {"images": [3, 64, 64]}}
            module = graphmodel.compile(spec, seed=0)
            student, teacher = module.state_dict(), graphmodel.compile(spec, seed=1).state_dict()
            graphmodel.load_weights(module, {"student": student, "teacher": teacher}, network="techer")
            """,
        """
            spec = {"trunk": {"name": "resnet", "depth": 18}, "inputs": {"images": [3, 64, 64]}}
            module = graphmodel.compile(spec, seed=0)
            student, teacher = module.state_dict(), graphmodel.compile(spec, seed=1).state_dict()
            graphmodel.load_weights(module, {"student": student, "teacher": teacher}, network="teacher")
            """,
        "python",
    ),
    code(
        "GM515",
        "a tensor of the checkpoint cannot be loaded",
        """It is sparse, quantised, nested, distributed or without data, or its values are booleans, integers or complex
            numbers where the model has floating-point ones. Nothing is loaded.""",
        """
            module = graphmodel.compile({"trunk": {"name": "resnet", "depth": 18}, "inputs": {"images": [3, 64, 64]}})
            state = dict(module.state_dict())
            state["trunk.bn1.weight"] = state["trunk.bn1.weight"].to_sparse()
            graphmodel.load_weights(module, state)
            """,
        """
            module = graphmodel.compile({"trunk": {"name": "resnet", "depth": 18}, "inputs": {"images": [3, 64, 64]}})
            state = dict(module.state_dict())
            state["trunk.bn1.weight"] = state["trunk.bn1.weight"].to_sparse().to_dense()
            graphmodel.load_weights(module, state)
            """,
        "python",
    ),
    code(
        "GM516",
        "the tensors of the checkpoint have another order",
        """`match="order"` pairs the tensors of a checkpoint with those of the trunk one by one, so every shape must
            agree. The first pair that does not is named.""",
        """
            module = graphmodel.compile({"trunk": {"name": "resnet", "depth": 18}, "inputs": {"images": [3, 64, 64]}})
            state = dict(reversed(module.state_dict().items()))
            graphmodel.load_weights(module, state, match="order")
            """,
        """
            module = graphmodel.compile({"trunk": {"name": "resnet", "depth": 18}, "inputs": {"images": [3, 64, 64]}})
            state = {key.replace("layer", "stage"): tensor for key, tensor in module.state_dict().items()}
            graphmodel.load_weights(module, state, match="order")
            """,
        "python",
    ),
    code(
        "GM517",
        "the weights deserve a second look",
        """A warning: values that are not finite, a tensor that is given twice with different values, weights of parts
            that the trunk does not have, or a position embedding with as many patches as the model's in what may be
            another grid. The weights are loaded.""",
        "graphmodel compile spec.yaml --weights diverged.pth",
        "",
        "shell",
    ),
    code(
        "GM520",
        "the output cannot be written",
        """`compile -o DIR` replaces an earlier result as a whole. A directory that holds anything else is left
            alone, and nothing is changed if the disk or its permissions forbid writing.""",
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
        "GM522",
        "the saved model is damaged",
        """A file of a directory that `graphmodel.save` or `compile -o` wrote is missing, cut off, changed (its checksum
            covers every byte), or does not fit the other files. Nothing was loaded.""",
        """
            graphmodel.load("no/such/directory")
            """,
        "",
        "python",
    ),
    code(
        "GM523",
        "the saved model has a newer format",
        """The directory was written by a later version of graphmodel, in a format that this version does not read.
            Formats of earlier versions are read.""",
        "graphmodel export build/model_of_next_year -o model.onnx",
        "pip install --upgrade graphmodel && graphmodel export build/model_of_next_year -o model.onnx",
        "shell",
    ),
    code(
        "GM524",
        "a pickled module is not weights",
        """`torch.load` reads weights only unless it is told otherwise, and the file holds a whole module. A pickled
            module is code as well as tensors, so loading one is safe only if you trust its origin. `graphmodel.save`
            writes tensors and text alone.""",
        """
            module = graphmodel.compile({"trunk": "resnet", "inputs": {"images": [3, 64, 64]}}, device="meta")
            torch.save(module, "module.pt")
            torch.load("module.pt")
            """,
        """
            module = graphmodel.compile({"trunk": "resnet", "inputs": {"images": [3, 64, 64]}}, device="cpu")
            torch.save(module.state_dict(), "weights.pt")
            graphmodel.load_weights(module, "weights.pt")
            """,
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
