"""Codes GM2xx: names and parameters."""

from __future__ import annotations

from graphmodel.diagnostics.codes.entry import code

ENTRIES = (
    code(
        "GM201",
        "unknown key",
        "No such key is known in this place. The nearest known key is proposed; unknown keys are never ignored.",
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
        "wrong value",
        "The value has the wrong type or lies outside of what the key takes.",
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
        "a key is missing",
        "The mapping needs this key and nothing is assumed for it.",
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
        "a name that Python cannot use",
        """Inputs become arguments, heads and trunks become attributes of the module. Their names are identifiers,
            no keywords, and none of the names that `torch.nn.Module` has already.""",
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
        """No trunk of that name is registered, or the library has no such model. `graphmodel trunks` lists them. A
            module handed in for a trunk must name a trunk of the spec.""",
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
        """The mapping names a head that the spec does not have, or a head names a module that is not registered.
            `graphmodel heads` lists the modules; your own are registered with `@graphmodel.register_head` and imported
            with `--import`.""",
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
        "The mapping (or `with`, or `--input`) names an input that `inputs` does not have.",
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
        "no mapping where one is needed",
        "With one input and one trunk every head reads the trunk's output. With more, say who reads what.",
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
        "outputs that clash or do not exist",
        "Each output has a name of its own, and `outputs` names outputs that exist, each once.",
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
        "something is left out",
        """A head that reads nothing, an input that nothing reads, or an output that is not asked for. It is not an
            error: it is not built.""",
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
        "a freeze pattern that covers nothing",
        """Patterns are component names (`trunk`, `heads.a`), module paths (`trunk.layer1`), parameter names, or
            wildcards over them (`*.bn*`). One that covers nothing is a mistake.""",
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
        "a spec that wants to import code",
        """`trunk: {module: package.module:Factory}` imports Python code, and a spec from elsewhere must not do that
            unasked. Pass `allow_imports=True` or `--allow-imports` for specs that you trust.""",
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
        """The trunk has no feature of that name, no alias and no module path. `graphmodel trunks NAME` lists its
            features; any dotted module path of the trunk is one too.""",
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
        "GM220",
        "no MODEL block",
        """The VISSL file configures something else, or is an overlay that says nothing of the model. Give the base
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
        """VISSL ships Detectron2 configurations for detection benchmarks. They describe detectors; only Detectron2
            builds them.""",
        """
            _BASE_: Base-RCNN-C4.yaml
            MODEL: {META_ARCHITECTURE: GeneralizedRCNN}
            """,
    ),
    code(
        "GM222",
        "no head",
        """HEAD.PARAMS is empty. VISSL's base files are such: the head comes with an overlay. Extraction of features
            without a head is asked for with FEATURE_EVAL_SETTINGS.""",
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
        'A head is `["mlp", {"dims": [2048, 128]}]`: a name and its parameters; a list of such is a chain.',
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
        "a bad entry of the feature map",
        """An entry of LINEAR_EVAL_FEAT_POOL_OPS_MAP is a feature, a pooling operation and its arguments in the
            order of `torch.nn`: `["res5", ["AvgPool2d", [[6, 6], 1, 0]]]`.""",
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
        """VISSL pairs heads with features by position. Where the numbers differ there is no pairing; VISSL itself
            logs a line and goes on with wrong pairs. Both numbers are named.""",
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
        "a bad entry of MULTI_INPUT_HEAD_MAPPING",
        """An entry is `["images", ["res5"]]`, or `["images", {"feat_names": ["res5"], "head_index": 0,
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
        "a note on a VISSL file",
        """Something that the file does not say was assumed, a key is the trainer's business and is carried along
            unused, or VISSL's documentation and its code differ and the documentation was followed.""",
        """
            MODEL:
              AMP_PARAMS: {USE_AMP: true}
              TRUNK: {NAME: resnet, RESNETS: {DEPTH: 18}}
              HEAD: {PARAMS: [["mlp", {"dims": [512, 10]}]]}
            """,
    ),
    code(
        "GM231",
        "a warning on a VISSL file",
        "The file says something that VISSL itself ignores; it is ignored here too.",
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
