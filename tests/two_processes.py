"""Runs several scripts of examples/embed and tests/sharding in one group of processes, since starting one takes longer than a run.

torchrun --nproc-per-node 2 tests/two_processes.py RUNS, where RUNS is a JSON file: a list of [script, options].
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

TESTS = Path(__file__).parent
FOLDERS = (TESTS.parent / "examples" / "embed", TESTS / "sharding")

if __name__ == "__main__":
    sys.path[:0] = map(str, FOLDERS)
    dist.init_process_group("gloo")
    for script, options in json.loads(Path(sys.argv[1]).read_text("utf-8")):
        print(script, *options, flush=True)
        torch.compiler.reset()
        importlib.import_module(script).main(options)
        dist.barrier()
    dist.destroy_process_group()
