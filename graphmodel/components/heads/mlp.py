"""Multi-layer perceptrons: `mlp`, its residual form `mlp_res`, and the probe `eval_mlp`.

Source: VISSL 0.1.6, `vissl/models/heads/{mlp,mlp_res,linear_eval_mlp}.py` (behaviour and parameter names).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field, field_validator
from torch import fx, nn
from torch.overrides import handle_torch_function
from typing_extensions import Self

from graphmodel.components.head import Auto, HeadMismatch, HeadParams, known, refuse_tokens
from graphmodel.components.registry import register_head
from graphmodel.components.tensors import TensorInfo
from graphmodel.spec.validate import Bool, PositiveInt

Width = PositiveInt | Auto


class NormParams(HeadParams):
    """Batch normalisation and initial scale that VISSL sets for all heads at once (`HEAD.BATCHNORM_EPS`, …)."""

    bn_eps: float = Field(1e-5, gt=0, description="Epsilon of batch normalisation.")
    bn_momentum: float = Field(0.1, description="Momentum of batch normalisation.")
    init_scale: float = Field(1.0, description="Initial weights and biases of linear layers are multiplied by it.")


class MlpParams(NormParams):
    """Linear layers, each but the last followed by what is switched on."""

    width_field = "dims"
    dims: Annotated[list[Width], Field(min_length=2, description="Widths; the first may be `auto`.")]
    use_bn: Bool = Field(False, description="BatchNorm after each linear layer.")
    use_relu: Bool = Field(False, description="ReLU after that.")
    use_dropout: Bool = Field(False, description="Dropout (0.5) after that.")
    use_bias: Bool = Field(True, description="Whether linear layers have a bias.")
    skip_last_layer_relu_bn: Bool = Field(True, description="Leave these out after the last linear layer.")

    @field_validator("dims")
    @classmethod
    def only_first_is_auto(cls, dims: list[Width]) -> list[Width]:
        if "auto" in dims[1:]:
            raise ValueError("only the first width can be `auto`, the others are yours to choose")
        return dims

    def infer(self, feature: TensorInfo) -> Self:
        refuse_tokens(feature)
        return super().infer(feature)

    def layers(self) -> list[tuple[int, int, bool]]:
        """Input width, output width, and whether normalisation and the like follow."""
        widths = [d for d in self.dims if isinstance(d, int)]
        last = len(widths) - 2
        return [(a, b, i < last or not self.skip_last_layer_relu_bn) for i, (a, b) in enumerate(pairwise(widths))]

    def block(self, fan_in: int, fan_out: int, full: bool) -> list[nn.Module]:
        """One linear layer and what follows it."""
        layers: list[nn.Module] = [nn.Linear(fan_in, fan_out, bias=self.use_bias)]
        if full and self.use_bn:
            layers.append(nn.BatchNorm1d(fan_out, eps=self.bn_eps, momentum=self.bn_momentum))
        if full and self.use_relu:
            layers.append(nn.ReLU(inplace=True))
        if full and self.use_dropout:
            layers.append(nn.Dropout())
        return layers


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
    """Linear layers with optional BatchNorm, ReLU and dropout; `(N, C)` or `(N, C, 1, 1)` to `(N, dims[-1])`."""

    def __init__(self, params: MlpParams) -> None:
        super().__init__()
        self.clf = nn.Sequential(*(layer for spec in params.layers() for layer in params.block(*spec)))
        scale_linear(self, params.init_scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Written out, since a head of one layer is called as often as a layer: no helper, no Sequential in between.
        if isinstance(x, fx.Proxy) or x.dim() > 2:  # a tracer cannot ask; `(N, C)` is flat already
            x = x.flatten(1)
        for layer in self._modules["clf"]._modules.values():  # type: ignore[union-attr]
            x = layer(x)  # type: ignore[misc]
        return x


class ResidualBlock(nn.Module):
    """A linear block whose input is added if the widths agree."""

    def __init__(self, params: MlpParams, fan_in: int, fan_out: int, full: bool) -> None:
        super().__init__()
        self.residual = fan_in == fan_out
        self.mlp_res_block = nn.Sequential(*params.block(fan_in, fan_out, full))

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
        scale_linear(self, params.init_scale)

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
