"""`ibot_head` and `ibot_distillation_head`: one projection for the class token and the patches.

Source: Zhou et al. 2022 (arXiv:2111.07832); VISSL main branch, `vissl/models/heads/ibot_head.py` and
`ibot_distillation_head.py` (behaviour and parameter names).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import handle_torch_function

from graphmodel.components.head import Auto, HeadParams, known
from graphmodel.components.heads.dino_head import WeightNormLinear, init_linear
from graphmodel.components.registry import register_head
from graphmodel.spec.fields import Bool, Int, PositiveInt

Norm = Literal["bn", "syncbn", "ln"]


class TokenParams(HeadParams):
    """What both heads of iBOT take."""

    width_field = "in_dim"
    in_dim: PositiveInt | Auto = Field("auto", description="Width of the tokens.")
    out_dim: PositiveInt = Field(description="Outputs for the class token.")
    patch_out_dim: Int = Field(0, ge=0, description="Outputs for each patch; 0 is `out_dim`.")
    norm: Norm | None = Field(
        None,
        description="Normalisation in the MLP; one module serves all its layers, as in iBOT. `syncbn` is `bn` here.",
    )
    act: Literal["gelu", "relu"] = Field("gelu", description="Activation in the MLP.")
    last_norm: Norm | None = Field(None, description="Normalisation of the outputs, without parameters.")
    num_layers: PositiveInt = Field(3, description="Linear layers before the outputs, the bottleneck included.")
    hidden_dim: PositiveInt = Field(2048, description="Width of the hidden layers.")
    shared_head: Bool = Field(False, description="The class token and the patches share the last layer.")

    def outputs(self) -> tuple[str, ...]:
        return "class", "patches"

    @property
    def patch_outputs(self) -> int:
        """Outputs for each patch; a shared head has as many as for the class token."""
        return self.out_dim if self.shared_head else self.patch_out_dim or self.out_dim

    def hidden_layers(self, count: int) -> list[nn.Module]:
        """Linear layers with what follows each; normalisation and activation are the same modules throughout."""
        after = [] if self.norm is None else [norm_of(self.norm, self.hidden_dim, affine=True)]
        after.append(nn.GELU() if self.act == "gelu" else nn.ReLU())
        layers: list[nn.Module] = []
        for i in range(count):
            layers += [nn.Linear(self.hidden_dim if i else known(self.in_dim), self.hidden_dim), *after]
        return layers


class IbotParams(TokenParams):
    """A projection head with prototypes for the class token and for patches."""

    normalize_last_layer: Bool = Field(True, description="Keep prototypes at length 1.")
    bottleneck_dim: PositiveInt = Field(256, description="Width of the normalised vectors.")


class IbotDistillationParams(TokenParams):
    """A projection head with linear outputs for the class token and for patches."""

    @field_validator("num_layers")
    @classmethod
    def at_least_two_layers(cls, layers: int) -> int:
        if layers < 2:
            raise ValueError("the head has at least 2 layers; help: use `mlp` for a single one")
        return layers


def norm_of(name: Norm, channels: int, *, affine: bool) -> nn.Module:
    """A normalisation over the channels.

    Synchronised BatchNorm is BatchNorm here: `convert_sync_batchnorm` makes the whole model's synchronised.
    """
    if name == "ln":
        return nn.LayerNorm(channels, elementwise_affine=affine)
    return nn.BatchNorm1d(channels, affine=affine)


def normalized(norm: nn.Module | None, x: torch.Tensor) -> torch.Tensor:
    """`norm` over the last dimension of `(N, C)` or `(N, L, C)`; BatchNorm wants the channels second."""
    if norm is None:
        return x
    if not isinstance(norm, _BatchNorm):
        return norm(x)
    return norm(x.movedim(-1, 1)).movedim(1, -1)


class TokenMlp(nn.Sequential):
    """A sequence of layers on `(N, C)` or `(N, L, C)`, BatchNorm among them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self:
            x = normalized(layer, x)
        return x


def class_tokens(x: torch.Tensor) -> torch.Tensor:
    """The first token of `(N, L, C)`, or class tokens `(N, C)` as they are.

    `torch.fx`, which cannot ask for the rank, records it as one call.
    """
    if isinstance(x, fx.Proxy):
        return handle_torch_function(class_tokens, (x,), x)
    return x if x.dim() == 2 else x[:, 0]


class _Recorded:
    """The outputs of a head that `torch.fx` traces: each is recorded if the traced code reads it.

    Without the rank, a tracer cannot tell whether there are patches; the code that reads them knows.
    """

    def __init__(self, head: _TokenHead, x: torch.Tensor, for_class: nn.Module, for_patches: nn.Module) -> None:
        self.head, self.x, self.for_class, self.for_patches = head, x, for_class, for_patches

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 0:
            return normalized(self.head.last_norm, self.for_class(class_tokens(self.x)))
        if index == 1:
            return normalized(self.head.last_norm2, self.for_patches(self.x[:, 1:]))
        raise IndexError(index)


class _TokenHead(nn.Module):
    """Class-token outputs, and patch outputs if the feature has patches."""

    def finish(self, params: TokenParams) -> None:
        """The normalisation of the outputs, shared if the last layer is."""
        name = params.last_norm
        self.last_norm = norm_of(name, params.out_dim, affine=False) if name else None
        own = name is not None and not params.shared_head
        self.last_norm2 = norm_of(name, params.patch_outputs, affine=False) if name and own else self.last_norm

    def outputs(self, x: torch.Tensor, for_class: nn.Module, for_patches: nn.Module) -> Any:
        if isinstance(x, fx.Proxy):
            return _Recorded(self, x, for_class, for_patches)
        if x.dim() == 2:
            return [normalized(self.last_norm, for_class(x))]
        return [
            normalized(self.last_norm, for_class(x[:, 0])),
            normalized(self.last_norm2, for_patches(x[:, 1:])),
        ]


@register_head("ibot_head", params=IbotParams)
class IbotHead(_TokenHead):
    """`(N, 1 + L, C)` to scores of the class token, `(N, out_dim)`, and of the patches, `(N, L, patch_out_dim)`.

    `(N, C)` is read as class tokens alone. The result is a list of two tensors, or of one.
    """

    fixed_length_as_buffer = False

    def __init__(self, params: IbotParams) -> None:
        super().__init__()
        layers = params.hidden_layers(params.num_layers - 1)
        layers.append(nn.Linear(params.hidden_dim if layers else known(params.in_dim), params.bottleneck_dim))
        self.mlp = TokenMlp(*layers) if len(layers) > 1 else layers[0]
        init_linear(self.mlp)
        lengths = not params.normalize_last_layer, self.fixed_length_as_buffer
        self.prototypes0 = WeightNormLinear(params.bottleneck_dim, params.out_dim, *lengths)
        self.prototypes1 = (
            self.prototypes0
            if params.shared_head
            else WeightNormLinear(params.bottleneck_dim, params.patch_outputs, *lengths)
        )
        self.finish(params)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = F.normalize(self.mlp(x), dim=-1)
        return self.outputs(x, self.prototypes0, self.prototypes1)


@register_head("ibot_head_fsdp", params=IbotParams)
class IbotHeadFsdp(IbotHead):
    """`ibot_head` for FSDP: prototype lengths that are not trained are a buffer, as in `dino_head_fsdp`."""

    fixed_length_as_buffer = True


@register_head("ibot_distillation_head", params=IbotDistillationParams)
class IbotDistillationHead(_TokenHead):
    """`(N, 1 + L, C)` to outputs of the class token, `(N, out_dim)`, and of the patches, `(N, L, patch_out_dim)`.

    `(N, C)` is read as class tokens alone. The result is a list of two tensors, or of one.
    """

    def __init__(self, params: IbotDistillationParams) -> None:
        super().__init__()
        self.mlp = TokenMlp(*params.hidden_layers(params.num_layers - 1))
        self.to_class_out = nn.Linear(params.hidden_dim, params.out_dim)
        self.to_patch_out = (
            self.to_class_out if params.shared_head else nn.Linear(params.hidden_dim, params.patch_outputs)
        )
        init_linear(self)
        self.finish(params)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return self.outputs(self.mlp(x), self.to_class_out, self.to_patch_out)
