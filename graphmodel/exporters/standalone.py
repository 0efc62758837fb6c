"""Writes a compiled module as one Python file, and the tensors beside it, that run without graphmodel."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from graphmodel.exporters.bundle import OWN, Bundle, NotBundled
from graphmodel.exporters.module_code import ModuleWriter
from graphmodel.exporters.standalone_check import not_standalone
from graphmodel.lower.containers import Container, HeadsContainer
from graphmodel.lower.freezing import STAND_INS, Keeper, add_keepers, is_kept
from graphmodel.manifest import CONSTANTS, WEIGHTS
from graphmodel.model_file import forward_source, in_docstring, shape_lines
from graphmodel.passes.folding import FoldedForward

if TYPE_CHECKING:
    from graphmodel.lower.module import CompiledModel

INPUT_ERROR = '''class InputError(ValueError):
    """The model was called with something else than it takes."""

    def __str__(self) -> str:
        _, message, help = self.args
        return f"{message}; {help}" if help else message'''

PART = '''def part(cls, *, parameters={}, buffers={}, non_persistent=(), children={}, attributes={}, **more):
    """A module of a class with these tensors, children and attributes; the constructor of the class does not run."""
    module = cls.__new__(cls)
    nn.Module.__init__(module)
    for name, shape in parameters.items():
        empty = None if shape is None else nn.Parameter(torch.empty(shape, device="meta"))
        module.register_parameter(name, empty)
    for name, shape in buffers.items():
        empty = None if shape is None else torch.empty(shape, device="meta")
        module.register_buffer(name, empty, persistent=name not in non_persistent)
    module._modules.update(children)
    module.__dict__.update(attributes, **more)
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()  # lists of its parameters
    return module'''

READ = '''def read(path, device):
    """The tensors of a file; a checksum in its metadata is compared with its bytes."""
    with path.open("rb") as file:
        start = file.read(8)
        header = file.read(min(int.from_bytes(start, "little"), 100_000_000))
        expected = (json.loads(header).get("__metadata__") or {}).get("sha256")
        if expected is not None:
            digest = hashlib.sha256(start + header.replace(expected.encode(), b"0" * 64, 1))
            while chunk := file.read(1 << 22):
                digest.update(chunk)
            if digest.hexdigest() != expected:
                raise ValueError(f"{path} is damaged: its checksum does not match its bytes")
    return load_file(str(path), device=str(device))'''

HEADER = '''"""{title}

{shapes}

    from model import Model

    module = Model.load()  # the directory of this file; in training mode

This file was written by graphmodel {version} and does not need it: it needs {packages}.
`state_dict()` has the names and shapes of weights.safetensors.
"""

from __future__ import annotations

{imports}

HERE = Path(__file__).resolve().parent
'''

MODEL = '''class Model(nn.Module):
    """The model; its tensors are on the meta device, without values, until `load` reads them."""

    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):
{parts}
{later}
{forward}

    @classmethod
    def load(cls, directory: str | Path = HERE, device: str = "cpu") -> Model:
        """The model with its weights, in training mode.

        Args:
            directory: where weights.safetensors is.
            device: where the weights go.

        Raises:
            ValueError: if the file is damaged, or if they are the weights of another model.
        """
        model = cls()
        shapes = {{name: tensor.shape for name, tensor in model.state_dict().items()}}
        tensors = read(Path(directory) / "{weights}", device)
        if other := [name for name, tensor in tensors.items() if tensor.shape != shapes.get(name)]:
            raise ValueError(f"{weights} does not fit this model: `{{other[0]}}` is unknown or has another shape")
{constants}        for name, tensor in tensors.items():
            tensor = tensor.clone()  # a mapped file is not aligned, which moves the last digits of some operations
            holder, _, leaf = name.rpartition(".")
            module = model.get_submodule(holder)
            if module._parameters.get(leaf) is not None:
                module._parameters[leaf] = nn.Parameter(tensor, module._parameters[leaf].requires_grad)
            elif leaf in module._buffers:
                module._buffers[leaf] = tensor
            else:
                module.__dict__[leaf] = tensor
{after}        if missing := [name for name, tensor in model.state_dict().items() if tensor.is_meta]:
            raise ValueError(f"{weights} does not fit this model: `{{missing[0]}}` is missing")
        return model.train()


def load(device: str = "cpu") -> Model:
    """The model with the weights beside this file."""
    return Model.load(HERE, device)
'''


LOAD_CONSTANTS = f'        tensors |= read(Path(directory) / "{CONSTANTS}", device)\n'


@dataclass(frozen=True)
class Standalone:
    """A module as a file.

    Attributes:
        source: the text of model.py.
        constants: tensors that the weights do not include, by their path.
        packages: what the file imports besides the standard library.
    """

    source: str
    constants: dict[str, torch.Tensor]
    packages: tuple[str, ...]


def standalone(module: CompiledModel) -> Standalone:
    """The module as Python code that needs torch, safetensors, and the library of the trunk.

    Args:
        module: what `compile` returned, with weights.

    Raises:
        CompileError: GM584 if some part of the module cannot be written as code.
    """
    try:
        return _standalone(module)
    except NotBundled as error:
        raise not_standalone(error) from error


def _standalone(module: CompiledModel) -> Standalone:
    taken = {"Model", "HERE", "load", "part", "Path", "torch", "nn", "load_file", "read", "hashlib", "json"}
    code = module.graph.python_code("self")
    taken |= set(re.findall(r"\b(\w+)(?= =|[,):])", code.src))  # variables of `forward`
    bundle = Bundle({("graphmodel.diagnostics.input_error", "InputError"): INPUT_ERROR}, taken)
    for line in ("import hashlib", "import json", "from pathlib import Path", "import torch", "from torch import nn"):
        bundle.import_lines[line] = None
    bundle.import_lines["from safetensors.torch import load_file"] = None
    plain: dict[type[nn.Module], type[nn.Module]] = {Container: nn.Module, HeadsContainer: nn.ModuleDict}
    written = ModuleWriter(module, bundle, plain, frozenset({*STAND_INS, "forward"})).write()
    forward = _forward(code.src, code.globals, bundle)
    later = [*_folded(module, bundle), *written.later, *_untrained(module), *_frozen(module, bundle)]
    parts = [f"            self.{name} = {_deeper(text)}" for name, text in written.parts.items()]
    graph = module.model_graph
    after = [*_shared(module), *_formats(module)]
    body = MODEL.format(
        parts="\n".join(parts) or "            pass",
        later="".join(f"        {line}\n" for line in later),
        forward=forward,
        weights=WEIGHTS,
        constants=LOAD_CONSTANTS if written.tensors else "",
        after="".join(f"        {line}\n" for line in after),
    )
    from graphmodel import __version__

    sections = [*bundle.definitions, *([PART] if written.uses_part else []), *written.functions, READ, body]
    packages = tuple(sorted({_package(line) for line in bundle.import_lines} - set(sys.stdlib_module_names)))
    header = HEADER.format(
        title=in_docstring(f"The model `{graph.spec.name}`."),
        shapes="\n".join(in_docstring(line) for line in shape_lines(graph)),
        version=__version__,
        packages=", ".join(packages),
        imports="\n".join(_sorted(bundle.import_lines)),
    )
    source = header + "".join(f"\n\n{section.rstrip()}\n" for section in sections)
    _check_imports(source)
    return Standalone(source, written.tensors, packages)


def _deeper(text: str) -> str:
    """An expression four columns further to the right."""
    return text.replace("\n", "\n    ")


def _package(line: str) -> str:
    return line.split()[1].partition(".")[0]


def _sorted(lines: Iterable[str]) -> list[str]:
    """Imports of the standard library, then the others."""
    own = [line for line in lines if _package(line) in sys.stdlib_module_names]
    rest = [line for line in lines if line not in own]
    return [*_joined(own), *([""] if own and rest else []), *_joined(rest)]


def _joined(lines: Iterable[str]) -> list[str]:
    """Import lines in order, names of one module on one line."""
    names: dict[str, list[str]] = {}
    for line in sorted(lines):
        start, _, name = line.partition(" import ")
        names.setdefault(start, []).append(name)
    return [
        f"{start} import {', '.join(found)}" if start.startswith("from ") else start for start, found in names.items()
    ]


def _check_imports(source: str) -> None:
    for node in ast.walk(ast.parse(source)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if any(name.partition(".")[0] == OWN for name in names):
            raise NotBundled(f"the code would import `{names[0]}`")


# -- pieces of the class ----------------------------------------------------------------------------------------------


def _forward(source: str, names: dict[str, Any], bundle: Bundle) -> str:
    """The method `forward`, with functions under the names that they have in the file."""
    text = forward_source(source)
    for name, value in names.items():
        if not re.search(rf"(?<![\w.]){re.escape(name)}\b", text):
            continue
        if isinstance(value, ModuleType):
            line = f"import {value.__name__}" + ("" if value.__name__.partition(".")[0] == name else f" as {name}")
            bundle.import_lines[line] = None
            continue
        if isinstance(value, float):
            used = f'float("{value}")'
        elif value is torch.device or isinstance(value, type) or callable(value):
            used = bundle.use(value)
        else:
            raise NotBundled(f"the code uses `{name}`")
        text = re.sub(rf"(?<![\w.]){re.escape(name)}\b", used, text)
    return "\n".join(f"    {line}" if line else "" for line in text.splitlines())


def _folded(module: nn.Module, bundle: Bundle) -> list[str]:
    """Statements that fold BatchNorm in frozen stages, as the compiled module does."""
    found = []
    for path, child in module.named_modules():
        stand_in = getattr(child.__dict__.get("forward"), "__self__", None)
        if isinstance(stand_in, FoldedForward):
            at = f'self.get_submodule("{path}")'
            made = f"{bundle.use(FoldedForward)}({at}, {stand_in.pairs!r})"
            found.append(f'{at}.__dict__["forward"] = {made}.forward')
        elif "forward" in child.__dict__:
            raise NotBundled(f"`forward` of `{path}` was replaced")
    return found


def _frozen(module: nn.Module, bundle: Bundle) -> list[str]:
    """A statement that keeps the frozen parts in eval mode."""
    for path, child in module.named_modules():
        if "train" in child.__dict__ and not isinstance(getattr(child.train, "__self__", None), Keeper):
            raise NotBundled(f"`train` of `{path}` was replaced")
    kept = {path for path, child in module.named_modules() if is_kept(child)}
    if not kept:
        return []
    chosen = _condition([path for path, _ in module.named_modules()], kept)
    return [
        "# Frozen parts stay in eval mode, whatever `train` is called on.",
        f"frozen = {{name for name, _ in self.named_modules() if {chosen}}}",
        "for name in frozen:",
        "    self.get_submodule(name).eval()",
        f'{bundle.use(add_keepers)}(self, "", frozen)',
    ]


def _untrained(module: nn.Module) -> list[str]:
    """Statements that exclude parameters from training."""
    names = [name for name, _ in module.named_parameters()]
    fixed = {name for name, p in module.named_parameters() if not p.requires_grad}
    if not fixed:
        return []
    if fixed == set(names):
        return ["self.requires_grad_(False)"]
    return [
        "for name, parameter in self.named_parameters():",
        f"    if {_condition(names, fixed)}:",
        "        parameter.requires_grad_(False)",
    ]


def _formats(module: nn.Module) -> list[str]:
    """Statements that give weights their memory format."""
    lines = []
    for dims, form in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        names = {n: t for n, t in module.state_dict(keep_vars=True).items() if t.ndim == dims}
        found = {n for n, t in names.items() if not t.is_contiguous() and t.is_contiguous(memory_format=form)}
        if not found:
            continue
        # Weights that are contiguous either way, such as 1x1 kernels, may be named or not.
        free = {n for n, t in names.items() if t.is_contiguous() and t.is_contiguous(memory_format=form)}
        lines += [
            "for name, parameter in model.named_parameters():",
            f"    if parameter.ndim == {dims} and {_condition(list(names), found | free)}:",
            f"        parameter.data = parameter.data.contiguous(memory_format={form})",
        ]
    return lines


def _shared(module: nn.Module) -> list[str]:
    """Statements for tensors that several modules hold."""
    first: dict[int, str] = {}
    seen: set[int] = set()
    lines = []
    for path, child in module.named_modules():
        if id(child) in seen:
            continue
        seen.add(id(child))
        for kind, tensors in (("_parameters", child._parameters), ("_buffers", child._buffers)):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                own = f'model.get_submodule("{path}").{kind}["{name}"]'
                if id(tensor) in first:
                    lines.append(f"{own} = {first[id(tensor)]}")
                first.setdefault(id(tensor), own)
    return lines


def _condition(names: Sequence[str], chosen: set[str]) -> str:
    """An expression in `name` that holds for the chosen names and for no other."""
    tops = tuple(_prefixes(names, chosen))
    if {name for name in names if name.startswith(tops)} == chosen:
        return f"name.startswith({tops!r})"
    return f"name in {tuple(sorted(chosen))!r}"  # `layer1` is also the start of `layer10`


def _prefixes(names: Sequence[str], chosen: set[str]) -> list[str]:
    """The shortest dotted prefixes that cover the chosen names and, up to a dot or the end, no others."""
    found: list[str] = []
    below: dict[str, list[str]] = {}
    for name in names:
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            below.setdefault(".".join(parts[:end]), []).append(name)
    for name in names:
        if name not in chosen or any(name == top or name.startswith(f"{top}.") for top in found):
            continue
        parts = name.split(".")
        ends = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
        found.append(next((top for top in ends if all(n in chosen for n in below[top])), name))
    return found


__all__ = ["Standalone", "standalone"]
