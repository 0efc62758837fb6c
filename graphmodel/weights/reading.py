"""Reads checkpoints as plain tensors: safetensors, torch files without code, mappings in memory."""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from graphmodel.diagnostics import CompileError, Span, fail, first_line, printable
from graphmodel.spec.regular_files import other_than_a_file, path_help
from graphmodel.weights.sealed import check_seal
from graphmodel.weights.stand_ins import Array, stand_ins

Tensors = dict[str, torch.Tensor]
MAX_NESTING = 6
MAX_STATE_DICTS = 4096
_GLOBAL = re.compile(r"GLOBAL (\S+)")
_UNPICKLER = re.compile(r"WeightsUnpickler error:\s*(.+)")
_SAVE_AGAIN = (
    "code in a checkpoint is never run; save it again with `torch.save(model.state_dict(), …)` or as safetensors"
)


@dataclass(frozen=True)
class StateDict:
    """A state dict found in a checkpoint: its tensors and the keys that lead to it."""

    path: tuple[str, ...]
    tensors: Tensors

    @property
    def name(self) -> str:
        """The keys that lead to it, in words."""
        return ".".join(self.path) or "the checkpoint itself"


def shape_of(tensor: torch.Tensor) -> torch.Size | None:
    """A tensor's shape, None for a nested one, which has none."""
    return None if tensor.is_nested else tensor.shape


def read_checkpoint(source: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    """The checkpoint's content; nothing in it is ever executed.

    Plain data beside the tensors (an `argparse.Namespace`, numpy scalars, paths) is read as inert values.

    Raises:
        CompileError: GM510 if it cannot be read as tensors and plain values.
    """
    if isinstance(source, Mapping):
        return source
    if not isinstance(source, (str, os.PathLike)):
        help = "pass its `state_dict()`" if isinstance(source, torch.nn.Module) else ""
        raise fail("GM510", f"a checkpoint is a path or a mapping, not {type(source).__name__}", help=help)
    path = Path(source)
    _check_is_a_file(path)
    try:
        loaded = _load_safetensors(path) if path.suffix == ".safetensors" else _load_torch(path)
    except CompileError:
        raise
    except pickle.UnpicklingError as error:
        raise _not_plain(path, str(error)) from None
    except Exception as error:  # damaged archives raise many types
        for words, kind in (("TorchScript", "a TorchScript archive"), ("legacy .tar", "in torch's old tar format")):
            if words in str(error):
                raise _unreadable(
                    path, f"it is {kind}, which cannot be read without running code", _SAVE_AGAIN
                ) from None
        raise _unreadable(path, _cut(first_line(error)), "the file may be damaged or of another kind") from None
    if not isinstance(loaded, Mapping):
        raise _unreadable(path, f"it holds a {type(loaded).__name__}, not a mapping of tensors", "")
    return loaded


def _check_is_a_file(path: Path) -> None:
    try:
        kind = other_than_a_file(path)
    except FileNotFoundError:
        raise _unreadable(path, "no such file", path_help(path)) from None
    except (OSError, ValueError) as error:
        raise _unreadable(path, _cut(first_line(error)), "check the path") from None
    if kind:
        raise _unreadable(path, f"it is {kind}, not a file", "pass the path of a checkpoint file")


def _load_safetensors(path: Path) -> Tensors:
    from safetensors.torch import load_file

    check_seal(path)
    return load_file(str(path), device="cpu")


def _load_torch(path: Path) -> Any:
    with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins()):
        warnings.simplefilter("ignore")  # torch's advice on protocols and TorchScript; an error follows if it matters
        return torch.load(path, map_location="cpu", weights_only=True)


def _not_plain(path: Path, text: str) -> CompileError:
    """The refusal of a pickle: it names the class or function that the file asks for."""
    asked, said = _GLOBAL.search(text), _UNPICKLER.search(text)
    if asked is not None:
        why = f"it asks for `{_cut(asked[1])}`"
    elif said is not None and said[1].startswith("Unsupported operand"):
        why = "it was pickled with another protocol than `torch.save`'s"
        if path.suffix in (".yaml", ".yml"):
            return _unreadable(
                path,
                "it is a YAML file, and weights are a checkpoint",
                "pass a checkpoint (`.pth`, `.safetensors`); an overlay goes after the first spec on the command line",
            )
    else:
        why = _cut(said[1] if said is not None else next(iter(text.split("\n")), ""))
    return _unreadable(path, f"it holds more than tensors and plain values ({why})", _SAVE_AGAIN)


def _cut(text: str, length: int = 160) -> str:
    """A text of the file or about it, short and without control characters."""
    plain = printable(re.sub(r"\x1b\[[0-9;]*m", "", text))
    return plain if len(plain) <= length else f"{plain[:length]}…"


def _unreadable(path: Path, why: str, help: str) -> CompileError:
    return fail("GM510", f"cannot load {path}: {why}", Span(str(path), 1, 1), help)


def state_dicts(content: Mapping[str, Any]) -> list[StateDict]:
    """Every state dict in a checkpoint; VISSL's `{trunk: …, heads: …}` counts as one with those prefixes."""
    # The shallow ones first: an optimizer's state may have a dictionary for every parameter.
    found: list[StateDict] = []
    level: list[tuple[Mapping[Any, Any], tuple[str, ...], tuple[int, ...]]] = [(content, (), ())]
    while level and len(found) < MAX_STATE_DICTS:
        below = []
        for inner, path, above in level[:MAX_STATE_DICTS]:
            state, is_whole = _state_dict(inner, path)
            if state is not None:
                found.append(state)
            if not is_whole and len(path) < MAX_NESTING:
                around = (*above, id(inner))
                below += [
                    (v, (*path, str(k)), around)
                    for k, v in inner.items()
                    if isinstance(v, Mapping) and id(v) not in around
                ]
        level = below
    return found[:MAX_STATE_DICTS]


def _state_dict(content: Mapping[Any, Any], path: tuple[str, ...]) -> tuple[StateDict | None, bool]:
    """A mapping's own tensors, and whether it is a whole model of VISSL's with nothing else inside."""
    parts = {k: content[k] for k in ("trunk", "heads") if isinstance(content.get(k), Mapping)}
    if parts:
        joined = {f"{part}.{k}": v for part, inner in parts.items() for k, v in _flat(inner)}
        if joined:
            return StateDict(path, joined), True
    own = {str(k): tensor for k, v in content.items() if (tensor := _tensor(v)) is not None}
    return (StateDict(path, own) if own else None), False


def _flat(content: Mapping[Any, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, torch.Tensor]]:
    for key, value in content.items():
        tensor = _tensor(value)
        if tensor is not None:
            yield f"{prefix}{key}", tensor
        elif isinstance(value, Mapping) and depth < MAX_NESTING:
            yield from _flat(value, f"{prefix}{key}.", depth + 1)


def _tensor(value: Any) -> torch.Tensor | None:
    """A tensor, or a numpy array as one."""
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, Array):
        return value.tensor
    if type(value).__module__ == "numpy" and type(value).__name__ == "ndarray":
        try:
            return torch.from_numpy(value.copy())
        except TypeError:  # an array of objects or strings
            return None
    return None
