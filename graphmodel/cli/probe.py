"""`graphmodel probe`: trains the heads of a spec on stored features, or classifies by the features themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphmodel.cli import options
from graphmodel.cli.weight_options import WeightOptions

if TYPE_CHECKING:
    from graphmodel.probing import ProbeReport


class Method(str, Enum):
    """What is probed."""

    heads = "heads"
    knn = "knn"
    logistic = "logistic"


class Optimizer(str, Enum):
    """What trains the heads."""

    sgd = "sgd"
    adamw = "adamw"


Rates = list[str] | None


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("probe")(options.with_groups(probe_command))


def probe_command(
    source: options.SpecOptions,
    weights: WeightOptions,
    features: Annotated[
        str, typer.Option("--features", metavar="OUT", help="What `graphmodel extract --frozen` wrote.")
    ],
    test: Annotated[
        str | None, typer.Option("--test", metavar="OUT", help="Features of the samples to evaluate on.")
    ] = None,
    holdout: Annotated[
        float | None,
        typer.Option(help="The fraction of each class to hold out instead; 0.2 if there is no --test."),
    ] = None,
    method: Annotated[
        Method,
        typer.Option(help="Train the heads, or classify by the features: nearest neighbours, logistic regression."),
    ] = Method.heads,
    outputs: options.Outputs = None,
    epochs: Annotated[int, typer.Option(help="How often each sample is seen.")] = 28,
    batch_size: Annotated[int, typer.Option(help="Samples in a batch.")] = 256,
    lr: Annotated[
        Rates,
        typer.Option(
            metavar="[HEAD=]RATE", help="The learning rate, or that of the heads of a name or pattern. Repeatable."
        ),
    ] = None,
    weight_decay: Annotated[
        Rates, typer.Option(metavar="[HEAD=]RATE", help="The weight decay, in the same form. Repeatable.")
    ] = None,
    optimizer: Annotated[Optimizer, typer.Option(help="The optimizer, with a cosine schedule.")] = Optimizer.sgd,
    k: Annotated[list[int] | None, typer.Option("-k", "--k", help="Neighbours, 20 if left out. Repeatable.")] = None,
    temperature: Annotated[float, typer.Option(help="The temperature of the neighbours' votes.")] = 0.07,
    c: Annotated[
        list[float] | None,
        typer.Option("-C", "--C", help="The inverse of the penalty of --method logistic, 1 if left out. Repeatable."),
    ] = None,
    device: Annotated[str, typer.Option(help="The device of the heads, such as cuda.")] = "cpu",
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="Write results.json, a plot, and the best head's weights."),
    ] = None,
    form: options.FormatOption = options.Format.text,
) -> None:
    """Train the heads of a spec on stored features, and print them by accuracy.

    The spec and its weights are those that the features were extracted with. `--seed` draws the initial weights, the
    samples that are held out, and the order of the batches. `--format json` prints one event a line: progress, and the
    results at the end.
    """
    from graphmodel.cli import console

    rates, decays = _rates("--lr", lr), _rates("--weight-decay", weight_decay)
    names = options.ResultOptions(outputs).names()
    with console.findings(form.value, events=True), console.plain_warnings():
        from graphmodel.cli.extract import on_device
        from graphmodel.extraction.packages import need

        need("zarr")
        module, notes = on_device(source, weights, None, device)
        if form is options.Format.text:
            console.print_diagnostics(notes)
        from graphmodel.probing import probe

        with _progress(form) as progress:
            report = probe(
                module,
                features,
                test=test,
                holdout=holdout,
                method=method.value,
                outputs=names,
                epochs=epochs,
                batch_size=batch_size,
                lr=rates,
                weight_decay=decays,
                optimizer=optimizer.value,
                k=k or 20,
                temperature=temperature,
                C=c or 1.0,
                seed=weights.seed,
                out=output,
                progress=progress,
            )
    if form is options.Format.json:
        found = {"event": "report", "ok": True, **report.to_dict(), "files": list(report.files)}
        console.print_event({**found, "diagnostics": [d.to_dict() for d in (*notes, *report.notes)]})
        return
    print_report(report)


def print_report(report: ProbeReport) -> None:
    """The rows as a table with bars, best first."""
    from graphmodel.cli import console
    from graphmodel.probing.chart import bar, percent

    keys = list(dict.fromkeys(key for result in report.results for key in result.settings))
    features = {result.features for result in report.results}
    console.print_table(
        ("", "accuracy", " ", "top 5", "loss", "training", *keys, "features"),
        (
            (
                result.name,
                percent(result.accuracy),
                bar(result.accuracy),
                percent(result.top5),
                "" if result.loss is None else f"{result.loss:.3f}",
                percent(result.train_accuracy),
                *(f"{result.settings[key]:g}" if key in result.settings else "" for key in keys),
                ", ".join(result.features) if len(features) > 1 and result.features != (result.name,) else "",
            )
            for result in report.results
        ),
        right=("accuracy", "top 5", "loss", "training", *keys),
        title=f"{report.model}: {report.method}, {report.classes} classes, "
        f"{report.train_samples} training and {report.test_samples} test samples",
    )
    console.print_diagnostics(report.notes)
    for file in report.files:
        console.print_text(f"wrote {file}")


def _rates(flag: str, given: list[str] | None) -> float | dict[str, float] | None:
    """`["0.1"]` as a number, `["a=0.1", "b*=1"]` as a mapping; both together put the number first, for every head."""
    if not given:
        return None
    found: dict[str, float] = {}
    for item in given:
        name, equals, text = item.rpartition("=")
        try:
            rate = float(text)
        except ValueError:
            raise typer.BadParameter(f"`{item}` is not of the form RATE or HEAD=RATE", param_hint=flag) from None
        if equals and not name:
            raise typer.BadParameter(f"`{item}` names no head", param_hint=flag)
        if name in found:
            what = f"the rate of `{name}`" if name else "the rate"
            raise typer.BadParameter(f"{what} is given twice", param_hint=flag)
        found[name] = rate
    return found[""] if list(found) == [""] else found


@contextmanager
def _progress(form: options.Format) -> Iterator[Callable[[Any], None] | None]:
    """A bar on stderr, or events on stdout."""
    import sys

    from graphmodel.cli import console

    if form is options.Format.json:
        yield lambda p: console.print_event({"event": "progress", "done": p.done, "total": p.total, "what": p.what})
        return
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[what]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task("", total=None, what="")
        yield lambda p: shown.update(task, completed=p.done, total=p.total, what=p.what)
