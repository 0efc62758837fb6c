"""Which models of timm and torchvision compile, with which features, and whether the numbers are the library's own.

    python benchmarks/coverage.py meta             # every model on the meta device: features, shapes, times
    python benchmarks/coverage.py equal            # real weights: features and logits against the library's
    python benchmarks/coverage.py fullgraph        # one model per family: torch.compile(fullgraph=True), copies
    python benchmarks/coverage.py table            # the table of docs/trunks.md

Each run appends JSON lines to `--results` and goes on where it stopped. Models run in a child process that is replaced
when it dies, runs too long or grows too large, so one model cannot stop the rest.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import resource
import sys
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Result = dict[str, Any]
MEMORY = 6 * 1024**3
"""A child that has grown to this size is replaced after its model."""


def names(library: str) -> list[str]:
    if library == "timm":
        import timm

        return [f"timm:{n}" for n in timm.list_models()]
    from torchvision import models

    return [f"torchvision:{n}" for n in models.list_models(module=models)]


# -- what is done with one model ------------------------------------------------------------------------------------


def build_library(name: str, **options: Any) -> Any:
    library, _, variant = name.partition(":")
    if library == "timm":
        import timm

        return timm.create_model(variant, **options)
    from torchvision import models

    return models.get_model(variant, weights=None, **options)


def family(name: str) -> str:
    """The library's own family: the module that a model is registered in."""
    library, _, variant = name.partition(":")
    if library == "timm":
        from timm.models import model_entrypoint as entrypoint
    else:
        from torchvision.models import get_model_builder as entrypoint
    return f"{library}:{entrypoint(variant).__module__.rpartition('.')[2]}"


def family_of(module: Any) -> str:
    return f"{type(module).__module__.rpartition('.')[2]}.{type(module).__name__}"


def shape_of(module: Any, name: str) -> tuple[int, ...]:
    config = getattr(module, "default_cfg", None) or {}
    if config.get("input_size"):
        return tuple(config["input_size"])
    size = getattr(module, "image_size", None) or (299 if name.endswith("inception_v3") else 224)
    return (3, size, size)


def library_features(module: Any) -> list[Any]:
    """The features that are asked for: every stage, the pooled vector and the logits."""
    from graphmodel.components.library.modules import naming_of

    naming = naming_of(module)
    assert naming is not None, "no naming covers the model"
    return [f for f in naming.features(module) if f.kind != "features"]  # type: ignore[attr-defined]


def spec_of(name: str, shape: tuple[int, ...], features: list[Any], layout: str | None = None, **keywords: Any) -> Any:
    def edge(feature: Any) -> dict[str, Any]:
        maps = {"layout": layout} if layout and feature.kind == "stage" else {}
        return {"from": {"from": f"images.{feature.name}", **maps}, "as": feature.name}

    return {
        "inputs": {"images": {"shape": list(shape)}},
        "trunk": {"name": name, **keywords},
        "mapping": [edge(f) for f in features],
    }


def on_meta(name: str) -> Result:
    """Compiles a model on the meta device with all its features."""
    import graphmodel
    from graphmodel.components.construct import build_on_meta
    from graphmodel.graph.types import tensor_infos

    module = build_on_meta(lambda: build_library(name))
    shape = shape_of(module, name)
    features = library_features(module)
    start = time.process_time()
    compiled = graphmodel.compile(spec_of(name, shape, features), device="meta")
    seconds = time.process_time() - start
    graph = compiled.model_graph
    keys, own = set(compiled.state_dict()), {f"trunk.{k}" for k in module.state_dict()}
    found = []
    problems = [f"keys that are not the library's: {sorted(keys - own)[:3]}"] if keys - own else []
    for feature in features:
        (node,) = graph.outputs[feature.name].parts.values()
        (info,) = tensor_infos(graph.nodes[node].info)
        found.append({"name": feature.name, "shape": list(info.sample), "module": str(graph.nodes[node].target)})
        problems += published_otherwise(feature, info.sample, shape)
    return {
        "ok": True,
        "family": family_of(module),
        "seconds": round(seconds, 2),
        "parameters": sum(p.numel() for p in module.parameters()),
        "shape": list(shape),
        "stages": sum(f.kind == "stage" for f in features),
        "nodes": len(graph.nodes),
        "features": found,
        "published_otherwise": problems,
    }


def published_otherwise(feature: Any, sample: tuple[int, ...], shape: tuple[int, ...]) -> list[str]:
    """Where what a library publishes of a feature is not what running it gives."""
    if feature.kind != "stage" or not sample:
        return []
    problems = []
    if feature.channels is not None and feature.channels not in (sample[0], sample[-1]):
        problems.append(f"{feature.name}: {feature.channels} channels published, shape {list(sample)}")
    if feature.reduction is not None and len(sample) == 3:
        height = sample[1] if sample[0] == feature.channels or feature.channels is None else sample[0]
        if abs(shape[1] / height - feature.reduction) > feature.reduction / 4:
            problems.append(f"{feature.name}: stride {feature.reduction} published, {shape[1]} to {height} pixels")
    return problems


def shake(module: Any) -> None:
    """Moves every weight a little: fresh models have zeros where a wrong wire would not show."""
    import torch

    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator) * 0.02
                tensor.add_(noise.abs() if name.endswith("running_var") else noise)


def equal(name: str, shape: tuple[int, ...] | None = None, **keywords: Any) -> Result:
    """Compiles with real weights and compares every feature with the library's own functions, bit for bit."""
    import torch

    import graphmodel

    torch.manual_seed(0)
    module = build_library(name, **keywords)
    shape = shape or shape_of(module, name)
    features = library_features(module)
    compiled = graphmodel.compile(spec_of(name, shape, features, "nchw", **keywords), seed=0, device="cpu").eval()
    own = {f"trunk.{k}": v for k, v in module.state_dict().items()}
    fresh = all(torch.equal(v, own[k]) for k, v in compiled.state_dict().items())
    module.eval()
    shake(module)
    compiled.load_state_dict({k: own[k] for k in compiled.state_dict()})
    images = torch.rand(1, *shape)
    with torch.no_grad():
        outputs = compiled(images)
        expected = reference(module, features, images)
    wrong = [f"{k}: {difference(outputs[k], v)}" for k, v in expected.items() if not torch.equal(outputs[k], v)]
    bad = [k for k, v in outputs.items() if not torch.isfinite(v).all()]
    return {
        "ok": not wrong and fresh,
        "family": family_of(module),
        "parameters": sum(p.numel() for p in module.parameters()),
        "reason": "; ".join([*wrong[:4], *([] if fresh else ["initial weights differ from the constructor's"])]),
        "compared": len(expected),
        "not_finite": bad,
    }


def difference(value: Any, expected: Any) -> str:
    if tuple(value.shape) != tuple(expected.shape):
        return f"{list(value.shape)} against {list(expected.shape)}"
    return f"differs by {(value - expected).abs().max().item():.3g} of {expected.abs().max().item():.3g}"


def reference(module: Any, features: list[Any], images: Any) -> dict[str, Any]:
    """The same features by the library's own functions."""
    stages = [f for f in features if f.kind == "stage"]
    expected: dict[str, Any] = {}
    if hasattr(module, "forward_intermediates"):
        maps = module.forward_intermediates(images, intermediates_only=True)
        expected |= {f.name: maps[f.index] for f in stages}
        if any(f.kind == "pre_logits" for f in features):
            expected["pre_logits"] = module.forward_head(module.forward_features(images), pre_logits=True)
    else:
        from torchvision.models.feature_extraction import create_feature_extractor

        got = create_feature_extractor(module, {f.taps[0]: f.name for f in stages})(images.clone())
        for feature in stages:
            value = got[feature.name]
            if feature.layout == "nhwc":
                value = value.permute(0, 3, 1, 2)
            elif feature.layout == "nlc":
                side = round((value.shape[1] - 1) ** 0.5)
                value = value[:, 1:].transpose(1, 2).reshape(len(value), -1, side, side)
            expected[feature.name] = value
    logits = next((f.name for f in features if f.kind == "logits"), None)
    if logits is not None:
        expected[logits] = module(images)
    return expected


def fullgraph(name: str) -> Result:
    """Compiles the compiled module with torch.compile in one graph; copies and state dicts go round."""
    import copy

    import torch

    import graphmodel
    from graphmodel.components.construct import build_on_meta

    module = build_on_meta(lambda: build_library(name))
    shape = shape_of(module, name)
    features = library_features(module)
    compiled = graphmodel.compile(spec_of(name, shape, features), seed=0, device="cpu").eval()
    images = torch.rand(2, *shape)
    with torch.no_grad():
        expected = compiled(images)
        twin = copy.deepcopy(compiled)
        shake(twin)
        twin.load_state_dict(compiled.state_dict())
        copied = all(torch.equal(v, expected[k]) for k, v in twin(images).items())
        start = time.process_time()
        # Dynamo keeps recurrent layers behind a switch, whose module it may be.
        recurrent = any(isinstance(m, torch.nn.RNNBase) for m in compiled.modules())
        with torch._dynamo.config.patch(allow_rnn=recurrent):
            got = torch.compile(compiled, fullgraph=True)(images)
        seconds = time.process_time() - start
        # Deep models magnify rounding: what the last bit of the images changes, a compiler may change too.
        nudged = compiled(images * (1 + 1e-7 * torch.randn_like(images)))
    wrong, rounding = [], []
    for key, error in distances(got, expected).items():
        if not error < 1e-3:
            own = distances(nudged, expected)[key]
            text = f"{key} differs by {error:.2g} of its largest value, and by {own:.2g} for images one bit away"
            (rounding if error < own else wrong).append(text)
    return {
        "ok": not wrong and copied,
        "family": family_of(module),
        "seconds": round(seconds, 1),
        "reason": "; ".join([*wrong, *([] if copied else ["a deep copy gives other numbers"])]),
        "note": "; ".join([*rounding[-1:], *(["with `torch._dynamo.config.allow_rnn`"] if recurrent else [])]),
    }


def distances(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, float]:
    """The largest difference of each output, as a fraction of its largest value."""
    return {k: (found[k] - v).abs().max().item() / (v.abs().max().item() or 1.0) for k, v in expected.items()}


JOBS: dict[str, Callable[[str], Result]] = {"meta": on_meta, "equal": equal, "fullgraph": fullgraph}

# -- running many ---------------------------------------------------------------------------------------------------


def worker(job: str, connection: Any) -> None:
    warnings.filterwarnings("ignore")
    import torch

    torch.set_num_threads(1)
    while (name := connection.recv()) is not None:
        try:
            result = JOBS[job](name)
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            result = {"ok": False, "reason": f"{type(error).__name__}: {' '.join(lines[:3])}"[:600]}
            result["where"] = traceback.format_exc().splitlines()[-3:][0].strip()
        result["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        connection.send(result)


class Worker:
    """A child process that runs models one after the other."""

    def __init__(self, job: str, timeout: float) -> None:
        self.job, self.timeout = job, timeout
        self.process: Any = None

    def run(self, name: str) -> Result:
        if self.process is None:
            self.connection, child = multiprocessing.Pipe()
            self.process = multiprocessing.Process(target=worker, args=(self.job, child), daemon=True)
            self.process.start()
            child.close()
        self.connection.send(name)
        try:
            if not self.connection.poll(self.timeout):
                self.stop()
                return {"ok": False, "reason": f"took longer than {self.timeout:.0f} s"}
            result: Result = self.connection.recv()
        except EOFError:
            code = self.process.exitcode
            self.stop()
            return {"ok": False, "reason": f"the process died ({code})"}
        if result["memory"] > MEMORY:
            self.stop()
        return result

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.join()
        self.process = None


def read(path: Path) -> dict[tuple[str, str], Result]:
    """The last result of each job and model."""
    results: dict[tuple[str, str], Result] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            results[entry["job"], entry["name"]] = entry
    return results


def sweep(job: str, wanted: list[str], path: Path, timeout: float, again: bool, part: tuple[int, int]) -> None:
    done = read(path)
    part_of_wanted = wanted[part[0] - 1 :: part[1]]
    pending = [n for n in part_of_wanted if (job, n) not in done or (again and not done[job, n]["ok"])]
    print(f"{job}: {len(wanted)} models, {len(pending)} to run", flush=True)
    child = Worker(job, timeout)
    with path.open("a") as stream:
        for i, name in enumerate(pending, 1):
            start = time.monotonic()
            result = {"job": job, "name": name, **child.run(name), "wall": round(time.monotonic() - start, 1)}
            stream.write(json.dumps(result) + "\n")
            stream.flush()
            if not result["ok"] or i % 50 == 0:
                print(f"{i}/{len(pending)} {name}: {'ok' if result['ok'] else result.get('reason')}", flush=True)
    child.stop()


def smallest_of_families(results: dict[tuple[str, str], Result], wanted: list[str]) -> list[str]:
    """For each architecture the model that costs least."""
    best: dict[str, tuple[float, str]] = {}
    for name in wanted:
        entry = results.get(("meta", name))
        if entry is None or not entry["ok"]:
            continue
        key = f"{family(name)} {entry['family']}"
        cost = entry["parameters"] + 30 * entry["shape"][1] * entry["shape"][2]
        best[key] = min(best.get(key, (float("inf"), "")), (cost, name))
    return [name for _, name in best.values()]


def small(results: dict[tuple[str, str], Result], wanted: list[str], limit: float, pixels: int) -> list[str]:
    """Models of at most `limit` million parameters and images of `pixels` a side, and the smallest of every family."""
    least = set(smallest_of_families(results, wanted))
    chosen = []
    for name in wanted:
        entry = results.get(("meta", name))
        fits = entry is not None and entry["ok"] and entry["parameters"] <= limit * 1e6 and entry["shape"][1] <= pixels
        if fits or name in least:
            chosen.append(name)
    return chosen


# -- the table ------------------------------------------------------------------------------------------------------


def table(results: dict[tuple[str, str], Result], libraries: list[str]) -> Iterator[str]:
    columns = ("library", "models", "families", "compiled with all stages", "features equal", "one graph")
    yield f"| {' | '.join(columns)} |"
    yield "|---|---|---|---|---|---|"
    for library in libraries:
        listed = names(library)
        rows = {job: [results[job, n] for n in listed if (job, n) in results] for job in JOBS}
        families = {family(n) for n in listed}

        def count(job: str, rows: dict[str, list[Result]] = rows) -> str:
            return f"{sum(r['ok'] for r in rows[job])} of {len(rows[job])}"

        counts = " | ".join(count(job) for job in JOBS)
        yield f"| {library} | {len(listed)} | {len(families)} | {counts} |"
    failures = [(job, name, r) for (job, name), r in results.items() if not r["ok"]]
    if failures:
        yield "\nFailures:\n"
        grouped: dict[tuple[str, str], list[str]] = defaultdict(list)
        for job, name, result in failures:
            grouped[job, result.get("reason", "")].append(name)
        for (job, reason), models in sorted(grouped.items()):
            yield f"- {job}: {', '.join(models[:6])}{' …' if len(models) > 6 else ''} ({len(models)}): {reason}"
    notes = [f"- {name}: {r['note']}" for (_, name), r in results.items() if r["ok"] and r.get("note")]
    if notes:
        yield "\nOf those that passed:\n"
        yield from notes
    slow = sorted((r for (job, _), r in results.items() if job == "meta" and r["ok"]), key=lambda r: -r["seconds"])
    yield "\nSlowest to compile (processor seconds on the meta device):\n"
    yield "| model | seconds | parameters | input |"
    yield "|---|---|---|---|"
    for r in slow[:10]:
        yield f"| {r['name']} | {r['seconds']:.1f} | {r['parameters'] / 1e6:.0f} M | {'×'.join(map(str, r['shape']))} |"
    otherwise = Counter(p for r in slow for p in r["published_otherwise"])
    if otherwise:
        yield "\nPublished otherwise than measured:\n"
        yield from (f"- {text} ({count} models)" for text, count in otherwise.most_common(20))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=[*JOBS, "table"])
    parser.add_argument("--library", choices=["timm", "torchvision"], action="append")
    parser.add_argument("--only", default="*", help="a pattern of names, such as 'timm:vit_*'")
    parser.add_argument("--results", type=Path, default=Path("build/coverage.jsonl"))
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds for one model")
    parser.add_argument("--part", default="1/1", help="`2/3`: the second of three runs side by side")
    parser.add_argument("--again", action="store_true", help="run what failed once more")
    parser.add_argument(
        "--limit", type=float, default=30.0, help="`equal`: models of at most so many million parameters"
    )
    parser.add_argument("--pixels", type=int, default=288, help="`equal`: images of at most so many pixels a side")
    options = parser.parse_args()
    libraries = options.library or ["timm", "torchvision"]
    wanted = [n for library in libraries for n in names(library) if fnmatch.fnmatch(n, options.only)]
    options.results.parent.mkdir(parents=True, exist_ok=True)
    results = read(options.results)
    if options.job == "table":
        print("\n".join(table(results, libraries)))
        return
    if options.job == "equal":
        wanted = small(results, wanted, options.limit, options.pixels)
    elif options.job == "fullgraph":
        wanted = smallest_of_families(results, wanted)
    first, _, parts = options.part.partition("/")
    sweep(options.job, wanted, options.results, options.timeout, options.again, (int(first), int(parts)))


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    sys.exit(main())
