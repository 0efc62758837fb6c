"""Fetches what `graphmodel.visualize` ships from npm: svg-pan-zoom as it is, and two weights of Inter cut to size.

    npm and `pip install fonttools brotli` are needed; run `python scripts/vendor_visualize.py` and commit the result.

The fonts are cut to the characters that labels are made of, since every SVG and page carries them: pictures then look
the same on a machine that has no font at all, and a label's box fits its text everywhere.
"""

from __future__ import annotations

import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont

VENDOR = Path(__file__).parent.parent / "graphmodel" / "visualize" / "vendor"
PACKAGES = {"svg-pan-zoom": "3.6.2", "inter-ui": "4.1.1"}
WEIGHTS = ("Regular", "SemiBold")
# Latin with its accents, Greek, the punctuation, arrows and mathematics that appear in labels.
CHARACTERS = [
    *range(0x20, 0x7F), *range(0xA0, 0x180), *range(0x391, 0x3CA), *range(0x2010, 0x2028), 0x2032, 0x20AC,
    *range(0x2190, 0x2194), 0x2202, 0x2206, 0x2211, 0x2212, 0x221A, 0x221E, 0x2248, 0x2260, 0x2264, 0x2265, 0x25CF,
]  # fmt: skip
# Kerning and accents stay. Inter's contextual forms go: they would show a head named `a->b` with an arrow.
FEATURES = ["kern", "mark", "mkmk", "ccmp", "locl"]


def unpack(package: str, version: str, into: Path) -> Path:
    """Downloads a package of npm and returns its folder."""
    made = subprocess.run(
        ["npm", "pack", f"{package}@{version}", "--silent"], cwd=into, check=True, capture_output=True, text=True
    )
    folder = into / package
    with tarfile.open(into / made.stdout.strip()) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package"


def cut(source: Path, name: str) -> None:
    """Writes the font for layout (TrueType) and for pages (WOFF2)."""
    options = subset.Options(layout_features=FEATURES, hinting=False, name_IDs=[0, 1, 2, 3, 4, 5, 6, 13, 14, 16, 17])
    cutter = subset.Subsetter(options)
    font = TTFont(source, recalcTimestamp=False)
    cutter.populate(unicodes=CHARACTERS)
    cutter.subset(font)
    if "SemiBold" in name:  # `<b>` asks for the bold face of the family: let the semi-bold be it
        for record in font["name"].names:
            plain = {1: "Inter", 2: "Bold", 4: "Inter Bold", 6: "Inter-Bold"}.get(record.nameID)
            if plain:
                record.string = plain
        font["name"].names = [r for r in font["name"].names if r.nameID not in (16, 17)]
        font["OS/2"].usWeightClass = 700
        font["head"].macStyle |= 1
        font["OS/2"].fsSelection = (font["OS/2"].fsSelection | 0x20) & ~0x40
    font.flavor = None
    font.save(VENDOR / f"{name}.ttf")
    font.flavor = "woff2"
    font.save(VENDOR / f"{name}.woff2")


def main() -> None:
    """Fetches everything again."""
    VENDOR.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        folders = {name: unpack(name, version, Path(place)) for name, version in PACKAGES.items()}
        pan_zoom, inter = folders["svg-pan-zoom"], folders["inter-ui"]
        (VENDOR / "svg-pan-zoom.min.js").write_bytes((pan_zoom / "dist/svg-pan-zoom.min.js").read_bytes())
        (VENDOR / "svg-pan-zoom.LICENSE").write_bytes((pan_zoom / "LICENSE").read_bytes())
        (VENDOR / "Inter.LICENSE").write_bytes((inter / "LICENSE.txt").read_bytes())
        for weight in WEIGHTS:
            cut(inter / f"web/Inter-{weight}.woff2", f"Inter-{weight}")
    (VENDOR / "versions.json").write_text(json.dumps(PACKAGES, indent=2) + "\n")


if __name__ == "__main__":
    main()
