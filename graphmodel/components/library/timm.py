"""`timm:NAME`: any model of timm, with any keyword argument that `timm.create_model` accepts.

Source: timm 1.0.31, `timm.create_model`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from graphmodel.components.construct import build_on_meta
from graphmodel.components.family import InvalidTrunkParams
from graphmodel.components.library.guard import (
    do_weights_follow,
    foreign_sources_allowed,
    only_weights,
    without_connection,
)
from graphmodel.components.library.trunk import LibraryParams, LibraryTrunk, keywords_of
from graphmodel.components.registry import register_trunk
from graphmodel.diagnostics import choices_help

REFUSED = {
    "pretrained": "write it next to `name`; it is not a keyword argument",
    "features_only": "leave it out: every stage is a feature by name already",
    "out_indices": "leave it out: heads name the stages that they read",
}
FACTORY = (
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "cache_dir",
    "scriptable",
    "exportable",
    "no_jit",
)
HUB = ("hf-hub:", "hf_hub:")
HUB_PAGE = "https://huggingface.co/"
SOURCES = ("url", "hf_hub_id", "hf_hub_filename", "source")
"""Keys of a configuration of weights that say where they are."""
WEIGHTS = ("pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")


@register_trunk("timm")
class TimmTrunk(LibraryTrunk):
    """A model of timm."""

    summary = "any model of timm"
    source = "timm.create_model"
    takes_channels = True

    def bind(self, variant: str) -> TimmTrunk | None:
        """The family of one model (`convnext_tiny`, `convnext_tiny.in12k`), or None if timm has no such model."""
        import timm

        known = variant.startswith((*HUB, "local-dir:")) or timm.is_model(variant.partition(".")[0])
        return TimmTrunk(f"timm:{variant}", variant) if known else None

    def variants(self) -> list[str] | None:
        """All of timm's models."""
        import timm

        return list(timm.list_models())

    @property
    def on_hub(self) -> bool:
        """Whether the model's description is a file of a repository on the Hugging Face Hub."""
        return self.variant.startswith(HUB)

    def make(
        self, keywords: dict[str, Any], input_type: str, pretrained: bool = False, file: bool = False
    ) -> nn.Module:
        import timm

        if not self.variant:
            raise InvalidTrunkParams(
                "`timm` alone does not name a model", ("name",), "write for example `timm:convnext_tiny`"
            )
        for name, help in REFUSED.items():
            if name in keywords:
                raise InvalidTrunkParams(f"`{self.name}` cannot take `{name}`", (name,), help)
        self.check_tag()
        if input_type == "lab":
            keywords = {"in_chans": 1, **keywords}

        def create() -> nn.Module:
            module: nn.Module = timm.create_model(self.variant, pretrained=pretrained, **keywords)
            return module

        download = (pretrained and not file) or (self.on_hub and foreign_sources_allowed())
        own = not any(keywords.get(name) for name in ("pretrained_cfg", "pretrained_cfg_overlay"))
        source = self.weights_source() if own else ""
        if download and (self.on_hub or source.startswith(HUB_PAGE)):
            # The client of the Hub asks its server even for files that are in its cache.
            cached = without_connection(create)
            if cached is not None:
                return cached
        with self.guarded(download, source):
            return create()

    def weights_source(self) -> str:
        """Where timm's weights of the model are; empty if that is not known."""
        from timm.models import get_pretrained_cfg

        config = get_pretrained_cfg(self.variant, allow_unregistered=True)
        if config is None or not (config.hf_hub_id or config.url):
            return ""
        return f"{HUB_PAGE}{config.hf_hub_id}" if config.hf_hub_id else str(config.url)

    def unreachable(self, problem: str, download: bool, source: str = "") -> InvalidTrunkParams:
        if download or not self.on_hub:
            return super().unreachable(problem, download, source)
        repository = self.variant.partition(":")[2]
        message = f"`{self.name}` is described on the Hugging Face Hub and is not in the cache"
        help = f"download it first (`hf download {repository}`), or allow it: `compile(…, allow_downloads=True)`"
        return InvalidTrunkParams(message, ("name",), help, "GM510")

    def check_sources(self, keywords: dict[str, Any]) -> None:
        """Refuses published weights from other places than timm's own, unless the caller allows them.

        Raises:
            InvalidTrunkParams: names the key.
        """
        if foreign_sources_allowed() or do_weights_follow():
            return
        for name in ("pretrained_cfg", "pretrained_cfg_overlay"):
            written = keywords.get(name)
            keys = [key for key in SOURCES if written.get(key)] if isinstance(written, dict) else []
            if keys:
                raise InvalidTrunkParams(
                    f"`{name}` names another source of weights than timm's own: `{keys[0]}`",
                    (name, keys[0]),
                    "download the file and write `pretrained: FILE`, or allow it: `compile(…, allow_downloads=True)`",
                    "GM510",
                )

    def check_checkpoint(self, keywords: dict[str, Any]) -> None:
        """Refuses a `checkpoint_path` that is not a file, unless the caller has the weights already.

        Raises:
            InvalidTrunkParams: names the argument.
        """
        path = keywords.get("checkpoint_path")
        if path and not do_weights_follow() and not Path(str(path)).is_file():
            help = "name a file, or write `pretrained: true` for published weights"
            raise InvalidTrunkParams(f"no such file: {path}", ("checkpoint_path",), help, "GM510")

    def check_tag(self) -> None:
        """Refuses `resnet50.a9_in1k`: timm publishes weights under other tags."""
        from timm.models import get_arch_pretrained_cfgs

        model, dot, tag = self.variant.partition(".")
        if not dot or ":" in model or self.variant in (known := get_arch_pretrained_cfgs(model)):
            return
        tags = [name.partition(".")[2] for name in known if "." in name]
        help = choices_help(tag, tags, "tags") if tags else f"write `timm:{model}`"
        raise InvalidTrunkParams(f"timm does not publish weights `{tag}` for `{model}`", ("name",), help)

    def keywords(self) -> dict[str, Any]:
        return {**super().keywords(), **dict.fromkeys(FACTORY)}

    def pretrained(
        self, params: LibraryParams, input_type: str, weights: bool | str, skeleton: bool = False
    ) -> nn.Module:
        keywords = params.keywords()
        if weights is True:
            self.check_sources(keywords)
        self.check_checkpoint(keywords)
        if skeleton:
            bare = {k: v for k, v in keywords.items() if k != "checkpoint_path"}
            return self.constructed(lambda: self.make(bare, input_type), params)
        if not weights:
            return self.build(params, input_type)
        if isinstance(weights, str):
            # timm's own loader reads the file: it translates other layouts and adapts classifier and first layer.
            overlay = dict(keywords.pop("pretrained_cfg_overlay", None) or {})
            keywords["pretrained_cfg_overlay"] = {**self.described(weights), **overlay, "file": weights}
        return self.constructed(lambda: self.make(keywords, input_type, True, file=isinstance(weights, str)), params)

    def described(self, path: str) -> dict[str, Any]:
        """What timm's loader must know about a file besides its name: how many classes its classifier has."""
        from timm.models import get_pretrained_cfg, load_state_dict

        config = get_pretrained_cfg(self.variant, allow_unregistered=True)
        names = config.classifier if config is not None else None
        try:
            with only_weights():
                state = load_state_dict(path, use_ema=False)
        except Exception:  # not a plain checkpoint: timm's loader will read it in its own way, or report what is wrong
            return {}
        for name in [names] if isinstance(names, str) else names or ():
            weight = state.get(f"{name}.weight")
            if weight is not None:
                return {"num_classes": int(weight.shape[0])}
        return {}

    def for_resolutions(self, params: LibraryParams, shapes: Sequence[Sequence[int]]) -> LibraryParams:
        # timm's transformers accept several sizes only if they are built for that.
        if len({tuple(s) for s in shapes}) < 2 or "dynamic_img_size" in params.keywords():
            return params
        plain = _without(params.keywords(), WEIGHTS)
        model = type(build_on_meta(lambda: self.constructed(lambda: self.make(plain, "rgb"), params)))
        if "dynamic_img_size" not in keywords_of(model):
            return params
        return LibraryParams(**params.keywords(), dynamic_img_size=True)

    def built_for(self, params: LibraryParams, trunk: Any) -> Sequence[int] | None:
        config = getattr(trunk, "default_cfg", None) or {}
        size = list(config.get("input_size") or ())
        if len(size) != 3:
            return None
        own = params.keywords().get("img_size")
        if own is not None:
            size[1:] = [own, own] if isinstance(own, int) else list(own)
        return [params.keywords().get("in_chans", size[0]), *size[1:]]


def _without(keywords: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {k: v for k, v in keywords.items() if k not in names}
