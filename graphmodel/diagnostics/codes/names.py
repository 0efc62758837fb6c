"""Codes GM2xx: names and parameters."""

from __future__ import annotations

from graphmodel.diagnostics.codes.entry import code

ENTRIES = (
    code(
        "GM201",
        "unknown key",
        "The key is not known here. The nearest known key is suggested; unknown keys are never ignored.",
        """
            trunk: {name: resnet, dephth: 18}
            inputs: {images: [3, 64, 64]}
            """,
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            """,
    ),
    code(
        "GM202",
        "invalid value",
        "The value has the wrong type or is outside the range that the key accepts.",
        """
            trunk: {name: resnet, depth: 19}
            inputs: {images: [3, 64, 64]}
            """,
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            """,
    ),
    code(
        "GM203",
        "missing key",
        "The key is required and has no default.",
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            heads: {a: {mlp: {use_bn: true}}}
            """,
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            heads: {a: {mlp: {dims: [auto, 10], use_bn: true}}}
            """,
    ),
    code(
        "GM204",
        "not a valid name",
        """Inputs become arguments of `forward`, and heads and trunks become attributes of the module. Their names must
            be Python identifiers, and neither keywords nor attributes of `torch.nn.Module`.""",
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            heads: {train: {mlp: {dims: [auto, 10]}}}
            """,
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            heads: {train_head: {mlp: {dims: [auto, 10]}}}
            """,
    ),
    code(
        "GM205",
        "unknown trunk",
        """No trunk is registered under this name, or the library does not have the model. `graphmodel trunks` lists the
            names. A module passed with `compile(trunks=…)` must use the name of a trunk in the spec.""",
        """
            trunk: resnet_50
            inputs: {images: [3, 64, 64]}
            """,
        """
            trunk: {name: resnet, depth: 50}
            inputs: {images: [3, 64, 64]}
            """,
    ),
    code(
        "GM206",
        "unknown head",
        """The mapping names a head that the spec does not define, or a head names a module that is not registered.
            `graphmodel heads` lists the registered modules. Register your own with `@graphmodel.register_head` and
            import the file with `--import`.""",
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            heads: {a: {mpl: {dims: [auto, 10]}}}
            """,
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            heads: {a: {mlp: {dims: [auto, 10]}}}
            """,
    ),
    code(
        "GM207",
        "unknown input",
        "The mapping, `with` or `--input` names an input that `inputs` does not define.",
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            mapping: {image: {flatten: a}}
            heads: {a: {mlp: {dims: [auto, 10]}}}
            """,
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            mapping: {images: {flatten: a}}
            heads: {a: {mlp: {dims: [auto, 10]}}}
            """,
    ),
    code(
        "GM208",
        "missing mapping",
        "With one input and one trunk, every head reads the trunk's output. With more than one, a mapping is required.",
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64], patches: [3, 32, 32]}
            heads: {a: {mlp: {dims: [auto, 10]}}}
            """,
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64], patches: [3, 32, 32]}
            heads: {a: {mlp: {dims: [auto, 10]}}}
            mapping: {images: {flatten: a}, patches: {flatten: }}
            """,
    ),
    code(
        "GM209",
        "duplicate or unknown output",
        "Output names are unique, and `outputs` lists existing outputs, each once.",
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            heads: {a: {mlp: {dims: [auto, 10]}}}
            outputs: [b]
            """,
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            heads: {a: {mlp: {dims: [auto, 10]}}}
            outputs: [a]
            """,
    ),
    code(
        "GM210",
        "unused head, input or output",
        """A head has no input, an input has no reader, or an output is not requested. This is not an error; the unused
            part is not built.""",
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            heads: {a: {mlp: {dims: [auto, 10]}}, b: {mlp: {dims: [auto, 10]}}}
            mapping: {images: {flatten: a}}
            """,
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            heads: {a: {mlp: {dims: [auto, 10]}}, b: {mlp: {dims: [auto, 10]}}}
            mapping: {images: {flatten: [a, b]}}
            """,
    ),
    code(
        "GM211",
        "a freeze pattern that matches nothing",
        """A pattern is a component (`trunk`, `heads.a`), a module path (`trunk.layer1`), a parameter name, or a
            wildcard over these (`*.bn*`). A pattern that matches nothing is an error.""",
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            freeze: [trunk.layer9]
            """,
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            freeze: [trunk.layer1]
            """,
    ),
    code(
        "GM212",
        "importing code is not allowed",
        """`trunk: {module: package.module:Factory}` imports Python code, which a spec may do only with permission. If
            you trust the spec, pass `allow_imports=True` or `--allow-imports`.""",
        """
            trunk: {module: "torchvision.models:resnet18"}
            inputs: {images: [3, 64, 64]}
            """,
        """
            trunk: torchvision:resnet18
            inputs: {images: [3, 64, 64]}
            """,
    ),
    code(
        "GM213",
        "unknown feature",
        """The name is neither a feature of the trunk, nor an alias, nor a module path. `graphmodel trunks NAME` lists
            the features; any dotted module path of the trunk is also a feature.""",
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            mapping: {images: {res6: }}
            """,
        """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            mapping: {images: {res5: }}
            """,
    ),
    code(
        "GM214",
        "a copy that cannot be made",
        """A copy (`copy: student`) starts with the weights of another trunk or head, so it must not lead back to
            itself, and it may override only parameters that keep the shapes of the weights, such as drop path.
            Position embeddings are resized if a copy has another image size.""",
        """
            inputs: {images: [3, 64, 64]}
            trunks:
              student: {name: resnet, depth: 18}
              teacher: {copy: student, depth: 50}
            mapping: {images: {student.flatten: , teacher.flatten: }}
            """,
        """
            inputs: {images: [3, 64, 64]}
            trunks:
              student: {name: resnet, depth: 18}
              teacher: {copy: student}
            mapping: {images: {student.flatten: , teacher.flatten: }}
            """,
    ),
    code(
        "GM220",
        "missing `MODEL` block",
        """The VISSL file configures something else, or is an overlay that does not mention the model. Pass the base
            file first, then the overlay.""",
        """
            config: {DATA: {NUM_DATALOADER_WORKERS: 4}}
            """,
        """
            config:
              MODEL:
                TRUNK: {NAME: resnet, RESNETS: {DEPTH: 18}}
                HEAD: {PARAMS: [["mlp", {"dims": [512, 10]}]]}
            """,
    ),
    code(
        "GM221",
        "a Detectron2 configuration",
        """VISSL ships Detectron2 configurations for its detection benchmarks. They describe detectors, which only
            Detectron2 can build.""",
        """
            _BASE_: Base-RCNN-C4.yaml
            MODEL: {META_ARCHITECTURE: GeneralizedRCNN}
            """,
    ),
    code(
        "GM222",
        "missing head",
        """`HEAD.PARAMS` is empty. In VISSL's base files the head comes from an overlay. To extract features without a
            head, set `FEATURE_EVAL_SETTINGS`.""",
        """
            MODEL: {TRUNK: {NAME: resnet, RESNETS: {DEPTH: 18}}}
            """,
        """
            MODEL:
              TRUNK: {NAME: resnet, RESNETS: {DEPTH: 18}}
              HEAD: {PARAMS: [["mlp", {"dims": [512, 10]}]]}
            """,
    ),
    code(
        "GM223",
        "not a VISSL head",
        'A head is a name and its parameters, `["mlp", {"dims": [2048, 128]}]`; a list of heads is a chain.',
        """
            MODEL:
              TRUNK: {NAME: resnet, RESNETS: {DEPTH: 18}}
              HEAD: {PARAMS: [{"mlp": {"dims": [512, 10]}}]}
            """,
        """
            MODEL:
              TRUNK: {NAME: resnet, RESNETS: {DEPTH: 18}}
              HEAD: {PARAMS: [["mlp", {"dims": [512, 10]}]]}
            """,
    ),
    code(
        "GM224",
        "invalid entry in `LINEAR_EVAL_FEAT_POOL_OPS_MAP`",
        """An entry is a feature, a pooling operation and the arguments of that operation in the order of `torch.nn`:
            `["res5", ["AvgPool2d", [[6, 6], 1, 0]]]`.""",
        """
            MODEL:
              FEATURE_EVAL_SETTINGS:
                EVAL_MODE_ON: true
                FREEZE_TRUNK_ONLY: true
                SHOULD_FLATTEN_FEATS: false
                LINEAR_EVAL_FEAT_POOL_OPS_MAP: [["res5", ["AveragePool", [[6, 6], 1, 0]]]]
              TRUNK: {NAME: resnet, RESNETS: {DEPTH: 18}}
              HEAD: {PARAMS: [["eval_mlp", {"in_channels": 512, "dims": [2048, 10]}]]}
            """,
        """
            MODEL:
              FEATURE_EVAL_SETTINGS:
                EVAL_MODE_ON: true
                FREEZE_TRUNK_ONLY: true
                SHOULD_FLATTEN_FEATS: false
                LINEAR_EVAL_FEAT_POOL_OPS_MAP: [["res5", ["AvgPool2d", [[6, 6], 1, 0]]]]
              TRUNK: {NAME: resnet, RESNETS: {DEPTH: 18}}
              HEAD: {PARAMS: [["eval_mlp", {"in_channels": 512, "dims": [2048, 10]}]]}
            """,
    ),
    code(
        "GM225",
        "heads and features differ in number",
        """VISSL pairs heads with features by position, which requires equal numbers. If they differ, VISSL itself logs
            a line and continues with wrong pairs. The message gives both numbers.""",
        """
            MODEL:
              FEATURE_EVAL_SETTINGS:
                EVAL_MODE_ON: true
                FREEZE_TRUNK_ONLY: true
                SHOULD_FLATTEN_FEATS: false
                LINEAR_EVAL_FEAT_POOL_OPS_MAP:
                  - ["res4", ["AvgPool2d", [[6, 6], 1, 0]]]
                  - ["res5", ["AvgPool2d", [[6, 6], 1, 0]]]
                  - ["res5avg", ["Identity", []]]
              TRUNK: {NAME: resnet, RESNETS: {DEPTH: 18}}
              HEAD:
                PARAMS:
                  - ["eval_mlp", {"in_channels": 256, "dims": [20736, 10]}]
                  - ["eval_mlp", {"in_channels": 512, "dims": [2048, 10]}]
            """,
        """
            MODEL:
              FEATURE_EVAL_SETTINGS:
                EVAL_MODE_ON: true
                FREEZE_TRUNK_ONLY: true
                SHOULD_FLATTEN_FEATS: false
                LINEAR_EVAL_FEAT_POOL_OPS_MAP:
                  - ["res4", ["AvgPool2d", [[6, 6], 1, 0]]]
                  - ["res5", ["AvgPool2d", [[6, 6], 1, 0]]]
              TRUNK: {NAME: resnet, RESNETS: {DEPTH: 18}}
              HEAD:
                PARAMS:
                  - ["eval_mlp", {"in_channels": 256, "dims": [20736, 10]}]
                  - ["eval_mlp", {"in_channels": 512, "dims": [2048, 10]}]
            """,
    ),
    code(
        "GM226",
        "invalid entry in `MULTI_INPUT_HEAD_MAPPING`",
        """An entry is `["images", ["res5"]]` or `["images", {"feat_names": ["res5"], "head_index": 0,
            "additional_keys": []}]`.""",
        """
            MODEL:
              TRUNK: {NAME: resnet, RESNETS: {DEPTH: 18}}
              MULTI_INPUT_HEAD_MAPPING: [["images", "flatten"]]
              HEAD: {PARAMS: [["mlp", {"dims": [512, 10]}]]}
            """,
        """
            MODEL:
              TRUNK: {NAME: resnet, RESNETS: {DEPTH: 18}}
              MULTI_INPUT_HEAD_MAPPING: [["images", ["flatten"]]]
              HEAD: {PARAMS: [["mlp", {"dims": [512, 10]}]]}
            """,
    ),
    code(
        "GM230",
        "note on a VISSL file",
        """A missing setting got a default, a key concerns only the trainer and has no effect on the model, or VISSL's
            documentation and code disagree and the documentation was followed.""",
        """
            MODEL:
              AMP_PARAMS: {USE_AMP: true}
              TRUNK: {NAME: resnet, RESNETS: {DEPTH: 18}}
              HEAD: {PARAMS: [["mlp", {"dims": [512, 10]}]]}
            """,
    ),
    code(
        "GM231",
        "setting that VISSL ignores",
        "VISSL itself ignores this setting, so it has no effect here either.",
        """
            MODEL:
              TRUNK: {NAME: resnet, RESNETS: {DEPTH: 18}, TRUNK_PARAMS: {}}
              HEAD: {PARAMS: [["mlp", {"dims": [512, 10]}]]}
            """,
        """
            MODEL:
              TRUNK: {NAME: resnet, RESNETS: {DEPTH: 18}}
              HEAD: {PARAMS: [["mlp", {"dims": [512, 10]}]]}
            """,
    ),
)
