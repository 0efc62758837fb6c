"""`graphmodel extract`: runs a model over images once and stores its outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphmodel.cli import options
from graphmodel.cli.weight_options import WeightOptions

if TYPE_CHECKING:
    from graphmodel.lower.module import CompiledModel


class Dtype(str, Enum):
    """The dtype of stored features."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class Compress(str, Enum):
    """How features are compressed."""

    zstd = "zstd"


class OnError(str, Enum):
    """What happens to a sample that cannot be read."""

    skip = "skip"
    fail = "fail"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("extract")(options.with_groups(extract_command))


def extract_command(
    source: options.SpecOptions,
    weights: WeightOptions,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="DIR",
            help="A folder with a directory of images for each class, or tar files: 'shards-{000..009}.tar'.",
        ),
    ],
    output: Annotated[str, typer.Option("-o", "--output", metavar="OUT", help="The store: a directory, or s3://….")],
    outputs: options.Outputs = None,
    frozen: Annotated[
        bool, typer.Option("--frozen", help="Store what the heads read of the frozen part, and not the outputs.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a batch.")] = 64,
    workers: Annotated[int, typer.Option(min=0, help="Processes that load images.")] = 0,
    device: Annotated[str, typer.Option(help="The device of the model, such as cuda.")] = "cpu",
    dtype: Annotated[Dtype | None, typer.Option(help="The dtype of floating features; the model's own.")] = None,
    compression: Annotated[Compress | None, typer.Option(help="Compress the features.")] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Samples in a shard of the store; about 64 MiB.")] = None,
    on_error: Annotated[
        OnError, typer.Option(help="Skip and list an image that cannot be read, or fail.")
    ] = OnError.skip,
    storage: Annotated[
        list[str] | None,
        typer.Option(
            "--storage-options",
            metavar="KEY=VALUE",
            help="Options of fsspec for a URL: `key=value`, or all as JSON; repeatable.",
        ),
    ] = None,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Do not read the store back at the end.")] = False,
    form: options.FormatOption = options.Format.text,
) -> None:
    """Run a spec, or a directory that `compile -o` wrote, over images once and store all of its outputs.

    A run that was interrupted goes on where it stopped when the same command is given again. Under `torchrun` each
    process writes its part. `--format json` prints one event a line: progress, and the report at the end.
    """
    from graphmodel.cli import console

    with console.findings(form.value, events=True), console.plain_warnings():
        from graphmodel.extraction.packages import need

        need("zarr")
        from graphmodel.extraction.ranks import of_environment

        rank, _ = of_environment()
        fsspec_options = storage_options(storage)
        module, notes = on_device(source, weights, outputs, device)
        if frozen:
            from graphmodel.lower.splitting import split_frozen

            module = split_frozen(module)[0]
        from graphmodel.extraction.images import ImageDataset, images_at
        from graphmodel.extraction.run import extract
        from graphmodel.extraction.transforms import default_notes, transforms_of

        transforms = transforms_of(module.model_graph)
        notes += default_notes(module.model_graph, transforms)
        if form is options.Format.text and rank == 0:
            console.print_diagnostics(notes)
        with _progress(form, rank) as progress:
            report = extract(
                module,
                ImageDataset(images_at(data), transforms),
                output,
                batch_size=batch_size,
                num_workers=workers,
                dtype=None if dtype is None else dtype.value,
                compression=None if compression is None else compression.value,
                rows=rows,
                on_error=on_error.value,
                verify=not no_verify,
                storage_options=fsspec_options,
                progress=progress,
            )
    if rank > 0:
        return
    if form is options.Format.json:
        diagnostics = [d.to_dict() for d in notes]
        console.print_event({"event": "report", "ok": True, **asdict(report), "diagnostics": diagnostics})
        return
    for name, why in report.unreadable:
        console.print_text(f"skipped  {name}: {why}")
    for name, shape in report.outputs.items():
        console.print_text(f"{name:8} {report.samples}×{'×'.join(map(str, shape))}")
    console.print_text(
        f"wrote {report.store}: {report.extracted} samples in {report.seconds:.1f} s"
        f" ({report.images_per_second:g} images/s), {report.found} found, {report.skipped} unreadable"
    )


def storage_options(items: list[str] | None) -> dict[str, Any] | None:
    """Options of fsspec: `endpoint_url=http://…`, `client_kwargs.region_name=eu-1`, or a mapping as JSON.

    Values that are JSON (`true`, `3`, `{"a": 1}`) are read as such, others are text.

    Raises:
        typer.BadParameter: if an item has neither form.
    """
    import json

    found: dict[str, Any] = {}
    for item in items or ():
        if item.lstrip().startswith("{"):
            try:
                found |= json.loads(item)
            except ValueError as error:
                raise typer.BadParameter(f"not valid JSON: {error}", param_hint="--storage-options") from None
            continue
        path, equals, text = item.partition("=")
        *above, last = path.split(".")
        if not equals or not all([*above, last]):
            hint = f"`{item}` is neither `key=value` nor a mapping as JSON"
            raise typer.BadParameter(hint, param_hint="--storage-options")
        inside = found
        for key in above:
            inner = inside.setdefault(key, {})
            if not isinstance(inner, dict):
                raise typer.BadParameter(f"`{key}` has a value already", param_hint="--storage-options")
            inside = inner
        try:
            inside[last] = json.loads(text)
        except ValueError:
            inside[last] = text
    return found or None


def on_device(
    source: options.SpecOptions, weights: WeightOptions, outputs: str | None, device: str
) -> tuple[CompiledModel, list[Any]]:
    """The module with its weights on a device, and notes of the spec.

    Raises:
        typer.BadParameter: if there are no weights or no such device.
    """
    from graphmodel.cli.export import compiled_or_saved

    options.check_device(device)
    module, notes = compiled_or_saved(source, weights, options.ResultOptions(outputs, None))
    if weights.no_weights:
        raise typer.BadParameter("features need weights", param_hint="--no-weights")
    return module.to(device), notes


@contextmanager
def _progress(form: options.Format, rank: int) -> Iterator[Callable[[Any], None] | None]:
    """A bar on stderr, or events on stdout; only the first process shows one."""
    import sys

    if rank > 0:
        yield None
        return
    if form is options.Format.json:
        yield _events()
        return
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]:.1f} images/s"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None, rate=0.0)
        yield lambda p: bar.update(task, completed=p.done, total=p.total, rate=p.done / max(p.seconds, 1e-9))


def _events() -> Callable[[Any], None]:
    """Prints an event about every second."""
    from graphmodel.cli import console

    last = 0.0

    def show(progress: Any) -> None:
        nonlocal last
        if progress.seconds - last < 1 and progress.done != progress.total:
            return
        last = progress.seconds
        rate = progress.done / max(progress.seconds, 1e-9)
        left = None if progress.total is None else round((progress.total - progress.done) / max(rate, 1e-9), 1)
        console.print_event(
            {
                "event": "progress",
                "done": progress.done,
                "total": progress.total,
                "images_per_second": round(rate, 1),
                "seconds_left": left,
            }
        )

    return show
