"""A mutation fuzzer: random damage to the examples of both dialects.

Whatever a spec is, it compiles or gets a `CompileError`; nothing else is ever raised, nothing takes long, and memory
stays bounded. Every mutant is made from its number alone, so that a finding can be repeated:

    python -m tests.fuzz --count 100000
    python -m tests.fuzz --only 4711
"""

from __future__ import annotations

import argparse
import copy
import random
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import graphmodel
from graphmodel.dialects.native.dump import dump, to_yaml
from graphmodel.spec.document import read_file

ROOT = Path(__file__).parents[1]
SECONDS = 5.0
"""The most CPU time that one spec may take."""
MEGABYTES = 1024
"""The most memory that the process may gain."""
ODD: list[Any] = [
    None, "", 0, -1, 1, 2, 3.5, 1e308, float("inf"), float("nan"), True, False, "auto", "images", "trunk", "flatten",
    "res5", [], {}, [[]], [{}], {"a": 1}, [1], ["a"], [None], 10**20, -(10**20), "x" * 300, "a.b.c", ".", "a.", ".a", "é",
    "\x01", "*", "?", "[", "all", "class", {"from": "images"}, [3, 32, 32], [3, 0, 32], [3, 10**9, 10**9], {"mlp": None},
    "mlp", {"name": "resnet"}, {"count": 10**9, "shape": [3, 4, 4]}, "\x1b[2J", "\u202e", "\ufb01", "self", "class.",
    10**5000, "\ud800", {"extends": "."}, "../../etc/passwd", 2**63, -(2**63), "1" * 5000, [[[[]]]], {"": {"": ""}}, "\0",
]  # fmt: skip
TOKENS = [
    b"", b"&a ", b"*a", b"<<: *a\n", b"!!python/object/apply:os.system [id]", b"!!int ", b"- ", b"? ", b": ", b"{", b"}",
    b"[", b"]", b"\t", b"\0", b"\x80", b"\xff\xfe", b"---\n", b"...\n", b"|", b">", b"%YAML 9.9\n", b"\"\\uD800\"", b"'",
    b"1e999", b"0x", b"0" * 200, b"9" * 5000, b"~", b"null", b"yes", b".nan", b"#", b",", b"\r", b"\xe2\x80\xae", b"extends: .\n",
    b"[" * 200, b"{a: " * 150, b"defaults: [a, b]\n", b"  ", b"\n", b"config:\n", b"MODEL:\n",
]  # fmt: skip


@cache
def corpus() -> tuple[tuple[bytes, dict[str, Any]], ...]:
    """The examples of both dialects as text and as data."""
    paths = sorted((ROOT / "examples").glob("*/*.yaml"))
    return tuple((path.read_bytes(), read_file(path).data) for path in paths)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield from places(child, (*path, key))


def damaged(spec: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """The spec with one to three of its values replaced, deleted, renamed, repeated or wrapped."""
    spec = copy.deepcopy(spec)
    for _ in range(chance.choice([1, 1, 2, 3])):
        *holders, key = chance.choice(list(places(spec)) or [("name",)])
        target: Any = spec
        for holder in holders:
            target = target[holder]
        kind = chance.choice(["replace", "replace", "replace", "delete", "rename", "wrap"])
        if kind == "delete" and (isinstance(target, list) or key in target):
            del target[key]
        elif kind == "rename" and isinstance(target, dict) and key in target:
            target[chance.choice([o for o in ODD if isinstance(o, str)])] = target.pop(key)
        elif kind == "rename" and isinstance(target, list):
            target.insert(key, copy.deepcopy(target[key]))
        elif kind == "wrap":
            target[key] = [target[key]] if isinstance(target, list) or key in target else []
        else:
            target[key] = copy.deepcopy(chance.choice(ODD))
    return spec


def damaged_text(raw: bytes, chance: random.Random) -> bytes:
    """The text with bytes replaced, tokens put in, and lines deleted, repeated, moved or indented."""
    text = bytearray(raw)
    for _ in range(chance.choice([1, 1, 1, 2, 3, 6])):
        lines = bytes(text).splitlines(keepends=True) or [b""]
        at = chance.randrange(len(lines))
        kind = chance.randrange(6)
        if kind == 0:
            start = chance.randrange(len(text) + 1)
            text[start : start + chance.randint(0, 4)] = bytes(
                chance.randrange(256) for _ in range(chance.randint(0, 3))
            )
            continue
        if kind == 1:
            start = chance.randrange(len(text) + 1)
            text[start:start] = chance.choice(TOKENS)
            continue
        line = lines.pop(at)
        if kind == 2:
            lines[at:at] = [line] * chance.choice([2, 2, 2, 3, 500])
        elif kind == 3:
            lines.insert(chance.randrange(len(lines) + 1), line)
        elif kind == 4:
            lines.insert(at, b" " * chance.randint(1, 4) + line)
        text = bytearray(b"".join(lines))
    return bytes(text)


def mutant(number: int, folder: Path) -> tuple[Any, tuple[str, ...]]:
    """A damaged spec, a file or a mapping in memory, and overrides."""
    chance = random.Random(number)
    raw, data = chance.choice(corpus())
    overrides: tuple[str, ...] = ()
    if chance.random() < 0.05:
        path = ".".join(str(p) for p in chance.choice(list(places(data))))
        overrides = (f"{path}={chance.choice([o for o in ODD if o != 10**5000])!s:.300}",)
    if chance.random() < 0.5:
        return damaged(data, chance), overrides
    file = folder / "mutant.yaml"
    file.write_bytes(damaged_text(raw, chance))
    return file, overrides


@dataclass
class Figures:
    """What a run found."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: dict[int, str] = field(default_factory=dict)
    slowest: tuple[float, int] = (0.0, -1)
    megabytes: float = 0.0

    def __str__(self) -> str:
        seconds, number = self.slowest
        outcomes = ", ".join(f"{count} {name}" for name, count in sorted(self.outcomes.items()))
        return (
            f"{outcomes}; slowest {seconds:.2f} s (number {number}); {self.megabytes:.0f} MB more memory; "
            f"{len(self.failures)} failures"
        )


def outcome(spec: Any, overrides: tuple[str, ...] = (), *, deep: bool = True) -> str:
    """What becomes of a spec; anything but a `CompileError` goes through.

    Args:
        spec: a path or a mapping.
        overrides: `path=value` items.
        deep: whether a spec that resolves is compiled on the meta device, which takes a second; otherwise it is written
            and read again.
    """
    try:
        loaded = graphmodel.load_spec(spec, overrides)
        if deep:
            module = graphmodel.compile(loaded, device="meta", seed=0)
            return "compiled" if module.model_graph.outputs else "compiled to nothing"
        to_yaml(dump(loaded))
    except graphmodel.CompileError as error:
        text = str(error)
        assert all(c.isprintable() or c == "\n" for c in text), "the message has control characters"
        return "diagnosed" if any(d.severity == "error" for d in error.diagnostics) else "refused without an error"
    return "resolved"


def memory() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(numbers: range, deep: int = 200) -> Figures:
    """Tries mutants.

    Args:
        numbers: which.
        deep: every how many are compiled on the meta device, too.

    Returns:
        The outcomes, and what was raised or took too long.
    """
    found = Figures()
    with tempfile.TemporaryDirectory() as folder:
        for name in ("resnet", "timm:resnet18", "torchvision:resnet18"):  # what is imported once is not counted
            outcome({"inputs": {"images": [3, 64, 64]}, "trunk": name}, deep=deep <= len(numbers))
        before = memory()
        for number in numbers:
            start = time.process_time()
            try:
                name = outcome(*mutant(number, Path(folder)), deep=number % deep == 0)
            except Exception:
                name = "raised"
                found.failures[number] = traceback.format_exc()
            seconds = time.process_time() - start
            found.slowest = max(found.slowest, (seconds, number))
            if seconds > SECONDS:
                found.failures.setdefault(number, f"took {seconds:.1f} s")
            if name not in ("compiled", "resolved", "diagnosed"):
                found.failures.setdefault(number, name)
            found.outcomes[name] += 1
        found.megabytes = memory() - before
    return found


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000, help="how many specs")
    parser.add_argument("--start", type=int, default=0, help="the number of the first")
    parser.add_argument("--deep", type=int, default=200, help="every how many are compiled on the meta device, too")
    parser.add_argument("--only", type=int, help="try one, compile it, and print what it is")
    options = parser.parse_args()
    if options.only is not None:
        with tempfile.TemporaryDirectory() as folder:
            spec, overrides = mutant(options.only, Path(folder))
            print(spec.read_bytes().decode(errors="replace") if isinstance(spec, Path) else repr(spec), overrides)
            print(outcome(spec, overrides))
        return 0
    start = time.perf_counter()
    found = run(range(options.start, options.start + options.count), options.deep)
    for number, text in found.failures.items():
        print(f"== {number}\n{text}")
    print(f"{found}; {time.perf_counter() - start:.0f} s")
    return bool(found.failures) or found.megabytes > MEGABYTES


if __name__ == "__main__":
    sys.exit(main())
