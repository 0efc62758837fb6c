"""Pydantic validation with located findings: unions told apart by the kind of value, nearest names suggested."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeVar, Union

from pydantic import BaseModel, Tag, ValidationError

from graphmodel.diagnostics import LIMIT, Collector, CompileError, Diagnostic, choices_help, nearest
from graphmodel.spec.document import Document, KeyPath, Place, dotted, kind_of
from graphmodel.spec.fields import BOOL, LIST, MAP, NUMBER, TAGS, TEXT
from graphmodel.spec.recovery import MAX_ROUNDS, changed

ModelT = TypeVar("ModelT", bound=BaseModel)


def validate(model: type[ModelT], document: Document, report: Collector, data: Any = None, at: KeyPath = ()) -> ModelT:
    """Validates `data`, or the whole document, and returns the model.

    What is not valid is reported and left out, so that the rest can be checked: the caller raises the findings.

    Args:
        model: the Pydantic model.
        document: where positions are looked up.
        report: where findings go: GM201, GM202 and GM203 for everything wrong in it.
        data: the value at the path `at`; the whole document if None.
        at: its path in the document.

    Raises:
        CompileError: if nothing of it is valid.
    """
    value = document.data if data is None else data
    for turn in range(MAX_ROUNDS):
        try:
            return model.model_validate(value)
        except ValidationError as error:
            found = error.errors(include_url=False)
        partial = Document(_nested(value, at))
        changes: dict[KeyPath, str | None] = {}
        if turn == 0:
            report_invalid(found, model, document, report, at)
            changes.update(_meant(found, model, partial, at))
            document.places = _with_names(document.places, {(*at, *path): name for path, name in changes.items()})
        changes = changes or dict.fromkeys(path[len(at) :] for path in offending(found, partial, at))
        value = changed(value, changes)
        if value is None:
            break
    raise CompileError(report.found, report.omitted)


def offending(found: Sequence[Any], document: Document, at: KeyPath) -> list[KeyPath]:
    """The paths of the values to leave out for Pydantic's findings."""
    paths = ((real_path(tuple(finding["loc"]), document, at), finding["type"]) for finding in found)
    return list(dict.fromkeys(path[:-1] if kind == "missing" else path for path, kind in paths))


def _meant(
    found: Sequence[Any], model: type[BaseModel], document: Document, at: KeyPath
) -> Iterator[tuple[KeyPath, str | None]]:
    """Unknown keys, by their path in the value, and the keys that they resemble: what they hold is checked too."""
    taken: set[KeyPath] = set()
    unknown = [tuple(finding["loc"]) for finding in found if finding["type"] == "extra_forbidden"]
    for location in unknown[:LIMIT]:
        path, owner = real_path(location, document, at), model_at(model, location[:-1])
        meant = getattr(owner, "renamed", {}).get(path[-1]) or nearest(path[-1], keys_of(owner))
        parent = document.get(path[:-1])
        if meant is None or not isinstance(parent, Mapping) or meant in parent or (*path[:-1], meant) in taken:
            continue
        taken.add((*path[:-1], meant))
        yield path[len(at) :], meant


def _with_names(places: dict[KeyPath, Place], names: Mapping[KeyPath, str | None]) -> dict[KeyPath, Place]:
    """The locations, with those of keys that are read under another name under that too."""
    if not names:
        return places
    found = dict(places)
    for path, place in places.items():
        for end in range(1, len(path) + 1):
            name = names.get(path[:end])
            if name is not None:
                found[(*path[: end - 1], name, *path[end:])] = place
    return found


def _nested(value: Any, at: KeyPath) -> Any:
    """A document that has the value at a path."""
    for key in reversed(at):
        value = {key: value}
    return value


def report_invalid(
    found: list[Any],
    model: type[BaseModel],
    document: Document,
    report: Collector,
    at: KeyPath = (),
    beside: Sequence[str] = (),
) -> None:
    """Reports Pydantic's findings; beyond `LIMIT` they are only counted, since looking up names takes time.

    Args:
        found: the findings.
        model: what was validated.
        document: where it was written.
        report: where findings go.
        at: the path of what was validated.
        beside: keys that are valid in the same mapping and belong to another model.
    """
    # A value has a few findings at most, so that the first `LIMIT` values are among these.
    kept = _one_per_union(found[: 10 * LIMIT], document, at)
    for finding in kept[:LIMIT]:
        report.add(diagnose(finding, model, document, at, beside))
    report.omitted += max(0, len(kept) - LIMIT) + max(0, len(found) - 10 * LIMIT)


_VAGUE = ("literal_error", "none_required", "int_type", "float_type", "bool_type", "string_type", "list_type")
"""Kinds of findings that say less than another about the same value: that it is not this member of a union."""


def _one_per_union(found: list[Any], document: Document, at: KeyPath) -> list[Any]:
    """Keeps one finding for each value: of `integer | auto`, Pydantic reports that -1 fits neither, one by one.

    The one that is kept says most, and has the words that the others accept in its help.
    """
    groups: dict[KeyPath, list[Any]] = {}
    paths: list[KeyPath] = []
    for finding in found:
        path = real_path(tuple(finding["loc"]), document, at)
        # Only members of a union leave parts in the location that the document does not have.
        alone = len(path) - len(at) == len(finding["loc"])
        groups.setdefault((*path, len(groups)) if alone else path, []).append(finding)
        paths.append(path)
    inside = {path[:end] for path in paths for end in range(len(path))}
    kept = []
    for path, group in groups.items():
        best = min(group, key=lambda finding: finding["type"] in _VAGUE)
        if best["type"] in _VAGUE and path in inside:  # of `integer | list`, an entry of the list says more
            continue
        words = [str(f["ctx"]["expected"]) for f in group if f["type"] == "literal_error" and f is not best]
        kept.append({**best, "help": f"or write {' or '.join(words)}".replace("'", "`")} if words else best)
    return kept


_KINDS = {TEXT: "text", MAP: "a mapping", LIST: "a list", NUMBER: "a number", BOOL: "true or false"}
_WANTED = {
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
}
"""Kinds of findings about the type of a value, and what was wanted."""
_FORMS = {
    "a list": "a list is written in brackets: `[a, b]`",
    "a mapping": "a mapping is written with names and without dashes: `name: value`",
}


def diagnose(
    finding: Mapping[str, Any], model: Any, document: Document, at: KeyPath = (), beside: Sequence[str] = ()
) -> Diagnostic:
    """One Pydantic finding as a diagnostic."""
    location = tuple(finding["loc"])
    path = real_path(location, document, at)
    kind = finding["type"]
    where = dotted(path)
    if kind == "extra_forbidden":
        owner = model_at(model, location[:-1])
        renamed = getattr(owner, "renamed", {}).get(path[-1], "")
        help = f"it is now called `{renamed}`" if renamed else getattr(owner, "elsewhere", {}).get(path[-1], "")
        return unknown_key(path, [*keys_of(owner), *(beside if len(location) == 1 else ())], document, help)
    if kind == "missing":
        parent = dotted(path[:-1]) or "the spec"
        return Diagnostic(
            "GM203",
            f"missing key `{path[-1]}` in {_quoted(parent)}",
            document.span(path[:-1], key=True),
            f"add `{path[-1]}:`",
            path=where,
        )
    value = finding.get("input")
    if kind == "literal_error":
        choices = [c.strip().strip("'") for c in str(finding["ctx"]["expected"]).replace(" or ", ", ").split(", ")]
        message, help = f"`{value}` is not a valid value for `{where}`", choices_help(value, choices)
        if isinstance(value, str) and value in choices:
            message, help = f"`{where}` takes a number, not the text {value!r}", f"write `{value}`, without quotes"
        return Diagnostic("GM202", message, document.span(path), help, path=where)
    context = finding.get("ctx", {})
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        kinds = [_KINDS[tag] for tag in _tags_of(model, location) if tag in _KINDS]
        expected = " or ".join([part for part in (", ".join(kinds[:-1]), *kinds[-1:]) if part])
        message = f"`{where}` takes {expected or 'another kind of value'}, not {kind_of(value)}"
        help = _no_space(value) or _example(model, location) or (_in_brackets(value) if "a list" in kinds else "")
        return Diagnostic("GM202", message, document.span(path), help, path=where)
    if kind in _WANTED or kind == "model_type":
        owner = model_at(model, location) if kind == "model_type" else None
        wanted = "a mapping" if kind == "model_type" else _WANTED[kind]
        example = getattr(owner, "example", "")
        holder = model_at(model, location[:-1])
        instead = getattr(holder, "elsewhere", {}).get(path[-1] if path else "", "")
        example = f"for example `{example}`" if example else finding.get("help", "") or instead
        example = _no_space(value) or example or _FORMS.get(wanted, "")
        message = f"`{where}` takes {wanted}, not {_shown(value)}" if where else f"the spec takes {wanted}"
        return Diagnostic("GM202", message, document.span(path), example, path=where)
    if kind in ("too_short", "too_long"):
        bound = context["min_length"] if kind == "too_short" else context["max_length"]
        limit = f"needs at least {bound}" if kind == "too_short" else f"takes at most {bound}"
        entries = "entry" if bound == 1 else "entries"
        message = f"`{where}` {limit} {entries}, and has {context['actual_length']}"
        return Diagnostic("GM202", message, document.span(path), finding.get("help", ""), path=where)
    text = str(finding["msg"])
    for prefix in ("Value error, ", "Assertion failed, ", "Input should be "):
        if text.startswith(prefix):
            text = text.removeprefix(prefix)
            if prefix == "Input should be ":
                text = f"should be {text}, not {_shown(value)}"
    message, _, help = text.partition("; help: ")
    help = help or finding.get("help", "")
    colon = "" if message.startswith(("has ", "needs ", "takes ", "should ")) else ":"
    joined = f"`{where}`{colon} {message}" if where else f"the spec {message}"
    return Diagnostic("GM202", joined, document.span(path), help, path=where)


def unknown_key(path: KeyPath, keys: Sequence[str], document: Document, help: str = "") -> Diagnostic:
    """The finding about a key that is not valid.

    Args:
        path: its path.
        keys: those that are valid beside it.
        document: where it was written.
        help: what to write instead, if that is known better than from the names of the keys.
    """
    message = f"unknown key `{path[-1]}` in {_quoted(dotted(path[:-1]) or 'the spec')}"
    help = help or choices_help(path[-1], keys, "valid keys")
    return Diagnostic("GM201", message, document.span(path, key=True), help, path=dotted(path))


def _no_space(value: Any) -> str:
    """What to write instead of `key:value`, which is text."""
    found = re.fullmatch(r"([A-Za-z_]\w*):(\S.*)", value) if isinstance(value, str) and len(value) < 200 else None
    return f"write `{found[1]}: {found[2]}`, with a space after the colon" if found is not None else ""


def _in_brackets(value: Any) -> str:
    """How a list of names is written that were given as text."""
    return _FORMS["a list"].replace("a, b", value) if isinstance(value, str) and 0 < len(value) < 60 else ""


def _example(model: Any, location: tuple[str | int, ...]) -> str:
    """How a member of a union is written that is a mapping."""
    for part in location:
        model = _step(model, part)
    members = [model]
    while members:
        member = members.pop()
        example = getattr(member, "example", "") if isinstance(member, type) else ""
        if example:
            return f"for example `{example}`"
        members += typing.get_args(member)[:1] if typing.get_origin(member) is Annotated else typing.get_args(member)
    return ""


def _tags_of(model: Any, location: tuple[str | int, ...]) -> list[str]:
    """The tags of the members of the union at a location."""
    for part in location:
        model = _step(model, part)
    return [m.tag for branch in typing.get_args(_bare(model)) for m in typing.get_args(branch) if isinstance(m, Tag)]


def _quoted(text: str) -> str:
    return text if text == "the spec" else f"`{text}`"


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, (str, int, float, bool)) else kind_of(value)
    return text if len(text) <= 60 else text[:57] + "…"


def real_path(location: tuple[str | int, ...], document: Document, at: KeyPath = ()) -> KeyPath:
    """Pydantic's location without the union tags that the YAML does not have."""
    path: list[str | int] = list(at)
    value = document.get(at, None)
    for i, part in enumerate(location):
        inside = isinstance(value, Mapping) and part in value
        # The first part is a field; below a scalar or a list, a word can only be the tag of a union.
        tagged = isinstance(part, str) and (
            part in TAGS or part == "[key]" or (i > 0 and not isinstance(value, Mapping))
        )
        if tagged and not inside:
            continue
        path.append(part)
        value = document.get(path, None)
    return tuple(path)


def model_at(model: Any, location: tuple[str | int, ...]) -> type[BaseModel] | None:
    """The model at a Pydantic location inside `model`, or None if there is none."""
    for part in location:
        model = _step(model, part)
        if model is None:
            return None
    model = _bare(model)
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def keys_of(model: type[BaseModel] | None) -> list[str]:
    """The keys of a model as users write them."""
    return [f.alias or name for name, f in model.model_fields.items()] if model is not None else []


def _bare(annotation: Any) -> Any:
    while typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) in (Union, types.UnionType):
        real = [a for a in typing.get_args(annotation) if a is not type(None)]
        if len(real) == 1:
            return _bare(real[0])
    return annotation


def _step(annotation: Any, part: str | int) -> Any:
    annotation = _bare(annotation)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        for branch in arguments:
            tags = [m.tag for m in typing.get_args(branch)[1:] if isinstance(m, Tag)]
            if part in tags or (isinstance(_bare(branch), type) and _bare(branch).__name__ == part):
                return branch
        return None
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, info in annotation.model_fields.items():
            if part in (name, info.alias):
                return Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
        return None
    if origin is dict:
        return arguments[1]
    if origin in (list, tuple) and arguments:
        return arguments[min(part, len(arguments) - 1) if isinstance(part, int) and arguments[-1] is not ... else 0]
    return None
