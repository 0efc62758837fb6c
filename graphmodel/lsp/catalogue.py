"""What specs may name, known without torch: heads, trunks, the models of libraries, and the keys of both formats."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from graphmodel.components.library.model_names import library_models
from graphmodel.lsp.schema_keys import Keys
from graphmodel.stored import stored, stored_path

Schema = dict[str, Any]
FORMATS = ("native", "vissl")


@dataclass(frozen=True)
class Catalogue:
    """The generated files: the catalogue of components, and the JSON Schema of each format.

    Attributes:
        components: the contents of `catalogue.json`.
        schemas: the schema of each format.
    """

    components: Mapping[str, Any]
    schemas: Mapping[str, Schema]

    @cached_property
    def heads(self) -> dict[str, Mapping[str, Any]]:
        """Each head's row by its name, and by each of its other names."""
        return {n: row for row in self.components["heads"] for n in (row["name"], *row["aliases"])}

    @cached_property
    def trunks(self) -> dict[str, Mapping[str, Any]]:
        """Each family's row by its name, and by each of its other names."""
        return {n: row for row in self.components["trunks"] for n in (row["name"], *row["aliases"])}

    @cached_property
    def models(self) -> dict[str, tuple[str, ...]]:
        """The models of each library, by the name before the colon."""
        return library_models()

    @cached_property
    def trunk_names(self) -> list[str]:
        """Every name that a trunk may have."""
        own = [name for name, row in self.trunks.items() if not row["library"]]
        return [*own, *(f"{library}:{name}" for library, names in self.models.items() for name in names)]

    def is_trunk(self, name: str) -> bool:
        """Whether a trunk may have this name, as far as can be told: a library may know more than its list."""
        library, colon, model = name.partition(":")
        if not colon:
            return name in self.trunks
        if library not in self.trunks:
            return False
        names = self.models.get(library)
        return not names or model.partition(".")[0] in names or "/" in model or model.startswith("hf")

    @cached_property
    def _keys(self) -> dict[str, Keys]:
        return {name: Keys(schema) for name, schema in self.schemas.items()}

    def keys(self, dialect: str) -> Keys:
        """The keys of a format."""
        return self._keys[dialect]

    @cached_property
    def trunk_parameters(self) -> dict[str, list[str]]:
        """The keys of each family of trunks, its own parameters first; a library's models take any key."""
        found: dict[str, list[str]] = {}
        for form in self.schemas["native"]["$defs"]["Trunk"]["anyOf"]:
            name = form.get("properties", {}).get("name", {})
            keys = [key for key in form.get("properties", {}) if key != "name"]
            for const in [name, *name.get("anyOf", ())]:
                if "const" in const and form.get("additionalProperties", True) is False:
                    found[const["const"]] = keys
        return found


def stored_catalogue() -> Catalogue | None:
    """The generated files; None if packages register further components, which only the worker can list."""
    components = stored("catalogue.json")
    if components is None:
        return None
    try:
        schemas = {name: json.loads(stored_path(f"{name}.schema.json").read_text("utf-8")) for name in FORMATS}
    except FileNotFoundError:
        return None
    return Catalogue(components, schemas)
