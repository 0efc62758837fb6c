"""Inert classes that take the place of plain data in a pickle: settings, paths and numpy values, none of them executed.

Trainers save more than tensors: an `argparse.Namespace`, the last loss as a numpy scalar, a configuration object.
`torch.load(weights_only=True)` refuses such a file as a whole. Allowing the real classes would run their code on
values from the file, so each name of a fixed list is bound to a class of this module that stores nothing. Numpy
arrays are the one exception: their bytes become a tensor, without numpy's own unpickling.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch


class Ignored:
    """Any value that is not a tensor: takes every argument and state, and keeps none."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


class IgnoredMapping:
    """A subclass of dict: its items are read as those of an ordered dict, since it may hold tensors."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        items = args[0] if args and isinstance(args[0], (dict, list, tuple)) else ()
        return OrderedDict(items)


class IgnoredList:
    """A subclass of list or a deque: its items are read as those of a list."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return list(args[0]) if args and isinstance(args[0], (list, tuple)) else []


_ELEMENTS = {
    "f2": torch.float16, "f4": torch.float32, "f8": torch.float64, "b1": torch.bool,
    "i1": torch.int8, "i2": torch.int16, "i4": torch.int32, "i8": torch.int64, "u1": torch.uint8,
}  # fmt: skip


class ArrayType:
    """A numpy dtype: its code, such as `f4`, and whether its bytes are little-endian."""

    def __init__(self, code: Any = "", *args: Any) -> None:
        self.code, self.is_little = code, True

    def __setstate__(self, state: Any) -> None:
        self.is_little = not (isinstance(state, tuple) and len(state) > 1 and state[1] == ">")


class Array:
    """A numpy array: its bytes as a tensor, or None if they are not numbers."""

    def __init__(self, *args: Any) -> None:
        self.tensor: torch.Tensor | None = None

    def __setstate__(self, state: Any) -> None:
        match state:
            case (int(), tuple() as shape, ArrayType(code=str() as code, is_little=True), fortran, bytes() as data):
                pass
            case _:
                return
        dtype = _ELEMENTS.get(code.lstrip("<|="))
        if dtype is None or not all(type(n) is int and n >= 0 for n in shape):
            return
        if math.prod(shape) * dtype.itemsize != len(data):
            raise ValueError(f"a numpy array of shape {shape} has {len(data)} bytes")
        flat = torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
        self.tensor = flat.reshape(shape[::-1]).permute(*range(len(shape))[::-1]) if fortran else flat.reshape(shape)


def new_array(*args: Any) -> Array:
    """What numpy's `_reconstruct` does: an array that gets its shape and bytes afterwards."""
    return Array()


def no_bytes(*args: Any) -> bytes:
    """What pickle's protocol 2 calls for `b""`; other byte strings come as encoded text."""
    return b""


_MAPPINGS = """
    collections.defaultdict easydict.EasyDict addict.addict.Dict yacs.config.CfgNode fvcore.common.config.CfgNode
    munch.Munch box.box.Box ml_collections.config_dict.config_dict.ConfigDict
    mmengine.config.config.ConfigDict mmcv.utils.config.ConfigDict
    pytorch_lightning.utilities.parsing.AttributeDict lightning.pytorch.utilities.parsing.AttributeDict
    lightning_fabric.utilities.data.AttributeDict lightning.fabric.utilities.data.AttributeDict
    vissl.utils.hydra_config.AttrDict
"""
_LISTS = "collections.deque"
_VALUES = """
    argparse.Namespace types.SimpleNamespace typing.Any
    builtins.dict builtins.list builtins.tuple builtins.frozenset builtins.slice builtins.range builtins.object
    builtins.int builtins.float builtins.str builtins.bool
    pathlib.Path pathlib.PosixPath pathlib.WindowsPath pathlib.PurePath pathlib.PurePosixPath pathlib.PureWindowsPath
    pathlib._local.Path pathlib._local.PosixPath pathlib._local.WindowsPath
    pathlib._local.PurePath pathlib._local.PurePosixPath pathlib._local.PureWindowsPath
    datetime.datetime datetime.date datetime.time datetime.timedelta datetime.timezone
    decimal.Decimal fractions.Fraction uuid.UUID
    omegaconf.dictconfig.DictConfig omegaconf.listconfig.ListConfig omegaconf.base.Metadata
    omegaconf.base.ContainerMetadata omegaconf.base.SCMode omegaconf.nodes.AnyNode omegaconf.nodes.StringNode
    omegaconf.nodes.IntegerNode omegaconf.nodes.FloatNode omegaconf.nodes.BooleanNode omegaconf.nodes.EnumNode
    omegaconf.nodes.InterpolationResultNode omegaconf.nodes.PathNode omegaconf.nodes.BytesNode
    mmengine.config.config.Config mmcv.utils.config.Config mmengine.logging.history_buffer.HistoryBuffer
    numpy.core.multiarray.scalar numpy._core.multiarray.scalar
    numpy.bool_ numpy.bool numpy.int8 numpy.int16 numpy.int32 numpy.int64 numpy.uint8 numpy.uint16 numpy.uint32
    numpy.uint64 numpy.float16 numpy.float32 numpy.float64 numpy.longdouble numpy.complex64 numpy.complex128
    numpy.random._pickle.__randomstate_ctor numpy.random._pickle.__generator_ctor
    numpy.random._pickle.__bit_generator_ctor
    numpy.random.bit_generator.__pyx_unpickle_SeedSequence numpy.random.bit_generator.SeedSequence
    numpy.random._mt19937.MT19937 numpy.random._pcg64.PCG64
"""


def stand_ins() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """What `torch.serialization.safe_globals` takes: each stand-in and the name that it takes the place of."""
    pairs: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = []
    for names, base in ((_MAPPINGS, IgnoredMapping), (_LISTS, IgnoredList), (_VALUES, Ignored)):
        pairs += [(base, name) for name in names.split()]
    for package in ("numpy.core", "numpy._core"):
        pairs.append((new_array, f"{package}.multiarray._reconstruct"))
    return [*pairs, (no_bytes, "builtins.bytes"), (Array, "numpy.ndarray"), (ArrayType, "numpy.dtype")]
