"""Layouts of features: what a trunk returns (maps, channels-last maps, tokens), and what a reader asked for."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from graphmodel.components.features import Feature, FeatureError
from graphmodel.components.structure import map_structure
from graphmodel.components.tensors import Layout
from graphmodel.spec.model import Layout as RequestedLayout
from graphmodel.spec.model import Tokens
from graphmodel.tracing.errors import SizeDecision
from graphmodel.tracing.proxy import MetaProxy, known

Grid = tuple[int, ...]

RESHAPING_METHODS = frozenset("reshape view permute transpose contiguous flatten unflatten movedim moveaxis".split())
RESHAPING_FUNCTIONS = frozenset(
    {operator.getitem, torch.reshape, torch.permute, torch.transpose, torch.flatten, torch.unflatten, torch.movedim}
)


@dataclass(frozen=True)
class FeatureLayout:
    """How the dimensions of a feature are arranged.

    Attributes:
        layout: `nchw` maps, `nhwc` maps with channels last (both also volumes `(N, C, T, H, W)` and `(N, T, H, W, C)`),
            `nlc` token sequences, `nc` vectors, or `other`.
        prefix: how many of a sequence's tokens come before the patches: class, distillation and register tokens.
        grid: rows and columns of the patches or the map, and frames before them, if they are known.
        class_token: whether the first token is a class token.
    """

    layout: Layout
    prefix: int = 0
    grid: Grid | None = None
    class_token: bool = False

    def __str__(self) -> str:
        if self.layout == "nlc" and self.prefix:
            return f"NLC, {self.prefix} prefix token{'s' if self.prefix > 1 else ''}"
        return self.layout.upper() if self.layout != "other" else "other"


@dataclass(frozen=True)
class FeatureRequest:
    """A feature as its reader wants it.

    Attributes:
        feature: the feature.
        layout: reshape to this layout.
        tokens: keep these tokens.
    """

    feature: Feature
    layout: RequestedLayout | None = None
    tokens: Tokens | None = None

    @property
    def name(self) -> str:
        """The feature's name and what is done to it."""
        return "_".join(part for part in (self.feature.name, self.tokens, self.layout) if part)


# -- what a value is -----------------------------------------------------------------------------------------------


def infer_layout(value: Any, feature: Feature, trunk: nn.Module, image: Sequence[int] | None) -> FeatureLayout:
    """How a value of the trunk is arranged: what its feature says, else what its shape tells.

    Args:
        value: a proxy, or a tensor.
        feature: what it is; `other` if its family does not say.
        trunk: the trunk, for the number of its prefix tokens.
        image: height and width of the trunk's input, and the frames of a clip before them.
    """
    shape = _shape(value)
    if shape is None:
        return FeatureLayout("other")
    layout = feature.layout
    if layout == "other":
        layout = _layout_of(shape, getattr(feature, "channels", None), image)
    if layout == "nchw" and len(shape) in (4, 5):
        return FeatureLayout(layout, grid=shape[2:])
    if layout == "nhwc" and len(shape) in (4, 5):
        return FeatureLayout(layout, grid=shape[1:-1])
    if layout == "nlc" and len(shape) == 3:
        prefix, grid = _prefix_and_grid(shape[1], trunk, image)
        return FeatureLayout(layout, prefix, grid, has_class_token(trunk, prefix))
    if layout == "nc" or len(shape) == 2:
        return FeatureLayout("nc")
    return FeatureLayout("other")


def _shape(value: Any) -> tuple[int, ...] | None:
    found = value.values[0] if isinstance(value, MetaProxy) else value
    return tuple(found.shape) if isinstance(found, torch.Tensor) else None


def _layout_of(shape: tuple[int, ...], channels: int | None, image: Sequence[int] | None) -> Layout:
    if len(shape) == 2:
        return "nc"
    if len(shape) == 3:
        return "nlc"
    if len(shape) != 4 and (len(shape) != 5 or image is None or len(image) != 3):
        return "other"
    if channels is not None and (shape[1] == channels) != (shape[-1] == channels):
        return "nchw" if shape[1] == channels else "nhwc"
    if image is None:
        return "nchw"
    height, width = image[-2:]
    aspects = (shape[-2:], shape[-3:-1])
    first, last = (abs(height * b - width * a) / (max(a, b) * max(height, width)) for a, b in aspects)
    return "nhwc" if last < first else "nchw"


def _prefix_and_grid(length: int, trunk: nn.Module, image: Sequence[int] | None) -> tuple[int, Grid | None]:
    """Prefix tokens and patch grid of a sequence, read off its length and the image's aspect."""
    known = getattr(trunk, "num_prefix_tokens", None)
    candidates = [int(known)] if isinstance(known, int) else []
    if image is not None and len(image) == 3:  # the tokens of a clip have no grid of two dimensions
        return (candidates or [int(_has_token(trunk) is True)])[0], None
    for prefix in dict.fromkeys([*candidates, 0, 1, 2]):
        grid = _grid(length - prefix, image)
        if grid is not None:
            return prefix, grid
    return (candidates or [0])[0], None


def _grid(patches: int, image: Sequence[int] | None) -> Grid | None:
    if patches <= 0 or image is None:
        return None
    height, width = image
    rows = round((patches * height / width) ** 0.5)
    for candidate in (rows, rows - 1, rows + 1):
        if candidate > 0 and patches % candidate == 0:
            columns = patches // candidate
            if abs(candidate * width - columns * height) <= max(height, width):
                return candidate, columns
    return None


def has_class_token(trunk: nn.Module, prefix: int) -> bool:
    """Whether the first of a trunk's prefix tokens is a class token (and no register)."""
    if prefix == 0:
        return False
    token = _has_token(trunk)
    return prefix == 1 if token is None else token


def _has_token(trunk: nn.Module) -> bool | None:
    """Whether a trunk has a class token; None if it has nothing of such a name."""
    for name in ("cls_token", "class_token", "cls_embed"):
        for module in trunk.modules():
            if name in module._parameters or isinstance(vars(module).get(name), torch.Tensor):
                return module._parameters.get(name) is not None
            if name in vars(module) and vars(module)[name] is None:
                return False
    return None


# -- the trunk's own value behind a library's reshaped feature -----------------------------------------------------


def strip(proxy: MetaProxy, trunk: nn.Module, checked: dict[Any, bool]) -> tuple[MetaProxy, FeatureLayout] | None:
    """The trunk's own value that a library reshaped into the map `proxy`, and how it is arranged.

    Libraries return intermediate features as maps, whatever their stages return. This walks back over the reshaping
    and stops at the earliest value of which the map is nothing but the plain rearrangement, which is checked with
    numbers. None if `proxy` is not a map.

    Args:
        proxy: what the library returned.
        trunk: the trunk.
        checked: results of earlier checks; blocks of one trunk are all reshaped alike.
    """
    final = proxy.values[0]
    if not isinstance(final, torch.Tensor) or final.ndim != 4:
        return None
    chain = [proxy.node]
    while (source := _reshaped(chain[-1])) is not None:
        chain.append(source)
    grid = (int(final.shape[2]), int(final.shape[3]))
    for i in range(len(chain) - 1, 0, -1):
        found = _layout_before(tuple(chain[i].meta["values"][0].shape), tuple(final.shape))
        if found is None:
            continue
        calls = chain[i::-1]
        key = repr((chain[i].meta["values"][0].shape, [_described(n) for n in calls[1:]]))
        if key not in checked:
            checked[key] = _is_plain(calls, found)
        if checked[key]:
            token = has_class_token(trunk, found.prefix)
            return MetaProxy(chain[i], proxy.tracer), replace(found, grid=grid, class_token=token)
    return proxy, FeatureLayout("nchw", grid=grid)


def _described(node: fx.Node) -> Any:
    """A call with everything that decides what it does to numbers."""

    def argument(x: Any) -> Any:
        value = x.meta["values"][0] if isinstance(x, fx.Node) else x
        return tuple(value.shape) if isinstance(value, torch.Tensor) else value

    return str(node.target), map_structure(argument, (node.args, dict(node.kwargs)))


def _reshaped(node: fx.Node) -> fx.Node | None:
    """The node whose value `node` reshapes or slices, or None if it does anything else."""
    called = node.op == "call_method" and node.target in RESHAPING_METHODS
    if not called and not (node.op == "call_function" and node.target in RESHAPING_FUNCTIONS):
        return None
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or not isinstance(source.meta["values"][0], torch.Tensor):
        return None
    return source


def _layout_before(shape: tuple[int, ...], final: tuple[int, ...]) -> FeatureLayout | None:
    batch, channels, height, width = final
    if shape == final:
        return FeatureLayout("nchw")
    if shape == (batch, height, width, channels):
        return FeatureLayout("nhwc")
    if len(shape) == 3 and shape[0] == batch and shape[2] == channels and shape[1] >= height * width:
        return FeatureLayout("nlc", prefix=shape[1] - height * width)
    return None


def _is_plain(chain: Sequence[fx.Node], arrangement: FeatureLayout) -> bool:
    """Whether the calls of `chain` do to numbers what the arrangement's own conversion to a map does."""
    start, final = (n.meta["values"][0] for n in (chain[0], chain[-1]))
    numbers = torch.arange(start.numel(), dtype=torch.int32, device="cpu").reshape(start.shape)
    expected = to_map(numbers, replace(arrangement, grid=(final.shape[2], final.shape[3])))
    value: Any = numbers
    for node, before in zip(chain[1:], chain, strict=False):
        current = value

        def argument(x: Any, current: Any = current, before: fx.Node = before) -> Any:
            return current if x is before else (x.meta["values"][0] if isinstance(x, fx.Node) else x)

        args, kwargs = map_structure(argument, (node.args, dict(node.kwargs)))
        if isinstance(node.target, str):
            value = getattr(args[0], node.target)(*args[1:], **kwargs)
        else:
            value = node.target(*args, **kwargs)
    return bool(torch.equal(value, expected))


# -- what a reader asked for ---------------------------------------------------------------------------------------


def is_sized_sequence(value: Any, have: FeatureLayout) -> bool:
    """Whether a value is a sequence whose length depends on the image size."""
    if not isinstance(value, MetaProxy) or have.layout != "nlc":
        return False
    return any(v.shape[1] != value.values[0].shape[1] for v in known(value.values)[2:])


def symbolic_grid(value: MetaProxy, have: FeatureLayout, image: MetaProxy) -> tuple[Any, Any] | None:
    """Rows and columns of a sequence whose length depends on the image size, as quotients of the size and a stride.

    Args:
        value: the sequence.
        have: how it is arranged.
        image: the trunk's input.

    Raises:
        SizeDecision: if the sequence does not have one token for each step of a stride.
    """
    if have.grid is None:
        return None
    before, after = (image.values[i].shape[-2:] for i in (0, 2))
    strides = [size // steps for size, steps in zip(before, have.grid, strict=True)]
    rows, columns = (size // stride for size, stride in zip(after, strides, strict=True))
    if [size // stride for size, stride in zip(before, strides, strict=True)] != list(have.grid) or (
        rows * columns + have.prefix != value.values[2].shape[1]
    ):
        raise SizeDecision(f"the tokens of `{value.node.name}` form a grid that cannot be derived from the image size")
    return image.size(-2) // strides[0], image.size(-1) // strides[1]


def convert_layout(
    value: Any, have: FeatureLayout, request: FeatureRequest, grid: tuple[Any, Any] | None = None
) -> tuple[Any, FeatureLayout]:
    """A feature with the tokens and in the layout that were asked for.

    Args:
        value: the feature, a proxy or a tensor.
        have: how it is arranged.
        request: what its reader asked for.
        grid: rows and columns of a sequence, if they are not those of `have`.

    Returns:
        The value, and how it is arranged.

    Raises:
        FeatureError: if it has no such tokens or cannot be converted to the layout.
    """
    if request.tokens is not None:
        value, have = _select(value, have, request)
    if request.layout is None or request.layout == have.layout:
        return value, have
    if have.layout not in ("nchw", "nhwc", "nlc"):
        what = (
            f"tokens: {request.tokens}"
            if request.tokens in ("class", "mean")
            else f"the feature `{request.feature.name}`"
        )
        raise FeatureError(
            f"`layout: {request.layout}` needs a map or a sequence of tokens, and `{what.strip('`')}` gives "
            f"{_text(value)}",
            "leave `layout` out, or read a feature with spatial extent",
        )
    if request.layout == "nlc":
        return _as_tokens(value, have), replace(have, layout="nlc", prefix=0, class_token=False)
    if have.layout == "nlc" and have.prefix and request.tokens == "all":
        raise FeatureError(
            f"`tokens: all` keeps {have.prefix} tokens that have no place in a map (`layout: {request.layout}`)",
            "write `tokens: patch`, or leave `tokens` out: prefix tokens are then dropped",
        )
    if have.grid is None:
        raise FeatureError(
            f"the {_shape(value)[1]} tokens of `{request.feature.name}` form no grid of the image's aspect",  # type: ignore[index]
            "read the tokens as they are, without `layout`",
        )
    result = replace(have, layout=request.layout, prefix=0, class_token=False)
    if request.layout == "nchw":
        return to_map(value, have, grid), result
    rows = value[:, have.prefix :] if have.prefix else value
    if have.layout == "nlc":
        return rows.reshape(-1, *(grid or have.grid), _shape(value)[-1]), result  # type: ignore[index]
    return value.permute(0, *range(2, value.ndim), 1).contiguous(), result


def to_map(value: Any, have: FeatureLayout, grid: tuple[Any, Any] | None = None) -> Any:
    """A value as a map `(N, C, H, W)`, contiguous; prefix tokens are dropped.

    `grid` has the rows and columns of a sequence, if they are not those of `have`.
    """
    if have.layout == "nchw":
        return value
    if have.layout == "nhwc":
        return value.permute(0, value.ndim - 1, *range(1, value.ndim - 1)).contiguous()
    assert have.grid is not None, "a sequence without a grid cannot be a map"
    rows = value[:, have.prefix :] if have.prefix else value
    channels = value.shape[-1]
    return rows.reshape(-1, *(grid or have.grid), channels).permute(0, 3, 1, 2).contiguous()


def _select(value: Any, have: FeatureLayout, request: FeatureRequest) -> tuple[Any, FeatureLayout]:
    name, tokens = request.feature.name, request.tokens
    if have.layout not in ("nchw", "nhwc", "nlc"):
        raise FeatureError(
            f"`tokens: {tokens}` needs a sequence of tokens and the feature `{name}` is {_text(value)}",
            "leave `tokens` out, or read a feature of tokens such as `block3`",
        )
    if tokens == "class":
        if not have.class_token:
            kind = "a feature map" if have.layout != "nlc" else "a sequence without a class token"
            raise FeatureError(
                f"`tokens: class` needs a class token and the feature `{name}` is {kind}",
                "write `tokens: mean`, or `tokens: patch`",
            )
        return value[:, 0], FeatureLayout("nc")
    if have.layout == "nlc":
        if tokens == "all":
            return value, have
        value = value[:, have.prefix :] if have.prefix else value
    else:
        value = _as_tokens(value, have)
    if tokens == "mean":
        return value.mean(1), FeatureLayout("nc")
    return value, replace(have, layout="nlc", prefix=0, class_token=False)


def _as_tokens(value: Any, have: FeatureLayout) -> Any:
    """The pixels of a map, or of a volume, as a sequence `(N, L, C)`."""
    return value.flatten(2).transpose(1, 2) if have.layout == "nchw" else value.flatten(1, value.ndim - 2)


def _text(value: Any) -> str:
    shape = _shape(value)
    return "not a tensor" if shape is None else "N×" + "×".join(str(d) for d in shape[1:])
