#!/usr/bin/env bash
# Builds the sdist and the wheel, checks what is in them, and tries the wheel in new environments.
#
#   scripts/wheel.sh VENV            VENV has the dependencies, `build` and `twine`
#   scripts/wheel.sh VENV --full     with every dependency on Python 3.10 and 3.13 too, which downloads gigabytes
#
# The first environment has VENV's Python and sees its packages. Those of Python 3.10 and 3.13 get the wheel and the
# dependencies that reading a spec needs, without torch: that takes seconds. With --full, or if an earlier run with
# --full left an environment for these dependencies, models are compiled there as well.
set -euo pipefail
cd "$(dirname "$0")/.."
checkout=$PWD
[ $# -ge 1 ] || { echo "usage: scripts/wheel.sh VENV [--full]"; exit 2; }
venv=$(cd "$1" && pwd) full=${2:-}
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1 OMP_NUM_THREADS=1
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$venv/bin/python" -m build --outdir "$work/dist" . >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
"$venv/bin/twine" check --strict "$work"/dist/*
wheel=$(ls "$work"/dist/*.whl) sdist=$(ls "$work"/dist/*.tar.gz)
[ "$(stat -c %s "$sdist")" -lt 3000000 ] || { echo "the sdist is larger than 3 MB"; exit 1; }
if tar tzf "$sdist" | grep -E '/(tests|docs|benchmarks)/|/node_modules/|\.(png|pt|pth|onnx|safetensors)$'; then
  echo "these files do not belong in the sdist"
  exit 1
fi

# What needs no torch. It runs outside of the checkout, so that nothing but the wheel is imported.
light() {
  cd "$work" && rm -rf light && mkdir light && cd light
  "$1" -m graphmodel --version
  "$1" -m graphmodel examples native/pirl
  "$1" -m graphmodel show pirl.yaml >/dev/null
  "$1" -m graphmodel compile --help | grep -q -- '--output'
  "$1" -m graphmodel heads mlp >/dev/null
  "$1" -m graphmodel trunks 'timm:vit_*' >/dev/null
  "$1" -m graphmodel schema native >/dev/null
  "$1" -m graphmodel explain GM201 >/dev/null
  "$1" -m graphmodel convert "$("$1" -c 'import graphmodel.stored as s; print(s.stored_examples()[-1].path)')" >/dev/null
  "$1" -m compileall -q "$("$1" -c 'import graphmodel; print(graphmodel.__path__[0])')"
  printf 'trunk: {nam: resnet}\n' >wrong.yaml
  if "$1" -c 'import torch' 2>/dev/null; then return; fi
  "$1" -m graphmodel show wrong.yaml 2>wrong.txt && exit 1
  grep -q 'error\[GM202\]' wrong.txt
}

# What compiles models.
heavy_part() {
  cd "$work/light"
  "$1" -m graphmodel init first.yaml --trunk torchvision:resnet18 --size 64 --classes 10
  "$1" -m graphmodel compile first.yaml -o first >/dev/null
  "$1" -c 'import graphmodel, torch; assert graphmodel.load("first")(torch.zeros(2, 3, 64, 64))["label"].shape == (2, 10)'
}

echo "== $("$venv/bin/python" --version): the dependencies of $1"
"$venv/bin/python" -m venv --without-pip "$work/here"
site=$("$work/here/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$site/dependencies.pth"
"$venv/bin/pip" --python "$work/here/bin/python" install --no-deps "$wheel"
light "$work/here/bin/python"
heavy_part "$work/here/bin/python"

cd "$checkout"
hash=$(sed -n '/^dependencies = \[/,/^\]/p' pyproject.toml | sha256sum | cut -c1-12)
for version in 3.10 3.13; do
  python=$(scripts/python.sh "$version") || { echo "== no Python $version: skipped"; continue; }
  kept=".venv-wheel-$version-$hash"
  if [ "$full" = --full ] || [ -x "$kept/bin/graphmodel" ]; then
    echo "== Python $version: every dependency"
    [ -x "$kept/bin/python" ] || "$python" -m venv "$kept"
    "$kept/bin/pip" install "$wheel"
    "$kept/bin/pip" install --force-reinstall --no-deps "$wheel"
    light "$checkout/$kept/bin/python"
    heavy_part "$checkout/$kept/bin/python"
  else
    echo "== Python $version: without torch"
    "$python" -m venv "$work/$version"
    "$work/$version/bin/pip" install --no-deps "$wheel"
    "$work/$version/bin/pip" install "pydantic>=2.8" "pyyaml>=6.0" "typer>=0.24" "rich>=13.7" "networkx>=3.1"
    light "$work/$version/bin/python"
  fi
  cd "$checkout"
done
echo "the wheel works"
