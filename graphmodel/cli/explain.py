"""`graphmodel explain`: the meaning of a diagnostic code, or what the compiler does with a spec and why."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphmodel.cli import options

if TYPE_CHECKING:
    from graphmodel.diagnostics.codes import Code
    from graphmodel.lower.module import CompiledModel
    from graphmodel.profiling.effects import Effect
    from graphmodel.profiling.report import Report


_CODE = re.compile(r"(?i)gm\d{3}")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("explain")(options.with_groups(explain))


@dataclass(frozen=True)
class CodesOrSpecs(options.SpecOptions):
    """Diagnostic codes, or a spec and its options."""

    specs: Annotated[list[str], typer.Argument(metavar="CODE|SPEC", help="A code such as GM201, or a spec.")]


def explain(
    source: CodesOrSpecs,
    form: options.FormatOption = options.Format.text,
) -> None:
    """Explain a diagnostic code, or the plan for a spec.

    The plan says what is built and run, what is frozen, what is pruned, and what each pass did.
    """
    if _CODE.fullmatch(source.specs[0]):
        _explain_codes(source.specs, form)
    else:
        _explain_spec(source, form)


def _explain_codes(given: list[str], form: options.Format) -> None:
    from graphmodel.cli import console
    from graphmodel.diagnostics import choices_help
    from graphmodel.diagnostics.codes import CODES

    for other in given:
        if not _CODE.fullmatch(other):
            raise typer.BadParameter(f"`{other}` is not a code: give codes, or the files of one spec")
    names = [code.upper() for code in given]
    for name in names:
        if name not in CODES:
            raise typer.BadParameter(f"unknown code `{name}`; {choices_help(name, list(CODES), 'codes')}")
    if form is options.Format.json:
        console.print_json([CODES[n].to_dict() for n in names])
    else:
        typer.echo("\n\n".join(page(CODES[n]) for n in names))


def page(code: Code) -> str:
    """A code's page as text."""
    parts = [f"{code.code}: {code.title}", code.meaning]
    for title, example in (("Wrong:", code.bad), ("Right:", code.good)):
        if example:
            parts += [title, "\n".join(f"    {line}" for line in example.rstrip().splitlines())]
    return "\n\n".join(parts)


def _explain_spec(source: options.SpecOptions, form: options.Format) -> None:
    from graphmodel.cli import console

    with console.findings(form.value):
        spec = source.load_to_build()
        source.import_modules()
        import torch

        from graphmodel.build.build import build_graph
        from graphmodel.diagnostics import Collector
        from graphmodel.graph.rows import rows_per_sample
        from graphmodel.lower import lower
        from graphmodel.passes.pipeline import OPTIMIZATIONS, PIPELINE
        from graphmodel.passes.switches import chosen_passes
        from graphmodel.profiling.effects import effects
        from graphmodel.profiling.report import report

        found = Collector()
        chosen = chosen_passes(spec, report=found)
        built = build_graph(spec, allow_imports=source.allow_imports, report=found)
        graph, made = effects(built, PIPELINE, chosen)
        _, optimized = effects(graph, OPTIMIZATIONS, chosen, rows_per_sample(graph))
        module = lower(graph, device=torch.device("meta"), seed=0, returns=spec.returns, passes=chosen)
        plan = _plan(module, report(graph), (*made, *optimized))
        notes = (*spec.notes, *module.optimized_graph.notes)
    if form is options.Format.json:
        console.print_json({"ok": True, **plan, "diagnostics": [d.to_dict() for d in notes]})
        return
    for line in plan_text(plan):
        console.print_text(line)
    console.print_diagnostics(spec.notes)


def _plan(module: CompiledModel, result: Report, made: Sequence[Effect]) -> dict[str, Any]:
    """What is built and run, what is not, and what each pass did."""
    graph = module.model_graph
    data = result.to_dict()
    runs: dict[str, int] = {}
    for node in graph.nodes.values():
        if node.call == "module":
            runs[str(node.target)] = runs.get(str(node.target), 0) + 1
    components = []
    for path, component in graph.components.items():
        built = {str(n.target) for n in graph.nodes.values() if n.component == path}
        stages = [f"{path}.{name}" for name, _ in component.meta.named_children()]
        whole = path in built
        components.append(
            {
                "name": path,
                "family": component.family,
                "copy_of": component.copy_of,
                "runs": [{"module": m, "times": runs[m]} for m in runs if m == path or m.startswith(f"{path}.")],
                "pruned": [] if whole else [s for s in stages if not _is_used(s, built)],
            }
        )
    return {
        "name": result.name,
        "inputs": data["inputs"],
        "outputs": data["outputs"],
        "returns": module.returns,
        "components": components,
        "frozen": list(graph.frozen),
        "totals": data["totals"],
        "passes": data["passes"],
        "summary": list(module.optimized_graph.summary),
        "effects": [effect.to_dict() for effect in made],
        "before": asdict(made[0].before),
        "after": asdict(made[-1].after),
    }


def _runs(part: dict[str, Any]) -> list[str]:
    """Which modules of a component are built, and how often each runs in one forward."""
    by_times: dict[int, list[str]] = {}
    for run in part["runs"]:
        by_times.setdefault(run["times"], []).append(run["module"].removeprefix(part["name"]).removeprefix("."))
    out = []
    for times, modules in sorted(by_times.items(), reverse=True):
        often = "once" if times == 1 else f"{times} times"
        named = f": {', '.join(modules)}" if modules != [""] else ""
        out.append(f"runs {often} in a forward{named}")
    return out


def _is_used(stage: str, built: set[str]) -> bool:
    return any(b == stage or b.startswith(f"{stage}.") for b in built)


def plan_text(plan: dict[str, Any]) -> list[str]:
    """The plan as text."""
    from graphmodel.profiling import units
    from graphmodel.profiling.flops import rows_text

    lines = [f"{plan['name']}: forward({', '.join(plan['inputs'])}) returns a {plan['returns']}"]
    for title in ("inputs", "outputs"):
        wide = max(len(name) for name in plan[title])
        lines += ["", title, *(f"  {name:{wide}}  {shape}" for name, shape in plan[title].items())]
    for part in plan["components"]:
        copy = [f"  starts with the weights of {part['copy_of']}"] if part["copy_of"] else []
        lines += ["", f"{part['name']}: {part['family']}", *copy, *(f"  {text}" for text in _runs(part))]
        if part["pruned"]:
            names = ", ".join(s.removeprefix(part["name"] + ".") for s in part["pruned"])
            lines.append(f"  not built, since no output needs them: {names}")
    counts = {name: units.count(number) for name, number in plan["totals"]["parameters"].items()}
    lines += ["", "parameters", f"  {counts['trained']} train", f"  {counts['frozen']} are frozen"]
    lines += [f"    {pattern}" for pattern in plan["frozen"]]
    lines.append(f"  {counts['pruned']} are not built")
    lines.append(f"  {units.memory(plan['totals']['bytes'])} of memory with buffers")
    flops, batch = units.si(plan["totals"]["flops_per_sample"]), rows_text(plan["totals"]["rows_per_sample"])
    lines += ["", f"FLOPs  {flops} at {batch} (forward, a multiply-add is two)"]
    lines += ["", "passes", *(text for effect in plan["effects"] for text in _effect_text(effect))]
    amounts = [_amounts(key, plan["before"][key], plan["after"][key]) for key in plan["before"]]
    titles = max(len(row[0]) for row in amounts)
    numbers = max(len(row[1]) for row in (*amounts, ("", "before")))
    lines += ["", f"totals{'':{titles - 2}}{'before':>{numbers}}  after"]
    return lines + [f"  {name:{titles}}  {before:>{numbers}}  {after}" for name, before, after in amounts]


_TITLES = {
    "trunk_passes": "trunk passes",
    "calls": "module calls",
    "flops": "FLOPs per sample",
    "parameters": "parameters",
    "trained": "trained parameters",
    "activations": "activations per sample",
}


def _amounts(key: str, *values: int | None) -> tuple[str, ...]:
    """The name of a total, and its values."""
    from graphmodel.profiling import units

    write: dict[str, Callable[[int], str]] = {"activations": units.memory, "flops": units.si}
    texts = ["not known" if value is None else write.get(key, units.count)(value) for value in values]
    return (_TITLES[key], *texts)


def _effect_text(effect: dict[str, Any]) -> list[str]:
    """What a pass did, what it saved, and what it declined with the place in the spec."""
    if effect["status"] == "off":
        return [f"  {effect['name']}: off"]
    saved = []
    for key, value in effect["saved"].items():
        name, amount = _amounts(key, abs(value))
        saved.append(f"{'saves' if value > 0 else 'adds'} {amount}{' of' * (key == 'activations')} {name}")
    done = effect["summary"] or ("nothing to do" if effect["status"] == "unchanged" else "")
    lines = [
        f"  {effect['name']}: {'; '.join(part for part in (done, ', '.join(saved)) if part) or 'done as the spec says'}"
    ]
    for note in effect["declined"]:
        place = [f"{note['file']}:{note['line']}:{note['column']}"] if note.get("file") else []
        lines.append(f"    declined: {note['message']} ({', '.join([note['code'], *place])})")
    return lines
