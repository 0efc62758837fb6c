"""`optimize:` and `passes=` turn optimization passes on and off by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import graphmodel

SPEC: dict[str, Any] = {
    "inputs": {"images": [3, 32, 32]},
    "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
    "heads": {"probe": {"mlp": {"dims": ["auto", 2]}}},
    "mapping": [{"from": "images.flatten", "head": "probe", "as": name} for name in "ab"],
}


def calls(module: graphmodel.CompiledModel) -> int:
    """How often the emitted code calls the probe."""
    return sum(node.target == "heads.probe" for node in module.graph.nodes)


@pytest.mark.parametrize(
    ("switches", "expected"),
    [
        (True, 1),
        (False, 2),
        ([], 2),
        (["merge_calls"], 1),
        ({"merge_calls": False}, 2),
        ({"merge_calls": True}, 1),
        ({}, 1),
    ],
)
def test_the_same_switches_in_a_spec_and_in_python(switches: Any, expected: int, tmp_path: Path) -> None:
    module = graphmodel.compile({**SPEC, "optimize": switches}, device="meta")
    given = tuple(switches) if isinstance(switches, list) else switches
    assert calls(module) == calls(graphmodel.compile(SPEC, device="meta", passes=given)) == expected
    assert ("merge_calls" in module.passes) is (expected == 1)
    # The argument replaces what the spec says.
    assert calls(graphmodel.compile({**SPEC, "optimize": switches}, device="meta", passes=["merge_calls"])) == 1
    graphmodel.save(module, tmp_path / "model", weights=False)
    assert calls(graphmodel.load(tmp_path / "model", device="meta", weights=False)) == expected
    assert calls(module.slice(outputs=["a", "b"])) == expected


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("optimize: {merge_call: true}", "unknown pass `merge_call`"),
        ("optimize: [merge_call]", "unknown pass `merge_call`"),
        ("optimize: {freeze: false}", "`freeze` always runs"),
    ],
)
def test_an_unknown_name_is_pointed_at(line: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        f"inputs: {{images: [3, 32, 32]}}\ntrunk: {{name: resnet, depth: 18, width_multiplier: 0.25}}\n{line}\n"
    )
    with pytest.raises(graphmodel.CompileError) as caught:
        graphmodel.compile(file, device="meta")
    [found] = caught.value.diagnostics
    assert found.code == "GM430"
    assert text in found.message
    assert "merge_calls" in (found.help or "")
    assert found.span is not None
    assert (found.span.line, found.span.column) == (3, 12)


@pytest.mark.parametrize(
    ("passes", "help"),
    [
        ("merge_calls", "write `passes=('merge_calls',)`"),
        ("merge_calls, fuse_heads", "write `passes=('merge_calls', 'fuse_heads')`"),
        ("none", "passes: merge_calls"),
        (3, "passes: merge_calls"),
        ({"merge_calls": 1}, "passes: merge_calls"),
        (["merge_cals"], "did you mean `merge_calls`?"),
    ],
)
def test_switches_of_another_form_are_refused(passes: Any, help: str) -> None:
    with pytest.raises(graphmodel.CompileError) as caught:
        graphmodel.compile(SPEC, device="meta", passes=passes)
    [found] = caught.value.diagnostics
    assert found.code == "GM430"
    assert found.help.startswith(help)


def test_text_in_a_spec_is_told_how_a_list_is_written() -> None:
    with pytest.raises(graphmodel.CompileError) as caught:
        graphmodel.load_spec({**SPEC, "optimize": "merge_calls"})
    [found] = caught.value.diagnostics
    assert found.help == "a list is written in brackets: `[merge_calls]`"
