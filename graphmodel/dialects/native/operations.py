"""Operations between a feature and its head, as a native spec writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphmodel.dialects.native.located_report import LocatedReport
from graphmodel.dialects.native.resize_format import ResizeYaml
from graphmodel.spec.document import KeyPath, kind_of
from graphmodel.spec.model import PoolSpec, ResizeSpec
from graphmodel.spec.pools import POOLS


def resolve_pool(value: Any, path: KeyPath, report: LocatedReport) -> PoolSpec | None:
    """The pooling that a spec asks for; None for none, or with the reason reported."""
    if value is None:
        return None
    if isinstance(value, Mapping) and len(value) == 1:
        op, params = next(iter(value.items()))
    elif isinstance(value, str):
        op, params = value, {}
    else:
        report.error("GM202", f"`pool` takes one operation, not {kind_of(value)}", path, "such as {avg_pool2d: 2}")
        return None
    if op not in POOLS:
        report.error(
            "GM202",
            f"unknown pooling operation `{op}`",
            (*path, op),
            report.choices(op, list(POOLS), "known"),
            key=True,
        )
        return None
    names = POOLS[op].parameters
    if not isinstance(params, Mapping):
        params = {names[0]: params} if names else {}
    for key in params:
        if key not in names:
            report.error(
                "GM201",
                f"unknown key `{key}` in `{op}`",
                (*path, op, key),
                report.choices(key, names),
                key=True,
            )
    if names and names[0] not in params:
        report.error(
            "GM203", f"missing key `{names[0]}` in `{op}`", (*path, op), f"add `{names[0]}`, such as {{{op}: 1}}"
        )
    fixed = {k: tuple(v) if isinstance(v, list) else v for k, v in params.items()}
    return None if op == "identity" else PoolSpec(op=op, params=fixed, at=path)


def resolve_resize(value: ResizeYaml | None, path: KeyPath) -> ResizeSpec | None:
    """The resampling that a spec asks for; a single number is the size of every dimension."""
    if value is None:
        return None
    size = (value.size,) if isinstance(value.size, int) else value.size
    return ResizeSpec(
        size=tuple(size) if isinstance(size, (list, tuple)) else size,
        mode=value.mode,
        antialias=value.antialias,
        align_corners=value.align_corners,
        at=path,
    )
