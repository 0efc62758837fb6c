"""README, CONTRIBUTING and docs are true: their Python runs, their specs compile, their commands and files exist."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import graphmodel
from graphmodel.cli import COMMANDS, app
from graphmodel.dialects.native.format import NativeSpec
from graphmodel.lsp.shown import PAGE as findings_page
from graphmodel.spec.document import read_text
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
HAND_WRITTEN = [p for p in PAGES if p.name != "diagnostics.md"]  # tests/diagnostics runs what the generated page shows
# These compile, export or train models.
SLOW_PAGES = ("compiling.md", "export.md", "pt2.md", "onnx.md", "aoti.md", "fsdp2.md", "inference.md")
SLOW_PAGES += ("api.md", "linear_probe.md", "swav.md", "extract_and_probe.md")
COMMANDS_BY_NAME: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]


def name_of(page: Path) -> str:
    """The path of a page, which tells pages of one name in two folders apart."""
    return str(page.relative_to(ROOT)).removeprefix("docs/")


def blocks(*languages: str) -> list[Any]:
    """The fenced blocks of the languages, as parameters with the name of their page."""
    found = []
    for page in HAND_WRITTEN:
        pattern = rf"^```(?:{'|'.join(languages)})\n(.*?)^```"
        for i, text in enumerate(re.findall(pattern, page.read_text("utf-8"), re.S | re.M)):
            marks = [pytest.mark.slow] if page.name in SLOW_PAGES and languages == ("python",) else []
            found.append(pytest.param(text, id=f"{name_of(page)}-{i}", marks=marks))
    return found


@pytest.mark.parametrize("text", blocks("python"))
def test_python_blocks_run(text: str) -> None:
    exec(compile(text, "<block>", "exec"), {})


def test_the_tour_of_the_readme_prints_every_output(capsys: pytest.CaptureFixture[str]) -> None:
    exec(blocks("python")[0].values[0], {})
    assert "{'label': (2, 10), 'match_images': (2, 128), 'match_patches': (5, 128)}" in capsys.readouterr().out


def is_whole(spec: str) -> bool:
    return "inputs:" in spec or "MODEL:" in spec


def is_trunk(spec: str) -> bool:
    return spec.startswith("trunk:")


@pytest.mark.parametrize("text", [p for p in blocks("yaml") if is_whole(p.values[0])])
def test_whole_specs_compile(text: str) -> None:
    assert graphmodel.compile(read_text(text, "block").data, device="meta").model_graph.outputs


ALTERNATIVES = [line for p in blocks("yaml") if is_trunk(p.values[0]) for line in p.values[0].splitlines()]


@pytest.mark.parametrize("line", ALTERNATIVES)
def test_blocks_that_are_not_whole_specs_list_alternatives_for_one_line(line: str) -> None:
    trunk = read_text(line, "line").data
    assert list(trunk) == ["trunk"]
    assert graphmodel.load_spec({"inputs": {"images": [3, 96, 96]}, **trunk}).trunks
    if "module:" not in line:  # the module of the example is the reader's own
        size = 96 if "96" in line else 224
        assert graphmodel.compile({"inputs": {"images": [3, size, size]}, **trunk}, device="meta").model_graph.outputs


SHELL = [line for p in blocks("bash", "shell", "console") for line in p.values[0].splitlines()]
CALL = re.compile(rf"graphmodel ((?:{'|'.join(COMMANDS_BY_NAME)}) [^#&]*)")
CALLS = [found[1] for line in SHELL if (found := CALL.search(line))]


@pytest.mark.parametrize("call", CALLS)
def test_commands_in_blocks_are_valid(call: str) -> None:
    name, *arguments = shlex.split(call)
    COMMANDS_BY_NAME[name].make_context(name, arguments)


def test_the_commands_of_the_quick_start_succeed() -> None:
    """In order, with the page's second spec as `probe.yaml`; VISSL's own files are not part of this repository."""
    text = (ROOT / "docs" / "quickstart.md").read_text("utf-8")
    Path("probe.yaml").write_text(re.findall(r"```yaml\n(.*?)```", text, re.S)[1], "utf-8")
    Path("wider.yaml").write_text("heads: {pooled: {mlp: {dims: [auto, 64, 10]}}}\n", "utf-8")
    lines = [line.partition("#")[0] for b in re.findall(r"```shell\n(.*?)```", text, re.S) for line in b.splitlines()]
    lines += re.findall(r"`(graphmodel [a-z]+ [^`…]*)`", text.replace("\n", " "))
    ours = [line for line in lines if "config/" not in line and "DIR" not in line]
    assert len(ours) > 6
    for line in ours:
        result = CliRunner().invoke(app, shlex.split(line)[1:])
        assert result.exit_code == 0, f"{line}\n{result.output}"


@pytest.mark.slow
def test_the_vissl_file_of_the_swav_tutorial_converts_to_its_native_spec() -> None:
    """The commands succeed in order, and the three specs of the page are one model."""
    text = (ROOT / "docs" / "tutorials" / "swav.md").read_text("utf-8")
    vissl, native = re.findall(r"```yaml\n(.*?)```", text, re.S)
    Path("swav.yaml").write_text(vissl, "utf-8")
    for line in re.findall(r"```shell\n(.*?)```", text, re.S)[0].splitlines():
        result = CliRunner().invoke(app, shlex.split(line)[1:])
        assert result.exit_code == 0, f"{line}\n{result.output}"
    converted = re.sub(r"^#.*\n| *#.*", "", Path("native.yaml").read_text("utf-8"), flags=re.M)
    assert converted == native


@pytest.mark.parametrize("page", HAND_WRITTEN, ids=name_of)
def test_options_named_in_text_exist(page: Path) -> None:
    """Every `graphmodel COMMAND … --option` in inline code and in synopses."""
    text = page.read_text("utf-8")
    for call in re.findall(r"`(?:\.venv/bin/)?graphmodel ([^`\n]+)`|^    graphmodel (.+)$", text, re.M):
        words = (call[0] or call[1]).split()
        if not words[0].isalpha() or words[0].isupper():  # an option, or the placeholder COMMAND
            continue
        assert words[0] in COMMANDS_BY_NAME, call
        known = {o for parameter in COMMANDS_BY_NAME[words[0]].params for o in parameter.opts}
        assert set(re.findall(r"(?<!\w)--?[a-z][\w-]*", " ".join(words))) <= known | {"--help"}, call


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https://)([^)#]+)[^)]*\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


ELSEWHERE = ("build/", "config/", "models/", "path/to/", "DIR/", "features/", "samples/", "pending/")
"""Beginnings of paths that readers have, and this repository does not."""


@pytest.mark.parametrize("page", HAND_WRITTEN, ids=name_of)
def test_files_named_in_text_exist(page: Path) -> None:
    """Paths with a folder, in inline code; NAME stands for any name."""
    for path in re.findall(r"`([\w.-]+/[\w./-]*)`", page.read_text("utf-8")):
        if path.startswith(ELSEWHERE):
            continue
        pattern = re.sub(r"\b(NAME|VERB)\b", "*", path).rstrip("/")
        assert any(any(root.glob(pattern)) for root in (ROOT, page.parent, ROOT / "graphmodel")), path


def test_the_page_of_the_command_line_names_every_command_and_option() -> None:
    text = (ROOT / "docs" / "cli.md").read_text("utf-8")
    for name, command in COMMANDS_BY_NAME.items():
        assert f"## {name}\n" in text
        for parameter in command.params:
            for option in parameter.opts:
                if option.startswith("--") and option not in ("--help", "--output"):
                    assert option in text, f"{name} {option}"


def test_the_readme_names_every_command() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert COMMANDS_BY_NAME.keys() == set(re.findall(r"`graphmodel ([a-z]+)", text))
    assert set(COMMANDS) <= COMMANDS_BY_NAME.keys() | {"visualize"}


@pytest.mark.parametrize("name", [name for name in COMMANDS_BY_NAME if name != "lsp"])  # it prints nothing
def test_every_command_accepts_a_format(name: str) -> None:
    operands = {
        "diff": ["a.yaml", "b.yaml"],
        "trunks": [],
        "heads": [],
        "schema": [],
        "probe": ["a.yaml", "--features", "a"],
    }.get(name, ["a.yaml"])
    for form in ("text", "json"):
        output = {"export": ["-o", "a.pt2"], "extract": ["--data", "images", "-o", "features"]}.get(name, [])
        context = COMMANDS_BY_NAME[name].make_context(name, [*operands, *output, "--format", form])
        assert form in [getattr(value, "value", value) for value in context.params.values()]


def test_the_readme_has_the_two_set_up_commands_that_ci_runs() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    commands = re.findall(r"```bash\n(.*?)```", text, re.S)
    assert len(commands) == 2
    assert all(len(c.strip().splitlines()) == 1 for c in commands)
    assert "graphmodel compile" in commands[0]
    assert "pytest" in commands[1]


def test_the_format_page_names_every_key() -> None:
    text = (ROOT / "docs" / "format.md").read_text("utf-8")
    for name, field in NativeSpec.model_fields.items():
        assert f"`{field.alias or name}`" in text, name


def test_addresses_of_the_project_are_the_same_everywhere() -> None:
    listed = (ROOT / "pyproject.toml").read_text("utf-8").partition("[project.urls]")[2].partition("\n[")[0]
    urls = dict(re.findall(r'^(\w+) = "(.*)"$', listed, re.M))
    home = urls.pop("Homepage")
    assert all(url.startswith(home) for url in urls.values())
    for url in [*urls.values(), findings_page]:
        _, found, path = url.partition("/main/")
        assert not found or (ROOT / path).exists()
    editor = json.loads((ROOT / "editors" / "vscode" / "package.json").read_text("utf-8"))
    assert editor["repository"]["url"] == f"{home}.git"
    assert findings_page.startswith(f"{home}/blob/main/")


def test_changelog_fragments_are_imperative_sentences() -> None:
    fragments = [p for p in (ROOT / "changelog.d").glob("*.md") if p.name != "README.md"]
    for fragment in fragments:
        assert re.fullmatch(r"(\d+|\+[\w-]+)\.(feature|bugfix|doc|removal|misc)\.md", fragment.name)
        text = fragment.read_text("utf-8")
        assert re.match(r"[A-Z][a-z]+(?<!s)(?<!ed) ", text), f"{fragment.name}: {text}"
        assert text.endswith(".\n"), fragment.name
