"""Reads checkpoints as plain tensors: safetensors, torch files without code, mappings in memory."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from graphmodel.diagnostics import CompileError, Diagnostic, Span

Tensors = dict[str, torch.Tensor]
MAX_NESTING = 6


@dataclass(frozen=True)
class StateDict:
    """A state dict found in a checkpoint: its tensors and the keys that lead to it."""

    path: tuple[str, ...]
    tensors: Tensors

    @property
    def name(self) -> str:
        return ".".join(self.path) or "the checkpoint itself"


def read_checkpoint(source: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    """The checkpoint's content; nothing in it is ever executed.

    Raises:
        CompileError: GM510 where it cannot be read as tensors and plain values.
    """
    if isinstance(source, Mapping):
        return source
    path = Path(source)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(str(path), device="cpu")
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise _unreadable(path, "no such file", "check the path") from None
    except pickle.UnpicklingError as error:
        text = (str(error).strip().splitlines() or [""])[0]
        raise _unreadable(
            path,
            f"it holds more than tensors and plain values ({text[:160]})",
            "save it again with `torch.save(state_dict, …)` or as safetensors; code in a checkpoint is never run",
        ) from None
    except Exception as error:  # damaged archives raise many types
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise _unreadable(path, text[:200], "the file may be damaged or of another kind") from None
    if not isinstance(loaded, Mapping):
        raise _unreadable(path, f"it holds a {type(loaded).__name__}, not a mapping of tensors", "")
    return loaded


def _unreadable(path: Path, why: str, help: str) -> CompileError:
    return CompileError([Diagnostic("GM510", f"cannot load {path}: {why}", Span(str(path), 1, 1), help)])


def state_dicts(content: Mapping[str, Any]) -> list[StateDict]:
    """Every state dict in a checkpoint; VISSL's `{trunk: …, heads: …}` counts as one with those prefixes."""
    return list(_search(content, ()))


def _search(content: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[StateDict]:
    if len(path) > MAX_NESTING:
        return
    parts = {k: content[k] for k in ("trunk", "heads") if isinstance(content.get(k), Mapping)}
    if parts:
        joined = {f"{part}.{k}": v for part, inner in parts.items() for k, v in _flat(inner)}
        if joined:
            yield StateDict(path, joined)
            return
    own = {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)}
    if own:
        yield StateDict(path, own)
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _search(value, (*path, str(key)))


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    for key, value in content.items():
        if isinstance(value, torch.Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
