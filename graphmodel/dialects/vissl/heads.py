"""VISSL's heads and their wiring: HEAD.PARAMS, the feature map, MULTI_INPUT_HEAD_MAPPING."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graphmodel.dialects.located import At
from graphmodel.dialects.vissl.trunks import ONE_RESULT
from graphmodel.spec.document import KeyPath, kind_of
from graphmodel.spec.names import name_problem

if TYPE_CHECKING:
    from graphmodel.dialects.vissl.translate import Translation

POOLS: dict[str, tuple[str, tuple[str, ...]]] = {
    "AvgPool2d": (
        "avg_pool2d",
        ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    ),
    "MaxPool2d": ("max_pool2d", ("kernel_size", "stride", "padding", "dilation", "return_indices", "ceil_mode")),
    "AdaptiveAvgPool2d": ("adaptive_avg_pool2d", ("output_size",)),
    "AdaptiveMaxPool2d": ("adaptive_max_pool2d", ("output_size", "return_indices")),
    "Identity": ("identity", ()),
}
"""VISSL's pooling operations and the order of their positional arguments, as in `torch.nn`."""

HEAD_FORMS = 'a head is `["mlp", {"dims": [2048, 128]}]`, or a list of such for a chain of modules'


@dataclass
class Heads:
    """The heads of a file.

    Attributes:
        named: native heads by name, in VISSL's order.
        order: the names in the order of HEAD.PARAMS.
        nested: whether any entry is a list of modules of its own.
    """

    named: dict[str, Any]
    order: list[str]
    nested: bool


@dataclass
class Wiring:
    """Who reads what.

    Attributes:
        inputs: each input's name and its companions.
        edges: entries of the native mapping.
        outputs: the nesting of VISSL's result, names of outputs.
    """

    inputs: dict[str, list[str]]
    edges: list[Any]
    outputs: list[Any]


@dataclass(frozen=True)
class Wanted:
    """A feature that is read: its name (None for the trunk's default), pooling, flattening, and where it is written."""

    feature: str | None
    path: KeyPath
    pool: Any = None
    flatten: bool = False


def read_heads(t: Translation) -> Heads:
    """HEAD.PARAMS as named native heads; findings go into the report."""
    params = t.model.HEAD.PARAMS
    at = t.path("HEAD", "PARAMS")
    items: list[tuple[list[tuple[Any, KeyPath]], bool]] = []
    for i, item in enumerate(params):
        nested = isinstance(item, list) and bool(item) and isinstance(item[0], list)
        modules = [(m, (*at, i, j)) for j, m in enumerate(item)] if nested else [(item, (*at, i))]
        items.append((modules, nested))
    if not params:
        t.error(
            "GM222",
            "HEAD.PARAMS names no head: this file is an overlay or a base without its head",
            at if t.document.get(at) is not None else t.path(),
            "add the file that names the heads, or set FEATURE_EVAL_SETTINGS.EXTRACT_TRUNK_FEATURES_ONLY (with "
            "EVAL_MODE_ON) to extract features",
        )
        return Heads({}, [], False)
    named: dict[str, Any] = {}
    for i, (modules, nested) in enumerate(items):
        chain = [At(module, path) for m, path in modules if (module := _module(t, m, path)) is not None]
        name = "head" if len(items) == 1 else f"head{i}"
        named[name] = At(chain if nested and len(chain) > 1 else (chain[0] if chain else "identity"), (*at, i))
    return Heads(named, list(named), any(nested for _, nested in items))


def _module(t: Translation, item: Any, path: KeyPath) -> dict[str, Any] | None:
    if not isinstance(item, list) or not item or not isinstance(item[0], str):
        t.error("GM223", f"this is no head: {kind_of(item)} of another form", path, HEAD_FORMS)
        return None
    for extra in range(2, len(item)):
        t.warning(f"VISSL ignores what stands behind the parameters of `{item[0]}`", (*path, extra), HEAD_FORMS)
    kwargs = item[1] if len(item) > 1 else {}
    if not isinstance(kwargs, Mapping):
        t.error(
            "GM223", f"the parameters of `{item[0]}` are a mapping, this is {kind_of(kwargs)}", (*path, 1), HEAD_FORMS
        )
        return None
    return {item[0]: At(dict(kwargs), (*path, 1) if len(item) > 1 else path, key=(*path, 0))}


def pool_map(t: Translation) -> list[Wanted]:
    """LINEAR_EVAL_FEAT_POOL_OPS_MAP as features with their pooling."""
    settings = t.model.FEATURE_EVAL_SETTINGS
    at = t.path("FEATURE_EVAL_SETTINGS", "LINEAR_EVAL_FEAT_POOL_OPS_MAP")
    form = 'an entry is `["res5", ["AvgPool2d", [[6, 6], 1, 0]]]`'
    wanted = []
    for i, item in enumerate(settings.LINEAR_EVAL_FEAT_POOL_OPS_MAP):
        path = (*at, i)
        if not (isinstance(item, list) and len(item) == 2 and isinstance(item[0], str)):
            t.error("GM224", "this is no entry of the feature map", path, form)
            continue
        pool = item[1]
        if not (isinstance(pool, list) and 1 <= len(pool) <= 2 and isinstance(pool[0], str)):
            t.error("GM224", f"the pooling of `{item[0]}` has another form", (*path, 1), form)
            continue
        if pool[0] not in POOLS:
            t.error("GM224", f"unknown pooling `{pool[0]}`", (*path, 1, 0), f"one of: {', '.join(POOLS)}")
            continue
        op, names = POOLS[pool[0]]
        arguments = pool[1] if len(pool) == 2 and isinstance(pool[1], list) else []
        if len(arguments) > len(names):
            t.error("GM224", f"`{pool[0]}` takes at most {len(names)} arguments", (*path, 1, 1), form)
            continue
        values = {n: a for n, a in zip(names, arguments, strict=False) if n != "return_indices"}
        native = None if op == "identity" else At({op: values}, (*path, 1))
        wanted.append(Wanted(_feature(t, item[0], (*path, 0)), path, native, settings.SHOULD_FLATTEN_FEATS))
    return wanted


def _feature(t: Translation, name: str, path: KeyPath) -> str | None:
    """The feature asked for; None, which is the default one, where VISSL's trunk has one result for every name."""
    if t.model.TRUNK.NAME not in ONE_RESULT:
        return name
    if name not in ("lastCLS", "avgpool", "flatten"):
        t.note(f"VISSL's `{t.model.TRUNK.NAME}` gives its pooled vector whatever feature is asked for", path)
    return None


def wire(t: Translation, heads: Heads) -> Wiring:
    """Edges and outputs of the whole model."""
    if t.model.MULTI_INPUT_HEAD_MAPPING:
        return _wire_mapping(t, heads)
    name = "images"
    wanted = pool_map(t) if t.extractor else [Wanted(None, t.path("TRUNK"))]
    if t.features_only:
        pairs: list[tuple[Wanted, str | None]] = [(w, None) for w in wanted]
    else:
        pairs = list(_pair(t, heads, wanted))
    edges, outputs = _edges([(name, w, head) for w, head in pairs])
    return Wiring({name: []}, edges, list(outputs))


def _pair(t: Translation, heads: Heads, wanted: Sequence[Wanted]) -> Sequence[tuple[Wanted, str]]:
    """Heads and features of one input."""
    if not heads.order or not wanted:
        return []
    if len(heads.order) == len(wanted):
        return list(zip(wanted, heads.order, strict=True))
    if len(wanted) == 1 and heads.nested:
        t.note(
            f"{len(heads.order)} heads read one feature and give {len(heads.order)} outputs, as VISSL documents; "
            "its code chains them",
            t.path("HEAD", "PARAMS"),
        )
        return [(wanted[0], name) for name in heads.order]
    if len(wanted) == 1:
        # A flat list on one feature is one chain.
        chain = [heads.named[name] for name in heads.order]
        heads.named.clear()
        heads.named["head"] = At(chain, t.path("HEAD", "PARAMS"))
        heads.order[:] = ["head"]
        return [(wanted[0], "head")]
    t.error(
        "GM225",
        f"HEAD.PARAMS has {len(heads.order)} heads and the feature map has {len(wanted)} features",
        t.path("HEAD", "PARAMS"),
        "give one head per feature, in the order of LINEAR_EVAL_FEAT_POOL_OPS_MAP",
    )
    return []


def _wire_mapping(t: Translation, heads: Heads) -> Wiring:
    at = t.path("MULTI_INPUT_HEAD_MAPPING")
    entries = [e for i, item in enumerate(t.model.MULTI_INPUT_HEAD_MAPPING) if (e := _entry(t, item, (*at, i)))]
    inputs: dict[str, list[str]] = {}
    for entry in entries:
        known = inputs.setdefault(entry.input, [])
        known += [c for c in entry.companions if c not in known]
    pools = pool_map(t) if t.extractor else []
    wanted = [_pooled(t, entry, pools) for entry in entries]
    count = sum(len(w) for w in wanted)
    triples: list[list[tuple[str, Wanted, str | None]]] = []
    indexed = any(e.head_index is not None for e in entries)
    if t.features_only:
        triples = [[(e.input, w, None) for w in ws] for e, ws in zip(entries, wanted, strict=True)]
    elif len(heads.order) == count and not indexed:
        names = iter(heads.order)
        triples = [[(e.input, w, next(names)) for w in ws] for e, ws in zip(entries, wanted, strict=True)]
    elif all(len(ws) == 1 for ws in wanted):
        for i, (entry, ws) in enumerate(zip(entries, wanted, strict=True)):
            index = entry.head_index if entry.head_index is not None else min(i, len(heads.order) - 1)
            if not heads.order or not -len(heads.order) <= index < len(heads.order):
                if heads.order:
                    t.error(
                        "GM225",
                        f"there is no head {index}: HEAD.PARAMS has {len(heads.order)}",
                        (*entry.path, 1),
                        f"`head_index` goes from 0 to {len(heads.order) - 1}",
                    )
                continue
            triples.append([(entry.input, ws[0], heads.order[index])])
    elif heads.order:
        t.error(
            "GM225",
            f"HEAD.PARAMS has {len(heads.order)} heads and the mapping has {count} features of {len(entries)} inputs",
            at,
            "give one head per feature, in order, or one feature per input",
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


def _entry(t: Translation, item: Any, path: KeyPath) -> _Entry | None:
    form = 'an entry is `["images", ["res5"]]` or `["images", {"feat_names": ["res5"], "head_index": 0}]`'
    if not (isinstance(item, list) and len(item) == 2 and isinstance(item[0], str)):
        t.error("GM226", "this is no entry of MULTI_INPUT_HEAD_MAPPING", path, form)
        return None
    name, rest = item
    if isinstance(rest, list):
        rest, feature_path = {"feat_names": rest}, (*path, 1)
    elif isinstance(rest, Mapping):
        feature_path = (*path, 1, "feat_names")
    else:
        t.error("GM226", f"the features of `{name}` are a list or a mapping, this is {kind_of(rest)}", (*path, 1), form)
        return None
    for key in rest:
        if key not in ("feat_names", "head_index", "additional_keys"):
            t.error("GM226", f"unknown key `{key}` in the mapping of `{name}`", (*path, 1, key), form)
    features, index, companions = rest.get("feat_names", []), rest.get("head_index"), rest.get("additional_keys", [])
    if not (isinstance(features, list) and all(isinstance(f, str) for f in features)):
        t.error("GM226", f"the features of `{name}` are a list of names", feature_path, form)
        return None
    if index is not None and (not isinstance(index, int) or isinstance(index, bool)):
        t.error("GM226", f"`head_index` is a number, this is {kind_of(index)}", (*path, 1, "head_index"), form)
        return None
    if not (isinstance(companions, list) and all(isinstance(c, str) for c in companions)):
        t.error("GM226", "`additional_keys` is a list of names", (*path, 1, "additional_keys"), form)
        return None
    return _Entry(name, tuple(features), path, feature_path, index, tuple(companions))


def _pooled(t: Translation, entry: _Entry, pools: Sequence[Wanted]) -> list[Wanted]:
    """The features of an entry; a frozen extractor pools them as its map says, by name or by position."""
    wanted = []
    for i, feature in enumerate(entry.features):
        path = (*entry.feature_path, i)
        asked = _feature(t, feature, path)
        named = [p for p in pools if p.feature == asked]
        if not pools:
            wanted.append(Wanted(asked, path))
        elif named or len(pools) == len(entry.features):
            pool = named[0] if named else pools[i]
            wanted.append(Wanted(asked, path, pool.pool, pool.flatten))
        else:
            t.error(
                "GM224",
                f"LINEAR_EVAL_FEAT_POOL_OPS_MAP says no pooling for `{feature}`",
                path,
                f'add `["{feature}", ["Identity", []]]`',
            )
    return wanted or [Wanted(None, entry.path)]


def _edges(triples: Sequence[tuple[str, Wanted, str | None]]) -> tuple[list[Any], list[str]]:
    """Native long-form edges with stable output names."""
    several = len({name for name, _, _ in triples}) > 1
    edges: list[Any] = []
    names: list[str] = []
    for name, wanted, head in triples:
        source = name if wanted.feature is None else f"{name}.{wanted.feature}"
        base = head or (f"{name}_{wanted.feature or 'features'}" if several else wanted.feature or "features")
        base = base.replace(".", "_")
        if name_problem(base, "an output"):  # MobileNet has a feature called `trunk`
            base = f"{base}_output"
        shared = head is not None and sum(h == head for _, _, h in triples) > 1
        label = f"{base}_{name}" if shared else base
        unique, number = label, 2
        while unique in names:
            unique, number = f"{label}_{number}", number + 1
        names.append(unique)
        edge: dict[str, Any] = {"from": At(source, wanted.path)}
        if head is not None:
            edge["head"] = head
        if unique != head:
            edge["as"] = unique
        if wanted.pool is not None:
            edge["pool"] = wanted.pool
        if wanted.flatten:
            edge["flatten"] = True
        edges.append(At(edge, wanted.path))
    return edges, names
