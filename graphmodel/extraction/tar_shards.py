"""Images in tar files of WebDataset's form, with random access: where each file lies is read from the headers once."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import Any

from PIL import Image

from graphmodel.diagnostics import fail, first_line
from graphmodel.extraction.images import read_image, read_label

_LABELS = ("cls", "label")


class TarImages:
    """The images of some tar files, in the order of the files.

    A sample is an image `KEY.jpg` and its class `KEY.cls`. WebDataset itself reads tar files as streams; with the
    places of the images, processes can divide the samples, and a run goes on in the middle.
    """

    def __init__(self, pattern: str) -> None:
        from webdataset.shardlists import expand_urls

        self.classes: list[str] | None = None
        self.files: list[str] = list(expand_urls(pattern))
        suffixes = {suffix.removeprefix(".") for suffix in Image.registered_extensions()}
        self._items: list[tuple[int, str, str, tuple[int, int], tuple[int, int] | None]] = []
        for number, file in enumerate(self.files):
            try:
                self._items += [(number, *item) for item in _read_headers(file, suffixes)]
            except (OSError, tarfile.TarError) as error:
                raise fail("GM601", f"`{file}` cannot be read: {first_line(error)}") from error
        if not self._items:
            raise fail("GM601", f"there is no image in `{pattern}`", help="name images KEY.jpg and classes KEY.cls")

    def __len__(self) -> int:
        return len(self._items)

    def open(self, index: int) -> Image.Image:
        """The decoded image."""
        number, _, _, place, _ = self._items[index]
        return read_image(self._read(number, place))

    def label(self, index: int) -> int | None:
        """Its class."""
        number, key, _, _, place = self._items[index]
        return None if place is None else read_label(self._read(number, place), key)

    def path(self, index: int) -> str:
        """The tar file and the image's name in it."""
        number, key, suffix, _, _ = self._items[index]
        return f"{self.files[number]}/{key}.{suffix}"

    def _read(self, number: int, place: tuple[int, int]) -> bytes:
        with _open(self.files[number]) as file:
            file.seek(place[0])
            data: bytes = file.read(place[1])
        return data


def _read_headers(path: str, suffixes: set[str]) -> Iterator[tuple[str, str, tuple[int, int], tuple[int, int] | None]]:
    """Key, suffix, place of the image and place of the class of each sample."""
    from webdataset.tariterators import base_plus_ext

    images: dict[str, tuple[str, tuple[int, int]]] = {}
    labels: dict[str, tuple[int, int]] = {}
    with _open(path) as file, tarfile.open(fileobj=file) as tar:
        for member in tar:
            key, suffix = base_plus_ext(member.name)
            if not member.isfile() or key is None:
                continue
            place = (member.offset_data, member.size)
            if suffix.lower() in suffixes:
                images.setdefault(key, (suffix, place))
            elif suffix in _LABELS:
                labels[key] = place
            kept: Any = tar
            kept.members.clear()  # tarfile keeps every header
    for key, (suffix, place) in images.items():
        yield key, suffix, place, labels.get(key)


def _open(path: str) -> Any:
    if "://" not in path:
        return open(path, "rb")
    import fsspec

    return fsspec.open(path, "rb").open()
