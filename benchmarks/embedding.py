"""`python -m benchmarks.embedding`: every way to embed a model, beside the same network without graphmodel.

The network is torchvision's ResNet-18, written by hand in `benchmarks/embedding_ways.py`. Each way trains a compiled
model for a few steps on scikit-learn's digits, or runs it, and is compared with it. The figures go to docs/embedding.md.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
import traceback
from pathlib import Path

import torch

from benchmarks.embedding_ways import WAYS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "embedding.md"
START, END = "<!-- differences -->\n", "<!-- end of differences -->"
HEADER = "| way | what was run | compared | largest difference |\n|---|---|---|---|\n"
_ROW = re.compile(r"^\| ([^|]+) \|.*\| ([^|]+) \|$", re.M)


def figure(difference: float) -> str:
    """A difference as the table shows it."""
    return "0" if difference == 0 else f"{difference:.1e}"


def read(page: Path) -> dict[str, str]:
    """The figures of a page by the names of the ways."""
    text = page.read_text("utf-8").partition(START)[2].partition(END)[0]
    return {way: value for way, value in _ROW.findall(text) if way in WAYS}


def write(page: Path, figures: dict[str, str]) -> None:
    """Replaces the table of a page."""
    before, _, rest = page.read_text("utf-8").partition(START)
    after = rest.partition(END)[2]
    rows = [f"| {n} | {way.what} | {way.compared} | {figures[n]} |\n" for n, way in WAYS.items() if n in figures]
    page.write_text(f"{before}{START}{HEADER}{''.join(rows)}{END}{after}", "utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Measures the chosen ways; returns how many failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embedding", description=__doc__)
    parser.add_argument("--list", action="store_true", help="list the ways")
    parser.add_argument("--only", default="", metavar="NAMES", help="names of ways, separated by semicolons")
    parser.add_argument("-o", "--output", type=Path, default=PAGE, metavar="FILE", help="the page to write into")
    options = parser.parse_args(arguments)
    names = [name.strip() for name in options.only.split(";") if name.strip()] or list(WAYS)
    unknown = [name for name in names if name not in WAYS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {'; '.join(WAYS)}")
    if options.list:
        print("\n".join(f"{name:32s} {way.what}" for name, way in WAYS.items()))
        return 0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    figures, failed = read(options.output), 0
    for name in names:
        start = time.perf_counter()
        try:
            figures[name] = figure(WAYS[name].measure())
        except Exception:  # one way that fails must not lose the figures of others
            failed += 1
            figures.pop(name, None)
            traceback.print_exc()
        seconds = time.perf_counter() - start
        print(f"{name:32s} {figures.get(name, 'FAILED'):>8s} {seconds:6.0f} s", flush=True)
        write(options.output, figures)
    torch.set_num_threads(threads)
    return failed


if __name__ == "__main__":
    sys.exit(main())
