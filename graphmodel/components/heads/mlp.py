"""Multi-layer perceptrons: `mlp`, its residual form `mlp_res`, and the probe `eval_mlp`.

Source: VISSL 0.1.6, `vissl/models/heads/{mlp,mlp_res,linear_eval_mlp}.py` (behaviour and parameter names);
`mlp_presets.py` names the sources of the presets.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field, field_validator, model_validator
from torch import fx, nn
from torch.overrides import handle_torch_function
from typing_extensions import Self

from graphmodel.components.head import Auto, HeadMismatch, HeadParams, known, refuse_tokens
from graphmodel.components.heads.mlp_presets import Preset, expand_preset
from graphmodel.components.registry import register_head
from graphmodel.components.tensors import TensorInfo
from graphmodel.spec.fields import Bool, PositiveInt

Width = PositiveInt | Auto


class NormParams(HeadParams):
    """Batch normalisation and initial scale that VISSL sets for all heads at once (`HEAD.BATCHNORM_EPS`, …)."""

    bn_eps: float = Field(1e-5, gt=0, description="Epsilon of batch normalisation.")
    bn_momentum: float = Field(0.1, description="Momentum of batch normalisation.")
    init_scale: float = Field(1.0, description="Initial weights and biases of linear layers are multiplied by it.")


def _preset_or_dims(schema: dict[str, Any]) -> None:
    """A preset has widths of its own."""
    del schema["required"]
    schema["anyOf"] = [{"required": ["dims"]}, {"required": ["preset"]}]


class MlpParams(NormParams):
    """Linear layers, each but the last followed by what is switched on.

    `norm` and `activation` say the same as `use_bn` and `use_relu`, VISSL's names, and offer more.
    """

    model_config = ConfigDict(json_schema_extra=_preset_or_dims)
    width_field = "dims"
    preset: Preset | None = Field(
        None, description="The head of a method; every other parameter may be set beside it and takes precedence."
    )
    dims: Annotated[list[Width], Field(min_length=2, description="Widths; the first may be `auto`.")]
    norm: Literal["batch", "layer", "none"] | None = Field(
        None, description="Normalisation after each linear layer; by default as `use_bn` says."
    )
    activation: Literal["relu", "gelu", "none"] | None = Field(
        None, description="Activation after that; by default as `use_relu` says."
    )
    use_bn: Bool = Field(False, description="BatchNorm after each linear layer.")
    use_relu: Bool = Field(False, description="ReLU after that.")
    use_dropout: Bool = Field(False, description="Dropout (0.5) after that.")
    use_bias: Bool = Field(True, description="Whether linear layers have a bias.")
    last_bias: Bool | None = Field(None, description="Whether the last one has; by default as `use_bias` says.")
    last_norm: Literal["none", "affine", "scale", "plain"] = Field(
        "none",
        description="Normalisation after the last linear layer, of the kind of `norm`: with scale and shift, with "
        "scale alone, or without parameters.",
    )
    skip_last_layer_relu_bn: Bool = Field(
        True, description="Leave out normalisation, activation and dropout after the last linear layer."
    )
    init: Literal["default", "trunc_normal"] = Field(
        "default", description="Initial weights: torch's, or a truncated normal (0.02) and zero biases."
    )

    @model_validator(mode="before")
    @classmethod
    def with_preset(cls, values: Any) -> Any:
        return expand_preset(values)

    @field_validator("dims")
    @classmethod
    def only_first_is_auto(cls, dims: list[Width]) -> list[Width]:
        if "auto" in dims[1:]:
            raise ValueError("only the first width can be `auto`, the others are yours to choose")
        return dims

    @model_validator(mode="after")
    def one_setting(self) -> Self:
        for name, other in (("norm", "use_bn"), ("activation", "use_relu")):
            if getattr(self, name) is not None and getattr(self, other):
                raise ValueError(f"has both `{name}` and `{other}`; help: keep `{name}`")
        if self.last_norm != "none" and self.kind == "none":
            raise ValueError("has `last_norm` and no `norm`; help: add `norm: batch` or `norm: layer`")
        if self.last_norm != "none" and not self.skip_last_layer_relu_bn:
            raise ValueError("has `last_norm` and `skip_last_layer_relu_bn: false`; help: keep one of them")
        return self

    @property
    def kind(self) -> Literal["batch", "layer", "none"]:
        """The normalisation, whichever parameter says so."""
        return self.norm or ("batch" if self.use_bn else "none")

    def infer(self, feature: TensorInfo) -> Self:
        refuse_tokens(feature)
        return super().infer(feature)

    def layers(self) -> list[tuple[int, int, bool]]:
        """Input width, output width, and whether it is the last one."""
        widths = [d for d in self.dims if isinstance(d, int)]
        return [(a, b, i == len(widths) - 2) for i, (a, b) in enumerate(pairwise(widths))]

    def block(self, fan_in: int, fan_out: int, last: bool) -> list[nn.Module]:
        """One linear layer and what follows it."""
        bias = self.last_bias if last and self.last_bias is not None else self.use_bias
        layers: list[nn.Module] = [nn.Linear(fan_in, fan_out, bias=bias)]
        if last and self.skip_last_layer_relu_bn:
            return layers + ([] if self.last_norm == "none" else [self.normalisation(fan_out, self.last_norm)])
        if self.kind != "none":
            layers.append(self.normalisation(fan_out, "affine"))
        activation = self.activation or ("relu" if self.use_relu else "none")
        if activation != "none":
            layers.append(nn.ReLU(inplace=True) if activation == "relu" else nn.GELU())
        if self.use_dropout:
            layers.append(nn.Dropout())
        return layers

    def normalisation(self, width: int, parameters: Literal["affine", "scale", "plain"]) -> nn.Module:
        """A normalisation layer with some or all of its parameters."""
        affine = parameters != "plain"
        norm: nn.Module
        if self.kind == "layer":
            norm = nn.LayerNorm(width, eps=self.bn_eps, elementwise_affine=affine)
        else:
            norm = nn.BatchNorm1d(width, eps=self.bn_eps, momentum=self.bn_momentum, affine=affine)
        if parameters == "scale":
            norm.register_parameter("bias", None)
        return norm

    def initialise(self, head: nn.Module) -> None:
        """Initial weights of a whole head."""
        if self.init == "trunc_normal":
            for layer in head.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.trunc_normal_(layer.weight, std=0.02)
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)
        scale_linear(head, self.init_scale)


def scale_linear(module: nn.Module, scale: float) -> None:
    """Multiplies initial weights and biases of linear layers."""
    if scale == 1.0:
        return
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(scale)
                if layer.bias is not None:
                    layer.bias.mul_(scale)


def as_vectors(x: torch.Tensor) -> torch.Tensor:
    """`(N, C, 1, 1)` as `(N, C)`."""
    return x.flatten(1) if isinstance(x, fx.Proxy) or x.dim() > 2 else x


def as_maps(x: torch.Tensor) -> torch.Tensor:
    """`(N, C)` as `(N, C, 1, 1)`; `torch.fx`, which cannot ask for the rank, records it as one call."""
    if isinstance(x, fx.Proxy):
        return handle_torch_function(as_maps, (x,), x)
    return x[:, :, None, None] if x.dim() == 2 else x


def as_rows(x: torch.Tensor) -> torch.Tensor:
    """`(N, C, 1, 1)` as `(N, C)`, and sequences `(N, L, C)` as they are; recorded as one call too."""
    if isinstance(x, fx.Proxy):
        return handle_torch_function(as_rows, (x,), x)
    return x.flatten(1) if x.dim() == 4 else x


@register_head("mlp", "mlp_fsdp", params=MlpParams)
class Mlp(nn.Module):
    """Linear layers with optional normalisation, activation and dropout; `(N, C)` to `(N, dims[-1])`.

    Maps of one pixel, `(N, C, 1, 1)`, count as vectors.

    Example:
        >>> head = Mlp(MlpParams(preset="byol", dims=[512, 1024, 128]))
        >>> [type(layer).__name__ for layer in head.clf]
        ['Linear', 'BatchNorm1d', 'ReLU', 'Linear']
    """

    def __init__(self, params: MlpParams) -> None:
        super().__init__()
        self.clf = nn.Sequential(*(layer for spec in params.layers() for layer in params.block(*spec)))
        params.initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Written out, since a head of one layer is called as often as a layer: no helper, no Sequential in between.
        if isinstance(x, fx.Proxy) or x.dim() > 2:  # a tracer cannot ask; `(N, C)` is flat already
            x = x.flatten(1)
        for layer in self._modules["clf"]._modules.values():  # type: ignore[union-attr]
            x = layer(x)  # type: ignore[misc]
        return x


class ResidualBlock(nn.Module):
    """A linear block whose input is added if the widths agree."""

    def __init__(self, params: MlpParams, fan_in: int, fan_out: int, last: bool) -> None:
        super().__init__()
        self.residual = fan_in == fan_out
        self.mlp_res_block = nn.Sequential(*params.block(fan_in, fan_out, last))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.mlp_res_block(x)
        return x + out if self.residual else out


@register_head("mlp_res", params=MlpParams)
class ResidualMlp(nn.Module):
    """An MLP with skip connections around layers of equal width.

    As in VISSL the input is added twice there, once inside the block and once around it.
    """

    def __init__(self, params: MlpParams) -> None:
        super().__init__()
        self.clf = nn.Sequential(*(ResidualBlock(params, *spec) for spec in params.layers()))
        params.initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = as_vectors(x)
        for block in self.clf:
            out = block(x)
            x = out + x if block.residual else out
        return x


class EvalMlpParams(NormParams):
    """A probe on a feature map."""

    in_channels: Width = Field("auto", description="Channels of the feature.")
    dims: Annotated[list[Width], Field(min_length=2, description="Widths; the first is the flattened feature's.")]
    use_bn: Bool = False
    use_relu: Bool = False
    use_residual: Bool = Field(False, description="`mlp_res` instead of `mlp` after the BatchNorm.")

    def infer(self, feature: TensorInfo) -> Self:
        shape = feature.shape
        if len(shape) not in (2, 4) or not all(isinstance(d, int) for d in shape[1:]):
            raise HeadMismatch(f"wants a feature map (N×C×H×W) or vectors (N×C) and the feature is {feature}")
        if feature.layout == "nhwc":
            raise HeadMismatch(
                f"wants a feature map with channels first and the feature is {feature}, channels last",
                (),
                "write `layout: nchw` beside the feature",
            )
        sizes = feature.sample
        total = sizes[0] if len(sizes) == 1 else sizes[0] * sizes[1] * sizes[2]
        with_channels = self.with_width("in_channels", sizes[0], feature)
        try:
            return with_channels.with_width("dims", total, feature)
        except HeadMismatch as error:
            flat = "" if len(sizes) == 1 else f" ({sizes[0]}×{sizes[1]}×{sizes[2]} flattened)"
            raise HeadMismatch(
                f"wants {self.dims[0]} features and the feature is {feature}, which has {total}{flat}",
                error.path,
                error.help + (", or pool the feature to another size" if flat else ""),
            ) from None


@register_head("eval_mlp", "eval_mlp_fsdp", params=EvalMlpParams)
class EvalMlp(nn.Module):
    """BatchNorm2d over the channels, flatten, linear layers; `(N, C, H, W)` or `(N, C)` to `(N, dims[-1])`."""

    def __init__(self, params: EvalMlpParams) -> None:
        super().__init__()
        self.channel_bn = nn.BatchNorm2d(known(params.in_channels), eps=params.bn_eps, momentum=params.bn_momentum)
        inner = MlpParams(
            dims=params.dims,
            use_bn=params.use_bn,
            use_relu=params.use_relu,
            bn_eps=params.bn_eps,
            bn_momentum=params.bn_momentum,
            init_scale=params.init_scale,
        )
        self.clf = ResidualMlp(inner) if params.use_residual else Mlp(inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.clf(torch.flatten(self.channel_bn(as_maps(x)), 1))
        return out
