"""Writes a compiled model: model.py to read, weights.safetensors, and spec.lock.yaml to build it again."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from graphmodel.diagnostics import CompileError, Diagnostic, fail
from graphmodel.spec.names import LOCKED_SPEC

if TYPE_CHECKING:
    import torch

    from graphmodel.lower.module import CompiledModel

MODEL, WEIGHTS, LOCK = "model.py", "weights.safetensors", LOCKED_SPEC
_MARK = "# Written by graphmodel"


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


def cannot_write(path: str | Path, why: object, help: str = "") -> CompileError:
    """The error for an output that cannot be written."""
    reason = getattr(why, "strerror", None) or why
    return CompileError([Diagnostic("GM520", f"cannot write to `{path}`: {reason}", None, help)])


def _foreign(target: Path) -> str:
    if not target.exists() and not target.is_symlink():
        near = next((p for p in target.absolute().parents if p.exists()), None)
        return "" if near is None or near.is_dir() else f"`{near}` is no directory"
    if not target.is_dir():
        return "it is no directory"
    names = {p.name for p in target.iterdir()} - {"__pycache__"}
    others = sorted(names - {MODEL, WEIGHTS, LOCK})
    if others:
        return f"it holds other files ({', '.join(others[:3])}{', …' if len(others) > 3 else ''})"
    if names:
        lock = target / LOCK
        if not lock.is_file() or not lock.read_text("utf-8", "replace").startswith(_MARK):
            return f"its {LOCK} was not written by graphmodel"
    return ""


def save(
    module: CompiledModel, directory: str | Path, *, weights: bool = True, imports: Sequence[str] = ()
) -> list[Path]:
    """Writes the module to a directory, whole or not at all.

    The files are written to a directory beside and renamed at the end; an earlier result of ours is replaced.

    Args:
        module: what `compile` returned.
        directory: where to; its parents are made.
        weights: whether to write `weights.safetensors`; a module on the meta device has none.
        imports: Python modules that register heads or trunks of this model.

    Returns:
        The files.

    Raises:
        CompileError: GM520 where the directory holds something else or cannot be written, GM521 where a spec cannot say
            what the module is.
    """
    refuse_foreign(directory)
    _refuse_given(module)
    try:
        _write(module, Path(directory).resolve(), weights, imports)
    except OSError as error:
        raise cannot_write(directory, error) from error
    return [Path(directory) / name for name in (MODEL, WEIGHTS, LOCK) if weights or name != WEIGHTS]


def load(directory: str | Path, *, device: str | torch.device | None = None, weights: bool = True) -> CompiledModel:
    """The module that `save` (or `graphmodel compile -o`) wrote, in training mode.

    Args:
        directory: where it was written to.
        device: where the weights go; torch's default device if None.
        weights: whether to load `weights.safetensors`; otherwise the weights are the initial ones of the seed.

    Raises:
        CompileError: GM510 if the directory or its weights cannot be read; what is wrong with the spec.
    """
    from safetensors.torch import load_model

    from graphmodel.api import compile

    where = Path(directory)
    lock, file = where / LOCK, where / WEIGHTS
    if not lock.is_file():
        raise fail("GM510", f"`{where}` has no {LOCK}", help="name a directory that `graphmodel.save` wrote")
    if weights and not file.is_file():
        raise fail("GM510", f"`{where}` has no {WEIGHTS}", help="pass `weights=False` to start from initial weights")
    found = re.search(r"^# seed: (\d+)$", lock.read_text("utf-8"), re.M)
    module = compile(lock, device=device, seed=int(found[1]) if found else None)
    if weights:
        load_model(module, file)
    return module


def _write(module: CompiledModel, target: Path, weights: bool, imports: Sequence[str]) -> None:
    """Writes beside the target and swaps; whatever happens, the target is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        (fresh / LOCK).write_text(lock_text(module), "utf-8")
        (fresh / MODEL).write_text(model_source(module, weights=weights, imports=imports), "utf-8")
        if weights:
            _save_weights(module, fresh / WEIGHTS)
        _open_up(fresh)
        _swap(fresh, target)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _refuse_given(module: CompiledModel) -> None:
    given = [name for name, component in module.model_graph.components.items() if component.given]
    if given:
        message = f"`{given[0]}` was handed in as a module, which no spec can name"
        help = (
            "save its `state_dict()`, or register the trunk with `@graphmodel.register_trunk` and name it in the spec"
        )
        raise CompileError([Diagnostic("GM521", message, None, help)])


def _open_up(directory: Path) -> None:
    """Gives temporary files the permissions that files made the usual way have."""
    mask = os.umask(0)
    os.umask(mask)
    directory.chmod(0o777 & ~mask)
    for file in directory.iterdir():
        file.chmod(0o666 & ~mask)


def _swap(fresh: Path, target: Path) -> None:
    """Puts `fresh` in the place of `target`; what stood there comes back where that fails."""
    if not target.exists():
        fresh.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent)) / target.name
    target.rename(old)
    try:
        fresh.rename(target)
    except BaseException:
        old.rename(target)
        raise
    finally:
        shutil.rmtree(old.parent, ignore_errors=True)


def _save_weights(module: CompiledModel, path: Path) -> None:
    """A tensor under several names is stored once; `safetensors.torch.load_model` ties it again."""
    from safetensors.torch import save_model

    from graphmodel import __version__

    save_model(module, str(path), {"format": "pt", "graphmodel": __version__, "seed": str(_record(module)["seed"])})


def _record(module: CompiledModel) -> dict[str, Any]:
    record: dict[str, Any] = module.meta["graphmodel"]
    return record


# -- spec.lock.yaml ---------------------------------------------------------------------------------------------------


def lock_text(module: CompiledModel) -> str:
    """The native spec that builds this module again, with nothing left open."""
    from graphmodel import __version__
    from graphmodel.build.locked_spec import resolved_spec
    from graphmodel.dialects.native.dump import dump, header, to_yaml

    spec = resolved_spec(module.model_graph).model_copy(update={"returns": module.returns})
    origin = " and ".join(Path(f).name for f in spec.origin.files) or "a mapping"
    first = f"{_MARK[2:]} {__version__} from {origin}: every default spelled out, every `auto` filled in."
    return header([first, f"seed: {_record(module)['seed']}"]) + to_yaml(dump(spec))


# -- model.py ---------------------------------------------------------------------------------------------------------

_TEMPLATE = '''"""{title}

{shapes}

    import model

    module = model.load()

`forward` is what the module runs; it is here to be read. Stages of the trunk and heads are called whole, under the
names that `state_dict()` has.
"""

from __future__ import annotations

from pathlib import Path

{imports}

HERE = Path(__file__).resolve().parent
SEED = {seed}


def load(device: str = "cpu", weights: bool = {weights}) -> graphmodel.CompiledModel:
    """The module in training mode, with the weights beside this file or the initial ones of the seed."""
    module = graphmodel.compile(HERE / "{lock}", device=device, seed=SEED{options})
    if weights:
        safetensors.torch.load_model(module, HERE / "{file}", device=device)
    return module


{forward}
'''


def model_source(module: CompiledModel, *, weights: bool = True, imports: Sequence[str] = ()) -> str:
    """The text of model.py: how to load the module, and the forward that it runs."""
    from graphmodel import __version__
    from graphmodel.graph.text import info_text

    graph = module.model_graph
    code = module.graph.python_code("self")
    shapes = [("Inputs", [(n, graph.nodes[n].info) for n in graph.inputs])]
    shapes.append(("Outputs", [(k, graph.nodes[n].info) for o in graph.outputs.values() for k, n in o.parts.items()]))
    lines = []
    for title, items in shapes:
        wide = max(len(name) for name, _ in items)
        lines += [f"{title}:", *(f"    {name:{wide}}  {info_text(info)}" for name, info in items)]
    needed = ["import graphmodel", "import safetensors.torch", *(f"import {m}" for m in imports)]
    return _TEMPLATE.format(
        title=f"The model `{graph.spec.name}`, compiled by graphmodel {__version__}.",
        shapes="\n".join(lines),
        imports="\n".join([*needed, *dict.fromkeys(_imports(code.globals, code.src))]),
        seed=_record(module)["seed"],
        weights=weights,
        lock=LOCK,
        file=WEIGHTS,
        options=", allow_imports=True" if any(t.imports for t in graph.spec.trunks.values()) else "",
        forward=_forward(code.src),
    )


def _imports(names: dict[str, Any], source: str) -> Iterator[str]:
    """Import lines for the globals that the emitted code uses."""
    for name, value in names.items():
        if not re.search(rf"\b{re.escape(name)}\b", source):
            continue
        if isinstance(value, ModuleType):
            yield f"import {value.__name__}" if value.__name__ == name else f"import {value.__name__} as {name}"
        else:
            yield _import_of(name, value)
    if re.search(r"\btorch\.", source) and "torch" not in names:
        yield "import torch"


def _import_of(name: str, value: Callable[..., Any]) -> str:
    module = getattr(value, "__module__", None) or "builtins"
    own = getattr(value, "__name__", name)
    return f"from {module} import {own}" + ("" if own == name else f" as {name}")


def _forward(source: str) -> str:
    """fx's code without the deletions that it appends to lines (`;  x = None`), functions under their public names."""
    import torch

    def public(match: re.Match[str]) -> str:
        return f"torch.nn.functional.{match[1]}" if hasattr(torch.nn.functional, match[1]) else match[0]

    source = re.sub(r"\btorch\._C\._nn\.(\w+)", public, source)
    lines = [re.sub(r";  (?:\w+ = )+None(?=\s*(?:#|$))", "", line).rstrip() for line in source.strip().splitlines()]
    return "\n".join(lines)
