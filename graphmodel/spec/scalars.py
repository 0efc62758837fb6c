"""What unquoted text means in YAML: YAML 1.2's core schema, with limits."""

from __future__ import annotations

import re
from typing import Any

MAX_DIGITS = 1000
"""The longest number; Python itself refuses to convert more than 4,300 digits."""

# PyYAML follows YAML 1.1, where `1e-5` is a string and `no` a boolean.
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0+[0-9]+)$")
_BASED_INT = re.compile(r"0(?:o[0-7]+|x[0-9a-fA-F]+)$")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SPECIAL = {".inf": float("inf"), "+.inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan")}
_WORDS: dict[str, Any] = {"": None, "~": None, "null": None, "true": True, "false": False}


def plain_value(text: str) -> Any:
    """The value of an unquoted scalar in YAML 1.2's core schema: `1e-5` is a number, `no` is text."""
    if len(text) > MAX_DIGITS:
        return text
    lowered = text.lower()
    if lowered in _WORDS and (text == lowered or text == lowered.capitalize() or text == lowered.upper()):
        return _WORDS[lowered]
    if _INT.match(text):
        return int(text.replace("_", ""))
    if _BASED_INT.match(text):
        return int(text, 0)
    if _FLOAT.match(text) and text not in (".", "+.", "-."):
        return float(text.replace("_", ""))
    return _SPECIAL.get(lowered, text)


def surrogate_in(text: str) -> int | None:
    """The position of the first half of a surrogate pair, which no encoding can write; None if there is none."""
    if text.isascii():
        return None
    found = _SURROGATE.search(text)
    return found.start() if found else None
