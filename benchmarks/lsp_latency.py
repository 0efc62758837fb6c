"""Measures how fast the language server answers: start, diagnostics, completion, and memory over many edits.

    python benchmarks/lsp_latency.py [--edits 10000] [--repeats 30]

The client is that of the tests. Every edit changes one number or one name; a measurement starts when the change is sent.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from graphmodel.lsp.positions import Text  # noqa: E402
from tests.lsp.client import Client  # noqa: E402

SPECS = {"pirl": ROOT / "examples/native/pirl.yaml", "60 probes": ROOT / "examples/native/layer_probes.yaml"}
# What is changed to and fro: a name for the first check, a width for the second.
CHANGES = {
    "pirl": ("flatten: image", "flatten: imge", "128]}}\n"),
    "60 probes": ("heads: [res2_probe00", "heads: [res2_prob00", "res2_probe00: {mlp: {dims: [auto, 100"),
}


def timed(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - start)


def row(name: str, values: list[float], processor: float) -> None:
    """Prints wall-clock times, and the processor time of each on average, which other programs do not change."""
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    print(f"| {name} | {statistics.median(values):.0f} ms | {p95:.0f} ms | {processor:.0f} ms |", flush=True)


def processor(*pids: int) -> float:
    """The processor time that processes have used, in milliseconds."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return 1000 * total / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> float:
    """Resident memory in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def child(pid: int) -> int:
    return int(
        subprocess.run(
            ["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True, check=True
        ).stdout.split()[0]
    )


def start(repeats: int, folder: Path) -> None:
    times, used = [], []
    for _ in range(repeats):
        clients: list[Client] = []
        times.append(timed(lambda c=clients: c.append(Client(folder, {"shapes": False}))))  # type: ignore[misc]
        used.append(processor(clients[0].process.pid))
        clients[0].end()
    row("start to the answer of `initialize`", times, statistics.mean(used))


def spec(client: Client, name: str, repeats: int) -> None:
    good, bad, width = CHANGES[name]
    text = SPECS[name].read_text("utf-8")
    assert good in text
    assert width in text
    uri = client.open(f"file:///bench/{name.replace(' ', '_')}.yaml", text)
    wanted = client.requests.count("workspace/inlayHint/refresh") + 1
    client.until(lambda: client.requests.count("workspace/inlayHint/refresh") >= wanted)
    time.sleep(3)  # costs and features, so that nothing else runs
    version = 1

    def edit(new: str) -> None:
        nonlocal version
        version += 1
        client.change(uri, version, new)

    server = client.process.pid
    worker = child(server)
    structure, shapes = [], []
    before = processor(server)
    for i in range(repeats):
        damaged = i % 2 == 0
        structure.append(
            timed(
                lambda damaged=damaged: (
                    edit(text.replace(good, bad) if damaged else text),
                    client.published_for(uri, version),
                )
            )
        )  # type: ignore[misc]
    row(f"{name}: structure and names after a change", structure, (processor(server) - before) / repeats)
    time.sleep(5)
    before = processor(server, worker)
    for i in range(repeats):
        changed = text.replace(width, width.replace("128", str(129 + i)).replace("100", str(101 + i)))
        seen = client.requests.count("workspace/inlayHint/refresh")
        shapes.append(
            timed(
                lambda c=changed, s=seen: (
                    edit(c),
                    client.until(lambda: client.requests.count("workspace/inlayHint/refresh") > s),
                )
            )
        )  # type: ignore[misc]
    row(f"{name}: shapes after a change", shapes, (processor(server, worker) - before) / repeats)
    edit(text)
    client.published_for(uri, version)
    lines = Text(text)
    places = {
        "a trunk": text.index("resnet") + 3,
        "a head": text.index("mlp:") + 2,
        "a feature": text.index("mapping:") + text[text.index("mapping:") :].index("flatten") + 3,
    }

    def ask(offset: int) -> None:
        params = {"textDocument": {"uri": uri}, "position": lines.position(offset)}
        client.ask("textDocument/completion", params)

    before = processor(server)
    times = [timed(lambda o=offset: ask(o)) for _ in range(repeats) for offset in places.values()]  # type: ignore[misc]
    row(f"{name}: completion", times, (processor(server) - before) / len(times))


def edits(client: Client, number: int) -> None:
    """Types and deletes a letter, with a question now and then; memory of both processes."""
    text = SPECS["pirl"].read_text("utf-8")
    uri = client.open("file:///bench/edits.yaml", text)
    version = 1
    server = client.process.pid
    at = Text(text).position(text.index("128"))
    print("\n| edits | server | worker |\n|---|---|---|")
    for i in range(number + 1):
        if i % max(1, number // 5) == 0:
            client.published_for(uri, version)
            time.sleep(2)
            print(f"| {i} | {memory(server):.0f} MB | {memory(child(server)):.0f} MB |", flush=True)
        version += 1
        end = {"line": at["line"], "character": at["character"] + 1}
        client.change(uri, version, str(i % 9 + 1), {"start": at, "end": end})
        if i % 10 == 0:
            client.published_for(uri, version)
        if i % 100 == 0:
            client.ask("textDocument/completion", {"textDocument": {"uri": uri}, "position": at})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--edits", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    folder = ROOT / "build"
    folder.mkdir(exist_ok=True)
    print(json.dumps({"cpus": os.cpu_count(), "load": os.getloadavg()}))
    print("\n| | median | 95th percentile | processor time |\n|---|---|---|---|")
    start(min(10, options.repeats), folder)
    client = Client(folder)
    try:
        for name in SPECS:
            spec(client, name, options.repeats)
        edits(client, options.edits)
    finally:
        client.end()


if __name__ == "__main__":
    main()
