#!/usr/bin/env bash
# Prints the path of a Python of a version, such as 3.13; fails if there is none.
set -euo pipefail
for python in "python$1" "$HOME"/.pyenv/versions/"$1".*/bin/python; do
  if "$python" -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != sys.argv[1])' "$1" 2>/dev/null; then
    command -v "$python"
    exit 0
  fi
done
exit 1
