"""Saves a compiled model as files and loads it: the spec with every default, weights, the graph, code, a manifest."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphmodel.diagnostics import CompileError, fail, first_line, printable
from graphmodel.manifest import CONSTANTS, FILES, GRAPH, LOCK, MODEL, WEIGHTS, check_manifest, write_manifest
from graphmodel.spec.regular_files import other_than_a_file
from graphmodel.writing import cannot_write, is_temporary, replace_directory

if TYPE_CHECKING:
    import torch

    from graphmodel.lower.module import CompiledModel

_MARK = "# Written by graphmodel"
_MODEL_HELP = (
    "save its `state_dict()`, or the module with `torch.save`; an artifact is the spec's model, with weights of its own"
)


def refuse_foreign(directory: str | Path) -> None:
    """Refuses an output directory that holds anything but an earlier result of ours.

    Raises:
        CompileError: GM520.
    """
    try:
        problem = _foreign(Path(directory))
    except (OSError, ValueError) as error:
        raise cannot_write(directory, error) from None
    if problem:
        raise cannot_write(directory, problem, "name a new directory")


def _foreign(target: Path) -> str:
    if not target.exists() and not target.is_symlink():
        near = next((p for p in target.absolute().parents if p.exists()), None)
        return "" if near is None or near.is_dir() else f"`{near}` is not a directory"
    if not target.is_dir():
        return "it is not a directory"
    names = {p.name for p in target.iterdir()} - {"__pycache__"}
    others = sorted(names - set(FILES))
    if others:
        return f"it holds other files ({', '.join(others[:3])}{', …' if len(others) > 3 else ''})"
    if names:
        lock = target / LOCK
        if not lock.is_file() or not lock.read_text("utf-8", "replace").startswith(_MARK):
            return f"its {LOCK} was not written by graphmodel"
    return ""


def save(
    module: CompiledModel,
    directory: str | Path,
    *,
    weights: bool = True,
    standalone: bool = False,
    imports: Sequence[str] = (),
) -> list[Path]:
    """Writes the module to a directory, as a whole or not at all.

    The files are written to a temporary directory, checked by building the model from them, and swapped in, so the
    directory is complete or unchanged at every moment. An earlier result is replaced; other files are never touched.

    The spec and the tensors are written. A warning names layers that were exchanged or reset after the module was
    compiled, and hooks: `load` gives the spec's own layers.

    Example:
        >>> import graphmodel, tempfile
        >>> spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
        >>> with tempfile.TemporaryDirectory() as place:
        ...     files = graphmodel.save(graphmodel.compile(spec, seed=0), f"{place}/model")
        ...     model = graphmodel.load(f"{place}/model")
        >>> [file.name for file in files]
        ['model.py', 'weights.safetensors', 'spec.lock.yaml', 'graph.json', 'manifest.json']

    Args:
        module: what `compile` returned.
        directory: where to; its parents are made.
        weights: whether to write `weights.safetensors`; a module on the meta device has none.
        standalone: whether model.py is to run without graphmodel, with torch, safetensors, and torchvision or timm if
            the trunk is theirs. It is run before the directory takes its place, and must give the module's results
            bit by bit in both modes.
        imports: Python modules that register heads or trunks of this model.

    Returns:
        The files.

    Raises:
        CompileError: GM504 if the module's graph was edited, GM520 if the directory holds something else or cannot be
            written, GM521 if the spec cannot give the module back, GM584 if no standalone code can be written for it.
    """
    from graphmodel.lower.module import check_compiled, check_unedited

    check_compiled(module, "save")
    refuse_foreign(directory)
    _refuse_given(module)
    check_unedited(module, "an artifact")
    if standalone and not weights:
        raise fail(
            "GM584", "standalone code needs weights beside it", help="leave out `weights=False` or `--no-weights`"
        )

    def fill(place: Path) -> None:
        _write(module, place, weights, imports)
        if standalone:
            _write_standalone(module, place)
        write_manifest(place, module.model_graph.spec.name, standalone=standalone)

    replace_directory(directory, FILES, fill)
    return [path for name in FILES if (path := Path(directory) / name).exists()]


def load(
    directory: str | Path,
    *,
    device: str | torch.device | None = None,
    weights: bool = True,
    allow_imports: bool = False,
    allow_downloads: bool = False,
) -> CompiledModel:
    """The module that `save` (or `graphmodel compile -o`) wrote, in training mode.

    The files in the directory are enough: with `weights`, the file or the download that the spec's `pretrained` names
    is not read again.

    Example:
        >>> import graphmodel, tempfile, torch
        >>> spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
        >>> model = graphmodel.compile(spec, seed=0)
        >>> with tempfile.TemporaryDirectory() as place:
        ...     _ = graphmodel.save(model, f"{place}/model")
        ...     again = graphmodel.load(f"{place}/model")
        >>> torch.equal(again.trunk.conv1.weight, model.trunk.conv1.weight)
        True

    Args:
        directory: where it was written to.
        device: where the weights go; torch's default device if None.
        weights: whether to load `weights.safetensors`, which gives tensors their saved dtypes; otherwise the weights
            are the initial ones of the seed.
        allow_imports: whether the spec may name Python code to import.
        allow_downloads: whether the spec may name files on the Internet.

    Raises:
        CompileError: GM522 if a file is missing, damaged or does not fit the spec; GM523 if a newer graphmodel wrote
            the directory; what is wrong with the spec.
    """
    options = {"allow_imports": allow_imports, "allow_downloads": allow_downloads}
    where = Path(directory)
    for _ in range(_ATTEMPTS):
        before = _identity(where)
        try:
            module = _load(where, device, weights, **options)
        except CompileError:
            if _identity(where) == before:
                raise
        else:
            if _identity(where) == before:
                return module
    return _load(where, device, weights, **options)


_ATTEMPTS = 5
"""How often a directory is read that another process replaces meanwhile."""


def _identity(directory: Path) -> tuple[int, ...] | None:
    """Differs if a directory was replaced; its number alone may be given to the next one."""
    try:
        found = (directory.stat(), (directory / LOCK).stat())
    except (OSError, ValueError):
        return None
    return tuple(number for stat in found for number in (stat.st_ino, stat.st_ctime_ns))


def _load(
    where: Path, device: str | torch.device | None, weights: bool, *, allow_imports: bool, allow_downloads: bool
) -> CompiledModel:
    from graphmodel.api import compile
    from graphmodel.components.library.guard import weights_follow
    from graphmodel.weights.sealed import read_sealed

    if is_temporary(where):
        message = f"`{where}` holds no saved model: it was left behind by a write that was interrupted"
        raise fail("GM522", message, help="delete it; the next write to the same place deletes it too")
    lock = where / LOCK
    try:
        if kind := other_than_a_file(lock):
            raise ValueError(f"its {LOCK} is {kind}")
        text = lock.read_text("utf-8")
    except (OSError, ValueError) as error:
        message = f"`{where}` holds no saved model: {first_line(error)}"
        raise fail("GM522", message, help="name a directory that `graphmodel.save` wrote") from None
    check_manifest(where, (LOCK, WEIGHTS) if weights else (LOCK,))
    sealed = read_sealed(where / WEIGHTS) if weights else None
    found = re.search(r"^# seed: (\d+)$", text, re.M)
    with weights_follow() if sealed is not None else nullcontext():
        module = compile(
            lock,
            device=device,
            seed=int(found[1]) if found else None,
            allow_imports=allow_imports,
            allow_downloads=allow_downloads,
        )
    if sealed is not None:
        problem = _misfit(module, {name: tuple(t.shape) for name, t in sealed.tensors.items()})
        if problem:
            raise fail("GM522", f"`{where / WEIGHTS}` does not fit `{lock}`: {problem}")
        _fill(module, sealed.tensors, json.loads(sealed.metadata.get("dtypes", "{}")))
    return module


# -- writing ----------------------------------------------------------------------------------------------------------


def _write(module: CompiledModel, place: Path, weights: bool, imports: Sequence[str]) -> None:
    """Writes the files and builds the model from them, on the meta device."""
    from graphmodel.api import compile
    from graphmodel.components.library.guard import weights_follow
    from graphmodel.graph_file import graph_text
    from graphmodel.model_file import model_source
    from graphmodel.unsaved import unsaved_changes
    from graphmodel.weights.sealed import check_seal

    (place / LOCK).write_text(lock_text(module), "utf-8")
    (place / MODEL).write_text(model_source(module, weights=weights, imports=imports), "utf-8")
    if weights:
        _save_weights(module, place / WEIGHTS)
        check_seal(place / WEIGHTS, required=True)
    try:
        ast.parse((place / MODEL).read_text("utf-8"))
        with weights_follow() if weights else nullcontext():
            again = compile(place / LOCK, device="meta", seed=0, allow_imports=True, allow_downloads=True)
    except (CompileError, SyntaxError, ValueError) as error:
        raise _cannot_save(f"the spec of this module does not compile again: {first_line(error)}") from error
    if _signature(again) != _signature(module):
        raise _cannot_save("the spec of this module has other inputs or outputs")
    problem = _misfit(again, {name: tuple(tensor.shape) for name, tensor in _stored(module).items()})
    if problem:
        raise _cannot_save(f"the module is not the one that its spec gives: {problem}")
    if changes := unsaved_changes(module, again):
        message = f"the saved model is the one of the spec, without changes made to the module: {'; '.join(changes)}"
        warnings.warn(printable(f"{message}; `torch.save` keeps them"), stacklevel=5)
    (place / GRAPH).write_text(graph_text(module), "utf-8")


def _write_standalone(module: CompiledModel, place: Path) -> None:
    """Replaces model.py by one that runs without graphmodel, and checks it."""
    from graphmodel.exporters.standalone import standalone
    from graphmodel.exporters.standalone_check import check_standalone
    from graphmodel.weights.sealed import write_sealed

    made = standalone(module)
    (place / MODEL).write_text(made.source, "utf-8")
    if made.constants:
        constants = {name: t.detach().cpu().contiguous().clone() for name, t in made.constants.items()}
        write_sealed(place / CONSTANTS, constants, {})
    check_standalone(module, place)


def _signature(module: CompiledModel) -> tuple[Any, ...]:
    """The shapes of the inputs, the outputs in their order, and the form of the result."""
    graph = module.model_graph
    inputs = [(name, graph.nodes[name].info) for name in graph.inputs]
    outputs = [(key, graph.nodes[n].info) for output in graph.outputs.values() for key, n in output.parts.items()]
    return inputs, outputs, graph.structure, module.returns


def _cannot_save(message: str) -> CompileError:
    return fail("GM521", message, help=_MODEL_HELP)


def _refuse_given(module: CompiledModel) -> None:
    given = [name for name, component in module.model_graph.components.items() if component.given]
    if given:
        message = f"`{given[0]}` was passed as a module, which no spec can name"
        help = (
            "save its `state_dict()`, or register the trunk with `@graphmodel.register_trunk` and name it in the spec"
        )
        raise fail("GM521", message, help=help)


def _save_weights(module: CompiledModel, path: Path) -> None:
    from graphmodel import __version__
    from graphmodel.weights.sealed import write_sealed

    persistent = module.state_dict(keep_vars=True)
    others = {n: str(b.dtype).removeprefix("torch.") for n, b in module.named_buffers() if n not in persistent}
    metadata = {"format": "pt", "graphmodel": __version__, "seed": str(_record(module)["seed"])}
    metadata["dtypes"] = json.dumps(others, sort_keys=True)
    try:
        write_sealed(path, _stored(module), metadata)
    except (ValueError, TypeError, RuntimeError, NotImplementedError, KeyError, AttributeError) as error:
        raise _cannot_save(f"the weights cannot be written: {first_line(error)}") from error


def _stored(module: CompiledModel) -> dict[str, torch.Tensor]:
    """The tensors that are written: of several names of one tensor the first."""
    found: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    storages: set[int] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        plain = tensor.detach().contiguous()
        if not plain.is_meta:
            # Two views of one memory are written as two tensors.
            storage = plain.untyped_storage().data_ptr() if plain.layout is _strided() else id(plain)
            plain = plain.clone() if storage in storages else plain
            storages.add(storage)
        found[name] = plain
    return found


def _strided() -> torch.layout:
    import torch

    return torch.strided


def _record(module: CompiledModel) -> dict[str, Any]:
    record: dict[str, Any] = module.meta["graphmodel"]
    return record


def lock_text(module: CompiledModel) -> str:
    """The native spec that builds this module again, with nothing left open."""
    from graphmodel import __version__
    from graphmodel.build.locked_spec import resolved_spec
    from graphmodel.dialects.native.dump import dump, header, to_yaml

    spec = resolved_spec(module.model_graph).model_copy(update={"returns": module.returns, "optimize": module.passes})
    origin = " and ".join(Path(f).name for f in spec.origin.files) or "a mapping"
    first = f"{_MARK[2:]} {__version__} from {origin}: every default spelled out, every `auto` filled in."
    return header([first, f"seed: {_record(module)['seed']}"]) + to_yaml(dump(spec))


# -- loading ----------------------------------------------------------------------------------------------------------


def _misfit(module: CompiledModel, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Why tensors of these names and shapes are not all of the module's; empty if they are."""
    own = module.state_dict(keep_vars=True)
    present = {id(own[name]) for name in shapes if name in own}
    missing = [name for name, tensor in own.items() if name not in shapes and id(tensor) not in present]
    extra = [name for name in shapes if name not in own]
    other = [name for name, shape in shapes.items() if name in own and tuple(own[name].shape) != shape]
    if other:
        was, now = (" × ".join(map(str, s)) or "a scalar" for s in (own[other[0]].shape, shapes[other[0]]))
        return f"`{other[0]}` has the shape {now} and not {was}" + _more(other)
    if missing:
        return f"`{missing[0]}` is missing" + _more(missing)
    return f"`{extra[0]}` is unknown" + _more(extra) if extra else ""


def _more(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _fill(module: CompiledModel, tensors: Mapping[str, torch.Tensor], dtypes: Mapping[str, str]) -> None:
    """Gives the module its saved values and dtypes; everything was checked before."""
    import torch

    own = module.state_dict(keep_vars=True)
    for name, tensor in tensors.items():
        if not own[name].is_meta:
            # A copy: tensors of a mapped file are not aligned, which moves the last digits of some operations.
            own[name].data = tensor.to(own[name].device, copy=True)
    for name, buffer in module.named_buffers():
        if name in dtypes and not buffer.is_meta:
            buffer.data = buffer.data.to(getattr(torch, dtypes[name]))
