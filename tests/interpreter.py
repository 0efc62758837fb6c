"""An independent interpreter of specs in the long form: it runs the libraries' own modules with forward hooks.

It shares no code with the compiler. A trunk is built by its library and run as a whole; features are what its modules
return, copied at once, so that later in-place calls do not change them. Views, pools, heads and freezing are written
out by hand. It knows the trunks in `TRUNKS` and the heads in `REGISTERED`, and `mlp`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

Spec = dict[str, Any]


# -- trunks ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrunkFeature:
    """A feature of a trunk, as its tests know it.

    Attributes:
        path: the module that returns it.
        kind: `map`, `rows` (a map with channels last), `tokens` or `vector`.
        width: its channels.
        stride: input pixels per step of a map.
        flat: flattened by the trunk after the module.
        first: only the first token is the feature.
        before: it is what the module is called with.
    """

    path: str
    kind: str
    width: int
    stride: int = 0
    flat: bool = False
    first: bool = False
    before: bool = False


@dataclass(frozen=True)
class TrunkKind:
    """A trunk with an independent constructor.

    Attributes:
        spec: what a spec says of it.
        build: the library's own module.
        features: the features by the name that specs use.
        sizes: heights and widths that it takes.
        patterns: patterns over its module paths that freeze part of it.
        prefix: number of tokens before the patches.
        patch: side of a patch in pixels.
    """

    spec: Spec
    build: Callable[[], nn.Module]
    features: dict[str, TrunkFeature]
    sizes: tuple[int, ...] = (32, 48, 64)
    patterns: tuple[str, ...] = ()
    prefix: int = 0
    patch: int = 8


class Custom(nn.Module):
    """A trunk of one's own: an in-place activation after a named stage, a residual sum, a pooled neck."""

    features: ClassVar = {"low": "stem", "high": "body", "vector": "neck"}

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 4, 1, bias=False), nn.BatchNorm2d(width))
        self.body = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.neck = nn.Linear(width, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A vector per image."""
        x = F.relu(self.stem(x), inplace=True)
        x = self.body(x) + x
        x += 0.5
        out: torch.Tensor = self.neck(F.avg_pool2d(x, 2).mean((2, 3)))
        return out


class Modal(nn.Module):
    """A trunk that does something else in training than in eval mode, without chance: dropout that drops everything."""

    features: ClassVar = {"low": "stem", "high": "tail", "vector": "neck"}

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 4, 4), nn.InstanceNorm2d(width, affine=True, track_running_stats=True)
        )
        self.body = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width), nn.Dropout(1.0))
        self.side = nn.Sequential(nn.GELU(), nn.Conv2d(width, width, 1))
        self.tail = nn.Sequential(
            nn.Conv2d(width, 2 * width, 2, 2), nn.BatchNorm2d(2 * width, momentum=None), nn.SiLU()
        )
        self.neck = nn.Linear(2 * width, 10, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A vector per image."""
        x = self.stem(x)
        x = F.dropout(self.side(x), 1.0, self.training) + self.body(x) + x
        if self.training:
            x = 1.5 * x
        out: torch.Tensor = self.neck(self.tail(x).mean((2, 3)))
        return out


class AlexNet(nn.Module):
    """The AlexNet of RotNet, written by hand: BatchNorm, no groups.

    Source: Gidaris et al. 2018 (arXiv:1803.07728).
    """

    def __init__(self) -> None:
        super().__init__()

        def layer(width_in: int, width_out: int, kernel: int, **options: int) -> nn.Module:
            conv = nn.Conv2d(width_in, width_out, kernel, **options)  # type: ignore[arg-type]
            return nn.Sequential(conv, nn.BatchNorm2d(width_out), nn.ReLU())

        self.conv1 = layer(3, 64, 11, stride=4, padding=2)
        self.conv2 = layer(64, 192, 5, padding=2)
        self.conv3 = layer(192, 384, 3, padding=1)
        self.conv4 = layer(384, 256, 3, padding=1)
        self.conv5 = layer(256, 256, 3, padding=1)
        self.pool1, self.pool2, self.pool5 = (nn.MaxPool2d(3, 2) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(N, 256, h, w)`."""
        x = self.pool2(self.conv2(self.pool1(self.conv1(x))))
        out: torch.Tensor = self.pool5(self.conv5(self.conv4(self.conv3(x))))
        return out


def _efficientnet() -> nn.Module:
    norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)
    return torchvision.models.efficientnet_b0(stochastic_depth_prob=0.0, norm_layer=norm)


def _vit() -> nn.Module:
    return timm.models.VisionTransformer(
        img_size=32, patch_size=8, num_classes=0, global_pool="token", embed_dim=24, depth=3, num_heads=2,
        dynamic_img_size=True,
    )  # fmt: skip


def _resnet(names: dict[str, str]) -> dict[str, TrunkFeature]:
    return {
        **{
            name: TrunkFeature(path, "map", 64 * 2**i, 4 * 2**i)
            for i, (name, path) in enumerate(zip(names, ("layer1", "layer2", "layer3", "layer4"), strict=True))
        },
        "conv1": TrunkFeature("conv1", "map", 64, 2),
        "bn1": TrunkFeature("bn1", "map", 64, 2),
        "layer1.0.bn2": TrunkFeature("layer1.0.bn2", "map", 64, 4),
        "layer2.1.conv1": TrunkFeature("layer2.1.conv1", "map", 128, 8),
        "layer3.0": TrunkFeature("layer3.0", "map", 256, 16),
    }


RESNET_PATTERNS = ("layer1", "bn1", "*bn*", "layer2.0", "*.downsample.*", "layer?.0.conv1", "*.bias")

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2}
CONVNEXT = {"depths": [1, 1, 2, 1], "dims": [8, 12, 16, 20]}
SWIN = {
    "img_size": 32,
    "patch_size": 2,
    "window_size": 4,
    "embed_dim": 12,
    "depths": [1, 1, 2],
    "num_heads": [1, 2, 3],
    "drop_path_rate": 0.0,
}

TRUNKS: dict[str, TrunkKind] = {
    "resnet": TrunkKind(
        {"name": "resnet", "depth": 18},
        torchvision.models.resnet18,
        {
            **_resnet({"res2": "", "res3": "", "res4": "", "res5": ""}),
            "conv1": TrunkFeature("relu", "map", 64, 2),  # the family's name for the whole stem, before module paths
            "flatten": TrunkFeature("avgpool", "vector", 512, flat=True),
        },
        patterns=RESNET_PATTERNS,
    ),
    "timm_resnet": TrunkKind(
        {"name": "timm:resnet18"},
        lambda: timm.create_model("resnet18"),
        {
            **_resnet({"stage1": "", "stage2": "", "stage3": "", "stage4": ""}),
            "flatten": TrunkFeature("global_pool", "vector", 512),
        },
        patterns=RESNET_PATTERNS,
    ),
    "vit": TrunkKind(
        {"name": "timm:vit_tiny_patch16_224", **VIT},
        lambda: timm.create_model("vit_tiny_patch16_224", **VIT),
        {
            "blocks.0": TrunkFeature("blocks.0", "tokens", 24),
            "blocks.2": TrunkFeature("blocks.2", "tokens", 24),
            "norm": TrunkFeature("norm", "tokens", 24),
            "blocks.1.mlp": TrunkFeature("blocks.1.mlp", "tokens", 24),
        },
        sizes=(32,),
        patterns=("blocks.0", "*norm*", "patch_embed", "cls_token", "*.attn.*", "*.bias"),
        prefix=1,
    ),
    "convnext": TrunkKind(
        {"name": "timm:convnext_atto", **CONVNEXT},
        lambda: timm.create_model("convnext_atto", **CONVNEXT),
        {
            **{f"stages.{i}": TrunkFeature(f"stages.{i}", "map", w, 4 * 2**i) for i, w in enumerate((8, 12, 16, 20))},
            "stem": TrunkFeature("stem", "map", 8, 4),
            "stages.2.blocks.0": TrunkFeature("stages.2.blocks.0", "map", 16, 16),
        },
        patterns=("stem", "stages.1", "*norm*", "*.gamma", "stages.2.blocks.1.mlp"),
    ),
    "swin": TrunkKind(
        {"name": "timm:swin_tiny_patch4_window7_224", **SWIN},
        lambda: timm.create_model("swin_tiny_patch4_window7_224", **SWIN),
        {
            "layers.0.blocks.0": TrunkFeature("layers.0.blocks.0", "rows", 12, 2),
            "layers.1": TrunkFeature("layers.1", "rows", 24, 4),
            "layers.2": TrunkFeature("layers.2", "rows", 48, 8),
        },
        sizes=(32,),
        patterns=("patch_embed", "layers.0", "*norm*", "*.relative_position_bias_table"),
    ),
    "shufflenet": TrunkKind(
        {"name": "torchvision:shufflenet_v2_x0_5"},
        torchvision.models.shufflenet_v2_x0_5,
        {
            "conv1": TrunkFeature("conv1", "map", 24, 2),
            "res3": TrunkFeature("stage2", "map", 48, 8),
            "res4": TrunkFeature("stage3", "map", 96, 16),
            "stage3.1.branch2": TrunkFeature("stage3.1.branch2", "map", 48, 16),
            "conv5": TrunkFeature("conv5", "map", 1024, 32),
            "flatten": TrunkFeature("fc", "vector", 1024, before=True),
        },
        patterns=("stage2", "*.branch2.1", "conv5", "*.bias"),
    ),
    "regnet": TrunkKind(
        {"name": "torchvision:regnet_x_400mf"},
        torchvision.models.regnet_x_400mf,
        {
            "stem": TrunkFeature("stem", "map", 32, 2),
            "res3": TrunkFeature("trunk_output.block2", "map", 64, 8),
            "trunk_output.block3": TrunkFeature("trunk_output.block3", "map", 160, 16),
            "flatten": TrunkFeature("avgpool", "vector", 400, flat=True),
        },
        patterns=("stem", "trunk_output.block1", "*.bias"),
    ),
    "own_regnet": TrunkKind(
        {"name": "regnet", "variant": "regnet_y_400mf"},
        torchvision.models.regnet_y_400mf,
        {
            "conv1": TrunkFeature("stem", "map", 32, 2),
            "res2": TrunkFeature("trunk_output.block1", "map", 48, 4),
            "res4": TrunkFeature("trunk_output.block3", "map", 208, 16),
            "flatten": TrunkFeature("avgpool", "vector", 440, flat=True),
            "trunk_output.block3.block3-1.f.se": TrunkFeature("trunk_output.block3.block3-1.f.se", "map", 208, 16),
        },
        patterns=("stem", "trunk_output.block1", "*.f.se", "*.bias"),
    ),
    "efficientnet": TrunkKind(
        {"name": "efficientnet", "model_version": "B0", "drop_connect_rate": 0.0},
        _efficientnet,
        {
            "conv1": TrunkFeature("features.0", "map", 32, 2),
            "features.3": TrunkFeature("features.3", "map", 40, 8),
            "features.2.0.block.1": TrunkFeature("features.2.0.block.1", "map", 96, 4),
            "conv_final": TrunkFeature("features.8", "map", 1280, 32),
            "flatten": TrunkFeature("avgpool", "vector", 1280, flat=True),
        },
        patterns=("features.0", "features.[2-4]", "*.block.1", "*.fc1.*"),
    ),
    "alexnet": TrunkKind(
        {"name": "alexnet_rotnet"},
        AlexNet,
        {
            "conv1": TrunkFeature("conv1", "map", 64, 4),
            "pool1": TrunkFeature("pool1", "map", 64, 9),
            "conv3": TrunkFeature("conv3", "map", 384, 21),
            "conv4.0": TrunkFeature("conv4.0", "map", 256, 21),
            "conv4.1": TrunkFeature("conv4.1", "map", 256, 21),
            "flatten": TrunkFeature("pool5", "map", 256, 64),
        },
        sizes=(64, 72),
        patterns=("conv1", "conv[23]", "*.1", "*.bias"),
    ),
    "own_vit": TrunkKind(
        {
            "name": "vision_transformer",
            "image_size": 32,
            "patch_size": 8,
            "hidden_dim": 24,
            "mlp_dim": 96,
            "num_layers": 3,
            "num_heads": 2,
            "qkv_bias": True,
        },
        _vit,
        {
            "blocks.0": TrunkFeature("blocks.0", "tokens", 24),
            "blocks.1.attn": TrunkFeature("blocks.1.attn", "tokens", 24),
            "lastBLK": TrunkFeature("norm", "tokens", 24),
            "lastCLS": TrunkFeature("norm", "vector", 24, first=True),
        },
        sizes=(32,),  # for others it resizes positions as DINO does, not as timm
        patterns=("blocks.0", "*norm*", "patch_embed", "pos_embed", "*.attn.*", "*.bias"),
        prefix=1,
    ),
    "modal": TrunkKind(
        {"name": "property_modal"},
        Modal,
        {
            "low": TrunkFeature("stem", "map", 6, 4),
            "high": TrunkFeature("tail", "map", 12, 8),
            "body": TrunkFeature("body", "map", 6, 4),
            "side.0": TrunkFeature("side.0", "map", 6, 4),
            "vector": TrunkFeature("neck", "vector", 10),
        },
        patterns=("stem", "body", "side", "tail", "*.weight", "body.1"),
    ),
    "custom": TrunkKind(
        {"name": "property_custom"},
        Custom,
        {
            "low": TrunkFeature("stem", "map", 8, 4),
            "high": TrunkFeature("body", "map", 8, 4),
            "vector": TrunkFeature("neck", "vector", 12),
            "stem.0": TrunkFeature("stem.0", "map", 8, 4),
        },
        patterns=("stem", "body.1", "*.weight"),
    ),
}


# -- heads -------------------------------------------------------------------------------------------------------------------


class Probe(nn.Module):
    """Two layers with batch statistics between them."""

    def __init__(self, in_features: int, classes: int = 3) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(in_features, 6), nn.BatchNorm1d(6)
        self.act, self.last = nn.ReLU(inplace=True), nn.Linear(6, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores."""
        out: torch.Tensor = self.last(self.act(self.norm(self.first(x))))
        return out


class InPlace(nn.Module):
    """Changes what it reads."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Twice the value, plus one."""
        return x.mul_(2).add_(1)


class Two(nn.Module):
    """Returns two tensors."""

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.project = nn.Linear(in_features, 5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A projection and its squares."""
        out = self.project(x)
        return out, out * out


class Lists(nn.Module):
    """Reads a list of vectors."""

    def __init__(self, in_features: list, width: int = 4) -> None:  # type: ignore[type-arg]
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(w, width) for w in in_features])

    def forward(self, xs: list[torch.Tensor]) -> torch.Tensor:
        """The sum of a projection of each."""
        return sum((layer(x) for layer, x in zip(self.layers, xs, strict=True)), torch.zeros(()))


class Mlp(nn.Module):
    """What `mlp` is, under its own names."""

    def __init__(self, in_features: int, dims: list[Any], use_bn: bool = False, use_relu: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(in_features, dims[1])]
        for width_in, width_out in pairwise(dims[1:]):
            layers += [nn.BatchNorm1d(width_in)] * use_bn + [nn.ReLU()] * use_relu + [nn.Linear(width_in, width_out)]
        self.clf = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A projection, or several with what is between them."""
        out: torch.Tensor = self.clf(x)
        return out


REGISTERED = {"property_probe": Probe, "property_in_place": InPlace, "property_two": Two, "property_lists": Lists}


def head_module(call: Any, value: Any) -> nn.Module:
    """A module of a head for what it reads."""
    name, params = (call, {}) if isinstance(call, str) else next(iter(call.items()))
    if name == "property_lists":
        return Lists([x.shape[-1] for x in value])
    if name == "property_in_place":
        return InPlace()
    width = value.shape[-1]
    if name == "mlp":
        return Mlp(width, **params)
    return Two(width) if name == "property_two" else Probe(width, **params)


# -- running -----------------------------------------------------------------------------------------------------------------


class _Done(Exception):
    """Every feature was seen."""


@dataclass
class Interpreter:
    """Runs a spec with weights of the compiled module.

    Attributes:
        spec: the spec, in the long form.
        state: the compiled module's state dict.
        modules: trunks and heads by the path that the compiled module has for them.
        training: the mode.
    """

    spec: Spec
    state: dict[str, torch.Tensor]
    modules: dict[str, nn.Module] = field(default_factory=dict)
    training: bool = True

    def __post_init__(self) -> None:
        trunks = {n: _original(t, self.spec) for n, t in (self.spec.get("trunks") or {}).items()}
        trunks = trunks or {"trunk": self.spec["trunk"]}
        self.trunks = {name: _kind(trunk) for name, trunk in trunks.items()}
        self.paths = {n: "trunk" if "trunk" in self.spec else f"trunks.{n}" for n in trunks}
        self.patterns = [self.paths[n] for n, t in trunks.items() if t.get("freeze")] + self.spec.get("freeze", [])
        self.input_types = {n: t.get("input_type", "rgb") for n, t in trunks.items()}
        for name, kind in self.trunks.items():
            self.adopt(self.paths[name], kind.build())

    def adopt(self, path: str, module: nn.Module) -> nn.Module:
        """Gives a module the compiled weights, and freezes what the spec freezes of it."""
        own = {k.removeprefix(f"{path}."): v for k, v in self.state.items() if k.startswith(f"{path}.")}
        module.to(next((v.dtype for v in self.state.values() if v.is_floating_point()), torch.get_default_dtype()))
        missing, unexpected = module.load_state_dict(own, strict=False)
        assert not unexpected, f"keys that {path} does not have: {unexpected}"
        assert path.startswith("trunk") or not missing, f"keys of {path} that are missing: {missing}"
        self.modules[path] = module
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(not self.is_frozen(f"{path}.{name}"))
        self.set_mode(path, module)
        return module

    def is_frozen(self, name: str) -> bool:
        """Whether a module or parameter of that name is covered: by itself or by something that holds it."""
        parts = name.split(".")
        holders = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
        return any(fnmatchcase(holder, pattern) for holder in holders for pattern in self.patterns)

    def set_mode(self, path: str, module: nn.Module) -> None:
        """Training or eval mode; what is frozen, or has only frozen parameters of its own, stays in eval mode."""
        module.train(self.training)
        for name, part in module.named_modules():
            full = f"{path}.{name}".removesuffix(".")
            own = [f"{full}.{n}" for n, _ in part.named_parameters(recurse=False)]
            if self.is_frozen(full) or (own and all(map(self.is_frozen, own))):
                part.training = False

    def train(self, training: bool) -> None:
        """Sets the mode of everything."""
        self.training = training
        for path, module in self.modules.items():
            self.set_mode(path, module)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Every tensor by the name that the compiled module has for it."""
        return {f"{path}.{k}": v for path, m in self.modules.items() for k, v in m.state_dict().items()}

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Every parameter by the name that the compiled module has for it."""
        return {f"{path}.{n}": p for path, m in self.modules.items() for n, p in m.named_parameters()}

    def zero_grad(self) -> None:
        """Forgets all gradients."""
        for module in self.modules.values():
            module.zero_grad()

    def __call__(self, *inputs: Any) -> dict[str, torch.Tensor]:
        """The outputs that the spec keeps, in its order."""
        given = dict(zip(self.spec["inputs"], inputs, strict=True))
        features = self.run_trunks(given)
        found: dict[str, Any] = {}
        for edge in self.spec["mapping"]:
            found |= self.run_edge(edge, features, found)
        kept: dict[str, torch.Tensor] = {}
        for name in self.spec.get("outputs", [edge["as"] for edge in self.spec["mapping"]]):
            kept |= {k: v for k, v in found.items() if k == name or k.startswith(f"{name}.")}
        return kept

    def run_trunks(self, given: dict[str, Any]) -> dict[tuple[str, str, str], list[Any]]:
        """Each feature that a source reads: for each view its position, its feature and its size."""
        wanted: dict[tuple[str, str], list[str]] = {}
        for edge in self.spec["mapping"]:
            if self.is_kept(edge):
                for source in _sources(edge):
                    name, trunk, feature = self.parsed(source)
                    if name in given:
                        wanted.setdefault((name, trunk), []).append(feature)
        found: dict[tuple[str, str, str], list[Any]] = {}
        for name in self.spec["inputs"]:
            for (other, trunk), features in wanted.items():
                if other != name:
                    continue
                groups = self.groups(name, given[name])
                for views, indices in groups:
                    values = self.run_trunk(trunk, torch.cat(views) if len(views) > 1 else views[0], features)
                    for feature, value in values.items():
                        pieces = value.split([len(v) for v in views]) if len(views) > 1 else [value]
                        store = found.setdefault((name, trunk, feature), [])
                        store.extend((i, p, tuple(v.shape[2:])) for i, p, v in zip(indices, pieces, views, strict=True))
        return found

    def is_kept(self, edge: Spec) -> bool:
        """Whether an output of the mapping is asked for; nothing else runs."""
        names = self.spec.get("outputs")
        if names is None or any(name == edge["as"] or name.startswith(f"{edge['as']}.") for name in names):
            return True
        readers = (e for e in self.spec["mapping"] if any(self.parsed(s)[0] == edge["as"] for s in _sources(e)))
        return any(map(self.is_kept, readers))

    def groups(self, name: str, value: Any) -> list[tuple[list[torch.Tensor], list[int]]]:
        """The views that go through a trunk together, with their positions."""
        if isinstance(value, torch.Tensor):
            return [([value], [0])]
        how = self.spec["inputs"][name].get("grouping", "resolution")
        groups: list[list[int]] = []
        for i, view in enumerate(value):
            candidates = {"resolution": groups, "consecutive": groups[-1:], "crop": []}[how]
            same = [g for g in candidates if value[g[0]].shape[1:] == view.shape[1:]]
            if same:
                same[0].append(i)
            else:
                groups.append([i])
        return [([value[i] for i in g], g) for g in groups]

    def run_trunk(self, trunk: str, x: torch.Tensor, features: list[str]) -> dict[str, torch.Tensor]:
        """One run of a trunk's own module; features are what hooks saw."""
        kind, module = self.trunks[trunk], self.modules[self.paths[trunk]]
        seen: dict[str, torch.Tensor] = {}
        handles = []
        for feature in dict.fromkeys(features):
            entry = kind.features[feature]

            def see(value: torch.Tensor, feature: str = feature, entry: TrunkFeature = entry) -> None:
                value = value.clone()  # the trunk may change it in place
                seen[feature] = value.flatten(1) if entry.flat else value[:, 0] if entry.first else value
                if len(seen) == len(set(features)):
                    raise _Done  # what no feature needs does not run, and moves no statistics

            part = module.get_submodule(entry.path)
            if entry.before:
                handles.append(part.register_forward_pre_hook(lambda _, inputs, see=see: see(inputs[0])))
            else:
                handles.append(part.register_forward_hook(lambda _, __, out, see=see: see(out)))
        try:
            module(x.flip(1) if self.input_types[trunk] == "bgr" else x)
        except _Done:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return seen

    def parsed(self, source: Any) -> tuple[str, str, str]:
        """Input, trunk and feature of a source."""
        text = source if isinstance(source, str) else source["from"]
        name, _, rest = text.partition(".")
        if "trunk" in self.spec:
            return name, "trunk", rest
        trunk, _, feature = rest.partition(".")
        return name, trunk, feature

    def run_edge(
        self, edge: Spec, features: dict[tuple[str, str, str], Any], found: dict[str, Any]
    ) -> dict[str, torch.Tensor]:
        """The tensors of one output; `found` has those of the outputs before it."""
        if not self.is_kept(edge):
            return {}
        values = []
        for source in _sources(edge):
            key = self.parsed(source)
            options = edge if isinstance(source, str) else source
            if key[0] not in self.spec["inputs"]:
                value = found[source if isinstance(source, str) else source["from"]]
                values.append(value.detach() if options.get("detach") else value)
                continue
            kind = self.trunks[key[1]]
            ordered = [item[1:] for item in sorted(features[key], key=lambda item: item[0])]
            prepared = [prepare(p, kind, kind.features[key[2]], options, size) for p, size in ordered]
            values.append(torch.cat(prepared) if len(prepared) > 1 else prepared[0])
        value: Any = values[0]
        if len(values) > 1:
            how = edge.get("combine", "concat")
            if how == "concat":
                value = torch.cat(values, 1)
            elif how == "sum":
                value = sum(values[1:], values[0])
            elif how == "stack":
                value = torch.stack(values, 1)
            else:
                value = values
        name = edge.get("head")
        if name is None:
            return {edge["as"]: value}
        chain = self.spec["heads"][name]
        chain = chain if isinstance(chain, list) else [chain]
        value = (
            [v.clone() for v in value] if isinstance(value, list) else value.clone()
        )  # a head may change it in place
        for i, call in enumerate(chain):
            path = f"heads.{name}" + (f".{i}" if len(chain) > 1 else "")
            module = self.modules.get(path)
            if module is None:
                module = self.adopt(path, head_module(call, value))
            value = module(value)
        if isinstance(value, tuple):
            return {f"{edge['as']}.{i}": v for i, v in enumerate(value)}
        return {edge["as"]: value}


def prepare(
    value: torch.Tensor, kind: TrunkKind, feature: TrunkFeature, options: Spec, size: tuple[int, ...]
) -> torch.Tensor:
    """A feature of an image of that size, with its tokens, layout, pooling and flattening."""
    if options.get("detach"):
        value = value.detach()
    tokens = options.get("tokens")
    if tokens is not None:
        patches = value[:, kind.prefix :]
        value = {"class": lambda: value[:, 0], "patch": lambda: patches, "mean": lambda: patches.mean(1)}[tokens]()
    if feature.kind == "rows" and options.get("layout") == "nchw":
        value = value.permute(0, 3, 1, 2)
    elif options.get("layout") == "nchw":
        patches = value if tokens == "patch" else value[:, kind.prefix :]
        rows, columns = size[0] // kind.patch, size[1] // kind.patch
        value = patches.transpose(1, 2).reshape(len(value), -1, rows, columns)
    if "pool" in options:
        ((op, size),) = options["pool"].items()
        value = getattr(F, op)(value, size)
    return value.flatten(1) if options.get("flatten") else value


def _sources(edge: Spec) -> list[Any]:
    origin = edge["from"]
    return origin if isinstance(origin, list) else [origin]


def _original(trunk: Spec, spec: Spec) -> Spec:
    """What a trunk is; a copy is its original, frozen unless it says otherwise."""
    return {**spec["trunks"][trunk["copy"]], "freeze": trunk.get("freeze", True)} if "copy" in trunk else trunk


def _kind(trunk: Spec) -> TrunkKind:
    return next(kind for kind in TRUNKS.values() if kind.spec["name"] == trunk["name"])
