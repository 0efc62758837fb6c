"""The manifest of a saved model: format version, versions of libraries, and a checksum for every file."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from graphmodel.diagnostics import CompileError, fail
from graphmodel.spec.names import LOCKED_SPEC
from graphmodel.spec.regular_files import other_than_a_file

MODEL, WEIGHTS, LOCK = "model.py", "weights.safetensors", LOCKED_SPEC
GRAPH, MANIFEST = "graph.json", "manifest.json"
CONSTANTS = "constants.safetensors"
FILES = (MODEL, WEIGHTS, LOCK, GRAPH, CONSTANTS, MANIFEST)
"""The files of a saved model; only standalone ones may have constants."""

FORMAT, FORMAT_VERSION = "graphmodel", 1
"""Directories without a manifest have the format version 0."""

PACKAGES = ("torch", "torchvision", "timm", "safetensors")


def write_manifest(directory: Path, name: str, *, standalone: bool) -> None:
    """Writes the manifest for the files that are in a directory.

    Args:
        directory: where the other files are.
        name: the model's name.
        standalone: whether its model.py runs without graphmodel.
    """
    from graphmodel import __version__

    versions = {"graphmodel": __version__, "python": platform.python_version()}
    versions |= {package: found for package in PACKAGES if (found := _version(package))}
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": name,
        "standalone": standalone,
        "versions": versions,
        "files": {
            file.name: {"sha256": digest(file), "bytes": file.stat().st_size}
            for file in sorted(directory.iterdir())
            if file.name != MANIFEST
        },
    }
    (directory / MANIFEST).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def check_manifest(directory: Path, read: Iterable[str]) -> None:
    """Checks the format version, and the checksums of the files that are about to be read.

    A directory without a manifest has the first format, whose weights carry their own checksum.

    Args:
        directory: a saved model.
        read: names of files.

    Raises:
        CompileError: GM522 if the manifest or a file is damaged, GM523 if the format is a newer one.
    """
    path = directory / MANIFEST
    if not path.exists():
        return
    try:
        if kind := other_than_a_file(path):
            raise ValueError(f"it is {kind}")
        content: Any = json.loads(path.read_text("utf-8"))
        is_ours, number, files = content["format"] == FORMAT, content["format_version"], content["files"]
        known = {name: (entry["sha256"], entry["bytes"]) for name, entry in files.items()}
        if not is_ours or type(number) is not int:
            raise ValueError("`format` or `format_version` is not valid")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"there is no {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0]
        raise _damaged(path, f"it is not a valid manifest ({reason})") from None
    if number > FORMAT_VERSION:
        versions = content.get("versions")
        by = versions.get("graphmodel", "a later version") if isinstance(versions, dict) else "a later version"
        message = f"`{directory}` has the format version {number}, and this graphmodel reads 0 to {FORMAT_VERSION}"
        help = f"upgrade graphmodel (the model was written by {by}), or write it again with this version"
        raise fail("GM523", message, help=help)
    for name in read:
        _check_file(directory / name, known.get(name))


def _check_file(path: Path, entry: tuple[str, int] | None) -> None:
    try:
        if kind := other_than_a_file(path):
            raise _damaged(path, f"it is {kind}")
        size = path.stat().st_size
        if entry is None:
            raise _damaged(path, f"{MANIFEST} does not list it")
        if size != entry[1] or digest(path) != entry[0]:
            raise _damaged(path, f"it is not the file that was saved: its checksum differs from that in {MANIFEST}")
    except OSError:
        help = "copy it to its place, or pass `weights=False`" if path.suffix == ".safetensors" else "write it again"
        raise fail("GM522", f"there is no `{path}`", help=help) from None


def _damaged(path: Path, why: str) -> CompileError:
    help = "write the model again, or copy it again from where it is intact"
    if path.suffix == ".yaml":
        help += f"; to use an edited spec, compile it: `graphmodel compile {path} --weights {path.parent}/…`"
    return fail("GM522", f"`{path}` is damaged: {why}", help=help)


def digest(path: Path) -> str:
    """The SHA-256 of a file, as `sha256sum` prints it."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            found.update(chunk)
    return found.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
