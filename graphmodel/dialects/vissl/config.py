"""The contents of a VISSL configuration: every key of VISSL's MODEL block, typed, with VISSL's default.

Source: VISSL 0.1.6 and its main branch, `vissl/config/defaults.yaml` (keys and default values).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, Tag

from graphmodel.spec.fields import BY_SHAPE, LIST, MAP, NONE, Bool, Int, YamlModel
from graphmodel.spec.validate import keys_of

Block = dict[str, Any]


class Trainer(YamlModel):
    """A block that configures the trainer: any key is accepted, none is used."""

    model_config = ConfigDict(extra="allow", frozen=True)


class ActivationCheckpointing(YamlModel):
    """Activation checkpointing of the trunk."""

    USE_ACTIVATION_CHECKPOINTING: Bool = False
    NUM_ACTIVATION_CHECKPOINTING_SPLITS: Int = 2


class FeatureEvalSettings(YamlModel):
    """Which features are evaluated, how they are pooled, what is frozen."""

    EVAL_MODE_ON: Bool = False
    FREEZE_TRUNK_ONLY: Bool = False
    FREEZE_TRUNK_AND_HEAD: Bool = False
    EXTRACT_TRUNK_FEATURES_ONLY: Bool = False
    EVAL_TRUNK_AND_HEAD: Bool = False
    ASSERT_HEAD_LAYER_SHAPE_INIT: Bool = True
    SHOULD_FLATTEN_FEATS: Bool = True
    LINEAR_EVAL_FEAT_POOL_OPS_MAP: list[Any] = Field(
        default_factory=list, description='Entries `["res5", ["AvgPool2d", [[6, 6], 1, 0]]]`.'
    )


class ResNets(YamlModel):
    """TRUNK.RESNETS."""

    DEPTH: Int = 50
    WIDTH_MULTIPLIER: Int = 1
    NORM: str = "BatchNorm"
    GROUPNORM_GROUPS: Int = 32
    STANDARDIZE_CONVOLUTIONS: Bool = False
    GROUPS: Int = 1
    ZERO_INIT_RESIDUAL: Bool = False
    WIDTH_PER_GROUP: Int = 64
    LAYER4_STRIDE: Int = 2


class ResNetsSK(YamlModel):
    """TRUNK.RESNETS_SK: selective-kernel ResNets of SimCLRv2."""

    DEPTH: Int = 152
    WIDTH_MULTIPLIER: Int = 3
    SK_RATIO: float = 0.0625


class MobileNet(YamlModel):
    """TRUNK.MOBILE_NET."""

    NAME: str = "mobilenetv3_large_100"
    TIMM_BN: Bool = False
    PRETRAINED: Bool = False
    TRUNK_ONLY: Bool = True


class MaskedImageModeling(YamlModel):
    """TRUNK.VISION_TRANSFORMERS.MASKED_IMAGE_MODELING."""

    NAME: str | None = ""
    PARAMS: Block = Field(default_factory=dict)


class VisionTransformers(YamlModel):
    """TRUNK.VISION_TRANSFORMERS."""

    name: str | None = None
    IMAGE_SIZE: Int = 224
    PATCH_SIZE: Int = 16
    NUM_LAYERS: Int = 12
    NUM_HEADS: Int = 12
    HIDDEN_DIM: Int = 768
    MLP_DIM: Int = 3072
    DROPOUT_RATE: float = 0
    ATTENTION_DROPOUT_RATE: float = 0
    CLASSIFIER: str = "token"
    DROP_PATH_RATE: float = 0
    QKV_BIAS: Bool = False
    QK_SCALE: bool | float | None = False
    USE_CLASS_TOKEN: Bool = True
    CHECKPOINT_MLP: Bool = False
    CHECKPOINT_BLOCK: Bool = False
    MASKED_IMAGE_MODELING: MaskedImageModeling = Field(default_factory=MaskedImageModeling)
    CONVIT: Block | None = Field(None, description="VISSL ignores a CONVIT block here.")


class XCiT(YamlModel):
    """TRUNK.XCIT."""

    name: str | None = None
    IMAGE_SIZE: Int = 224
    PATCH_SIZE: Int = 16
    HIDDEN_DIM: Int = 384
    NUM_LAYERS: Int = 12
    NUM_HEADS: Int = 8
    MLP_RATIO: float = 4.0
    DROPOUT_RATE: float = 0
    ATTENTION_DROPOUT_RATE: float = 0
    DROP_PATH_RATE: float = 0.05
    ETA: float | None = 1
    TOKENS_NORM: Bool = True
    QKV_BIAS: Bool = True
    QK_SCALE: bool | float | None = False
    CHECKPOINT_XCA_BLOCK: Bool = False
    CHECKPOINT_ATTN_BLOCK: Bool = False


class SwinTransformer(YamlModel):
    """TRUNK.SWIN_TRANSFORMER."""

    name: str | None = None
    IMAGE_SIZE: Int = 224
    PATCH_SIZE: Int = 4
    EMBED_DIM: Int = 96
    DEPTHS: list[Int] = Field(default_factory=lambda: [2, 2, 6, 2])
    NUM_HEADS: list[Int] = Field(default_factory=lambda: [3, 6, 12, 24])
    WINDOW_SIZE: Int = 7
    MLP_RATIO: float = 4.0
    DROPOUT_RATE: float = 0
    ATTENTION_DROPOUT_RATE: float = 0
    DROP_PATH_RATE: float = 0.1
    QKV_BIAS: Bool = True
    QK_SCALE: bool | float | None = False


class BEiT(YamlModel):
    """TRUNK.BEIT."""

    IMAGE_SIZE: Int = 224
    PATCH_SIZE: Int = 16
    NUM_LAYERS: Int = 12
    NUM_HEADS: Int = 12
    HIDDEN_DIM: Int = 768
    MLP_RATIO: float = 4.0
    DROPOUT_RATE: float = 0
    ATTENTION_DROPOUT_RATE: float = 0
    DROP_PATH_RATE: float = 0
    QKV_BIAS: Bool = False
    QK_SCALE: bool | float | None = False
    USE_ABS_POS_EMB: Bool = True
    USE_REL_POS_BIAS: Bool = False
    USE_SHARED_REL_POS_BIAS: Bool = False
    USE_MEAN_POOLING: Bool = True
    INIT_VALUES: bool | float | None = False


class ConvNeXt(YamlModel):
    """TRUNK.CONVNEXT."""

    DEPTH: list[Int] = Field(default_factory=lambda: [3, 3, 27, 3])
    DIMS: list[Int] = Field(default_factory=lambda: [96, 192, 384, 768])
    DROP_PATH_RATE: float = 0.0


class ConViT(YamlModel):
    """TRUNK.CONVIT, beside VISION_TRANSFORMERS."""

    N_GPSA_LAYERS: Int = 10
    CLASS_TOKEN_IN_LOCAL_LAYERS: Bool = False
    LOCALITY_STRENGTH: float = 1.0
    LOCALITY_DIM: Int = 10
    USE_LOCAL_INIT: Bool = True


class Trunk(YamlModel):
    """MODEL.TRUNK: a name, and one block of parameters per family."""

    NAME: str = "resnet"
    RESNETS: ResNets = Field(default_factory=ResNets)
    RESNETS_SK: ResNetsSK = Field(default_factory=ResNetsSK)
    EFFICIENT_NETS: Block = Field(default_factory=dict)
    MOBILE_NET: MobileNet = Field(default_factory=MobileNet)
    REGNET: Block = Field(default_factory=dict)
    VISION_TRANSFORMERS: VisionTransformers = Field(default_factory=VisionTransformers)
    XCIT: XCiT = Field(default_factory=XCiT)
    SWIN_TRANSFORMER: SwinTransformer = Field(default_factory=SwinTransformer)
    BEIT: BEiT = Field(default_factory=BEiT)
    CONVNEXT: ConvNeXt = Field(default_factory=ConvNeXt)
    CONVIT: ConViT = Field(default_factory=ConViT)
    TRUNK_PARAMS: Any = Field(None, description="VISSL ignores this old key.")


TRUNK_BLOCK_KEYS: dict[str, list[str]] = {
    name: keys_of(field.annotation)
    for name, field in Trunk.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, YamlModel)
}
"""The keys that VISSL reads of each block of TRUNK."""


class Head(YamlModel):
    """MODEL.HEAD."""

    PARAMS: list[Any] = Field(default_factory=list, description='Heads `["mlp", {"dims": [2048, 128]}]`, or lists.')
    BATCHNORM_EPS: float = 1e-5
    BATCHNORM_MOMENTUM: float = 0.1
    PARAMS_MULTIPLIER: float = 1.0


class WeightsInit(YamlModel):
    """MODEL.WEIGHTS_INIT."""

    PARAMS_FILE: str | None = ""
    STATE_DICT_KEY_NAME: str | None = "classy_state_dict"
    SKIP_LAYERS: list[str] = Field(default_factory=lambda: ["num_batches_tracked"])
    REMOVE_PREFIX: str | None = ""
    APPEND_PREFIX: str | None = ""
    PARAM_FILE: Any = Field(None, description="VISSL ignores this misspelling of PARAMS_FILE.")


class VisslModel(YamlModel):
    """VISSL's MODEL block."""

    BASE_MODEL_NAME: str = "multi_input_output_model"
    CUDA_CACHE: Trainer = Field(default_factory=Trainer)
    NON_TRAINABLE_PARAMS: list[str] = Field(default_factory=list)
    TEMP_FROZEN_PARAMS_ITER_MAP: list[Any] = Field(default_factory=list)
    INPUT_TYPE: Literal["rgb", "bgr", "lab"] = "rgb"
    MULTI_INPUT_HEAD_MAPPING: list[Any] = Field(
        default_factory=list, description='Entries `["images", ["res5"]]` or `["images", {"feat_names": ["res5"]}]`.'
    )
    SINGLE_PASS_EVERY_CROP: Bool = False
    ACTIVATION_CHECKPOINTING: ActivationCheckpointing = Field(default_factory=ActivationCheckpointing)
    SHARDED_DDP_SETUP: Trainer = Field(default_factory=Trainer)
    FSDP_CONFIG: Trainer = Field(default_factory=Trainer)
    FEATURE_EVAL_SETTINGS: FeatureEvalSettings = Field(default_factory=FeatureEvalSettings)
    GRAD_CLIP: Trainer = Field(default_factory=Trainer)
    TRUNK: Trunk = Field(default_factory=Trunk)
    HEAD: Head = Field(default_factory=Head)
    SYNC_BN_CONFIG: Trainer = Field(default_factory=Trainer)
    AMP_PARAMS: Trainer = Field(default_factory=Trainer)
    WEIGHTS_INIT: WeightsInit = Field(default_factory=WeightsInit)
    MODEL_INIT_SEED: Int | None = Field(None, alias="_MODEL_INIT_SEED")


CARRIED: dict[str, str] = {
    "AMP_PARAMS": "mixed precision is up to the trainer (`torch.autocast`)",
    "BASE_MODEL_NAME": "every compiled model is the multi-input, multi-output one",
    "CUDA_CACHE": "clearing the CUDA cache is up to the trainer",
    "FSDP_CONFIG": "sharding is up to the trainer (FSDP2's `fully_shard` on the module's stages)",
    "GRAD_CLIP": "gradient clipping is up to the trainer",
    "SHARDED_DDP_SETUP": "sharding is up to the trainer",
    "SYNC_BN_CONFIG": "convert the compiled module with `torch.nn.SyncBatchNorm.convert_sync_batchnorm` under DDP",
    "TEMP_FROZEN_PARAMS_ITER_MAP": "`graphmodel.FreezeUntil` reads it in a training loop",
    "_MODEL_INIT_SEED": "pass the seed to `compile(seed=…)`",
    "FEATURE_EVAL_SETTINGS.EVAL_TRUNK_AND_HEAD": "what is loaded is up to the caller (`graphmodel.load_weights`)",
    "FEATURE_EVAL_SETTINGS.ASSERT_HEAD_LAYER_SHAPE_INIT": "shapes are always checked when weights are loaded",
    "TRUNK.VISION_TRANSFORMERS.CHECKPOINT_MLP": "use `checkpoint:` of the native format",
    "TRUNK.VISION_TRANSFORMERS.CHECKPOINT_BLOCK": "use `checkpoint:` of the native format",
    "TRUNK.XCIT.CHECKPOINT_XCA_BLOCK": "use `checkpoint:` of the native format",
    "TRUNK.XCIT.CHECKPOINT_ATTN_BLOCK": "use `checkpoint:` of the native format",
}
"""Keys that are carried but not used, and why; the report lists those that a file sets."""

IGNORED_BY_VISSL: dict[str, str] = {
    "TRUNK.TRUNK_PARAMS": "VISSL ignores TRUNK_PARAMS; parameters go into the trunk's block, such as TRUNK.RESNETS",
    "WEIGHTS_INIT.PARAM_FILE": "VISSL ignores PARAM_FILE; the key is PARAMS_FILE",
    "TRUNK.VISION_TRANSFORMERS.CONVIT": "VISSL ignores a CONVIT block here; it belongs beside VISION_TRANSFORMERS",
}
"""Keys in VISSL's own files that VISSL never reads: accepted with a warning."""


class VisslConfig(YamlModel):
    """VISSL's `config:` mapping; everything except MODEL is for the trainer."""

    model_config = ConfigDict(extra="allow", frozen=True)
    MODEL: VisslModel = Field(default_factory=VisslModel)
    DATA: Any = None


class VisslFile(YamlModel):
    """A VISSL configuration file: `config: {MODEL: …}`, or `MODEL: …` alone."""

    model_config = ConfigDict(extra="allow", frozen=True)
    config: Annotated[Annotated[VisslConfig, Tag(MAP)] | Annotated[None, Tag(NONE)], BY_SHAPE] = None
    MODEL: Annotated[Annotated[VisslModel, Tag(MAP)] | Annotated[None, Tag(NONE)], BY_SHAPE] = None
    defaults: Annotated[Annotated[list[Any], Tag(LIST)] | Annotated[None, Tag(NONE)], BY_SHAPE] = None
