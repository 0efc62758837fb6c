"""Writes files and directories as a whole: at every moment there is the old result or the new one, and never a part."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import socket
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from graphmodel.diagnostics import CompileError, fail

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_STALE_AFTER = 24 * 3600.0
_HERE = f"{zlib.crc32(socket.gethostname().encode()):08x}"
_TEMPORARY = re.compile(r"\.graphmodel-([0-9a-f]{8})-(\d+)-\w+$")


def cannot_write(path: str | Path, why: object, help: str = "", code: str = "GM520") -> CompileError:
    """The error for an output that cannot be written."""
    reason = getattr(why, "strerror", None) or why
    return fail(code, f"cannot write to `{path}`: {reason}", help=help)


def write_file(path: str | Path, content: str | bytes, *, code: str = "GM520") -> Path:
    """Writes a file as a whole; parents are made, and a file that was there is replaced at the end.

    The content goes to a temporary file in the same directory first. A symbolic link is followed, a device is written
    to, and the permissions of a file that is replaced are kept.

    Args:
        path: the file.
        content: text, written as UTF-8, or bytes.
        code: the code of the error.

    Returns:
        The path.

    Raises:
        CompileError: if it cannot be written; what was there is left as it was.
    """
    target = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        target = target.resolve() if target.is_symlink() else target
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a directory")
        if target.exists() and not target.is_file():
            _write_to_device(target, data)
            return Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        mode = target.stat().st_mode & 0o7777 if target.exists() else 0o666 & ~_umask()
        descriptor, fresh = tempfile.mkstemp(prefix=_prefix(target), dir=target.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            Path(fresh).chmod(mode)
            Path(fresh).replace(target)
        except BaseException:
            Path(fresh).unlink(missing_ok=True)
            raise
    except (OSError, ValueError) as error:
        raise cannot_write(path, error, code=code) from None
    return Path(path)


def write_new_file(path: str | Path, content: str) -> Path:
    """Writes a file that does not exist yet; parents are made.

    Raises:
        CompileError: GM520 if it exists or cannot be written.
    """
    target = Path(path)
    refuse_existing(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("x", encoding="utf-8") as file:
            file.write(content)
    except (OSError, ValueError) as error:
        raise cannot_write(path, error) from None
    return target


def refuse_existing(path: str | Path) -> None:
    """Refuses to write where a file is.

    Raises:
        CompileError: GM520.
    """
    if os.path.lexists(path):
        raise cannot_write(path, "it exists", "name another file, or delete it first")


def fill_file(path: str | Path, fill: Callable[[Path], None]) -> list[Path]:
    """Writes a file with something that writes to a path itself; files that it writes beside it come along.

    A device or a FIFO is refused: it would be replaced.

    Args:
        path: the file; its parents are made, and a file that was there is replaced at the end.
        fill: writes the file to the path that it is given, which has the same name in a temporary directory.

    Returns:
        The path, and those of the files beside it.

    Raises:
        CompileError: GM520 if it cannot be written; what was there is left as it was.
    """
    target = Path(path)
    try:
        target = target.resolve() if target.is_symlink() else target
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a directory")
        if target.exists() and not target.is_file():
            raise OSError(errno.EINVAL, "it is not a regular file")
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        fresh = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
        try:
            fill(fresh / target.name)
            beside = sorted(file for file in fresh.iterdir() if file.name != target.name)
            for file in (*beside, fresh / target.name):
                file.chmod(0o666 & ~_umask())
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
                file.replace(target.parent / file.name)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except (OSError, ValueError) as error:
        raise cannot_write(path, error) from None
    return [Path(path), *(Path(path).parent / file.name for file in beside)]


def _write_to_device(target: Path, data: bytes) -> None:
    """Writes into a device, or into a FIFO that somebody reads; without a reader, opening it would wait for ever."""
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        raise OSError(error.errno, "it is a FIFO that nobody reads") if error.errno == errno.ENXIO else error from None
    os.set_blocking(descriptor, True)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def replace_directory(path: str | Path, own: Sequence[str], fill: Callable[[Path], None]) -> None:
    """Writes a directory as a whole; one that was there is replaced at the end.

    Files of an earlier result that are not `own` are never deleted: what was put there meanwhile moves into the new
    directory.

    Args:
        path: the directory; its parents are made.
        own: names of the files that a result consists of.
        fill: writes the files into the directory that it is given.

    Raises:
        CompileError: GM520 if it cannot be written; what was there is left as it was.
    """
    try:
        target = Path(path).resolve()
        if target.exists() and not target.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "it is not a directory")
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        fresh = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
        try:
            fill(fresh)
            mask = _umask()
            fresh.chmod(0o777 & ~mask)
            for file in fresh.iterdir():
                file.chmod(0o666 & ~mask)
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
            old = _swap(fresh, target)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        if old is not None:
            _clear(old, target, own)
    except (OSError, ValueError) as error:
        raise cannot_write(path, error) from error


def _swap(fresh: Path, target: Path) -> Path | None:
    """Puts `fresh` in the place of `target`; returns where the old directory is now."""
    if not target.exists():
        fresh.rename(target)
        return None
    if exchange(fresh, target):
        return fresh
    # Without an atomic exchange there is a moment between two renames; the old result comes back if the second fails.
    aside = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
    aside.rmdir()
    target.rename(aside)
    try:
        fresh.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    return aside


def exchange(one: Path, other: Path) -> bool:
    """Swaps two paths in one step; False if the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number))


def _clear(old: Path, target: Path, own: Sequence[str]) -> None:
    """Removes an earlier result; whatever else is there moves into the new one."""
    stems = tuple(f"{Path(name).stem}." for name in own)
    for cached in (old / "__pycache__").glob("*.pyc"):
        if cached.name.startswith(stems):
            cached.unlink()
    for item in old.iterdir():
        if item.name in own and not item.is_dir():
            item.unlink()
        elif item.name == "__pycache__" and not any(item.iterdir()):
            item.rmdir()
        elif not (target / item.name).exists():
            item.rename(target / item.name)
    try:
        old.rmdir()
    except OSError:
        raise OSError(f"the new result is complete; files of yours are left in `{old}`") from None


def is_temporary(path: str | Path) -> bool:
    """Whether a path is a temporary file or directory of this module: the output of a write that has not finished."""
    return _TEMPORARY.search(Path(path).resolve().name) is not None


def _remove_leftovers(target: Path) -> None:
    """Removes temporary files next to a target whose writer was killed."""
    start = f".{_short(target)}.graphmodel-"
    for item in target.parent.iterdir():
        match = _TEMPORARY.search(item.name) if item.name.startswith(start) else None
        if match is not None and _is_stale(item, match[1], int(match[2])):
            if item.is_dir() and not item.is_symlink():
                shutil.rmtree(item, ignore_errors=True)
            else:
                item.unlink(missing_ok=True)


def _is_stale(item: Path, host: str, process: int) -> bool:
    if host != _HERE:
        return time.time() - item.lstat().st_mtime > _STALE_AFTER
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _prefix(target: Path) -> str:
    return f".{_short(target)}.graphmodel-{_HERE}-{os.getpid()}-"


def _short(target: Path) -> str:
    """The name, cut so that a temporary name is not longer than file systems allow."""
    return os.fsdecode(os.fsencode(target.name)[:180])


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
