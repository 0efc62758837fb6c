"""Writes what the suite measured: a table and a plot for the documentation, and raw JSON."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

import graphmodel
from benchmarks.harness import Row, Target
from benchmarks.workloads import WORKLOADS

INTRODUCTION = """# Benchmarks

`python -m benchmarks` measures compiled models against careful baselines and writes this page. Both sides hold the same
weights, give the same numbers (checked before the timing) and run in one process, turn by turn, the order reversed every
other turn. On CPU one thread is used and CPU time is taken; on CUDA, time between events.

**A ratio is the baseline's figure divided by ours: above 1, graphmodel is faster or smaller.** Given are the median of
the pairs and, in parentheses, the smallest and the largest. A target is what a figure should keep; figures that miss it
are marked.
"""

NOTES = Path(__file__).with_name("notes.md")
"""Explains the figures of the page, missed targets above all; written by hand for each run that is published."""

BASELINES = """## Baselines

- *hand-written*: the module that a careful person writes for the task (`benchmarks/baselines.py`).
- *VISSL-like loop*: stages in a `ModuleDict`, heads in a list, one trunk pass for each entry of the mapping.
- *torchvision create_feature_extractor*, *timm features_only*: the libraries' own ways to extract features.
- *ModuleDict loop*: heads as in DINOv2's published linear evaluation, a loss and a parameter group for each.
- *one pass per input*: several inputs through one trunk one after another.
- *without passes*, *without optimization*, *whole model*, *whole graph*: the same model without the named feature.
"""


def write(rows: list[Row], skipped: Mapping[str, str], command: str, directory: Path) -> None:
    """Writes `benchmarks.md`, `benchmarks/ratios.svg` and `benchmarks/results.json`."""
    beside = directory / "benchmarks"
    beside.mkdir(parents=True, exist_ok=True)
    data = {
        "command": command, "versions": versions(), "rows": [row.data() for row in rows], "skipped": dict(skipped),
    }  # fmt: skip
    (beside / "results.json").write_text(json.dumps(data, indent=1) + "\n")
    drawn = [d for d, name in FIGURES.items() if plot([row for row in rows if row.run_on == d], beside / name)]
    (directory / "benchmarks.md").write_text(page(rows, skipped, command, drawn))


def versions() -> dict[str, str]:
    import timm
    import torchvision

    return {
        "graphmodel": graphmodel.__version__, "torch": torch.__version__, "torchvision": torchvision.__version__,
        "timm": timm.__version__, "python": platform.python_version(),
    }  # fmt: skip


SEVERAL_RUNS = "python -m benchmarks --only NAMES"
"""The command of figures that several runs measured, with the versions of the last."""


def read(files: Iterable[Path]) -> tuple[list[Row], dict[str, str], str]:
    """The rows of earlier runs; a workload that several of them ran on one kind of device is taken from the last."""
    found: dict[tuple[str, str], list[Row]] = {}
    skipped: dict[str, str] = {}
    commands: list[str] = []
    for file in files:
        data = json.loads(file.read_text())
        commands.append(data["command"])
        skipped |= {name: why for name, why in data["skipped"].items() if name in WORKLOADS}
        mine: dict[tuple[str, str], list[Row]] = {}
        for item in data["rows"]:
            relation, _, value = item.pop("target").partition(" ")
            item.pop("met")
            row = Row(**item, target=Target(relation, float(value)) if relation else None)
            mine.setdefault((row.run_on, row.workload), []).append(row)
        found |= mine
    order = sorted(found, key=lambda key: (key[0], list(WORKLOADS).index(key[1])))
    rows = [row for key in order for row in found[key]]
    skipped |= {name: "not measured" for name in WORKLOADS if name not in skipped}
    command = commands[0] if len(commands) == 1 else SEVERAL_RUNS
    measured = {name for _, name in found}
    return rows, {name: why for name, why in skipped.items() if name not in measured}, command


def figure(row: Row) -> str:
    """`1.23x (1.20–1.31)`, `0.70 s CPU`."""

    def number(value: float) -> str:
        return f"{value:.0f}" if row.unit == "graphs" or value >= 100 else f"{value:.2f}"

    unit = "x" if row.unit == "x" else " graph" if (row.unit, row.figure) == ("graphs", 1) else f" {row.unit}"
    spread = "" if row.low is None or row.high is None else f" ({number(row.low)}–{number(row.high)})"
    return f"{number(row.figure)}{unit}{spread}"


def page(rows: list[Row], skipped: Mapping[str, str], command: str, drawn: Iterable[str]) -> str:
    """The page in Markdown."""
    said = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [INTRODUCTION, f"Measured with `{command}`{', in several runs' * (command == SEVERAL_RUNS)} ({said}).\n"]
    devices = [device for device in TITLES if any(row.run_on == device for row in rows)]
    for device in devices:
        mine = [row for row in rows if row.run_on == device]
        suffix = f": {TITLES[device]}" * (len(devices) > 1)
        if device in drawn:
            lines.append(f"![Ratios of time against the baselines{suffix}](benchmarks/{FIGURES[device]})\n")
        targets = [row for row in mine if row.target is not None]
        if targets:
            met = sum(bool(row.met) for row in targets)
            lines += [f"## Targets{suffix}\n", f"{met} of {len(targets)} figures with a target meet it.\n"]
            lines += ["| workload | metric | baseline | figure | target | |", "|---|---|---|---|---|---|"]
            lines += [_target(row, conditions=device == "cuda") for row in targets]
            lines.append("")
    for device in devices:
        mine = [row for row in rows if row.run_on == device]
        suffix = f": {TITLES[device]}" * (len(devices) > 1)
        lines.append(f"## All figures{suffix}\n")
        for name in dict.fromkeys(row.workload for row in mine):
            lines += [
                f"### {name}{' (GPU)' * (device == 'cuda')}\n",
                "| metric | baseline | figure | pairs | conditions | device |",
                "|---|---|---|---|---|---|",
            ]
            lines += [
                f"| {r.metric} | {r.baseline or '–'} | {figure(r)} | {r.pairs} | {r.note or '–'} | {r.device or '–'} |"
                for r in mine
                if r.workload == name
            ]
            lines.append("")
    if skipped:
        lines += ["## Not run\n", *(f"- `{name}`: {why}" for name, why in skipped.items()), ""]
    return "\n".join([*lines, *(NOTES.read_text().splitlines() if NOTES.exists() else []), "", BASELINES])


TITLES = {"cpu": "CPU, one thread", "cuda": "GPU"}
FIGURES = {"cpu": "ratios.svg", "cuda": "ratios_gpu.svg"}


def _target(row: Row, conditions: bool) -> str:
    """A row of the table of targets; one model may have several on a GPU, which the conditions tell apart."""
    verdict = "met" if row.met else "**missed**"
    metric = f"{row.metric} ({row.note})" if conditions else row.metric
    return f"| {row.workload} | {metric} | {row.baseline or '–'} | {figure(row)} | {row.target} | {verdict} |"


def _label(row: Row) -> str:
    variant = ", ".join(part for part in ("bf16 autocast", "channels_last") if part in row.note)
    return f"{row.workload}: {row.metric}{f' ({variant})' if variant else ''} against {row.baseline}"


def plot(rows: list[Row], path: Path) -> bool:
    """Draws the ratios of time; whether matplotlib is installed and there is one."""
    shown = [row for row in rows if row.unit == "x" and row.low is not None]
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        return False
    if not shown:
        return False
    drawing = Figure(figsize=(10, 0.32 * len(shown) + 1.2), layout="constrained")
    axes = drawing.subplots()
    for i, row in enumerate(shown):
        color = "#b3382c" if row.met is False else "#2c6fb3"
        axes.plot([row.low or 0, row.high or 0], [i, i], color=color, linewidth=1.5, alpha=0.6)
        axes.plot([row.figure], [i], "o", color=color, markersize=5)
        if row.target is not None:
            axes.plot([row.target.value] * 2, [i - 0.35, i + 0.35], color="#777777", linewidth=1)
    axes.set_yticks(range(len(shown)), [_label(row) for row in shown], fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("times as fast as the baseline: median, smallest and largest of the pairs; grey: target")
    axes.grid(axis="x", alpha=0.3)
    with rc_context({"svg.fonttype": "none"}):  # text as text: a tenth of the size
        drawing.savefig(path, metadata={"Date": None})
    return True
