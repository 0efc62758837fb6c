"""What the trunks of timm and torchvision have in common: open parameters, one naming of features, input sizes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import ConfigDict
from torch import nn

from graphmodel.components.construct import TooManyModules, build_on_meta
from graphmodel.components.family import InvalidTrunkParams, TrunkFamily, TrunkParams
from graphmodel.components.features import Feature
from graphmodel.components.library.guard import connection_problem, downloading, offline, only_weights
from graphmodel.components.library.modules import default_of, features_of, naming_of
from graphmodel.diagnostics import choices_help

UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")
TWICE = re.compile(r"multiple values for keyword argument '(\w+)'")
LAYERS = re.compile(r"(^|_)(depths?|layers|blocks|stages|repeats)(_|$)")
MAX_LAYERS = 1000
"""The most layers that an argument may ask for, in all: the deepest models of the libraries have some 200."""


class LibraryParams(TrunkParams):
    """Any keyword arguments of the library's constructor."""

    model_config = ConfigDict(extra="allow")

    def keywords(self) -> dict[str, Any]:
        """The arguments as written."""
        return dict(self.model_extra or {})


class LibraryTrunk(TrunkFamily[LibraryParams]):
    """A model of a library by name; subclasses say how it is made."""

    Params = LibraryParams
    takes_channels = False
    """Whether the library builds its models for any number of input channels (`in_chans`)."""

    def __init__(self, name: str, variant: str = "") -> None:
        super().__init__(name)
        self.variant = variant

    def make(self, keywords: dict[str, Any], input_type: str) -> nn.Module:
        """The library's own constructor."""
        raise NotImplementedError

    @contextmanager
    def guarded(self, download: bool = False, source: str = "") -> Iterator[None]:
        """Inside, the library builds a model: it reads tensors only, and connects only to download weights.

        Args:
            download: whether it may connect.
            source: where the weights are, for the message if that fails.

        Raises:
            InvalidTrunkParams: if a connection failed, or was wanted and is not allowed.
        """
        with only_weights(), downloading() if download else offline():
            try:
                yield
            except InvalidTrunkParams:
                raise
            except Exception as error:
                problem = connection_problem(error)
                if not problem:
                    raise
                raise self.unreachable(problem, download, source) from error

    def unreachable(self, problem: str, download: bool, source: str = "") -> InvalidTrunkParams:
        """The error of a connection that failed (or, without `download`, was not allowed)."""
        if download:
            origin = f" from {source}" if source else ""
            message = f"the weights of `{self.name}` cannot be downloaded{origin}: {problem}"
            help = "connect to the Internet, or name a downloaded file: `pretrained: FILE`"
        else:
            message = f"`{self.name}` cannot be built without a connection, which only `pretrained: true` may open"
            help = "leave out what names a file on the Internet"
        return InvalidTrunkParams(message, ("pretrained",) if download else ("name",), help, "GM510")

    def build(self, params: LibraryParams, input_type: str) -> nn.Module:
        return self.constructed(lambda: self.make(params.keywords(), input_type), params)

    def constructed(self, make: Callable[[], nn.Module], params: LibraryParams) -> nn.Module:
        """What `make` returns; an argument that the library does not accept is reported by name."""
        for name, value in params.keywords().items():
            if LAYERS.search(name) and _total(value) > MAX_LAYERS:
                message = f"`{name}` asks for more than {MAX_LAYERS:,} layers"
                raise InvalidTrunkParams(message, (name,), "no real model has so many")
        try:
            return self.checked(make(), params)
        except (InvalidTrunkParams, TooManyModules):
            raise
        except Exception as error:
            self.blame(error, params)
            raise

    def checked(self, module: nn.Module, params: LibraryParams) -> nn.Module:
        """The model, unless a boolean argument is a string: YAML 1.2 reads `no` as text, and text counts as true.

        Raises:
            InvalidTrunkParams: if that is so.
        """
        switches = {k for k, default in keywords_of(type(module)).items() if isinstance(default, bool)}
        for name, value in params.keywords().items():
            if name in switches and isinstance(value, str):
                raise InvalidTrunkParams(
                    f"`{name}` is true or false, this is the text `{value}`", (name,), "write true or false"
                )
        return module

    def blame(self, error: Exception, params: LibraryParams) -> None:
        """Refuses the argument that is unknown, that the model's name sets, or without which the model can be built.

        Raises:
            InvalidTrunkParams: names the argument and gives the library's message.
        """
        written = params.keywords()
        decided, unknown = TWICE.search(str(error)), UNEXPECTED.search(str(error))
        if decided is not None and decided[1] in written:
            help = "leave it out, or name a model that differs in it"
            raise InvalidTrunkParams(f"`{self.name}` sets `{decided[1]}` itself", (decided[1],), help) from error
        if unknown is not None and unknown[1] in written:
            help = choices_help(unknown[1], list(self.keywords()), "the library takes")
            raise InvalidTrunkParams(f"`{self.name}` does not accept `{unknown[1]}`", (unknown[1],), help) from error
        if self.can_make(written):  # then the weights failed, not these arguments
            return
        guilty = [name for name in written if self.can_make({k: v for k, v in written.items() if k != name})]
        if len(guilty) == 1:
            (name,) = guilty
            text = (str(error).strip().splitlines() or [""])[0]
            said = f"{type(error).__name__}: {text}" if isinstance(error, LookupError) else text
            raise InvalidTrunkParams(
                f"`{self.name}` cannot be built with `{name}: {written[name]}`: {said}", (name,)
            ) from error

    def can_make(self, keywords: dict[str, Any]) -> bool:
        """Whether the library builds the model with these arguments."""
        try:
            build_on_meta(lambda: self.make(keywords, "rgb"))
        except Exception:  # whatever the reason, it did not build
            return False
        return True

    def keywords(self) -> dict[str, Any]:
        """The arguments that the library's model takes, with the defaults of its class."""
        return keywords_of(type(build_on_meta(lambda: self.make({}, "rgb"))))

    def features(self, params: LibraryParams, trunk: nn.Module) -> Sequence[Feature]:
        return features_of(trunk)

    def default(self, params: LibraryParams, trunk: nn.Module) -> str:
        return default_of(trunk)

    def normed(self, feature: Feature, params: LibraryParams, trunk: nn.Module, norm: bool) -> Feature | None:
        naming = naming_of(trunk)
        return naming.normed(feature, trunk, norm) if naming is not None else None

    def input_help(
        self,
        params: LibraryParams,
        shape: Sequence[int],
        trunk: nn.Module,
        shapes: Sequence[Sequence[int]] = (),
    ) -> str:
        size = self.built_for(params, trunk)
        if size is None or tuple(shape) == tuple(size):
            return ""
        if len(shape) != len(size):
            kind = "clips of channels, frames, height and width" if len(size) == 4 else "images"
            return f"it takes {kind}, such as {list(size)}"
        if len(shape) != 3:
            return (
                f"it takes {size[0]} channels" if shape[0] != size[0] else f"it is made for clips such as {list(size)}"
            )
        helps = []
        if shape[0] != size[0]:
            helps.append(
                f"it takes {size[0]} channels" + (f"; write `in_chans: {shape[0]}`" if self.takes_channels else "")
            )
        if tuple(shape[1:]) != tuple(size[1:]):
            several = len({tuple(s[1:]) for s in shapes}) > 1
            helps += _size_help(keywords_of(type(trunk)), params.keywords(), shape[1:], size[1:], trunk, several)
        return "; ".join(helps)

    def built_for(self, params: LibraryParams, trunk: Any) -> Sequence[int] | None:
        """The input shape that the model is built for, or None if it is not known."""
        return None


def _total(value: Any) -> int:
    """The sum of the whole numbers in nested lists."""
    if isinstance(value, (list, tuple)):
        return sum(map(_total, value))
    return value if isinstance(value, int) and value > 0 else 0


def _size_help(
    names: dict[str, Any],
    written: dict[str, Any],
    wanted: Sequence[int],
    size: Sequence[int],
    trunk: Any,
    several: bool,
) -> list[str]:
    """What to write for images of another size (height, width), as far as the model has an option for it."""
    dynamic = "dynamic_img_size" in names
    patch = getattr(getattr(trunk, "patch_embed", None), "patch_size", None)
    if isinstance(patch, int):
        patch = (patch, patch)
    if dynamic and isinstance(patch, tuple) and any(w % p for w, p in zip(wanted, patch, strict=True)):
        near = "×".join(str(max(1, round(w / p)) * p) for w, p in zip(wanted, patch, strict=True))
        whole = patch[0] if patch[0] == patch[1] else "×".join(map(str, patch))
        pad = "; or write `dynamic_img_pad: true` to pad" if "dynamic_img_pad" in names else ""
        return [f"heights and widths are multiples of {whole}, such as {near}{pad}"]
    value = str(wanted[0]) if wanted[0] == wanted[1] else f"[{wanted[0]}, {wanted[1]}]"
    values = {"img_size": value, "image_size": value, "input_size": f"[{wanted[0]}, {wanted[1]}]"}
    options = [f"`{n}: {v}`" for n, v in values.items() if n in names]
    built = f"it is built for {size[0]}×{size[1]} pixels"
    if several and options and not dynamic:
        return [f"{built} and accepts one size only ({' or '.join(options)} for this one); give it inputs of one size"]
    options = [f"{o} for this size only" for o in options]
    options += ["`dynamic_img_size: true` for any size"] if dynamic and not written.get("dynamic_img_size") else []
    return [f"{built}; write {' or '.join(options)}"] if options else []


def keywords_of(model: type[Any]) -> dict[str, Any]:
    """The keyword arguments of a class with their defaults, those that it passes on to its bases included."""
    found: dict[str, Any] = {}
    for owner in model.__mro__:
        if owner is nn.Module or "__init__" not in vars(owner):
            continue
        parameters = list(inspect.signature(vars(owner)["__init__"]).parameters.values())[1:]
        for parameter in parameters:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                default = None if parameter.default is parameter.empty else parameter.default
                found.setdefault(parameter.name, default)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found
