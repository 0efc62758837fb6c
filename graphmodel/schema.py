"""JSON Schemas of the dialects, from the Pydantic models and the parameters of every registered head and trunk."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema

from graphmodel.components.library.layer_names import PACKAGES
from graphmodel.components.registry import find_head, find_trunk, head_names, trunk_names
from graphmodel.dialects.native.format import NativeSpec
from graphmodel.dialects.vissl.config import VisslFile
from graphmodel.spec.pools import POOLS
from graphmodel.stored import stored_path
from graphmodel.writing import write_file

Schema = dict[str, Any]

DRAFT = "https://json-schema.org/draft/2020-12/schema"
_LAYER = f"^({'|'.join(re.escape(package) for package in PACKAGES)}):[A-Za-z]"
_NOTHING: Schema = {"type": "null"}
_EXTENDS: Schema = {
    "description": "Files that this one changes; paths are relative to it.",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
}


def native_schema() -> Schema:
    """The schema of the native format."""
    schema = _clean(NativeSpec.model_json_schema())
    defs: Schema = schema["$defs"]
    params = _Params()
    trunk = {"$ref": "#/$defs/Trunk"}
    defs["Trunk"] = {"anyOf": [{"type": "string", "anyOf": _trunk_names()}, *_trunks(defs.pop("TrunkYaml"), defs)]}
    defs["Module"] = _module(params)
    module = {"$ref": "#/$defs/Module"}
    copy = {"$ref": "#/$defs/HeadCopyYaml"}
    defs["Head"] = {"anyOf": [module, copy, {"type": "array", "items": module, "minItems": 1}]}
    defs["Pool"] = _pool()
    size = {k: v for k, v in defs["ResizeYaml"]["properties"]["size"].items() if k != "description"}
    defs["Resize"] = {
        "description": "Resampling on the way to the head.",
        "anyOf": [{"$ref": "#/$defs/ResizeYaml"}, size, _NOTHING],
    }
    defs["Output"] = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"$ref": "#/$defs/Output"}}]}
    for part in ("EdgeYaml", "FeatureYaml", "SourceYaml", "GridLayerYaml"):
        defs[part]["properties"]["pool"] = {"$ref": "#/$defs/Pool"}
        defs[part]["properties"]["resize"] = {"$ref": "#/$defs/Resize"}
    _describe_grid(defs, module)
    properties: Schema = schema["properties"]
    properties["extends"] = _EXTENDS
    properties["trunk"] = {"description": "The trunk; use `trunks` for several.", **trunk}
    properties["trunks"] = {"type": "object", "minProperties": 1, "additionalProperties": trunk}
    properties["heads"] = {
        "description": "Heads by name: one module, or a list of modules that run one after the other.",
        "type": "object",
        "additionalProperties": {"$ref": "#/$defs/Head"},
    }
    properties["outputs"]["anyOf"][0]["items"] = {"$ref": "#/$defs/Output"}
    schema["anyOf"] = [{"required": [key]} for key in ("trunk", "trunks", "heads", "grid", "extends")]
    schema["not"] = {"required": ["trunk", "trunks"]}
    return _finished(schema, params, "native", "graphmodel's native format")


def vissl_schema() -> Schema:
    """The schema of VISSL's configuration files; overlays are valid too, so nothing is required."""
    schema = _clean(VisslFile.model_json_schema())
    params = _Params()
    heads = []
    for name in head_names():
        entry = find_head(name)
        assert entry is not None
        heads.append({"type": "array", "prefixItems": [{"const": name}, params.of(entry.params)], "minItems": 1})
    defs: Schema = schema["$defs"]
    defs["Module"] = {"anyOf": heads}
    defs["Head"]["properties"]["PARAMS"]["items"] = {
        "anyOf": [{"$ref": "#/$defs/Module"}, {"type": "array", "items": {"$ref": "#/$defs/Module"}, "minItems": 1}]
    }
    defs["Trunk"]["properties"]["NAME"] = {"enum": trunk_names(), "default": "resnet"}
    schema["properties"]["extends"] = _EXTENDS
    schema["anyOf"] = [{"required": [key]} for key in ("config", "MODEL", "extends")]
    return _finished(schema, params, "vissl", "a VISSL configuration file")


SCHEMAS: dict[str, Callable[[], Schema]] = {"native": native_schema, "vissl": vissl_schema}
"""The schema of each dialect."""


def schema_text(dialect: str) -> str:
    """A dialect's schema as the text of its file."""
    return json.dumps(SCHEMAS[dialect](), indent=2, ensure_ascii=False, sort_keys=False) + "\n"


def write_schemas(directory: str | Path, dialects: Sequence[str] = ("native", "vissl")) -> list[Path]:
    """Writes `NAME.schema.json` files into a directory and returns their paths."""
    texts = {Path(directory) / f"{name}.schema.json": schema_text(name) for name in dialects}
    return [write_file(path, text) for path, text in texts.items()]


def schema_path(dialect: str) -> Path:
    """The schema file of a dialect, in an installed package or in a checkout.

    Raises:
        FileNotFoundError: if neither has it.
    """
    return stored_path(f"{dialect}.schema.json")


class _Params:
    """Schemas of parameter models under `$defs`, each once."""

    def __init__(self) -> None:
        self.models: dict[type[BaseModel], str] = {}

    def of(self, model: type[BaseModel]) -> Schema:
        """A reference to the model's schema."""
        if model not in self.models:
            name = model.__name__
            while name in self.models.values():
                name += "_"
            self.models[model] = name
        return {"$ref": f"#/$defs/{self.models[model]}"}

    def definitions(self) -> Schema:
        """All schemas that are referred to."""
        out: Schema = {}
        for model, name in self.models.items():
            out[name] = _own(model, out)
        return out


def _own(model: Any, defs: Schema) -> Schema:
    """A model's schema; what it refers to goes into `defs`. An open mapping if a type has no schema."""
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return {"type": "object", "properties": {}}
    try:
        found = model.model_json_schema(ref_template=f"#/$defs/{model.__name__}.{{model}}")
    except PydanticInvalidForJsonSchema:  # a user's own class among the parameters
        return {"type": "object", "properties": {}}
    schema: Schema = _clean(found)
    defs.update({f"{model.__name__}.{name}": inner for name, inner in schema.pop("$defs", {}).items()})
    return {"properties": {}, **schema}


def _finished(schema: Schema, params: _Params, name: str, title: str) -> Schema:
    schema["$defs"] = dict(sorted({**schema["$defs"], **params.definitions()}.items()))
    head = {"$schema": DRAFT, "$id": f"urn:graphmodel:schema:{name}:1", "title": title}
    return {**head, **{k: v for k, v in schema.items() if k not in head}}


def _clean(value: Any, properties: bool = False) -> Any:
    """Pydantic's schema without the noise: no generated titles, no null defaults, `minItems` for lists."""
    if isinstance(value, list):
        return [_clean(v) for v in value]
    if not isinstance(value, dict):
        return value
    if properties:
        return {k: _clean(v) for k, v in value.items()}
    out = {k: _clean(v, k in ("properties", "$defs")) for k, v in value.items() if k != "title"}
    if out.get("default", 0) is None:
        del out["default"]
    if out.get("type") == "array":
        for length, items in (("minLength", "minItems"), ("maxLength", "maxItems")):
            if length in out:
                out[items] = out.pop(length)
    return out


# -- trunks -----------------------------------------------------------------------------------------------------------


def _trunk_names() -> list[Schema]:
    """Valid trunk names: registered names, and any name of a library whose models are trunks."""
    names = trunk_names()
    open_ended = [n for n in names if _is_library(n)]
    out: list[Schema] = [{"enum": [n for n in names if n not in open_ended]}]
    return out + [{"pattern": f"^{name}:."} for name in open_ended]


def _is_library(name: str) -> bool:
    """Whether a trunk's name is that of a library, followed by a colon and the name of a model."""
    family = find_trunk(name)
    return family is not None and family.variants() is not None


def _trunks(common: Schema, defs: Schema) -> list[Schema]:
    """One schema per family, told apart by `name`, and one for imported code."""
    shared = {k: v for k, v in common["properties"].items() if k not in ("name", "module", "copy")}
    by_model: dict[Any, tuple[list[Schema], str]] = {}
    for name in trunk_names():
        family = find_trunk(name)
        assert family is not None
        names, _ = by_model.setdefault(family.Params, ([], family.summary))
        names.append({"pattern": f"^{name}:."} if _is_library(name) else {"const": name})
    out = []
    for model, (names, summary) in by_model.items():
        own = _own(model, defs)
        schema: Schema = {
            "type": "object",
            "description": summary,
            "properties": {"name": names[0] if len(names) == 1 else {"anyOf": names}, **own["properties"], **shared},
            "required": ["name", *own.get("required", ())],
            "additionalProperties": own.get("additionalProperties", True),
        }
        out.append(schema)
    module = {**common["properties"]["module"], "type": "string"}
    module.pop("anyOf", None)
    out.append(
        {
            "type": "object",
            "description": "Imported code; only if the caller allows imports.",
            "properties": {"module": module, **shared},
            "required": ["module"],
        }
    )
    own = {k: v for k, v in shared.items() if k in ("freeze", "memory_format")}
    out.append(
        {
            "type": "object",
            "description": "A copy of another trunk, with parameters that it overrides.",
            "properties": {"copy": {"description": "The other trunk.", "type": "string"}, **own},
            "required": ["copy"],
            "not": {"anyOf": [{"required": [k]} for k in ("name", "module", "pretrained", "input_type")]},
        }
    )
    return out


# -- heads ------------------------------------------------------------------------------------------------------------


def _module(params: _Params) -> Schema:
    """One module of a head: its name, or its name and parameters."""
    properties: Schema = {}
    bare = []
    for name in head_names():
        entry = find_head(name)
        assert entry is not None
        reference = params.of(entry.params)
        if any(f.is_required() for f in entry.params.model_fields.values()):
            properties[name] = {"description": entry.summary, **reference}
        else:
            properties[name] = {"description": entry.summary, "anyOf": [reference, _NOTHING]}
            bare.append(name)
    named: Schema = {
        "type": "object",
        "properties": properties,
        "patternProperties": {_LAYER: {"type": ["object", "null"]}},
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
    }
    return {"anyOf": [named, {"enum": bare}, {"type": "string", "pattern": _LAYER}]}


def _describe_grid(defs: Schema, module: Schema) -> None:
    """Says what the head and the pooling of a grid may be."""
    properties = defs["GridYaml"]["properties"]
    properties["head"] = {
        "description": properties["head"]["description"],
        "anyOf": [module, {"type": "array", "items": module, "minItems": 1}],
    }
    pool: Schema = {"$ref": "#/$defs/Pool"}
    several = [
        {"type": "array", "items": pool, "minItems": 1},
        {"type": "object", "additionalProperties": pool, "minProperties": 1},
    ]
    properties["pool"] = {"description": properties["pool"]["description"], "anyOf": [pool, *several]}


def _pool() -> Schema:
    sizes: Schema = {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": ["integer", "null"]}}]}
    flags = {"ceil_mode", "count_include_pad"}
    properties: Schema = {}
    for op, pool in POOLS.items():
        names = pool.parameters
        whole = {n: {"type": "boolean"} if n in flags else sizes for n in names}
        full: Schema = {"type": "object", "properties": whole, "additionalProperties": False}
        if names:
            full["required"] = [names[0]]
        properties[op] = {"anyOf": [full, *sizes["anyOf"], _NOTHING]} if names else {"anyOf": [full, _NOTHING]}
    one: Schema = {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
    }
    return {"description": "Pooling on the way to the head.", "anyOf": [one, {"enum": ["identity"]}, _NOTHING]}
