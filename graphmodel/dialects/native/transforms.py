"""Reads `inputs.NAME.transform` of the native format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphmodel.dialects.native.located_report import LocatedReport
from graphmodel.spec.document import KeyPath, kind_of
from graphmodel.spec.model import TransformCall, Transforms
from graphmodel.spec.transforms import TRANSFORMS, parameter_problem


def read_transform(value: Any, path: KeyPath, report: LocatedReport) -> Transforms | None:
    """What is done to an image before the model.

    Args:
        value: `timm`, or a list of transforms.
        path: its location.
        report: where findings go: GM201, GM202, GM203.
    """
    if value is None:
        return None
    if value == "timm":
        return "timm"
    if not isinstance(value, list):
        message = f"`transform` takes a list of transforms or `timm`, not {kind_of(value)}"
        report.error("GM202", message, path, "such as [{resize: 256}, {center_crop: 224}, to_tensor]")
        return None
    calls = [_call(item, (*path, i), report) for i, item in enumerate(value)]
    return tuple(call for call in calls if call is not None)


def _call(item: Any, path: KeyPath, report: LocatedReport) -> TransformCall | None:
    if isinstance(item, Mapping) and len(item) == 1:
        name, params = next(iter(item.items()))
        at: KeyPath = (*path, name)
    elif isinstance(item, str):
        name, params, at = item, {}, path
    else:
        report.error("GM202", f"a transform is a name or one key, not {kind_of(item)}", path, "such as {resize: 256}")
        return None
    if name not in TRANSFORMS:
        help = report.choices(name, list(TRANSFORMS), "transforms")
        report.error("GM202", f"unknown transform `{name}`", at, help, key=True)
        return None
    op = TRANSFORMS[name]
    if params is None:
        params = {}
    if not isinstance(params, Mapping):
        params = {op.parameters[0]: params} if op.parameters else {}
        inner = dict.fromkeys(params, at)
    else:
        inner = {key: (*at, key) for key in params}
    for key, given in params.items():
        if key not in op.parameters:
            help = report.choices(key, op.parameters)
            report.error("GM201", f"unknown key `{key}` in `{name}`", inner[key], help, key=True)
        elif (problem := parameter_problem(key, given)) is not None:
            report.error("GM202", f"`{key}` of `{name}` {problem}", inner[key], f"such as {op.example}")
    for key in op.required:
        if key not in params:
            report.error("GM203", f"missing key `{key}` in `{name}`", at, f"such as {op.example}")
    fixed = {k: tuple(v) if isinstance(v, list) else v for k, v in params.items()}
    return TransformCall(name=name, params=fixed, at=at)
