"""`python -m benchmarks`: runs the suite and writes a page, a plot and raw JSON."""

from __future__ import annotations

import argparse
import gc
import shlex
import sys
import time
from pathlib import Path

import torch

from benchmarks.harness import Row, Settings, SkipWorkload
from benchmarks.report import figure, read, write
from benchmarks.workloads import WORKLOADS

SHORT = (
    "supervised_resnet50", "swav_resnet50", "swav_vit_small", "pirl", "linear_evaluation", "hundred_heads",
    "dinov2_heads", "six_inputs", "three_entries", "frozen_probe", "extraction", "cached_features",
    "checkpoint_budget", "frozen_extraction", "compiled_vit_small", "regional_compile", "compiled_resnet50",
)  # fmt: skip
"""What `--short` runs; what compiles comes last."""

DOCS = Path(__file__).resolve().parent.parent / "docs"


def main(arguments: list[str] | None = None) -> int:
    """Runs the chosen workloads; returns how many failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--list", action="store_true", help="list the workloads")
    parser.add_argument("--only", default="", metavar="NAMES", help="comma-separated names of workloads")
    parser.add_argument("--quick", action="store_true", help="tiny models and few pairs, to test the suite")
    parser.add_argument(
        "--short", action="store_true", help="full-size models, the workloads that a GPU runs in about five minutes"
    )
    parser.add_argument("--stop-after", type=float, metavar="SECONDS", help="start no workload after this time")
    parser.add_argument("--pairs", type=int, help="how often each pair runs (9; 3 with --quick)")
    parser.add_argument("--compiled", action="store_true", help="measure under torch.compile as well")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("-o", "--out", type=Path, default=DOCS, metavar="DIR", help="where the page is written (docs)")
    parser.add_argument(
        "--combine", nargs="+", type=Path, metavar="FILE", help="write the page from these results.json and run nothing"
    )
    options = parser.parse_args(arguments)
    if options.combine:
        write(*read(options.combine), options.out)
        return 0
    if options.list:
        for name, function in WORKLOADS.items():
            print(f"{name:20s} {(function.__doc__ or '').strip().splitlines()[0]}")
        return 0
    names = [name.strip() for name in options.only.split(",") if name.strip()]
    names = names or list(SHORT if options.short else WORKLOADS)
    unknown = [name for name in names if name not in WORKLOADS]
    if unknown:
        parser.error(f"unknown workload: {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    pairs = options.pairs or (3 if options.quick else 9)
    settings = Settings(options.quick, pairs, options.device, options.compiled)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    began = time.perf_counter()
    rows: list[Row] = []
    skipped: dict[str, str] = {}
    failed = 0
    for name in names:
        start = time.perf_counter()
        if options.stop_after and start - began > options.stop_after:
            skipped[name] = f"not started within {options.stop_after:g} s"
            print(f"{name:20s} {skipped[name]}", flush=True)
            continue
        torch.manual_seed(0)
        settings.failures.clear()
        try:
            for row in WORKLOADS[name](settings):
                row.run_on = settings.device
                rows.append(row)
                verdict = "" if row.met is None else f"   target {row.target}: {'met' if row.met else 'MISSED'}"
                print(f"{name:20s} {row.metric:44s} {row.baseline:36s} {figure(row)}{verdict}", flush=True)
        except SkipWorkload as reason:
            skipped[name] = str(reason)
            print(f"{name:20s} skipped: {reason}", flush=True)
        except Exception as error:  # one workload that fails must not lose the others' figures
            failed += 1
            skipped[name] = f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            print(f"{name:20s} {skipped[name]}", file=sys.stderr, flush=True)
        failed += len(settings.failures)
        for failure in settings.failures:
            skipped[f"{name}: {failure.part}"] = f"failed: {failure.reason}"
        if options.device == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
        print(f"{name:20s} took {time.perf_counter() - start:.0f} s", flush=True)
        write(rows, skipped, shlex.join(["python", "-m", "benchmarks", *(arguments or sys.argv[1:])]), options.out)
    torch.set_num_threads(threads)
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
