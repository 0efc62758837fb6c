"""What starting `graphmodel` costs, in CPU time of whole processes beside a named baseline.

    python benchmarks/startup.py                  # `check` on PIRL beside `import torch, torchvision`
    python benchmarks/startup.py --pairs 15
    python benchmarks/startup.py -- check examples/native/swav.yaml

Command and baseline alternate, so that a busy machine slows both. The time is that of the process and its children,
user and system together, on one thread. Compiled files (`.pyc`) are written by a first run that does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
BASELINE = "import torch, torchvision"
COMMAND = ["check", "examples/native/pirl.yaml"]


def cpu_seconds(arguments: list[str]) -> float:
    """User and system time of one Python process.

    Raises:
        CalledProcessError: if it fails.
    """
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), env.get("PYTHONPATH", "")])}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], env=env, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9, help="how many times both run")
    parser.add_argument("--baseline", default=BASELINE, help="Python code of the baseline process")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    parser.add_argument("command", nargs="*", default=COMMAND, help="arguments of `graphmodel`")
    args = parser.parse_args()

    ours, baseline = ["-m", "graphmodel", *args.command], ["-c", args.baseline]
    print(f"graphmodel {' '.join(args.command)}  beside  python -c {args.baseline!r}\n")
    cpu_seconds(baseline), cpu_seconds(ours)
    pairs = []
    for i in range(args.pairs):
        # Every other pair starts with the command, so that neither is always the first.
        if i % 2:
            time = cpu_seconds(ours)
            base = cpu_seconds(baseline)
        else:
            base = cpu_seconds(baseline)
            time = cpu_seconds(ours)
        pairs.append((base, time))
        print(f"pair {i + 1}: baseline {base:.2f} s, command {time:.2f} s, ratio {time / base:.3f}", flush=True)
    ratios = [time / base for base, time in pairs]
    print(f"\nratio: median {median(ratios):.3f}, min {min(ratios):.3f}, max {max(ratios):.3f}")
    if args.json:
        args.json.write_text(json.dumps({"command": args.command, "baseline": args.baseline, "pairs": pairs}, indent=2))


if __name__ == "__main__":
    main()
