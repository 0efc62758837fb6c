"""Reads the JSON Schema of a format along a path: the keys and values that are valid there, with what they mean."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from graphmodel.spec.document import KeyPath

Schema = Mapping[str, Any]


@dataclass(frozen=True)
class Key:
    """A key that is valid somewhere.

    Attributes:
        name: the key.
        type: what it takes, in a few words.
        required: whether it must be there.
        default: its default as JSON; empty if it has none.
        description: what it means.
    """

    name: str
    type: str
    required: bool
    default: str
    description: str

    def detail(self) -> str:
        """Type and default in one line.

        >>> Key("depth", "integer", False, "50", "").detail()
        'integer = 50'
        """
        if self.default:
            return f"{self.type} = {self.default}"
        return f"{self.type} (required)" if self.required else self.type


class Keys:
    """The keys of a format.

    Args:
        schema: its JSON Schema.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema

    def at(self, path: KeyPath, data: Any) -> list[Schema]:
        """The schemas that may hold for the value at a path, given what else the document has."""
        found = list(self._members(self.schema, data))
        value = data
        for part in path:
            inside = value.get(part) if isinstance(value, dict) else None
            if isinstance(value, list) and isinstance(part, int) and part < len(value):
                inside = value[part]
            found = [m for s in found for below in self._below(s, part) for m in self._members(below, inside)]
            value = inside
        return found

    def keys(self, path: KeyPath, data: Any) -> dict[str, Key]:
        """The keys that are valid in the mapping at a path."""
        found: dict[str, Key] = {}
        for schema in self.at(path, data):
            for name, content in schema.get("properties", {}).items():
                if name not in found:
                    found[name] = self._key(name, content, name in schema.get("required", ()))
        return found

    def key(self, path: KeyPath, data: Any) -> Key | None:
        """The key at the end of a path."""
        if not path or not isinstance(path[-1], str):
            return None
        return self.keys(path[:-1], data).get(path[-1])

    def values(self, path: KeyPath, data: Any) -> list[str]:
        """The words that are valid as the value at a path."""
        found: list[str] = []
        for schema in self.at(path, data):
            words = [*schema.get("enum", ()), *([schema["const"]] if "const" in schema else [])]
            words += [True, False] if schema.get("type") == "boolean" else []
            found += [str(w).lower() if isinstance(w, bool) else str(w) for w in words if w is not None]
        return list(dict.fromkeys(found))

    def _key(self, name: str, content: Schema, required: bool) -> Key:
        resolved = {**self._resolve(content), **{k: v for k, v in content.items() if k != "$ref"}}
        default = json.dumps(resolved["default"]) if "default" in resolved else ""
        return Key(name, self.type_of(content), required, default, str(resolved.get("description", "")))

    def type_of(self, schema: Schema, depth: int = 0) -> str:
        """What a value may be, in a few words."""
        schema = self._resolve(schema)
        if depth > 4:  # a list of outputs may hold lists of outputs
            return "…"
        forms = schema.get("anyOf") or schema.get("oneOf")
        if forms and "type" not in schema:
            named = [t for t in (self.type_of(f, depth + 1) for f in forms) if t not in ("none", "anything", "…")]
            return " | ".join(dict.fromkeys(named)) or "anything"
        if "enum" in schema:
            words = [str(w) for w in schema["enum"]]
            return " | ".join(words[:12]) + (" | …" if len(words) > 12 else "")
        if "const" in schema:
            return str(schema["const"])
        kind = schema.get("type")
        if kind == "array":
            return (
                f"list of {self.type_of(schema['items'], depth + 1)}"
                if isinstance(schema.get("items"), dict)
                else "list"
            )
        names = {"object": "mapping", "string": "text", "null": "none"}
        return names.get(str(kind), str(kind)) if kind is not None else "anything"

    def _resolve(self, schema: Schema) -> Schema:
        for _ in range(10):
            reference = schema.get("$ref")
            if reference is None:
                break
            schema = self.schema["$defs"].get(str(reference).rpartition("/")[2], {})
        return schema

    def _members(self, schema: Any, value: Any, depth: int = 0) -> Iterator[Schema]:
        """A schema, or the members of a union that the value may still become."""
        if not isinstance(schema, dict) or depth > 12:
            return
        schema = self._resolve(schema)
        yield schema
        for form in [*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())]:
            found = self._resolve(form)
            if self._fits(found, value):
                yield from self._members(found, value, depth + 1)

    def _fits(self, schema: Schema, value: Any) -> bool:
        """Whether a mapping may be of this member: its `name` is the member's."""
        name = value.get("name") if isinstance(value, dict) else None
        consts = schema.get("properties", {}).get("name", {})
        alternatives = [consts, *consts.get("anyOf", ())]
        words = [a["const"] for a in alternatives if "const" in a]
        patterns = [a["pattern"] for a in alternatives if "pattern" in a]
        if not isinstance(name, str) or not (words or patterns):
            return True
        return name in words or any(re.search(p, name) for p in patterns)

    def _below(self, schema: Schema, part: str | int) -> Iterator[Any]:
        if isinstance(part, int):
            prefix = schema.get("prefixItems", ())
            if part < len(prefix):
                yield prefix[part]
            elif "items" in schema:
                yield schema["items"]
            return
        if part in schema.get("properties", {}):
            yield schema["properties"][part]
            return
        matching = [s for pattern, s in schema.get("patternProperties", {}).items() if re.search(pattern, part)]
        yield from matching
        if not matching and isinstance(schema.get("additionalProperties"), dict):
            yield schema["additionalProperties"]
