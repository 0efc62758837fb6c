"""Labels: how pictures write totals, lists of names, settings, and the facts that passes left."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graphmodel.profiling import units

if TYPE_CHECKING:
    from graphmodel.graph.facts import Facts

FACTS: dict[str, tuple[str, str]] = {
    "frozen": ("frozen", "does not train: no gradients, fixed BatchNorm statistics, no dropout"),
    "batch_statistics": ("batch statistics", "its BatchNorm uses those of the batch in training, though it is frozen"),
    "grouped_views": ("views grouped", "views of one shape share a call"),
    "copied": ("copy", "keeps a copy, because a later call changes the value in place"),
    "checkpoint": ("checkpointed", "its activations are recomputed in the backward pass"),
    "batch_inputs": ("joined", "shares a pass with inputs of the same shape"),
    "fuse_heads": ("fused", "runs with heads of the same structure as one computation"),
    "fold_batchnorm": ("folded", "frozen BatchNorm is folded into the weights before it"),
    "channels_last": ("channels last", "runs in channels-last memory format"),
    "shared": ("shared", "a module that several boxes call; the first counts its parameters"),
    "set_memory_format": ("channels last", "runs in channels-last memory format"),
}
"""The badge and the explanation of each fact and of each optimization; the badge of an unknown one is its name."""
INTERNAL = frozenset({"in_place", "changed_by", "features"})
"""Facts that pictures do not show."""

LONGEST = 34
"""Longer texts are shortened in the middle; cards contain them in full."""


def totals(parameters: int, flops: int) -> str:
    """`216 k params · 1.36 GFLOPs`; empty if both are zero."""
    parts = [f"{units.count(parameters)} params"] if parameters else []
    parts += [units.flops(flops)] if flops else []
    return " · ".join(parts)


def cut(text: str, longest: int = LONGEST) -> str:
    """`text` on one line; the middle is omitted if it is too long."""
    text = " ".join(text.split())
    if len(text) <= longest:
        return text
    head = (longest - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (longest - 1 - head) :]}"


def wrap(text: str, lines: int = 2) -> tuple[str, ...]:
    """`text` on at most so many lines, broken at its ` · `; a text that does not fit ends in `…`."""
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


def folded(text: str, room: float, between: str = " · ") -> list[str]:
    """A line as several, broken at its separators where it is longer than `room` letters.

    >>> folded("2 inputs · 3 outputs · 1 M params", 22)
    ['2 inputs · 3 outputs', '1 M params']
    """
    found: list[str] = []
    tail = between.rstrip() if between == ", " else ""
    for part in text.split(between):
        if found and len(found[-1]) + len(between) + len(part) <= room:
            found[-1] += between + part
        else:
            found = [*found[:-1], found[-1] + tail, part] if found else [part]
    return found


def names(items: Sequence[str]) -> str:
    """A short list of names: `probe_0 … probe_59`, `a, b, c`."""
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
    """The name of consecutive stages: `blocks 0–11`; `layer1 … layer4` if they share no numbered prefix."""
    split = [re.fullmatch(r"(.*?)[._]?(\d+)", path) for path in paths]
    if all(split) and len({m[1] for m in split if m}) == 1 and split[0]:
        return f"{split[0][1]} {span_of([int(m[2]) for m in split if m])}"
    return names(paths)


def settings(written: Mapping[str, Any], actual: Any) -> str:
    """The settings of a component that its spec names, in short: `2048 → 128 · use_bn`.

    Args:
        written: the parameters in the spec.
        actual: the component's own parameters, with `auto` filled in.
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
    """Names of the facts that pictures show."""
    return tuple(name for name in facts.stated() if name not in INTERNAL)


def badge(name: str) -> str:
    """The text of a fact's badge."""
    return FACTS[name][0] if name in FACTS else name.replace("_", " ")


def sentence(name: str, value: Any) -> str:
    """One sentence about a fact, for cards."""
    plain = "" if value is True else f" ({', '.join(map(str, value)) if isinstance(value, (tuple, list)) else value})"
    return f"{badge(name)}{plain}: {FACTS[name][1]}" if name in FACTS else f"{badge(name)}{plain}"
