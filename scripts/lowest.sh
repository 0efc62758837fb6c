#!/usr/bin/env bash
# Installs the lowest versions that pyproject.toml declares and runs the tests that depend on them most: files that must
# not run code, models of every library, copies and numbers of compiled modules, what commands import.
#
#   scripts/lowest.sh [VENV]      the environment is made in .venv-lowest unless another place is given
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv-lowest}
export OMP_NUM_THREADS=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1

lowest=$(python3 - <<'PY'
import re
text = open("pyproject.toml", encoding="utf-8").read()
block = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.S | re.M)[1]
print(*(found.replace(">=", "==") for found in re.findall(r'^ *"([\w-]+>=[\d.]+)"', block, re.M)))
PY
)
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
# shellcheck disable=SC2086
"$venv/bin/pip" install $lowest "numpy<2.3" pytest jsonschema
"$venv/bin/pip" install --no-deps -e .
# Without the options of pyproject.toml: this environment has no pytest-xdist.
"$venv/bin/python" -m pytest -q -o addopts= --import-mode=importlib -m "not slow" \
  tests/components/library/test_guard.py tests/components/heads tests/components/trunks/test_resnet.py tests/components/trunks/test_vision_transformer.py \
  tests/lower/test_module.py tests/lower/test_numbers.py tests/cli/test_startup.py tests/spec
