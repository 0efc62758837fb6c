"""Every diagnostic code: what it means, an example that gets it and one that does not. Imports nothing heavy.

`graphmodel explain CODE` and docs/diagnostics.md print this table; tests run the examples.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from textwrap import dedent
from typing import Any, Literal

Language = Literal["yaml", "python", "shell"]


@dataclass(frozen=True)
class Code:
    """A diagnostic code.

    Attributes:
        code: `GM101`.
        title: what is wrong, in a few words.
        meaning: why it is wrong and what to do, in a few sentences.
        bad: an example that gets the code.
        good: the same, right; empty where there is nothing to show.
        language: what the examples are written in.
    """

    code: str
    title: str
    meaning: str
    bad: str
    good: str = ""
    language: Language = "yaml"

    def to_dict(self) -> dict[str, Any]:
        """The form that `--format json` prints."""
        return asdict(self)


GROUPS = {
    "1": ("GM1xx: reading", "The files cannot be read or joined."),
    "2": ("GM2xx: names and parameters", "The YAML is sound and says something that does not exist."),
    "3": ("GM3xx: wiring and shapes", "The names exist and do not fit together."),
    "4": ("GM4xx: passes", "A pass cannot do what the spec asks of it."),
    "5": ("GM5xx: lowering and weights", "The graph is sound; what was asked of the module or its weights is not."),
}
"""Titles of the groups of codes, by the digit behind `GM`."""


def _code(
    code: str, title: str, meaning: str, bad: str, good: str = "", language: Language = "yaml"
) -> tuple[str, Code]:
    meaning = " ".join(dedent(meaning).split())
    return code, Code(
        code, title, meaning, dedent(bad).strip() + "\n", dedent(good).strip() + "\n" * bool(good), language
    )


CODES: dict[str, Code] = dict(
    (
        _code(
            "GM100",
            "the file cannot be read",
            "There is no such file, it is a directory, or its permissions forbid reading it.",
            "graphmodel check no_such_file.yaml",
            "graphmodel check spec.yaml",
            "shell",
        ),
        _code(
            "GM101",
            "not readable as YAML",
            """The text is no YAML, or no UTF-8. The caret stands where the parser gave up; the cause is often one line
            above: an open bracket or quote, a tab, a missing colon.""",
            """
            trunk: {name: resnet
            heads: {}
            """,
            """
            trunk: {name: resnet}
            heads: {}
            """,
        ),
        _code(
            "GM102",
            "a key stands twice",
            """YAML readers keep one of two equal keys and drop the other in silence. Both places are shown; rename or
            delete one.""",
            """
            trunk: {name: resnet, depth: 50, depth: 18}
            """,
            """
            trunk: {name: resnet, depth: 18}
            """,
        ),
        _code(
            "GM103",
            "aliases without end",
            """An alias that contains itself, or aliases of aliases that expand to more than 200,000 values. Write the
            values out.""",
            """
            trunk: &a {name: resnet, again: *a}
            """,
            """
            trunk: {name: resnet}
            """,
        ),
        _code(
            "GM104",
            "too large or nested too deeply",
            """A spec is at most 4 MB and 100 levels deep. It describes a model; keep data and weights in files of their
            own.""",
            f"""
            outputs: {"[" * 110 + "]" * 110}
            """,
            """
            trunk: resnet
            outputs: [resnet]
            """,
        ),
        _code(
            "GM105",
            "not one mapping",
            "A spec file holds one YAML document and that is a mapping: not empty, not a list, not several documents.",
            """
            - trunk: resnet
            """,
            """
            trunk: resnet
            """,
        ),
        _code(
            "GM106",
            "a tag or key that a spec cannot have",
            """A spec is plain data: text keys, no tags that name code (`!!python/object`), `<<` on mappings only.""",
            """
            trunk: !!python/name:os.system resnet
            """,
            """
            trunk: resnet
            """,
        ),
        _code(
            "GM107",
            "`extends` leads nowhere or in a circle",
            """`extends` is a path or a list of paths, relative to the file that says it. The file must exist, and no
            file may extend itself, however long the way round.""",
            """
            extends: no_such_base.yaml
            trunk: resnet
            """,
        ),
        _code(
            "GM108",
            "a bad `--set`",
            """An override is `path=value`: a path through mappings and lists (`heads.a[0].mlp.dims=[auto, 10]`), then a
            YAML value.""",
            "graphmodel check spec.yaml --set trunk.depth",
            "graphmodel check spec.yaml --set trunk.depth=101",
            "shell",
        ),
        _code(
            "GM109",
            "a file of the defaults list is not there",
            """Hydra's `defaults:` list is followed as far as the files it names lie beside the configuration or in a
            folder above it. One that is not there is left out with this warning: give it on the command line, before
            the file that names it.""",
            """
            defaults:
              - nowhere/to_be_found
            config:
              MODEL: {TRUNK: {NAME: resnet}, HEAD: {PARAMS: [[mlp, {dims: [2048, 10]}]]}}
            """,
            """
            config:
              MODEL: {TRUNK: {NAME: resnet}, HEAD: {PARAMS: [[mlp, {dims: [2048, 10]}]]}}
            """,
        ),
        _code(
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
        _code(
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
        _code(
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
        _code(
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
        _code(
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
        _code(
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
        _code(
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
        _code(
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
        _code(
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
        _code(
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
        _code(
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
        _code(
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
        _code(
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
        _code(
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
        _code(
            "GM221",
            "a Detectron2 configuration",
            """VISSL ships Detectron2 configurations for detection benchmarks. They describe detectors; only Detectron2
            builds them.""",
            """
            _BASE_: Base-RCNN-C4.yaml
            MODEL: {META_ARCHITECTURE: GeneralizedRCNN}
            """,
        ),
        _code(
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
        _code(
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
        _code(
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
        _code(
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
        _code(
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
        _code(
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
        _code(
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
        _code(
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
        _code(
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
        _code(
            "GM303",
            "the trunk cannot run on the input",
            """The trunk was built and its code fails on an input of this shape: the wrong number of channels, an image
            too small for its strides, or control flow that depends on the values of tensors.""",
            """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [1, 64, 64]}
            """,
            """
            trunk: {name: resnet, depth: 18}
            inputs: {images: [3, 64, 64]}
            """,
        ),
        _code(
            "GM304",
            "the head does not fit the feature",
            """The head wants another width or layout than the feature has; both are named. Write the feature's width or
            `auto`, or pool or flatten the feature on its way.""",
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
        _code(
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
        _code(
            "GM306",
            "a feature cannot be prepared or joined",
            """Pooling needs feature maps at least as large as its kernel; features that are joined need sizes that
            agree.""",
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
        _code(
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
        _code(
            "GM502",
            "no such slice",
            "A slice names inputs and outputs of the module, and each output needs the inputs it is computed of.",
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
        _code(
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
        _code(
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
        _code(
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
        _code(
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
        _code(
            "GM520",
            "the output cannot be written",
            """`compile -o DIR` replaces an earlier result as a whole. A directory that holds anything else is left
            alone, and so is everything where the disk or its permissions forbid writing.""",
            "graphmodel compile spec.yaml -o .",
            "graphmodel compile spec.yaml -o build/model",
            "shell",
        ),
        _code(
            "GM521",
            "a model that a spec cannot name",
            """The files of `write_artifact` build the model again from its spec. A trunk that was handed in as a module
            (`compile(…, trunks=…)`) is in no spec.""",
            """
            from graphmodel.artifact import write_artifact
            spec = {"trunk": "resnet", "inputs": {"images": [3, 64, 64]}}
            given = {"trunk": torch.nn.Conv2d(3, 8, 3)}
            write_artifact(graphmodel.compile(spec, trunks=given), "build/model")
            """,
            "",
            "python",
        ),
        _code(
            "GM530",
            "the picture cannot be drawn",
            """The form is unknown, the file cannot be written, or pygraphviz is missing.""",
            "graphmodel visualize spec.yaml -o model.bmp",
            "graphmodel visualize spec.yaml -o model.svg",
            "shell",
        ),
    )
)
"""All codes in order."""


def to_markdown() -> str:
    """The page docs/diagnostics.md."""
    lines = [
        "# Diagnostics",
        "",
        "<!-- Written by `python docs/generate.py` from graphmodel/codes.py; a test compares them. -->",
        "",
        "Each finding has a code that never changes its meaning. `graphmodel explain CODE` prints the same text.",
    ]
    for digit, (title, meaning) in GROUPS.items():
        codes = [c for c in CODES.values() if c.code[2] == digit]
        if not codes:
            continue
        lines += ["", f"## {title}", "", meaning]
        for code in codes:
            lines += ["", f"### {code.code}: {code.title}", "", code.meaning]
            for label, example in (("Wrong:", code.bad), ("Right:", code.good)):
                if example:
                    lines += ["", label, "", f"```{code.language}", example.rstrip(), "```"]
    return "\n".join(lines) + "\n"
