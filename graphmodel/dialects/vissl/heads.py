"""VISSL's heads and their wiring: HEAD.PARAMS, the feature map, MULTI_INPUT_HEAD_MAPPING."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphmodel.diagnostics import choices_help
from graphmodel.dialects.located import Located
from graphmodel.dialects.vissl.context import Context, is_chain
from graphmodel.dialects.vissl.trunks import ONE_RESULT
from graphmodel.spec.document import KeyPath, dotted, kind_of
from graphmodel.spec.names import name_problem
from graphmodel.spec.pools import POOLS

POOL_MODULES = {op.module: op for op in POOLS.values()}
"""Pooling operations by the names that VISSL uses, those of `torch.nn`."""

HEAD_FORMS = 'a head is `["mlp", {"dims": [2048, 128]}]`, or a list of such for a chain of modules'


POOL_FORM = 'an entry is `["res5", ["AvgPool2d", [[6, 6], 1, 0]]]`'


@dataclass
class Heads:
    """The heads of a configuration.

    Attributes:
        named: native heads by name, in VISSL's order.
        order: the names in the order of HEAD.PARAMS.
        composite: names of those that are lists of modules of their own.
    """

    named: dict[str, Any]
    order: list[str]
    composite: list[str]


@dataclass
class Wiring:
    """Which head reads which feature of which input.

    Attributes:
        inputs: each input's name and its companions.
        edges: entries of the native mapping.
        outputs: the nesting of VISSL's result, names of outputs.
    """

    inputs: dict[str, list[str]]
    edges: list[Any]
    outputs: list[Any]


@dataclass(frozen=True)
class VisslFeature:
    """A feature that a head reads.

    Attributes:
        feature: its name; None for the trunk's default feature.
        path: where the configuration names it.
        pool: the native pooling, or None.
        flatten: whether it is flattened after the batch dimension.
    """

    feature: str | None
    path: KeyPath
    pool: Any = None
    flatten: bool = False


def read_heads(context: Context) -> Heads:
    """HEAD.PARAMS as named native heads; findings go into the report."""
    params = context.model.HEAD.PARAMS
    at = context.path("HEAD", "PARAMS")
    if params and isinstance(params[0], str) and params[0]:
        help = f'write `[["{params[0][:60]}", {{"dims": […]}}]]`: a list of heads, each a list'
        context.error("GM223", "HEAD.PARAMS is one head, not a list of heads", at, help)
        return Heads({}, [], [])
    items: list[tuple[list[tuple[Any, KeyPath]], bool]] = []
    for i, item in enumerate(params):
        nested = is_chain(item)
        modules = [(m, (*at, i, j)) for j, m in enumerate(item)] if nested else [(item, (*at, i))]
        items.append((modules, nested))
    if not params and dotted(at) in {error.path for error in context.report.errors}:
        return Heads({}, [], [])
    if not params:
        context.error(
            "GM222",
            "HEAD.PARAMS is empty: this file is an overlay, or a base file without a head",
            at if context.document.get(at) is not None else context.path(),
            "add the file that defines the heads, or set FEATURE_EVAL_SETTINGS.EXTRACT_TRUNK_FEATURES_ONLY (with "
            "EVAL_MODE_ON) to extract features",
        )
        return Heads({}, [], [])
    named: dict[str, Any] = {}
    composite: list[str] = []
    for i, (modules, nested) in enumerate(items):
        chain = [Located(module, path) for m, path in modules if (module := _module(context, m, path)) is not None]
        name = "head" if len(items) == 1 else f"head{i}"
        named[name] = Located(chain if nested and len(chain) > 1 else (chain[0] if chain else "identity"), (*at, i))
        if nested:
            composite.append(name)
    return Heads(named, list(named), composite)


def _module(context: Context, item: Any, path: KeyPath) -> dict[str, Any] | None:
    if not isinstance(item, list) or not item or not isinstance(item[0], str) or not item[0]:
        context.error("GM223", f"not a valid head: {kind_of(item)} of another form", path, HEAD_FORMS)
        return None
    for extra in range(2, len(item)):
        context.warning(f"VISSL ignores everything after the parameters of `{item[0]}`", (*path, extra), HEAD_FORMS)
    kwargs = item[1] if len(item) > 1 else {}
    if not isinstance(kwargs, Mapping):
        context.error(
            "GM223", f"the parameters of `{item[0]}` must be a mapping, not {kind_of(kwargs)}", (*path, 1), HEAD_FORMS
        )
        return None
    return {item[0]: Located(dict(kwargs), (*path, 1) if len(item) > 1 else path, key=(*path, 0))}


def pool_map(context: Context) -> list[VisslFeature]:
    """LINEAR_EVAL_FEAT_POOL_OPS_MAP as features with their pooling; an entry with a mistake keeps its place."""
    settings = context.model.FEATURE_EVAL_SETTINGS
    at = context.path("FEATURE_EVAL_SETTINGS", "LINEAR_EVAL_FEAT_POOL_OPS_MAP")
    wanted = []
    for i, item in enumerate(settings.LINEAR_EVAL_FEAT_POOL_OPS_MAP):
        path = (*at, i)
        if not (isinstance(item, list) and len(item) == 2 and isinstance(item[0], str)):
            context.error("GM224", "not a valid entry of LINEAR_EVAL_FEAT_POOL_OPS_MAP", path, POOL_FORM)
            wanted.append(VisslFeature(None, path))
            continue
        feature = _feature(context, item[0], (*path, 0))
        wanted.append(VisslFeature(feature, path, _pool(context, item, path), settings.SHOULD_FLATTEN_FEATS))
    return wanted


def _pool(context: Context, item: list[Any], path: KeyPath) -> Any:
    """The native pooling of an entry of the feature map, or None."""
    pool = item[1]
    if not (isinstance(pool, list) and 1 <= len(pool) <= 2 and isinstance(pool[0], str)):
        context.error("GM224", f"not a valid pooling operation for `{item[0]}`", (*path, 1), POOL_FORM)
        return None
    op = POOL_MODULES.get(pool[0])
    if op is None:
        help = choices_help(pool[0], list(POOL_MODULES))
        context.error("GM224", f"unknown pooling operation `{pool[0]}`", (*path, 1, 0), help)
        return None
    arguments = pool[1] if len(pool) == 2 and isinstance(pool[1], list) else []
    if len(arguments) > len(op.arguments):
        context.error("GM224", f"`{pool[0]}` takes at most {len(op.arguments)} arguments", (*path, 1, 1), POOL_FORM)
        return None
    values = {n: a for n, a in zip(op.arguments, arguments, strict=False) if n in op.parameters}
    return None if op.name == "identity" else Located({op.name: values}, (*path, 1))


def _feature(context: Context, name: str, path: KeyPath) -> str | None:
    """The requested feature; None (the default one) if VISSL's trunk returns one result whatever the name."""
    if context.model.TRUNK.NAME not in ONE_RESULT:
        return name
    if name not in ("lastCLS", "avgpool", "flatten"):
        context.note(
            f"VISSL's `{context.model.TRUNK.NAME}` returns its pooled vector whatever feature is requested", path
        )
    return None


def wire(context: Context, heads: Heads) -> Wiring:
    """Edges and outputs of the whole model."""
    if context.model.MULTI_INPUT_HEAD_MAPPING:
        return _wire_mapping(context, heads)
    name = "images"
    wanted = pool_map(context) if context.is_extractor else [VisslFeature(None, context.path("TRUNK"))]
    if context.has_features_only:
        pairs: list[tuple[VisslFeature, str | None]] = [(w, None) for w in wanted]
    else:
        pairs = list(_pair(context, heads, wanted))
    edges, outputs = _edges([(name, w, head) for w, head in pairs])
    return Wiring({name: []}, edges, list(outputs))


def _pair(context: Context, heads: Heads, wanted: Sequence[VisslFeature]) -> Sequence[tuple[VisslFeature, str]]:
    """Heads and features of one input."""
    if not heads.order or not wanted:
        return []
    if len(heads.order) == len(wanted):
        return list(zip(wanted, heads.order, strict=True))
    if len(wanted) == 1 and heads.composite:
        context.note(
            f"{len(heads.order)} heads read one feature and return {len(heads.order)} outputs, as VISSL documents; "
            "its code chains them",
            context.path("HEAD", "PARAMS"),
        )
        return [(wanted[0], name) for name in heads.order]
    if len(wanted) == 1:
        # A flat list on one feature is one chain.
        chain = [heads.named[name] for name in heads.order]
        heads.named.clear()
        heads.named["head"] = Located(chain, context.path("HEAD", "PARAMS"))
        heads.order[:] = ["head"]
        return [(wanted[0], "head")]
    if any(error.code in ("GM201", "GM202") for error in context.report.errors):
        return []  # a misspelled setting may be what the features are read from
    context.error(
        "GM225",
        f"HEAD.PARAMS has {len(heads.order)} heads and the feature map has {len(wanted)} features",
        context.path("HEAD", "PARAMS"),
        "list one head per feature, in the order of LINEAR_EVAL_FEAT_POOL_OPS_MAP",
    )
    return []


def _wire_mapping(context: Context, heads: Heads) -> Wiring:
    at = context.path("MULTI_INPUT_HEAD_MAPPING")
    entries = [
        e for i, item in enumerate(context.model.MULTI_INPUT_HEAD_MAPPING) if (e := _entry(context, item, (*at, i)))
    ]
    inputs: dict[str, list[str]] = {}
    for entry in entries:
        known = inputs.setdefault(entry.input, [])
        known += [c for c in entry.companions if c not in known]
    pools = pool_map(context) if context.is_extractor else []
    wanted = [_pooled(context, entry, pools) for entry in entries]
    count = sum(len(w) for w in wanted)
    triples: list[list[tuple[str, VisslFeature, str | None]]] = []
    indexed = any(e.head_index is not None for e in entries)
    if context.has_features_only:
        triples = [[(e.input, w, None) for w in ws] for e, ws in zip(entries, wanted, strict=True)]
    elif len(heads.order) == count and not indexed:
        names = iter(heads.order)
        triples = [[(e.input, w, next(names)) for w in ws] for e, ws in zip(entries, wanted, strict=True)]
    elif all(len(ws) == 1 for ws in wanted):
        for i, (entry, ws) in enumerate(zip(entries, wanted, strict=True)):
            index = entry.head_index if entry.head_index is not None else min(i, len(heads.order) - 1)
            if not heads.order or not -len(heads.order) <= index < len(heads.order):
                if heads.order:
                    context.error(
                        "GM225",
                        f"head {index} does not exist: HEAD.PARAMS has {len(heads.order)}",
                        (*entry.path, 1),
                        f"`head_index` must be between 0 and {len(heads.order) - 1}",
                    )
                continue
            triples.append([(entry.input, ws[0], heads.order[index])])
    elif heads.order:
        context.error(
            "GM225",
            f"HEAD.PARAMS has {len(heads.order)} heads and the mapping has {count} features of {len(entries)} inputs",
            at,
            "list one head per feature, in order, or one feature per input",
        )
    edges, outputs = _edges([triple for group in triples for triple in group])
    names = iter(outputs)
    nested: list[Any] = []
    for group in triples:
        found = [next(names) for _ in group]
        nested.append(found if len(found) > 1 else found[0])
    return Wiring(inputs, edges, nested)


@dataclass(frozen=True)
class _Entry:
    input: str
    features: tuple[str, ...]
    path: KeyPath
    feature_path: KeyPath
    head_index: int | None = None
    companions: tuple[str, ...] = ()


def _entry(context: Context, item: Any, path: KeyPath) -> _Entry | None:
    form = 'an entry is `["images", ["res5"]]` or `["images", {"feat_names": ["res5"], "head_index": 0}]`'
    if not (isinstance(item, list) and len(item) == 2 and isinstance(item[0], str)):
        context.error("GM226", "not a valid entry of MULTI_INPUT_HEAD_MAPPING", path, form)
        return None
    name, rest = item
    if isinstance(rest, list):
        rest, feature_path = {"feat_names": rest}, (*path, 1)
    elif isinstance(rest, Mapping):
        feature_path = (*path, 1, "feat_names")
    else:
        context.error(
            "GM226", f"the features of `{name}` must be a list or a mapping, not {kind_of(rest)}", (*path, 1), form
        )
        return None
    for key in rest:
        if key not in ("feat_names", "head_index", "additional_keys"):
            context.error("GM226", f"unknown key `{key}` in the mapping of `{name}`", (*path, 1, key), form)
    features, index, companions = rest.get("feat_names", []), rest.get("head_index"), rest.get("additional_keys", [])
    if not (isinstance(features, list) and all(isinstance(f, str) for f in features)):
        context.error("GM226", f"the features of `{name}` must be a list of names", feature_path, form)
        return None
    if index is not None and (not isinstance(index, int) or isinstance(index, bool)):
        context.error("GM226", f"`head_index` must be a number, not {kind_of(index)}", (*path, 1, "head_index"), form)
        return None
    if not (isinstance(companions, list) and all(isinstance(c, str) for c in companions)):
        context.error("GM226", "`additional_keys` must be a list of names", (*path, 1, "additional_keys"), form)
        return None
    return _Entry(name, tuple(features), path, feature_path, index, tuple(companions))


def _pooled(context: Context, entry: _Entry, pools: Sequence[VisslFeature]) -> list[VisslFeature]:
    """The features of an entry; a frozen extractor pools them as its map says, by name or by position."""
    wanted = []
    for i, feature in enumerate(entry.features):
        path = (*entry.feature_path, i)
        asked = _feature(context, feature, path)
        named = [p for p in pools if p.feature == asked]
        if not pools:
            wanted.append(VisslFeature(asked, path))
        elif named or len(pools) == len(entry.features):
            pool = named[0] if named else pools[i]
            wanted.append(VisslFeature(asked, path, pool.pool, pool.flatten))
        else:
            context.error(
                "GM224",
                f"LINEAR_EVAL_FEAT_POOL_OPS_MAP has no entry for `{feature}`",
                path,
                f'add `["{feature}", ["Identity", []]]`',
            )
    return wanted or [VisslFeature(None, entry.path)]


def _edges(triples: Sequence[tuple[str, VisslFeature, str | None]]) -> tuple[list[Any], list[str]]:
    """Native long-form edges with stable output names."""
    several = len({name for name, _, _ in triples}) > 1
    by_head = Counter(head for _, _, head in triples)
    used: Counter[str] = Counter()
    taken: set[str] = set()
    edges: list[Any] = []
    names: list[str] = []
    for name, wanted, head in triples:
        source = name if wanted.feature is None else f"{name}.{wanted.feature}"
        base = head or (f"{name}_{wanted.feature or 'features'}" if several else wanted.feature or "features")
        base = base.replace(".", "_")
        if name_problem(base, "an output"):  # MobileNet has a feature called `trunk`
            base = f"{base}_output"
        shared = head is not None and by_head[head] > 1
        label = f"{base}_{name}" if shared else base
        unique = label
        while unique in taken:
            used[label] = max(used[label], 1) + 1
            unique = f"{label}_{used[label]}"
        taken.add(unique)
        names.append(unique)
        edge: dict[str, Any] = {"from": Located(source, wanted.path)}
        if head is not None:
            edge["head"] = head
        if unique != head:
            edge["as"] = unique
        if wanted.pool is not None:
            edge["pool"] = wanted.pool
        if wanted.flatten:
            edge["flatten"] = True
        edges.append(Located(edge, wanted.path))
    return edges, names
