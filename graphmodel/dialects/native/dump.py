"""Writes a `ModelSpec` as a native document with every default; `load_spec(dump(spec))` returns the same spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import yaml

from graphmodel.diagnostics import printable
from graphmodel.dialects.native.dialect import views_of
from graphmodel.spec.document import KeyPath
from graphmodel.spec.model import Edge, HeadSettings, HeadSpec, InputSpec, ModelSpec, Source, TrunkSpec
from graphmodel.spec.names import name_problem
from graphmodel.spec.scalars import plain_value

_WIDTH = 110
"""Flow collections longer than this are written one item per line."""
_KEY = 200
"""Keys longer than this follow a question mark: YAML allows others 1,024 characters with their quotes and escapes."""


def dump(spec: ModelSpec) -> dict[str, Any]:
    """The native document of a spec as plain data, in the order in which a person would write it.

    Every default of the format is spelled out. The parameters of trunks and heads are those in the spec; a spec made
    from a graph (`graphmodel.build.locked_spec`) has all of them.
    """
    out: dict[str, Any] = {"graphmodel": 1, "name": spec.name}
    out["inputs"] = {name: _input(item) for name, item in spec.inputs.items()}
    if list(spec.trunks) == ["trunk"]:
        out["trunk"] = _trunk(spec.trunks["trunk"])
    elif spec.trunks:
        out["trunks"] = {name: _trunk(trunk, spec.trunks.get(trunk.copy_of)) for name, trunk in spec.trunks.items()}
    out["heads"] = {name: _head(head) for name, head in spec.heads.items()}
    settings = {name: _settings(head.settings) for name, head in spec.heads.items()}
    if any(settings.values()):
        out["head_settings"] = {name: item for name, item in settings.items() if item}
    if spec.head_defaults:
        out["head_defaults"] = _plain(spec.head_defaults)
    out["mapping"] = [_edge(edge, spec) for edge in spec.edges]
    out["freeze"] = list(spec.freeze)
    out["outputs"] = _plain(spec.outputs)
    out["returns"] = spec.returns
    out["checkpoint"] = _plain(spec.checkpoint)
    out["optimize"] = _plain(spec.optimize)
    if spec.weights is not None:
        out["weights"] = _plain(spec.weights.model_dump())
    return out


def _input(item: InputSpec) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if item.views is not None:
        out["views"] = views_of(item.views)
    elif item.shape is not None:
        out["shape"] = list(item.shape)
    out |= {"dtype": item.dtype, "grouping": item.grouping}
    if item.companions:
        out["with"] = list(item.companions)
    if item.raw:
        out["trunk"] = "none"
    if item.transform is not None:
        timm = item.transform == "timm"
        out["transform"] = "timm" if timm else [_transform(call) for call in item.transform]
    return out


def _transform(call: Any) -> Any:
    return {call.name: _plain(call.params)} if call.params else call.name


def _trunk(trunk: TrunkSpec, original: TrunkSpec | None = None) -> dict[str, Any]:
    if original is not None:
        own = {k: v for k, v in trunk.params.items() if k not in original.params or original.params[k] != v}
        return {"copy": original.name, **_plain(own), **_freeze(trunk), "memory_format": trunk.memory_format}
    return {
        "module" if trunk.imports else "name": trunk.family,
        **_plain(trunk.params),
        **_freeze(trunk),
        "input_type": trunk.input_type,
        "memory_format": trunk.memory_format,
        "pretrained": trunk.pretrained,
    }


def _freeze(part: TrunkSpec | HeadSpec) -> dict[str, Any]:
    """Whether a part is frozen; if it is, what its BatchNorm does."""
    return {"freeze": part.freeze, **({"batchnorm": part.batchnorm} if part.freeze else {})}


def _head(head: HeadSpec) -> Any:
    if head.copy_of:
        return {"copy": head.copy_of, **_freeze(head)}
    # An empty name, which compiling refuses, can be text and not a key.
    chain = [{call.name: _plain(call.params)} if call.name else "" for call in head.chain]
    return chain[0] if len(chain) == 1 else chain


def _settings(settings: HeadSettings) -> dict[str, Any]:
    return settings.model_dump(exclude_defaults=True)


def _edge(edge: Edge, spec: ModelSpec) -> dict[str, Any]:
    sources = [_source(source, spec) for source in edge.sources]
    if len(sources) == 1 and "as" not in sources[0] and edge.combine is None:
        out = dict(sources[0])
    else:
        out = {"from": _short(sources), **({"combine": edge.combine} if edge.combine else {})}
    if edge.head is not None:
        out["head"] = edge.head
    # A name made by the resolver (`0` of a bare Sequential) may be one that users cannot choose; it is made again.
    if name_problem(edge.output, "an output") is None:
        out["as"] = edge.output
    return out


def _short(sources: list[dict[str, Any]]) -> list[Any]:
    """Sources without options as plain text."""
    return [source["from"] if len(source) == 1 else source for source in sources]


def _source(source: Source, spec: ModelSpec) -> dict[str, Any]:
    text = source.output or source.input
    feature = source.feature or ""
    if source.trunk is not None and (len(spec.trunks) > 1 or feature.partition(".")[0] in spec.trunks):
        text += f".{source.trunk}"
    out: dict[str, Any] = {"from": text + (f".{feature}" if feature else "")}
    if source.pool is not None:
        out["pool"] = {source.pool.op: _plain(source.pool.params)}
    if source.resize is not None:
        size = source.resize.size
        out["resize"] = {"size": _plain(size), **source.resize.model_dump(exclude={"size"}, exclude_defaults=True)}
    out |= {key: True for key in ("detach", "flatten", "normalize", "any_layout") if getattr(source, key)}
    if source.key:
        out["as"] = source.key
    return out | {k: v for k in ("layout", "tokens", "norm") if (v := getattr(source, k)) is not None}


def _plain(value: Any) -> Any:
    """Tuples as lists, models as mappings: what YAML can say."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


# -- text -------------------------------------------------------------------------------------------------------------


def to_yaml(data: Mapping[str, Any], comment: Callable[[KeyPath], str] | None = None) -> str:
    """YAML text of plain data; short collections of scalars are on one line.

    Args:
        data: what `dump` returned.
        comment: a remark for the line of a path, or an empty string.
    """
    lines: list[str] = []
    _write_mapping(data, (), 0, lines, comment or (lambda path: ""))
    return "\n".join(lines) + "\n"


def _write_mapping(
    data: Mapping[str, Any], path: KeyPath, depth: int, lines: list[str], comment: Callable[[KeyPath], str]
) -> None:
    for key, value in data.items():
        indent, text = "  " * depth, scalar(key)
        if len(key) > _KEY:
            lines.append(f"{indent}? {text}")
            text = ""
        _write(f"{indent}{text}:", value, (*path, key), depth + 1, lines, comment)


def _write(
    start: str, value: Any, path: KeyPath, depth: int, lines: list[str], comment: Callable[[KeyPath], str]
) -> None:
    """Writes one value after `start`, which is `key:` or `-` with its indentation."""
    remark = printable(comment(path))
    flow = _flow(value)
    inner = any(comment((*path, k)) for k in value) if isinstance(value, Mapping) else False
    is_scalar = not isinstance(value, (Mapping, list, tuple))
    if flow is not None and not inner and (is_scalar or len(start) + len(flow) < _WIDTH):
        lines.append(f"{start} {flow}" + (f"  # {remark}" if remark else ""))
        return
    if isinstance(value, Mapping) and start.rstrip().endswith("-"):
        # The first key follows the dash, as people write it.
        below: list[str] = []
        _write_mapping(value, path, depth, below, comment)
        first = f"{start} {below[0].lstrip()}"
        lines += [first + (f"  # {remark}" if remark and "  # " not in first else ""), *below[1:]]
        return
    lines.append(start + (f"  # {remark}" if remark else ""))
    if isinstance(value, Mapping):
        _write_mapping(value, path, depth, lines, comment)
    else:
        for i, item in enumerate(value):
            _write(f"{'  ' * depth}-", item, (*path, i), depth + 1, lines, comment)


def _flow(value: Any, nested: bool = False) -> str | None:
    """The one-line form; None for collections that hold collections of more than scalars."""
    if isinstance(value, Mapping):
        if not value:
            return "{}"
        items = [(k, _flow(v, True)) for k, v in value.items()]
        if nested or any(v is None or len(k) > _KEY for k, v in items):
            return None
        return "{" + ", ".join(f"{scalar(k, flow=True)}: {v}" for k, v in items) + "}"
    if isinstance(value, (list, tuple)):
        if any(isinstance(v, Mapping) for v in value):
            return None
        inner = [_flow(v, True) for v in value]
        return None if any(v is None for v in inner) else "[" + ", ".join(v for v in inner if v is not None) + "]"
    return scalar(value, flow=True)


def scalar(value: Any, flow: bool = False) -> str:
    """One scalar, quoted if our reader or any YAML 1.1 reader would read it as something else."""
    if isinstance(value, str):
        if not value.isprintable() and not value.replace("\n", "").isprintable():
            return _escaped(value)
        if plain_value(value) != value or value != value.strip():
            return "'" + value.replace("'", "''") + "'" if "\n" not in value else _library(value, flow)
        return _library(value, flow)
    if isinstance(value, float):
        text = repr(value)
        return {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(text, text)
    return _library(value, flow)


def _escaped(text: str) -> str:
    """A double-quoted scalar with YAML's escapes for everything outside ASCII."""
    quoted: str = yaml.safe_dump(text, width=10**9, allow_unicode=False, default_style='"')
    return quoted.removesuffix("\n")


@lru_cache(maxsize=1024, typed=True)
def _library(value: Any, flow: bool) -> str:
    text: str = yaml.safe_dump([value] if flow else value, width=10**9, allow_unicode=True, default_flow_style=flow)
    text = text.removesuffix("\n").removesuffix("...").removesuffix("\n")
    return text[1:-1] if flow else text


def header(lines: Sequence[str]) -> str:
    """Lines as a YAML comment, each on one line."""
    return "".join(f"# {printable(line)}".rstrip() + "\n" for line in lines)
