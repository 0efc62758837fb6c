"""Input shapes from VISSL's data transforms: crop sizes, multi-crop views, the patches of PIRL and Jigsaw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphmodel.spec.document import Document, KeyPath
from graphmodel.spec.transforms import from_vissl

SIZED = ("RandomResizedCrop", "CenterCrop", "RandomCrop", "RandomResizedCropAndInterpolationWithTwoPic")
JIGSAW_JITTER = 21
"""Pixels by which a patch is smaller than its grid cell (255 px in 3x3 cells of 85 px: 64 px patches).

Source: VISSL 0.1.6, `vissl/data/ssl_transforms/img_patches_tensor.py`; Noroozi & Favaro 2016.
"""


@dataclass(frozen=True)
class Found:
    """A shape, or a list of shapes for views, and the transform it comes from."""

    shape: Any
    path: KeyPath


def shapes_from_transforms(document: Document, base: KeyPath, names: Sequence[str]) -> dict[str, Found]:
    """Shapes of the named inputs, as far as the first split with transforms determines them."""
    for split in ("TRAIN", "TEST"):
        path: KeyPath = (*base, "DATA", split, "TRANSFORMS")
        transforms = document.get(path)
        if isinstance(transforms, list) and transforms:
            return _read(transforms, path, names)
    return {}


def test_transforms(document: Document, base: KeyPath) -> tuple[list[Mapping[str, Any]], KeyPath] | None:
    """The native form of the transforms for testing, and their location; None if one of them is not deterministic."""
    path: KeyPath = (*base, "DATA", "TEST", "TRANSFORMS")
    transforms = document.get(path)
    if not isinstance(transforms, list) or not transforms:
        return None
    native = [from_vissl(item) for item in transforms]
    found = [item for item in native if item is not None]
    return (found, path) if len(found) == len(transforms) else None


def _read(transforms: list[Any], path: KeyPath, names: Sequence[str]) -> dict[str, Found]:
    found: dict[str, Found] = {}
    single = names[0] if len(names) == 1 else None
    for i, item in enumerate(transforms):
        if not isinstance(item, dict):
            continue
        at: KeyPath = (*path, i)
        name = item.get("name")
        if name == "ImgPilToMultiCrop" and single is not None:
            views = _views(item)
            if views:
                found[single] = Found(views, at)
        elif name == "ImgPilToPatchesAndImage":
            _patches_and_image(item, at, names, found)
        elif name == "ImgPatchesFromTensor" and single is not None:
            held = found.get(single)
            size = held.shape[-1] if held is not None and isinstance(held.shape[0], int) else 255
            patch = _patch(size, item.get("num_patches", 9), item.get("patch_jitter", JIGSAW_JITTER))
            if patch:
                found[single] = Found([3, patch, patch], at)
        elif name in SIZED and single is not None:
            size = _square(item.get("size"))
            if size is not None and single not in found:
                found[single] = Found([3, *size], at)
    return found


def _views(item: dict[str, Any]) -> list[list[int]]:
    sizes, counts = item.get("size_crops"), item.get("num_crops")
    if not (isinstance(sizes, list) and isinstance(counts, list) and len(sizes) == len(counts)):
        return []
    if not all(isinstance(v, int) and v > 0 for v in (*sizes, *counts)):
        return []
    return [[3, size, size] for size, count in zip(sizes, counts, strict=True) for _ in range(count)]


def _patches_and_image(item: dict[str, Any], at: KeyPath, names: Sequence[str], found: dict[str, Found]) -> None:
    image, whole = item.get("crop_size_image", 224), item.get("crop_size_patches", 255)
    patch = _patch(whole, item.get("num_patches", 9), JIGSAW_JITTER)
    if "images" in names and isinstance(image, int):
        found["images"] = Found([3, image, image], at)
    if "patches" in names and patch:
        found["patches"] = Found([3, patch, patch], at)


def _patch(whole: Any, count: Any, jitter: Any) -> int:
    if not all(isinstance(v, int) for v in (whole, count, jitter)) or count <= 0:
        return 0
    return int(max(whole // math.isqrt(count) - jitter, 0))


def _square(size: Any) -> list[int] | None:
    if isinstance(size, int) and size > 0:
        return [size, size]
    if isinstance(size, list) and len(size) == 2 and all(isinstance(s, int) and s > 0 for s in size):
        return list(size)
    return None
