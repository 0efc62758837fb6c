"""An independent interpreter of specs in the long form: it runs the libraries' own modules with forward hooks.

It shares no code with the compiler. A trunk is built by its library and run as a whole; features are what its modules
return, copied at once, so that later in-place calls do not change them. Views, pools, heads and freezing are written
out by hand. It knows the trunks in `TRUNKS` and the heads in `HEADS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
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
        before: it is what the module is called with.
    """

    path: str
    kind: str
    width: int
    stride: int = 0
    flat: bool = False
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
    """

    spec: Spec
    build: Callable[[], nn.Module]
    features: dict[str, TrunkFeature]
    sizes: tuple[int, ...] = (32, 48, 64)
    patterns: tuple[str, ...] = ()
    prefix: int = 0


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


class Linear(nn.Module):
    """What `mlp` is with two numbers, under its own names."""

    def __init__(self, in_features: int, width: int) -> None:
        super().__init__()
        self.clf = nn.Sequential(nn.Linear(in_features, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A projection."""
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
        return Linear(width, params["dims"][1])
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
        trunks = self.spec.get("trunks") or {"trunk": self.spec["trunk"]}
        self.trunks = {name: _kind(trunk) for name, trunk in trunks.items()}
        self.paths = {n: "trunk" if "trunk" in self.spec else f"trunks.{n}" for n in trunks}
        self.patterns = [self.paths[n] for n, t in trunks.items() if t.get("freeze")] + self.spec.get("freeze", [])
        self.input_types = {n: t.get("input_type", "rgb") for n, t in trunks.items()}
        for name, kind in self.trunks.items():
            self.adopt(self.paths[name], kind.build())

    def adopt(self, path: str, module: nn.Module) -> nn.Module:
        """Gives a module the compiled weights, and freezes what the spec freezes of it."""
        own = {k.removeprefix(f"{path}."): v for k, v in self.state.items() if k.startswith(f"{path}.")}
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

    def __call__(self, *inputs: Any) -> dict[str, torch.Tensor]:
        """The outputs that the spec keeps, in its order."""
        given = dict(zip(self.spec["inputs"], inputs, strict=True))
        features = self.run_trunks(given)
        found: dict[str, Any] = {}
        for edge in self.spec["mapping"]:
            found |= self.run_edge(edge, features)
        kept: dict[str, torch.Tensor] = {}
        for name in self.spec.get("outputs", [edge["as"] for edge in self.spec["mapping"]]):
            kept |= {k: v for k, v in found.items() if k == name or k.startswith(f"{name}.")}
        return kept

    def run_trunks(self, given: dict[str, Any]) -> dict[tuple[str, str, str], list[list[torch.Tensor]]]:
        """Each module's output that a source reads, for each view of each input: lists by group, then by view."""
        wanted: dict[tuple[str, str], list[str]] = {}
        for edge in self.spec["mapping"]:
            if self.is_kept(edge):
                for source in _sources(edge):
                    name, trunk, feature = self.parsed(source)
                    wanted.setdefault((name, trunk), []).append(feature)
        found = {}
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
                        store.extend(zip(indices, pieces, strict=True))
        return found  # type: ignore[return-value]

    def is_kept(self, edge: Spec) -> bool:
        """Whether an output of the mapping is asked for; nothing else runs."""
        names = self.spec.get("outputs")
        return names is None or any(name == edge["as"] or name.startswith(f"{edge['as']}.") for name in names)

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

            def see(value: torch.Tensor, feature: str = feature, flat: bool = entry.flat) -> None:
                seen[feature] = value.flatten(1).clone() if flat else value.clone()
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

    def run_edge(self, edge: Spec, features: dict[tuple[str, str, str], Any]) -> dict[str, torch.Tensor]:
        """The tensors of one output."""
        if not self.is_kept(edge):
            return {}
        values = []
        for source in _sources(edge):
            key = self.parsed(source)
            options = edge if isinstance(source, str) else source
            kind = self.trunks[key[1]]
            ordered = [piece for _, piece in sorted(features[key], key=lambda item: item[0])]
            prepared = [prepare(p, kind, kind.features[key[2]], options) for p in ordered]
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


def prepare(value: torch.Tensor, kind: TrunkKind, feature: TrunkFeature, options: Spec) -> torch.Tensor:
    """A feature with its tokens, layout, pooling and flattening."""
    tokens = options.get("tokens")
    if tokens is not None:
        patches = value[:, kind.prefix :]
        value = {"class": lambda: value[:, 0], "patch": lambda: patches, "mean": lambda: patches.mean(1)}[tokens]()
    if feature.kind == "rows" and options.get("layout") == "nchw":
        value = value.permute(0, 3, 1, 2)
    elif options.get("layout") == "nchw":
        patches = value if tokens == "patch" else value[:, kind.prefix :]
        side = round(patches.shape[1] ** 0.5)
        value = patches.transpose(1, 2).reshape(len(value), -1, side, side)
    if "pool" in options:
        ((op, size),) = options["pool"].items()
        value = getattr(F, op)(value, size)
    return value.flatten(1) if options.get("flatten") else value


def _sources(edge: Spec) -> list[Any]:
    origin = edge["from"]
    return origin if isinstance(origin, list) else [origin]


def _kind(trunk: Spec) -> TrunkKind:
    return next(kind for kind in TRUNKS.values() if kind.spec["name"] == trunk["name"])
