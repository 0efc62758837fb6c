"""Images in tar files of WebDataset's form, with random access: where each file lies is read from the headers once."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from typing import Any

from PIL import Image

from graphmodel.diagnostics import Collector, fail, first_line
from graphmodel.extraction.images import image_suffixes, read_image, read_label

_LABELS = ("cls", "label")
_Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Sample:
    """Where a sample is in its tar file: first byte and number of bytes of the image and of the class."""

    key: str
    suffix: str
    image: _Place
    label: _Place | None


class TarImages:
    """The images of some tar files, in the order of the files.

    A sample is an image `KEY.jpg` and its class `KEY.cls`. WebDataset itself reads tar files as streams; with the
    places of the images, processes can divide the samples, and a run goes on in the middle.
    """

    def __init__(self, pattern: str) -> None:
        from webdataset.shardlists import expand_urls

        self.classes: list[str] | None = None
        self.files: list[str] = list(expand_urls(pattern))
        self._items: list[tuple[int, _Sample]] = []
        report = Collector()
        for number, file in enumerate(self.files):
            try:
                self._items += [(number, sample) for sample in _read_headers(report, file)]
            except Exception as error:  # fsspec and its services raise many kinds of errors
                report.error("GM601", f"`{file}` cannot be read: {first_line(error)}", help=_help(file))
        report.raise_errors()
        if not self._items:
            raise fail("GM601", f"there is no image in `{pattern}`", help="name images KEY.jpg and classes KEY.cls")
        without = [self.path(i) for i, (_, sample) in enumerate(self._items) if sample.label is None]
        if 0 < len(without) < len(self._items):
            message = f"{len(without)} of the {len(self._items)} images in `{pattern}` have no class: `{without[0]}`"
            help = "add their classes (`KEY.cls`), or leave out the classes of all"
            raise fail("GM601", message + (", …" if len(without) > 1 else ""), help=help)

    def __len__(self) -> int:
        return len(self._items)

    def open(self, index: int) -> Image.Image:
        """The decoded image."""
        return read_image(self.content(index))

    def content(self, index: int) -> bytes:
        """The bytes of its file."""
        number, sample = self._items[index]
        return self._read(number, sample.image)

    def label(self, index: int) -> int | None:
        """Its class."""
        number, sample = self._items[index]
        return None if sample.label is None else read_label(self._read(number, sample.label), sample.key)

    def path(self, index: int) -> str:
        """The tar file and the image's name in it."""
        number, sample = self._items[index]
        return f"{self.files[number]}/{sample.key}.{sample.suffix}"

    def _read(self, number: int, place: tuple[int, int]) -> bytes:
        with _open(self.files[number]) as file:
            file.seek(place[0])
            data: bytes = file.read(place[1])
        return data


def _read_headers(report: Collector, path: str) -> list[_Sample]:
    """The samples of a tar file, in its order; what makes them ambiguous is added to the report (GM601)."""
    from webdataset.tariterators import base_plus_ext

    suffixes = {suffix.removeprefix(".") for suffix in image_suffixes()}
    images: dict[str, dict[str, _Place]] = {}
    labels: dict[str, dict[str, _Place]] = {}
    with _open(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:  # no decompression: places must be real
        for member in tar:
            key, suffix = base_plus_ext(member.name)
            if not member.isfile() or key is None:
                continue
            kind = suffix.lower().rpartition(".")[2]
            found = images if kind in suffixes else labels if kind in _LABELS else None
            if found is not None:
                place = (member.offset_data, member.size)
                if found.setdefault(key, {}).setdefault(suffix, place) is not place:
                    message = f"`{path}` holds `{key}.{suffix}` twice"
                    report.error("GM601", message, help="give each sample a key of its own")
            kept: Any = tar
            kept.members.clear()  # tarfile keeps every header
    samples = []
    for key, fields in images.items():
        plain = [suffix for suffix in fields if "." not in suffix]
        if len(fields) > 1 and len(plain) != 1:
            listed = ", ".join(f"`{key}.{suffix}`" for suffix in fields)
            message = f"a sample of `{path}` has several images: {listed}"
            help = "keep one image for each key; in WebDataset's form a key ends at the first dot of a file's name"
            report.error("GM601", message, help=help)
            continue
        suffix = plain[0] if plain else next(iter(fields))
        # A class belongs to the image with the same part in front (`KEY.left.jpg`, `KEY.left.cls`), or to the key.
        own = f"{suffix.rpartition('.')[0]}.".lstrip(".").lower()
        given = {name.lower(): place for name, place in labels.get(key, {}).items()}
        names = [f"{own}{label}" for label in _LABELS] + list(_LABELS)
        samples.append(_Sample(key, suffix, fields[suffix], next((given[n] for n in names if n in given), None)))
    return samples


def _help(path: str) -> str:
    if "*" in path or "?" in path:
        return "write a range of numbers: 'shards-{000..009}.tar'"
    if path.endswith(("gz", "bz2", "xz", "zst")):
        return "decompress it: images are read one by one, in any order, and are compressed themselves"
    return ""


def _open(path: str) -> Any:
    if "://" not in path:
        return open(path, "rb")
    import fsspec

    return fsspec.open(path, "rb").open()
