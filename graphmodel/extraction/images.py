"""Images on a disk as a dataset: a folder with one directory for each class, or tar files in WebDataset's form."""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from torch.utils.data import Dataset

from graphmodel.diagnostics import fail, first_line
from graphmodel.extraction.packages import need
from graphmodel.extraction.transforms import ImageTransform

_TAR = re.compile(r"\.(tar|tgz)\b")


class Images(Protocol):
    """Images by number."""

    classes: list[str] | None

    def __len__(self) -> int: ...

    def open(self, index: int) -> Image.Image:
        """The decoded image."""
        ...

    def content(self, index: int) -> bytes:
        """The bytes of its file."""
        ...

    def label(self, index: int) -> int | None:
        """Its class."""
        ...

    def path(self, index: int) -> str:
        """Where it is, relative to the data."""
        ...


class ImageDataset(Dataset[dict[str, Any]]):
    """Images as the inputs of a model.

    Attributes:
        images: the images.
        transforms: the transform of each input.
        classes: names of the classes.
    """

    def __init__(self, images: Images, transforms: Mapping[str, ImageTransform]) -> None:
        self.images, self.transforms = images, dict(transforms)
        self.classes = images.classes
        self.transform = Words("; ".join(f"{name}: {t.words}" for name, t in self.transforms.items()))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        with self.images.open(index) as image:
            sample: dict[str, Any] = {name: transform(image) for name, transform in self.transforms.items()}
        label = self.images.label(index)
        return sample if label is None else sample | {"label": label}

    def sample_path(self, index: int) -> str:
        """The path of a sample, relative to the data."""
        return self.images.path(index)

    def sample_bytes(self, index: int) -> list[Any]:
        """What a sample is made from: the bytes of its file, and its class."""
        return [self.images.content(index), self.images.label(index)]


class Words(str):
    """A text that prints as itself."""

    def __repr__(self) -> str:
        return str(self)


def images_at(place: str) -> Images:
    """The images of a folder or of tar files.

    Args:
        place: a directory, or tar files: `shards.tar`, `shards-{000..009}.tar`, `s3://bucket/shards-{0..9}.tar`.

    Raises:
        CompileError: GM601 if there is no image.
    """
    if _TAR.search(place) and not Path(place).is_dir():
        from graphmodel.extraction.tar_shards import TarImages

        need("webdataset", why="tar files")
        return TarImages(place)
    if not Path(place).is_dir():
        raise fail("GM601", f"there is no directory `{place}`", help="give a folder of images or tar files")
    found = FolderImages(place)
    if not len(found):
        raise fail("GM601", f"there is no image in `{place}`", help="put the images of each class into a directory")
    return found


class FolderImages:
    """torchvision's `ImageFolder`; a folder without directories of images has images without labels."""

    def __init__(self, root: str) -> None:
        from torchvision.datasets import ImageFolder
        from torchvision.datasets.folder import has_file_allowed_extension

        self.root = root
        self.classes: list[str] | None = None
        suffixes = tuple(image_suffixes())
        entries = sorted(os.listdir(root))
        flat = [(os.path.join(root, n), -1) for n in entries if has_file_allowed_extension(n, suffixes)]
        flat = [item for item in flat if os.path.isfile(item[0])]
        self.samples: list[tuple[str, int]] = flat
        if any(os.path.isdir(os.path.join(root, n)) for n in entries):
            folder = ImageFolder(
                root, is_valid_file=lambda p: has_file_allowed_extension(p, suffixes), allow_empty=True
            )
            if folder.samples:
                self.classes, self.samples = list(folder.classes), folder.samples
                if flat:
                    first = os.path.basename(flat[0][0])
                    message = (
                        f"`{root}` has directories of images, which are the classes, and {len(flat)} images beside "
                        f"them (`{first}`{', …' if len(flat) > 1 else ''}), which are left out"
                    )
                    warnings.warn(message, stacklevel=4)

    def __len__(self) -> int:
        return len(self.samples)

    def open(self, index: int) -> Image.Image:
        """The decoded image."""
        return Image.open(self.samples[index][0])

    def content(self, index: int) -> bytes:
        """The bytes of its file."""
        return Path(self.samples[index][0]).read_bytes()

    def label(self, index: int) -> int | None:
        """Its class."""
        return self.samples[index][1] if self.classes is not None else None

    def path(self, index: int) -> str:
        """Where it is, relative to the folder."""
        return Path(self.samples[index][0]).relative_to(self.root).as_posix()


def image_suffixes() -> set[str]:
    """Suffixes of image files, with the dot: those of the formats that Pillow decodes."""
    known = Image.registered_extensions()
    return {suffix for suffix, name in known.items() if name in Image.OPEN and name not in _UNDECODED} | {".mpo"}


_UNDECODED = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that Pillow recognizes and cannot decode without a plugin or Windows."""


def read_image(data: bytes) -> Image.Image:
    """An image from bytes."""
    return Image.open(io.BytesIO(data))


def read_label(data: bytes, name: str) -> int:
    """A class from the bytes of a file."""
    try:
        return int(data)
    except ValueError as error:
        raise ValueError(f"`{name}` does not hold a whole number: {first_line(error)}") from None
