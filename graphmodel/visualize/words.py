"""How pictures put things into words: numbers, lists of names, calls, parameters, and what passes did."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from graphmodel.graph.facts import Facts
from graphmodel.graph.text import target_text
from graphmodel.graph.types import Node

FACTS: dict[str, tuple[str, str]] = {
    "frozen": ("frozen", "does not train: no gradient, no moving statistic, no dropout"),
    "grouped_views": ("views grouped", "views of one shape go through it together"),
    "copied": ("copy", "keeps a copy, because a later call changes the value in place"),
    "checkpoint": ("checkpointed", "its activations are computed again in the backward pass"),
    "batch_inputs": ("inputs batched", "inputs of one shape go through it together"),
    "fold_batchnorm": ("BatchNorm folded", "batch normalisation is folded into the convolution before it"),
    "fuse_heads": ("fused", "several heads run as one matrix product"),
    "sync_batchnorm": ("SyncBatchNorm", "batch statistics are shared across devices"),
}
"""The badge and the sentence for each fact that passes leave on nodes; unknown ones speak for themselves."""
INTERNAL = frozenset({"in_place", "changed_by", "features"})
"""Facts that are the compiler's own business."""

LONGEST = 34
"""Longer texts are cut in the middle where they stand in a box; cards hold them whole."""


def count(number: int) -> str:
    """`25.6 M` for 25557032: three significant digits and a unit.

    >>> count(25_557_032), count(1000), count(999_999), count(7)
    ('25.6 M', '1 k', '1 M', '7')
    """
    for power, unit in ((12, " T"), (9, " B"), (6, " M"), (3, " k")):
        if number >= 10**power * (1 if power == 3 else 0.9995):
            return f"{_three(number / 10**power)}{unit}"
    return str(number)


def flops(number: int) -> str:
    """`4.09 GFLOPs`.

    >>> flops(4_089_184_256)
    '4.09 GFLOPs'
    """
    for power, unit in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power * 0.9995:
            return f"{_three(number / 10**power)} {unit}FLOPs"
    return f"{number} FLOPs"


def _three(value: float) -> str:
    text = f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def sums(parameters: int, flops_: int) -> str:
    """`216 k params · 1.36 GFLOPs`; empty where both are zero."""
    parts = [f"{count(parameters)} params"] if parameters else []
    parts += [flops(flops_)] if flops_ else []
    return " · ".join(parts)


def cut(text: str, longest: int = LONGEST) -> str:
    """`text` on one line, with its middle left out where it is too long."""
    text = " ".join(text.split())
    if len(text) <= longest:
        return text
    head = (longest - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (longest - 1 - head) :]}"


def wrap(text: str, lines: int = 2) -> tuple[str, ...]:
    """`text` on at most so many lines, broken at its dots; what does not fit ends in `…`."""
    found: list[str] = []
    for part in (p for p in text.split(" · ") if p):
        if found and len(found[-1]) + 3 + len(part) <= LONGEST:
            found[-1] += f" · {part}"
        elif len(found) < lines:
            found.append(cut(part))
        else:
            found[-1] = found[-1] if found[-1].endswith("…") else f"{found[-1]} …"
            break
    return tuple(found)


def names(items: Sequence[str]) -> str:
    """Several names as one: `probe_0 … probe_59`, `a, b, c`."""
    unique = list(dict.fromkeys(items))
    if len(unique) <= 3 and sum(map(len, unique)) <= LONGEST - 4:
        return ", ".join(unique)
    return f"{unique[0]} … {unique[-1]}"


def span_of(numbers: Sequence[int]) -> str:
    """`0–11` for a run, `0, 2, 5` or `0 … 9` otherwise."""
    if list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}–{numbers[-1]}"
    return ", ".join(map(str, numbers)) if len(numbers) <= 4 else f"{numbers[0]} … {numbers[-1]}"


def run_of(paths: Sequence[str]) -> str:
    """A run of stages as one name: `blocks 0–11`; `layer1 … layer4` where they are not numbered alike."""
    split = [re.fullmatch(r"(.*?)[._]?(\d+)", path) for path in paths]
    if all(split) and len({m[1] for m in split if m}) == 1 and split[0]:
        return f"{split[0][1]} {span_of([int(m[2]) for m in split if m])}"
    return names(paths)


def operation(node: Node) -> str:
    """A function or method in short: `flatten`, `avg_pool2d 10×10`; nothing of where it comes from."""
    name = target_text(node.target).rsplit(".", 1)[-1]
    sizes = [v for k, v in node.kwargs.items() if k in ("output_size", "kernel_size")]
    return f"{name} {_size(sizes[0])}" if sizes else name


def _size(value: Any) -> str:
    return "×".join(str(v) for v in value) if isinstance(value, (list, tuple)) else f"{value}×{value}"


def settings(written: Mapping[str, Any], actual: Any) -> str:
    """What a spec says of a component, in short: `2048 → 128 · use_bn`.

    Args:
        written: the parameters that the spec names.
        actual: the component's own, in which `auto` is filled in.
    """
    parts: list[str] = []
    for name in written:
        value = getattr(actual, name, written[name])
        if name == "dims" and isinstance(value, (list, tuple)):
            parts.insert(0, " → ".join(str(v) for v in value))
        elif value is True:
            parts.append(name)
        elif value is False:
            parts.append(f"no {name.removeprefix('use_')}")
        elif isinstance(value, (list, tuple)) and value and all(isinstance(v, (int, float, str)) for v in value):
            parts.append(f"{name} {', '.join(str(v) for v in value)}")
        elif isinstance(value, (int, float, str)):
            parts.append(f"{name} {value}")
        else:
            parts.append(name)
    return " · ".join(parts)


def badges(facts: Facts) -> tuple[str, ...]:
    """Names of the facts that a picture marks."""
    return tuple(name for name in facts.stated() if name not in INTERNAL)


def badge(name: str) -> str:
    """What the badge of a fact says."""
    return FACTS[name][0] if name in FACTS else name.replace("_", " ")


def sentence(name: str, value: Any) -> str:
    """One sentence on a fact, for cards."""
    plain = "" if value is True else f" ({', '.join(map(str, value)) if isinstance(value, (tuple, list)) else value})"
    return f"{badge(name)}{plain}: {FACTS[name][1]}" if name in FACTS else f"{badge(name)}{plain}"
