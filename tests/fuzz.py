"""A mutation fuzzer: random damage to the examples of both dialects.

Whatever a spec is, it compiles or gets a `CompileError`; nothing else is ever raised, nothing takes long, and memory
stays bounded. What resolves is written as a native file that must resolve to the same spec. Every twentieth spec is
changed so little that most stay valid; these are compiled on the meta device and called there.

Every mutant is made from its number alone (and from the corpus), so that a finding can be repeated:

    python -m tests.fuzz --count 100000
    python -m tests.fuzz --only 4711
    python -m tests.fuzz --corpus path/to/configs      # damages these YAML files as well
"""

from __future__ import annotations

import argparse
import copy
import difflib
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

import torch

import graphmodel
from graphmodel.dialects.native.dump import dump, to_yaml
from graphmodel.graph.rows import rows_per_sample
from graphmodel.spec.document import read_file
from tests.effort import steps

ROOT = Path(__file__).parents[1]
SECONDS = 5.0
"""The most CPU time that one spec may take; beyond it, its steps are counted."""
STEPS = 30_000_000
"""The most steps that one spec may take."""
MEGABYTES = 1024
"""The most memory that the process may gain."""
GENTLE = 20
"""Every how many specs are varied, not damaged."""
SETTINGS: list[tuple[str, Any]] = [
    ("checkpoint", 2), ("checkpoint", 1), ("checkpoint", True), ("checkpoint", "0.5 GB"), ("checkpoint", ["layer1"]),
    ("checkpoint", ["res4"]), ("freeze", ["trunk"]), ("freeze", ["trunk.*bn*"]), ("freeze", ["heads.*"]), ("returns", "list"),
    ("returns", "tuple"), ("returns", "tensor"), ("outputs", []), ("extends", "base.yaml"), ("trunk", "resnet"),
    ("trunk", "alexnet_bvlc"), ("trunk", {"name": "timm:vit_tiny_patch16_224"}), ("trunk", {"name": "efficientnet"}),
    ("trunk", {"name": "torchvision:swin_t"}), ("trunk", {"name": "regnet_y_400mf"}), ("optimize", False),
    ("optimize", []), ("optimize", ["merge_calls"]), ("optimize", {"merge_calls": False}), ("optimize", {"batch_inputs": True}),
]  # fmt: skip
"""Keys of the native format that few examples have."""
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
def corpus(folder: Path | None = None) -> tuple[tuple[bytes, dict[str, Any]], ...]:
    """The examples of both dialects, and the files in a folder, as text and as data."""
    paths = sorted((ROOT / "examples").glob("*/*.yaml"))
    paths += sorted(folder.rglob("*.yaml")) if folder else []
    return tuple((path.read_bytes(), read_file(path).data) for path in paths)


@cache
def values_by_key(folder: Path | None = None) -> dict[Any, list[Any]]:
    """Every value of the corpus by its key, without repeats; items of a list have the list's key."""
    found: dict[Any, list[Any]] = {}
    for _, data in corpus(folder):
        for path in places(data):
            value: Any = data
            for key in path:
                value = value[key]
            same = found.setdefault(_key(path), [])
            if value not in same:
                same.append(value)
    return found


def _key(path: tuple[Any, ...]) -> tuple[Any, bool]:
    """The last key of a path that is not a position, and whether a position follows it."""
    names = [key for key in path if not isinstance(key, int)]
    return (names[-1] if names else ""), isinstance(path[-1], int)


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


def varied(spec: dict[str, Any], chance: random.Random, folder: Path | None = None) -> dict[str, Any]:
    """The spec with one or two values replaced by ones that may well be valid there.

    A value comes from the same key of any spec of the corpus, is another number or one of the spec's own strings; or
    items are dropped or change places.
    """
    spec = copy.deepcopy(spec)
    if "config" not in spec and "MODEL" not in spec and chance.random() < 0.3:
        spec |= copy.deepcopy(dict([chance.choice(SETTINGS)]))
    for _ in range(chance.choice([1, 1, 2])):
        path = chance.choice(list(places(spec)))
        *holders, key = path
        target: Any = spec
        for holder in holders:
            target = target[holder]
        value = target[key]
        kind = chance.choice(["graft", "graft", "nudge", "nudge", "drop", "shuffle"])
        if kind == "graft":
            target[key] = copy.deepcopy(chance.choice(values_by_key(folder).get(_key(path)) or [value]))
        elif kind == "drop" and len(spec) > 1:
            del target[key]
        elif kind == "shuffle" and isinstance(value, (list, dict)):
            items = list(value.items()) if isinstance(value, dict) else list(value)
            chance.shuffle(items)
            target[key] = dict(items) if isinstance(value, dict) else items
        elif isinstance(value, bool):
            target[key] = not value
        elif isinstance(value, (int, float)):
            target[key] = chance.choice([value + 1, value - 1, value * 2, value // 2, 1, 2, 3, 64])
        elif isinstance(value, str):
            target[key] = chance.choice([v for v in _leaves(spec) if isinstance(v, str)])
    return spec


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (dict, list)):
        for child in value.values() if isinstance(value, dict) else value:
            yield from _leaves(child)
    else:
        yield value


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


def mutant(number: int, scratch: Path, folder: Path | None = None) -> tuple[Any, tuple[str, ...]]:
    """A damaged spec, a file or a mapping in memory, and overrides.

    Args:
        number: which; multiples of 20 are varied, not damaged.
        scratch: where a file is written.
        folder: specs beside the examples.
    """
    chance = random.Random(number)
    raw, data = chance.choice(corpus(folder))
    if number % GENTLE == 0:
        return varied(data, chance, folder), ()
    overrides: tuple[str, ...] = ()
    if chance.random() < 0.05:
        path = ".".join(str(p) for p in chance.choice(list(places(data))))
        overrides = (f"{path}={chance.choice([o for o in ODD if o != 10**5000])!s:.300}",)
    if chance.random() < 0.5:
        return damaged(data, chance), overrides
    file = scratch / "mutant.yaml"
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
    """What becomes of a spec; anything but a `CompileError` goes through. Arguments are those of `attempt`."""
    return attempt(spec, overrides, deep=deep)[0]


def attempt(
    spec: Any, overrides: tuple[str, ...] = (), *, deep: bool = True
) -> tuple[str, graphmodel.ModelSpec | None, graphmodel.CompiledModel | None]:
    """What becomes of a spec, what it resolves to, and its module.

    Args:
        spec: a path or a mapping.
        overrides: `path=value` items.
        deep: whether a spec that resolves is compiled on the meta device, too, which takes a second.
    """
    loaded = None
    try:
        loaded = graphmodel.load_spec(spec, overrides)
        if not deep:
            return "resolved", loaded, None
        module = graphmodel.compile(loaded, device="meta", seed=0)
    except graphmodel.CompileError as error:
        text = str(error)
        assert all(c.isprintable() or c == "\n" for c in text), "the message has control characters"
        if not any(d.severity == "error" for d in error.diagnostics):
            return "refused without an error", loaded, None
        return ("diagnosed" if loaded is None else "diagnosed by compile"), loaded, None
    return ("compiled" if module.model_graph.outputs else "compiled to nothing"), loaded, module


def check(loaded: graphmodel.ModelSpec | None, module: graphmodel.CompiledModel | None) -> None:
    """Checks that a spec can be written and read, and a module called.

    Args:
        loaded: a resolved spec; written as a native file, it resolves to the same spec.
        module: a compiled module on the meta device; in eval mode it takes the inputs that it was compiled for.
    """
    if loaded is not None:
        text = to_yaml(dump(loaded))
        with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            again = to_yaml(dump(graphmodel.load_spec(file.name)))
        assert again == text, "\n".join(difflib.unified_diff(text.split("\n"), again.split("\n"), "written", "read"))
    if module is None:
        return
    graph = module.model_graph
    rows = rows_per_sample(graph)
    inputs: list[Any] = []
    for name, item in graph.inputs.items():
        shapes = [item.shape or ()] if item.views is None else item.views
        dtype = getattr(torch, item.dtype)
        tensors = [torch.empty((2 * rows[name], *shape), dtype=dtype, device="meta") for shape in shapes]
        inputs.append(tensors[0] if item.views is None else tensors)
    with torch.no_grad():
        module.eval()(*inputs)


def memory() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(numbers: range, deep: int = 100, folder: Path | None = None, *, progress: bool = False) -> Figures:
    """Tries mutants.

    Args:
        numbers: which.
        deep: every how many are compiled on the meta device, too.
        folder: specs beside the examples.
        progress: whether to print the figures after every thousand.

    Returns:
        The outcomes, and what was raised or took too long.
    """
    found = Figures()
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("resnet", "timm:resnet18", "torchvision:resnet18"):  # what is imported once is not counted
            outcome({"inputs": {"images": [3, 64, 64]}, "trunk": name}, deep=deep <= len(numbers))
        before = memory()
        for number in numbers:
            loaded = module = None
            start = time.process_time()
            try:
                name, loaded, module = attempt(*mutant(number, Path(scratch), folder), deep=number % deep == 0)
            except Exception:
                name = "raised"
                found.failures[number] = traceback.format_exc()
            seconds = time.process_time() - start
            found.slowest = max(found.slowest, (seconds, number))
            if seconds > SECONDS and number not in found.failures:
                # A machine may be slow; the verdict is on the number of steps, which is the same on every machine.
                spec = mutant(number, Path(scratch), folder)
                count, _ = steps(lambda spec=spec, deep=number % deep == 0: attempt(*spec, deep=deep))
                if count > STEPS:
                    found.failures[number] = f"took {seconds:.1f} s and {count} steps"
            if name not in ("compiled", "resolved", "diagnosed", "diagnosed by compile"):
                found.failures.setdefault(number, name)
            try:
                check(loaded, module)
            except Exception:
                name = "failed a check"
                found.failures[number] = traceback.format_exc()
            found.outcomes[name] += 1
            found.megabytes = memory() - before
            if number in found.failures and progress:
                print(f"== {number}\n{found.failures[number][-3000:]}", flush=True)
            if progress and number % 1000 == 999:
                print(f"{number + 1}: {found}", flush=True)
    return found


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000, help="how many specs")
    parser.add_argument("--start", type=int, default=0, help="the number of the first")
    parser.add_argument("--deep", type=int, default=GENTLE, help="every how many are compiled on the meta device, too")
    parser.add_argument("--corpus", type=Path, help="a folder of YAML files that are damaged as well")
    parser.add_argument("--only", type=int, help="try one, compile it, and print what it is")
    options = parser.parse_args()
    if options.only is not None:
        with tempfile.TemporaryDirectory() as scratch:
            spec, overrides = mutant(options.only, Path(scratch), options.corpus)
            print(spec.read_bytes().decode(errors="replace") if isinstance(spec, Path) else repr(spec), overrides)
            name, *made = attempt(spec, overrides)
            print(name)
            check(*made)
        return 0
    start = time.perf_counter()
    numbers = range(options.start, options.start + options.count)
    found = run(numbers, options.deep, options.corpus, progress=True)
    print(f"{found}; {time.perf_counter() - start:.0f} s")
    return bool(found.failures) or found.megabytes > MEGABYTES


if __name__ == "__main__":
    sys.exit(main())
