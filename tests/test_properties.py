"""Random valid specs: outputs, gradients and batch statistics equal those of an independent interpreter.

Each seed is one spec; a failure prints it. A few run in the fast suite and more are marked slow. For any others:

    GRAPHMODEL_SEEDS=1000:2000 pytest tests/test_properties.py -m slow -k chosen
"""

from __future__ import annotations

import inspect
import os
import random
from pprint import pformat
from typing import Any

import pytest
import torch

import graphmodel
from graphmodel.passes.pipeline import OPTIMIZATIONS, PIPELINE
from tests.interpreter import REGISTERED, TRUNKS, Custom, Interpreter, Modal, Spec, TrunkFeature, TrunkKind

BATCH = 3
TOLERANCE = 1e-9
"""Of numbers of float64, relative to the largest of the tensor."""
NOISE = 1e-13
"""Rounding of a gradient that cancels (a bias before BatchNorm), relative to the largest gradient of the model."""
SWITCHES = [p.name for p in (*PIPELINE, *OPTIMIZATIONS) if p.switch != "always"]
"""Passes that `optimize` names."""


# -- drawing -----------------------------------------------------------------------------------------------------------------


class Drawing:
    """Draws one valid spec."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def spec(self) -> Spec:
        """A spec in the long form, in which every output has a name."""
        chance = self.chance
        kinds = [chance.choice(list(TRUNKS)) for _ in range(chance.choice([1, 1, 1, 2]))]
        copied = len(kinds) == 2 and chance.random() < 0.4
        if copied:
            kinds[1] = kinds[0]
        self.kinds: dict[str, TrunkKind] = {}
        spec: Spec = {"name": "drawn", "inputs": {}}
        if not any(all(s in TRUNKS[k].sizes for k in kinds) for s in (32, 48, 64, 72)):
            kinds = kinds[:1]  # no image suits both
        if len(kinds) == 1:
            self.kinds = {"trunk": TRUNKS[kinds[0]]}
            spec["trunk"] = self.trunk(kinds[0])
        else:
            self.kinds = {name: TRUNKS[kind] for name, kind in zip(("one", "two"), kinds, strict=True)}
            spec["trunks"] = {name: self.trunk(kind) for name, kind in zip(("one", "two"), kinds, strict=True)}
            if copied:
                spec["trunks"]["two"] = {"copy": "one", **chance.choice([{}, {"freeze": False}])}
        sizes = [s for s in (32, 48, 64, 72) if all(s in kind.sizes for kind in self.kinds.values())]
        for i in range(chance.choice([1, 1, 2, 3])):
            spec["inputs"][f"input{i}"] = self.input(sizes)
        self.heads: dict[str, Any] = {}
        self.reads: dict[str, tuple[Any, ...]] = {}
        spec["mapping"] = [self.edge(spec, i) for i in range(chance.randint(1, 5))]
        spec["heads"] = self.heads
        used = {self.parsed(s)[0] for edge in spec["mapping"] for s in self.sources(edge)}
        spec["inputs"] = {k: v for k, v in spec["inputs"].items() if k in used}
        used = {self.parsed(s)[1] for edge in spec["mapping"] for s in self.sources(edge)}
        if "trunks" in spec:
            spec["trunks"] = {k: v for k, v in spec["trunks"].items() if k in used}
            if len(spec["trunks"]) == 1:  # a source names its trunk only if there are several
                return self.spec()
        spec["freeze"] = self.freeze(spec)
        if chance.random() < 0.5:
            names = [edge["as"] for edge in spec["mapping"]]
            names = chance.sample(names, chance.randint(1, len(names)))
            kept = [edge for edge in spec["mapping"] if edge["as"] in names]
            if self.whole(spec, kept):
                two = {e["as"] for e in kept if self.heads.get(e.get("head", "")) == "property_two"}
                part = {n: chance.choice(["", ".0", ".1"]) if n in two else "" for n in names}
                spec["outputs"] = [n + part[n] for n in names]
        self.read_an_output(spec)
        if chance.random() < 0.4:
            spec["checkpoint"] = self.checkpoint(spec)
        if chance.random() < 0.3:
            named = chance.sample(SWITCHES, chance.randint(0, len(SWITCHES)))
            on = {name: chance.random() < 0.5 for name in named}
            spec["optimize"] = chance.choice([False, named, on])
        return spec

    def checkpoint(self, spec: Spec) -> Any:
        """A form of `checkpoint`: segments, every so many stages, names of stages, or a memory budget."""
        chance = self.chance
        form = chance.choice([1, 2, 3, True, "every", "names", "budget"])
        if form == "every":
            return {"every": chance.choice([1, 2, 3])}
        if form == "budget":
            budget = {"memory_budget": chance.choice(["8MiB", "64MiB", "4GiB"]), "batch": BATCH}
            try:
                graphmodel.build_graph(graphmodel.load_spec({**spec, "checkpoint": budget}))
            except graphmodel.CompileError as error:  # too small, or a head that reads numbers
                if not {d.code for d in error.diagnostics} <= {"GM405", "GM408"}:
                    raise
                return {"every": 1}
            return budget
        if form == "names":
            graph = graphmodel.build_graph(graphmodel.load_spec(spec))
            nodes = [n for n in graph.nodes.values() if n.kind == "trunk" and n.call == "module"]
            stages = list(dict.fromkeys(str(n.target) for n in nodes))
            return chance.sample(stages, min(len(stages), chance.choice([1, 2, 3]))) or True
        return form

    def read_an_output(self, spec: Spec) -> None:
        """Adds heads that read other outputs, if there are outputs that heads can read."""
        for number in range(self.chance.choice([0, 0, 1, 2])):
            widths = {e["as"]: w for e in spec["mapping"] if (w := self.width_of(e.get("head"))) is not None}
            if not widths:
                return
            name = self.chance.choice(list(widths))
            edge: Spec = {"as": f"on{number}", "from": name, "head": self.head("vector", (widths[name],))}
            if self.chance.random() < 0.3:
                edge["detach"] = True
            spec["mapping"].append(edge)
            if "outputs" in spec:
                spec["outputs"].append(f"on{number}.0" if self.heads[edge["head"]] == "property_two" else edge["as"])

    def width_of(self, head: str | None) -> int | None:
        """The width of the vectors that a head gives; None if it gives anything else."""
        module = self.heads.get(head or "")
        module = module[-1] if isinstance(module, list) else module
        if module == "property_probe":
            return 3
        if not isinstance(module, dict):
            return None
        ((name, params),) = module.items()
        return int(params["dims"][-1] if name == "mlp" else params["classes"])

    def whole(self, spec: Spec, kept: list[Spec]) -> bool:
        """Whether some outputs still need every input, trunk and frozen head, so that nothing of the spec is unused."""
        parsed = [self.parsed(s) for edge in kept for s in self.sources(edge)]
        trunks = {t for _, t, _ in parsed}
        heads = {edge.get("head") for edge in kept}
        frozen = {p.split(".")[1] for p in spec["freeze"] if p.startswith("heads.")}
        return {i for i, _, _ in parsed} == set(spec["inputs"]) and trunks == set(self.kinds) and frozen <= heads

    def trunk(self, kind: str) -> Spec:
        trunk = dict(TRUNKS[kind].spec)
        if self.chance.random() < 0.15:
            trunk["freeze"] = True
        if self.chance.random() < 0.15:
            trunk["input_type"] = "bgr"
        return trunk

    def input(self, sizes: list[int]) -> Spec:
        chance = self.chance
        if chance.random() < 0.6:
            return {"shape": self.shape(sizes)}
        views = [{"count": chance.randint(1, 3), "shape": self.shape(sizes)} for _ in range(chance.randint(1, 3))]
        return {"views": views, "grouping": chance.choice(["resolution", "consecutive", "crop"])}

    def shape(self, sizes: list[int]) -> list[int]:
        height = self.chance.choice(sizes)
        return [3, height, self.chance.choice(sizes) if self.chance.random() < 0.3 else height]

    def parsed(self, source: Any) -> tuple[str, str, str]:
        text = source if isinstance(source, str) else source["from"]
        name, _, rest = text.partition(".")
        if "trunk" in self.kinds:
            return name, "trunk", rest
        trunk, _, feature = rest.partition(".")
        return name, trunk, feature

    def sources(self, edge: Spec) -> list[Any]:
        return edge["from"] if isinstance(edge["from"], list) else [edge["from"]]

    def source(self, spec: Spec, name: str, *, vector: bool) -> tuple[Spec, int | None]:
        """A source, as a vector if asked for, and its width; None for anything that is no vector."""
        chance = self.chance
        trunk = chance.choice(list(self.kinds))
        feature = chance.choice(list(self.kinds[trunk].features))
        entry = self.kinds[trunk].features[feature]
        text = f"{name}.{feature}" if trunk == "trunk" else f"{name}.{trunk}.{feature}"
        source: Spec = {"from": text}
        sizes = set(map(tuple, shapes_of(spec["inputs"][name])))
        side = min(min(shape[1:]) for shape in sizes)
        if entry.kind == "vector":
            return source, entry.width
        if entry.kind == "tokens":
            return self.tokens(source, entry, vector=vector)
        if entry.kind == "rows":
            source["layout"] = "nchw"
        return self.map(source, entry, side // entry.stride, one_size=len(sizes) == 1, vector=vector)

    def tokens(self, source: Spec, entry: TrunkFeature, *, vector: bool) -> tuple[Spec, int | None]:
        how = self.chance.choice(["class", "mean", "map"] if vector else ["class", "mean", "map", "patch", "plain"])
        if how in ("class", "mean"):
            return {**source, "tokens": how}, entry.width
        if how == "patch":
            return {**source, "tokens": "patch"}, None
        if how == "plain":
            return source, None
        source["layout"] = "nchw"
        if vector or self.chance.random() < 0.5:
            return {**source, "pool": {"adaptive_avg_pool2d": 1}, "flatten": True}, entry.width
        return source, None

    def map(
        self, source: Spec, entry: TrunkFeature, side: int, *, one_size: bool, vector: bool
    ) -> tuple[Spec, int | None]:
        ops = ["adaptive_avg_pool2d", "adaptive_max_pool2d"]
        chance = self.chance
        if vector or not one_size or chance.random() < 0.5:
            out = chance.choice([1, 1, 2])
            return {**source, "pool": {chance.choice(ops): out}, "flatten": True}, entry.width * out * out
        if side >= 2 and chance.random() < 0.5:
            return {**source, "pool": {chance.choice(["avg_pool2d", "max_pool2d"]): 2}}, None
        return source, None

    def edge(self, spec: Spec, number: int) -> Spec:
        chance = self.chance
        edge: Spec = {"as": f"out{number}"}
        name = chance.choice(list(spec["inputs"]))
        if chance.random() < 0.25:
            sources = [self.source(spec, name, vector=True) for _ in range(chance.choice([2, 2, 3]))]
            widths = [w or 0 for _, w in sources]
            ways = ["concat", "concat", "list"] + (["sum", "stack"] if len(set(widths)) == 1 else [])
            edge |= {"from": [s for s, _ in sources], "combine": chance.choice(ways)}
            if edge["combine"] == "list":
                return edge | {"head": self.head("list", tuple(widths))}
            if edge["combine"] != "stack" and chance.random() < 0.7:
                total = sum(widths) if edge["combine"] == "concat" else widths[0]
                edge["head"] = self.head("vector", (total,))
            return edge
        headed = chance.random() < 0.75
        source, width = self.source(spec, name, vector=headed)
        options = {k: v for k, v in source.items() if k != "from"}
        edge |= {"from": source["from"], **options}
        if headed:
            assert width is not None
            edge["head"] = self.head("vector", (width,))
        elif chance.random() < 0.3:
            edge["head"] = self.head("any", ())
        if chance.random() < 0.1:
            edge["detach"] = True
        return edge

    def head(self, kind: str, reads: tuple[Any, ...]) -> str:
        """A head that reads such a value: one that is there already, or a new one."""
        same = [n for n, r in self.reads.items() if r == (kind, *reads)]
        if same and self.chance.random() < 0.5:
            return self.chance.choice(same)
        name = f"head{len(self.heads)}"
        self.reads[name] = (kind, *reads)
        chance = self.chance
        if kind == "list":
            self.heads[name] = "property_lists"
        elif kind == "any":
            self.heads[name] = "property_in_place"
        else:
            self.heads[name] = chance.choice(
                [
                    "property_probe",
                    {"property_probe": {"classes": 5}},
                    {"mlp": {"dims": ["auto", 4]}},
                    {
                        "mlp": {
                            "dims": ["auto", 6, 4],
                            "use_bn": chance.random() < 0.5,
                            "use_relu": chance.random() < 0.5,
                        }
                    },
                    [{"mlp": {"dims": ["auto", 4]}}, "property_probe"],
                    "property_two",
                    "property_in_place",
                    ["property_in_place", {"mlp": {"dims": ["auto", 4]}}],
                ]
            )
        return name

    def freeze(self, spec: Spec) -> list[str]:
        chance, patterns = self.chance, []
        for name, kind in self.kinds.items():
            path = "trunk" if name == "trunk" else f"trunks.{name}"
            if chance.random() < 0.4:
                patterns.append(f"{path}.{chance.choice(kind.patterns)}")
        with_parameters = [n for n, h in self.heads.items() if h != "property_in_place"]
        if with_parameters and chance.random() < 0.3:
            patterns.append(f"heads.{chance.choice(with_parameters)}")
        return patterns


def shapes_of(item: Spec) -> list[list[int]]:
    """The shape of each tensor of an input."""
    return [v["shape"] for v in item["views"] for _ in range(v["count"])] if "views" in item else [item["shape"]]


def samples(spec: Spec, seed: int) -> list[Any]:
    """Random inputs, which take gradients too."""
    made = torch.Generator().manual_seed(seed)
    inputs: list[Any] = []
    for item in spec["inputs"].values():
        tensors = [
            torch.randn(BATCH, *shape, generator=made, dtype=torch.double).requires_grad_() for shape in shapes_of(item)
        ]
        inputs.append(tensors if "views" in item else tensors[0])
    return inputs


# -- comparing ---------------------------------------------------------------------------------------------------------------


def flat(inputs: list[Any]) -> list[torch.Tensor]:
    return [t for item in inputs for t in (item if isinstance(item, list) else [item])]


def assert_close(found: torch.Tensor | None, expected: torch.Tensor | None, what: str, noise: float = 0.0) -> None:
    """Equal up to rounding of float64, relative to the largest number.

    Args:
        found: of the compiled module; None for no gradient.
        expected: of the interpreter.
        what: said in the error.
        noise: the rounding of the numbers that these were summed from, for gradients that cancel.
    """
    if expected is None or found is None:
        none = [t for t in (found, expected) if t is not None]
        assert not any(t.abs().max() > noise for t in none), f"{what}: one has no gradient"
        return
    assert found.shape == expected.shape, what
    assert found.dtype == expected.dtype, what
    found, expected = found.detach(), expected.detach()
    if not found.is_floating_point():
        assert torch.equal(found, expected), what
        return
    scale, off = float(expected.abs().max()), float((found - expected).abs().max())
    assert off <= TOLERANCE * scale + noise, f"{what}: off by {off:.1e}, the largest number is {scale:.1e}"


def step(model: Any, inputs: list[Any], seed: int) -> dict[str, torch.Tensor]:
    """A forward and a backward with fixed random weights of the outputs."""
    found: dict[str, torch.Tensor] = model(*inputs)
    made = torch.Generator().manual_seed(seed)
    losses = [(v * torch.randn(v.shape, generator=made).to(v)).sum() for _, v in sorted(found.items())]
    total = sum(losses, torch.zeros((), dtype=torch.double))
    if total.requires_grad:
        total.backward()  # type: ignore[no-untyped-call]
    return found


def compare(spec: Spec, seed: int) -> None:
    """Compiles a spec and compares it with the interpreter in training mode, then in eval mode, in float64."""
    model = graphmodel.compile(spec, seed=seed).double()
    state = {k: v.detach().clone() for k, v in model.state_dict().items()}
    reference = Interpreter(spec, state)
    for training in (True, False):
        model.train(training)
        reference.train(training)
        ours, theirs = samples(spec, seed), samples(spec, seed)
        found, expected = step(model, ours, seed), step(reference, theirs, seed)
        mode = "in training" if training else "in eval mode"
        assert list(found) == list(expected)
        for name in expected:
            assert_close(found[name], expected[name], f"output {name} {mode}")
        compare_gradients(model, reference, flat(ours), flat(theirs), mode)
        now, kept = model.state_dict(), reference.state_dict()
        assert not now.keys() - kept.keys()
        for name, tensor in now.items():
            # The mean of numbers of order 1 that cancel is as exact as they are.
            assert_close(tensor, kept[name], f"{name} after a step {mode}", 1e-15)
        model.zero_grad()
        reference.zero_grad()
    name = next(iter(found))
    part = model.slice(outputs=[name])
    needed = dict(zip(spec["inputs"], samples(spec, seed), strict=True))
    sliced = part(*(needed[argument] for argument in inspect.signature(part.forward).parameters))
    assert list(sliced) == [name]
    assert_close(sliced[name], found[name], f"slice of {name}")


def compare_gradients(
    model: torch.nn.Module, reference: Interpreter, ours: list[torch.Tensor], theirs: list[torch.Tensor], mode: str
) -> None:
    """Compares gradients of the inputs and of each parameter on its own scale, and which parameters train."""
    found, expected = dict(model.named_parameters()), reference.named_parameters()
    gradients = [p.grad for p in (*expected.values(), *theirs) if p.grad is not None]
    noise = NOISE * max((float(g.abs().max()) for g in gradients), default=0.0)
    for i, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert_close(one.grad, other.grad, f"gradient of input {i} {mode}", noise)
    for name, parameter in expected.items():
        if name in found:
            assert found[name].requires_grad == parameter.requires_grad, f"{name} trains"
            assert_close(found[name].grad, parameter.grad, f"gradient of {name} {mode}", noise)
        else:
            assert parameter.grad is None, f"{name} was pruned and has a gradient {mode}"


@pytest.fixture(autouse=True)
def _registered() -> None:
    for name, head in REGISTERED.items():
        graphmodel.register_head(name)(head)
    graphmodel.register_trunk("property_custom")(Custom)
    graphmodel.register_trunk("property_modal")(Modal)


def check(seed: int) -> None:
    spec = Drawing(seed).spec()
    try:
        compare(spec, seed)
    except Exception as error:
        raise AssertionError(f"seed {seed}:\n{pformat(spec, sort_dicts=False)}") from error


@pytest.mark.parametrize("seed", range(5))
def test_drawn_specs_equal_the_interpreter(seed: int) -> None:
    check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5, 155))
def test_more_drawn_specs_equal_the_interpreter(seed: int) -> None:
    check(seed)


def _chosen() -> range:
    first, _, last = os.environ.get("GRAPHMODEL_SEEDS", "0:0").partition(":")
    return range(int(first), int(last or int(first) + 1))


@pytest.mark.slow
@pytest.mark.skipif(not _chosen(), reason="GRAPHMODEL_SEEDS=FIRST:LAST chooses seeds")
def test_chosen_seeds_equal_the_interpreter() -> None:
    for seed in _chosen():
        check(seed)
