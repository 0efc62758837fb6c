"""The command as a whole: choices, exit codes, start-up, streams."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MAIN = [sys.executable, "-m", "graphmodel"]


def shell(*args, **env):
    """`python -m graphmodel ARGS…` in a process of its own."""
    return subprocess.run(
        [*MAIN, *map(str, args)], capture_output=True, text=True, env={**os.environ, **env}, check=False
    )


def test_no_command_lists_the_choices_and_is_a_usage_error(run):
    result = run(code=2)
    assert result.stdout == ""
    for command in ("compile", "check", "show", "explain", "trunks", "heads", "schema"):
        assert command in result.stderr


def test_an_unknown_command_lists_the_choices_and_the_nearest(run):
    result = run("chekc", code=2)
    assert "did you mean `check`?" in result.stderr
    assert "explain" in result.stderr


def test_every_command_has_help_and_a_format(run):
    from graphmodel.cli import COMMANDS

    for command in COMMANDS:
        text = run(command, "--help").stdout
        assert "Usage: graphmodel " + command in text
        assert "--format" in text or command == "lsp"  # whose output is a protocol


def test_version(run):
    import graphmodel

    assert run("--version").stdout.strip() == f"graphmodel {graphmodel.__version__}"


def test_the_module_runs_as_a_program_and_gives_exit_codes(write):
    malformed = shell("check", write("trunk: {name: resnet\n"))
    assert malformed.returncode == 1
    assert malformed.stdout == ""
    assert malformed.stderr.startswith("error[GM101]: ")
    assert shell("check", "no_such_file.yaml").returncode == 2
    assert shell("check").returncode == 2
    assert shell("check", "a.yaml", "--format", "xml").returncode == 2


@pytest.mark.slow
def test_the_program_answers_sound_and_unsound_specs(write):
    assert (
        shell(
            "check", write("inputs: {images: [3, 64, 64]}\ntrunk: {name: resnet, depth: 18, width_multiplier: 0.25}\n")
        ).returncode
        == 0
    )
    wrong = shell("check", write("trunk: {name: renset}\n", "wrong.yaml"), "--input", "images=3x64x64")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error[GM205]: unknown trunk `renset`\n")
    assert "Traceback" not in wrong.stderr


@pytest.mark.parametrize(
    "text",
    [
        "a: [1\n",
        "trunk: !tag {name: resnet}\n",
    ],
)
def test_a_malformed_file_is_answered_without_importing_torch(write, text):
    program = (
        "import sys\nfrom graphmodel.cli import app\n"
        f"try: app(['check', {str(write(text))!r}], prog_name='graphmodel')\n"
        "except SystemExit as e: code = e.code\n"
        "print(code, sorted({'torch', 'rich', 'networkx', 'timm', 'torchvision'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "1 []"


def test_help_imports_neither_pydantic_nor_yaml_nor_rich_nor_torch():
    program = (
        "import sys\nfrom graphmodel.cli import app\n"
        "try: app(['--help'], prog_name='graphmodel')\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'rich', 'pydantic', 'yaml', 'networkx'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_colours_only_where_they_are_wanted(write):
    wrong = write("trunk: {name: resnet\n")
    assert "\x1b[" not in shell("check", wrong).stderr
    assert "\x1b[" in shell("check", wrong, FORCE_COLOR="1").stderr
    assert "\x1b[" not in shell("check", wrong, FORCE_COLOR="1", NO_COLOR="1").stderr


def test_a_reader_that_stops_early_is_no_error():
    from graphmodel.diagnostics.codes import CODES

    process = subprocess.Popen(
        [*MAIN, "explain", *(list(CODES) * 40)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.wait()


@pytest.mark.parametrize(
    "item", ["images", "images=", "=3x4", "images=3xax4", "images=0x3x4", "images=0:3x4", "a=b:3x4"]
)
def test_a_bad_input_option_is_a_usage_error(run, write, small, item):
    result = run("check", write(small), "--input", item, code=2)
    assert "Traceback" not in result.stderr


def test_the_same_input_twice_is_a_usage_error(run, write, small):
    result = run("check", write(small), "--input", "images=3x32x32", "--input", "images=3x64x64", code=2)
    assert "images" in result.stderr.splitlines()[-1]


def test_a_module_that_cannot_be_imported_is_a_usage_error(run, write, small):
    assert "no_such_module" in run("check", write(small), "--import", "no_such_module", code=2).stderr


def test_json_errors_are_one_document_on_stdout(run, write):
    result = run(
        "check", write("inputs: {images: [3, 64, 64]}\nheds: {}\ntrunk: {name: resnet}\n"), "--format", "json", code=1
    )
    assert result.stderr == ""
    data = json.loads(result.stdout)
    assert data["ok"] is False
    assert [(d["code"], d["line"], d["column"]) for d in data["diagnostics"]] == [("GM201", 2, 1)]


@pytest.mark.parametrize("columns", ["60", "80"])
def test_summaries_of_commands_are_not_shortened(columns):
    text = shell("--help", COLUMNS=columns).stdout
    assert "..." not in text.split("Commands:")[1]
    assert max(map(len, text.splitlines())) <= int(columns)
    together = " ".join(text.split())
    assert "show Print a spec as the compiler reads it; with --resolved, in full." in together


def test_options_are_found_in_the_annotations_of_every_python():
    from typing import Annotated, Optional

    from graphmodel.cli.options import _as_written

    assert _as_written(Optional[Annotated[int, "x"]]) == Annotated[int, "x"]  # noqa: UP045 (what 3.10 makes of it)
    assert _as_written(Annotated[int, "x"]) == Annotated[int, "x"]
    assert _as_written(int) is int


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize(
    ("arguments", "target", "code", "said"),
    [
        ("--version", "> /dev/full", 1, "error: cannot write the output: No space left on device\n"),
        ("--version", ">&-", 0, ""),
        ("--help", "2>&- > /dev/full", 1, ""),
    ],
)
def test_an_output_that_cannot_be_written_is_no_traceback(arguments: str, target: str, code: int, said: str) -> None:
    command = f"{sys.executable} -m graphmodel {arguments} {target}"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (code, said)
