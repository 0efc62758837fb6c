"""Weights in a safetensors file that carries a checksum over every byte of itself.

The digest is the `sha256` of the file's own metadata: SHA-256 of the whole file with that digest written as zeros. The
file is an ordinary safetensors file for everybody else, and its bytes depend on the tensors alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from graphmodel.diagnostics import CompileError, fail, first_line
from graphmodel.spec.regular_files import other_than_a_file

_KEY = "sha256"
_EMPTY = "0" * 64
_MOST = 100_000_000


@dataclass(frozen=True)
class Sealed:
    """What a file holds.

    Attributes:
        tensors: the tensors by name.
        metadata: the text values of the file's metadata.
    """

    tensors: dict[str, torch.Tensor]
    metadata: dict[str, str]


def damaged(path: Path, why: str) -> CompileError:
    """The error for a file that is not what was written."""
    return fail("GM522", f"`{path}` is damaged: {why}", help="write it again, or copy it again from where it is intact")


def write_sealed(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Writes tensors and text values with a checksum.

    Args:
        path: the file.
        tensors: tensors by name; none may share memory with another.
        metadata: text values.

    Raises:
        OSError: if the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), str(path), {**metadata, _KEY: _EMPTY})
    except SafetensorError as error:  # its own type, also if the disk is full
        raise OSError(first_line(error)) from error
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(length))
        # safetensors writes metadata in no particular order.
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = _header_text(header, length)
        file.seek(8)
        file.write(text)
    header["__metadata__"][_KEY] = _digest(path, text)
    with path.open("r+b") as file:
        file.seek(8)
        file.write(_header_text(header, length))


def _header_text(header: Mapping[str, Any], length: int) -> bytes:
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    if len(text) > length:
        raise ValueError(f"the header takes {len(text)} bytes instead of {length}")
    return text.ljust(length)


def _digest(path: Path, header: bytes) -> str:
    """SHA-256 of the file with `header` in place of its own."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(8))
        digest.update(header)
        file.seek(8 + len(header))
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def check_seal(path: Path, *, required: bool = False) -> None:
    """Checks every byte of a file against its checksum.

    Args:
        path: a safetensors file.
        required: whether a file without a checksum is an error; otherwise it is somebody else's and passes.

    Raises:
        CompileError: GM522.
    """
    try:
        if kind := other_than_a_file(path):
            raise ValueError(f"it is {kind}")
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _MOST:
                raise ValueError("the length of its header is wrong")
            text = file.read(length)
        header: dict[str, Any] = json.loads(text)
        metadata: dict[str, str] = header.get("__metadata__") or {}
        if len(text) != length or not isinstance(metadata, dict):
            raise ValueError("its header is cut off")
    except (ValueError, UnicodeDecodeError, RecursionError, AttributeError) as error:
        if required:
            raise damaged(path, f"its header cannot be read ({first_line(error)})") from None
        return
    found = metadata.get(_KEY)
    if found is None or not isinstance(found, str):
        if required:
            raise damaged(path, "it has no checksum")
        return
    blank = text.replace(f'"{_KEY}":"{found}"'.encode(), f'"{_KEY}":"{_EMPTY}"'.encode(), 1)
    if _digest(path, blank) != found:
        raise damaged(path, "its checksum does not match its bytes")


def read_sealed(path: Path) -> Sealed:
    """Reads a file whose checksum matches.

    Raises:
        CompileError: GM522 if there is no such file, or it is not what was written.
    """
    from safetensors import safe_open

    try:
        check_seal(path, required=True)
        with safe_open(str(path), "pt") as file:
            return Sealed({name: file.get_tensor(name) for name in list(file.keys())}, dict(file.metadata()))
    except CompileError:
        raise
    except FileNotFoundError:
        raise fail("GM522", f"there is no `{path}`", help="copy it to its place, or pass `weights=False`") from None
    except Exception as error:  # safetensors raises several types
        raise damaged(path, first_line(error)) from None
