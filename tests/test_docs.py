"""What README and docs say holds: their Python runs, their specs compile, their links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

import graphmodel
from graphmodel.cli import app
from graphmodel.spec.document import read_text

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
HAND_WRITTEN = [p for p in PAGES if p.name != "diagnostics.md"]


def blocks(language: str) -> list[tuple[str, str]]:
    """The fenced blocks of a language, with the name of their page."""
    found = []
    for page in HAND_WRITTEN:
        for i, text in enumerate(re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), re.S)):
            found.append((f"{page.name}-{i}", text))
    return found


@pytest.mark.parametrize(("name", "text"), blocks("python"), ids=lambda v: v if len(v) < 40 else "")
def test_python_blocks_run(name: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(text, name, "exec"), {})
    if name == "README.md-0":
        assert "{'label': (2, 10), 'match_images': (2, 128), 'match_patches': (5, 128)}" in capsys.readouterr().out


SPECS = [(name, text) for name, text in blocks("yaml") if "inputs:" in text or "MODEL:" in text]


@pytest.mark.parametrize(("name", "text"), SPECS, ids=lambda v: v if len(v) < 40 else "")
def test_spec_blocks_compile(name: str, text: str) -> None:
    """Whole specs; other blocks show single lines."""
    data = read_text(text, name).data
    assert graphmodel.compile(data, device="meta").model_graph.outputs


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


def test_the_page_of_the_command_line_names_every_command_and_option() -> None:
    text = (ROOT / "docs" / "cli.md").read_text("utf-8")
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        assert f"## {name}\n" in text
        for parameter in command.params:
            for option in parameter.opts:
                if option.startswith("--") and option not in ("--help", "--output"):
                    assert option in text, f"{name} {option}"


def test_the_readme_has_the_two_set_up_commands_that_ci_runs() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    commands = re.findall(r"```bash\n(.*?)```", text, re.S)
    assert len(commands) == 2
    assert all(len(c.strip().splitlines()) == 1 for c in commands)
    assert "graphmodel compile" in commands[0]
    assert "pytest" in commands[1]


def test_the_format_page_names_every_key() -> None:
    from graphmodel.dialects.native.format import NativeSpec

    text = (ROOT / "docs" / "format.md").read_text("utf-8")
    for name, field in NativeSpec.model_fields.items():
        assert f"`{field.alias or name}`" in text, name
