"""Codes GM58x: exports."""

from __future__ import annotations

from graphmodel.diagnostics.codes.entry import code

ENTRIES = (
    code(
        "GM580",
        "not a valid export",
        """The format is unknown, the file's suffix is that of another one, or the format cannot hold what is asked for:
            only `pt2` holds a model in training mode, and a model without weights cannot be exported at all.""",
        "graphmodel export spec.yaml --to onnx -o model.pt2",
        "graphmodel export spec.yaml --to onnx -o model.onnx",
        "shell",
    ),
    code(
        "GM581",
        "a package for the export is missing",
        """ONNX needs `onnx`, `onnxscript` and `onnxruntime`, which `pip install 'graphmodel[export]'` installs.
            AOTInductor needs a C++ compiler.""",
        "graphmodel export spec.yaml -o model.onnx",
        "pip install 'graphmodel[export]' && graphmodel export spec.yaml -o model.onnx",
        "shell",
    ),
    code(
        "GM582",
        "the model cannot be exported",
        """torch's exporter does not know an operation of this model, or the model decides by the values of its input.
            The message is the exporter's own. Another format may work.""",
        "graphmodel export spec.yaml -o model.onnx",
        "graphmodel export spec.yaml -o model.pt2",
        "shell",
    ),
    code(
        "GM583",
        "the exported file gives other numbers",
        """The file was loaded again and run on random inputs at several batch sizes, and differs from the module by
            more than rounding. Nothing is written.""",
        "graphmodel export spec.yaml -o model.onnx",
        "graphmodel export spec.yaml -o model.pt2",
        "shell",
    ),
    code(
        "GM584",
        "no standalone code can be written",
        """`compile --standalone` writes the model as Python code that runs without graphmodel, and runs it before it
            reports success. A class that is defined inside of a function cannot be written, nor a module whose
            behaviour is not in its attributes (hooks, methods that were replaced), and there must be weights.""",
        "graphmodel compile spec.yaml -o build/model --standalone --no-weights",
        "graphmodel compile spec.yaml -o build/model --standalone",
        "shell",
    ),
)
