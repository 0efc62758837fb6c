"""Writes modules as Python expressions that build them again, without their constructors where those are not needed."""

from __future__ import annotations

import enum
import functools
import inspect
import math
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from pydantic import BaseModel
from torch import nn

from graphmodel.components.structure import is_namedtuple
from graphmodel.exporters.bundle import Bundle, NotBundled, is_copied

WIDTH = 120
SMALL = 64
"""Tensors with more elements than this are not written as code."""

_PLAIN = frozenset(nn.Module().__dict__)


@dataclass(frozen=True)
class Call:
    """A call in an expression: `called(arguments)`; arguments are calls or text, with a keyword or none."""

    called: str
    arguments: tuple[tuple[str, Call | str], ...] = ()
    children: int = 0

    @functools.cached_property
    def text(self) -> str:
        """The expression on one line."""
        inner = ", ".join(
            f"{key}={a if isinstance(a, str) else a.text}" if key else (a if isinstance(a, str) else a.text)
            for key, a in self.arguments
        )
        return f"{self.called}({inner})"


@dataclass
class Written:
    """What was written of a root module.

    Attributes:
        functions: definitions of functions that build repeated parts.
        parts: the expression of each child of the root by name.
        later: statements that complete the tree: shared modules, attributes that name modules.
        tensors: tensors that no parameter or persistent buffer holds, by their path.
        uses_part: whether the function `part` is needed.
    """

    functions: list[str] = field(default_factory=list)
    parts: dict[str, str] = field(default_factory=dict)
    later: list[str] = field(default_factory=list)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    uses_part: bool = False


class ModuleWriter:
    """Writes the tree below a root.

    Args:
        root: the module.
        bundle: gets the classes and functions that the expressions name.
        plain: classes that are written as another one, such as containers without behaviour.
        kept: names in the `__dict__` of modules that somebody else takes care of.
    """

    def __init__(
        self,
        root: nn.Module,
        bundle: Bundle,
        plain: Mapping[type[nn.Module], type[nn.Module]],
        kept: frozenset[str] = frozenset(),
    ) -> None:
        self.root, self.bundle, self.plain, self.kept = root, bundle, plain, kept
        self.out = Written()
        self.paths: dict[int, str] = {id(root): ""}
        for path, module in root.named_modules():
            self.paths.setdefault(id(module), path)

    def write(self) -> Written:
        """Everything below the root."""
        trees = {name: self._module(child, name) for name, child in self.root.named_children()}
        counts: Counter[str] = Counter()
        for tree in trees.values():
            counts.update(call.text for call in _calls(tree))
        names: dict[str, str] = {}
        for tree in trees.values():
            self._functions(tree, counts, names)
        self.out.parts = {name: render(tree, names, 8) for name, tree in trees.items()}
        return self.out

    def _functions(self, call: Call, counts: Counter[str], names: dict[str, str]) -> None:
        """A function for each part that is built more than once."""
        if call.text in names:
            return
        for _, argument in call.arguments:
            if isinstance(argument, Call):
                self._functions(argument, counts, names)
        if counts[call.text] > 1 and call.children and len(call.text) > 200:
            kind = call.arguments[0][1] if call.called == "part" else call.called
            base = _snake(str(kind).rpartition(".")[2])
            names[call.text] = self.bundle.free_name(base if base.isidentifier() else f"part_{base}", "model")
            body = render(call, {k: v for k, v in names.items() if k != call.text}, 4, first=11)
            self.out.functions.append(f"def {names[call.text]}() -> nn.Module:\n    return {body}")

    # -- modules ------------------------------------------------------------------------------------------------------

    def _module(self, module: nn.Module, path: str) -> Call:
        kind = self.plain.get(type(module), type(module))
        called = self.bundle.use(kind)
        children = [(name, self._child(child, f"{path}.{name}")) for name, child in module._modules.items()]
        own = {k: v for k, v in module.__dict__.items() if k not in _PLAIN and k not in self.kept}
        if isinstance(module, nn.RNNBase):  # lists of its parameters, which it makes itself
            own = {k: v for k, v in own.items() if k not in ("_flat_weights", "_flat_weight_refs")}
        if kind is not type(module):
            own = {}
        is_list = [name for name, _ in children] == [str(i) for i in range(len(children))]
        if kind in (nn.Sequential, nn.ModuleList) and not own and is_list and all(c != "None" for _, c in children):
            calls = tuple(("", child) for _, child in children)
            return Call(called, calls if kind is nn.Sequential else (("", Call("", (("[]", "list"), *calls))),), 1)
        if not children and not is_copied(kind.__module__):
            made = self._constructed(module, kind, called)
            if made is not None:
                return made
        return self._part(module, path, called, own, children)

    def _child(self, child: nn.Module | None, path: str) -> Call | str:
        if child is None:
            return "None"
        if self.paths[id(child)] != path:  # shared: put in its place at the end, which keeps the order
            self.out.later.append(f"self.{_put(path)} = {self._at(self.paths[id(child)])}")
            return "None"
        return self._module(child, path)

    def _constructed(self, module: nn.Module, kind: type[nn.Module], called: str) -> Call | None:
        """The call of the constructor if it gives the same module, which is tried out."""
        try:
            parameters = inspect.signature(kind.__init__).parameters
        except (TypeError, ValueError):
            return None
        values: dict[str, Any] = {}
        for name, parameter in list(parameters.items())[1:]:
            if name in ("device", "dtype") or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            value = getattr(module, name, parameter.empty)
            if name == "bias" and value is not parameter.empty and not isinstance(value, bool):
                value = value is not None
            if value is parameter.empty or isinstance(value, (torch.Tensor, nn.Module)):
                if parameter.default is parameter.empty:
                    return None
                continue
            values[name] = value
        short = {name: _collapsed(value) for name, value in values.items()}
        for given in (short, values):
            wanted = {
                name: value
                for name, value in given.items()
                if type(value) is not type(parameters[name].default) or not _equal(value, parameters[name].default)
            }
            made = self._tried(module, kind, called, wanted, list(parameters)[1:])
            if made is not None:
                return made
        return None

    def _tried(
        self, module: nn.Module, kind: type[nn.Module], called: str, values: dict[str, Any], order: list[str]
    ) -> Call | None:
        try:
            with torch.device("meta"), torch.random.fork_rng(devices=[]):
                fresh = kind(**values)
            if not _same(fresh, module, self.kept):
                return None
            arguments: list[tuple[str, Call | str]] = []
            for i, (name, value) in enumerate(values.items()):
                required = inspect.signature(kind.__init__).parameters[name].default is inspect.Parameter.empty
                arguments.append(("" if required and order[i] == name else name, self._literal(value)))
        except Exception:  # a constructor may raise anything; the module is then built from its attributes
            return None
        return Call(called, tuple(arguments))

    def _part(
        self, module: nn.Module, path: str, called: str, own: dict[str, Any], children: list[tuple[str, Call | str]]
    ) -> Call:
        """The module from its attributes, tensors and children."""
        arguments: list[tuple[str, Call | str]] = [("", called)]
        parameters = {n: p if p is None else tuple(p.shape) for n, p in module._parameters.items()}
        buffers = {n: b if b is None else tuple(b.shape) for n, b in module._buffers.items()}
        if parameters:
            arguments.append(("parameters", repr(parameters)))
        if buffers:
            arguments.append(("buffers", repr(buffers)))
        if module._non_persistent_buffers_set:
            arguments.append(("non_persistent", repr(sorted(module._non_persistent_buffers_set))))
        if children:
            items = tuple((name, child) for name, child in children)
            arguments.append(("children", Call("", (("{}", "dict"), *items))))
        attributes: list[tuple[str, Call | str]] = []
        for name, value in own.items():
            if isinstance(value, torch.Tensor) and value.requires_grad:  # by a hook, such as that of weight_norm
                raise NotBundled(f"`{path}.{name}` is computed from parameters")
            if isinstance(value, torch.Tensor) and value.numel() > SMALL:
                self.out.tensors[f"{path}.{name}"] = value.detach()
                continue
            try:
                attributes.append((name, self._literal(value)))
            except _NamesModule:
                self._later(path, name, value)
            except NotBundled:
                continue  # many attributes are never read; one that is raises an AttributeError
        if all(name.isidentifier() and name not in _TAKEN for name, _ in attributes):
            arguments += attributes
        else:
            arguments.append(("attributes", Call("", (("{}", "dict"), *attributes))))
        for name in module._non_persistent_buffers_set:
            if module._buffers[name] is not None:
                self.out.tensors[f"{path}.{name}"] = module._buffers[name]  # type: ignore[assignment]
        self.out.uses_part = True
        return Call("part", tuple(arguments), 1)

    def _later(self, path: str, name: str, value: Any) -> None:
        with suppress(NotBundled):
            self.out.later.append(f"{self._at(path)}.__dict__[{name!r}] = {self._literal(value, modules=True)}")

    def _at(self, path: str) -> str:
        return f'self.get_submodule("{path}")' if path else "self"

    # -- values -------------------------------------------------------------------------------------------------------

    def _literal(self, value: Any, modules: bool = False) -> str:
        """An expression for a value.

        Raises:
            NotBundled: if there is none.
        """
        write = functools.partial(self._literal, modules=modules)
        if value is None or type(value) in _LITERALS:
            return repr(value)
        if type(value) is float:
            return repr(value) if math.isfinite(value) else f"float({str(value)!r})"
        if isinstance(value, nn.Module):
            if not modules or id(value) not in self.paths:
                raise _NamesModule("it is a module that is not a child")
            return self._at(self.paths[id(value)])
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, (torch.dtype, torch.memory_format, torch.layout)):
            self.bundle.import_lines["import torch"] = None
            return str(value)
        if isinstance(value, torch.device):
            return f'torch.device("{value}")'
        if isinstance(value, enum.Enum):
            return f"{self.bundle.use(type(value))}.{value.name}"
        if is_namedtuple(value):
            return f"{self.bundle.use(type(value))}({', '.join(map(write, value))})"
        if type(value) in (tuple, torch.Size):
            return f"({', '.join(map(write, value))}{',' if len(value) == 1 else ''})"
        if type(value) is list:
            return f"[{', '.join(map(write, value))}]"
        if type(value) in (set, frozenset):
            inner = f"{{{', '.join(sorted(map(write, value)))}}}" if value else "()"
            return f"{type(value).__name__}({inner})" if type(value) is frozenset or not value else inner
        if type(value) in (dict, OrderedDict):
            inner = f"{{{', '.join(f'{write(k)}: {write(v)}' for k, v in value.items())}}}"
            return inner if type(value) is dict else f"{self.bundle.use(OrderedDict)}({inner})"
        if isinstance(value, slice):
            return f"slice({write(value.start)}, {write(value.stop)}, {write(value.step)})"
        return self._object(value, write)

    def _object(self, value: Any, write: Any) -> str:
        if isinstance(value, functools.partial):
            given = [
                write(value.func),
                *map(write, value.args),
                *(f"{k}={write(v)}" for k, v in value.keywords.items()),
            ]
            return f"{self.bundle.use(functools.partial)}({', '.join(given)})"
        if isinstance(value, type) or inspect.isroutine(value):
            if getattr(value, "__self__", None) is not None and not inspect.isbuiltin(value):
                raise NotBundled("it is a method of an object")
            return self.bundle.use(value)
        if isinstance(value, int):  # a subclass, such as a slot
            return f"{self.bundle.use(type(value))}({int(value)})"
        if isinstance(value, BaseModel):
            from types import SimpleNamespace

            return f"{self.bundle.use(SimpleNamespace)}({', '.join(f'{k}={write(v)}' for k, v in value)})"
        if is_dataclass(value) and not isinstance(value, type) and all(f.init for f in fields(value)):
            given = [f"{f.name}={write(getattr(value, f.name))}" for f in fields(value)]
            return f"{self.bundle.use(type(value))}({', '.join(given)})"
        raise NotBundled(f"values of type `{type(value).__name__}` cannot be written")

    def _tensor(self, value: torch.Tensor) -> str:
        if value.numel() > SMALL or value.is_meta or isinstance(value, nn.Parameter):
            raise NotBundled("it is a tensor that is neither a parameter nor a buffer")
        return f'torch.tensor({self._literal(value.tolist())}, dtype={value.dtype}, device="cpu")'


class _NamesModule(NotBundled):
    pass


_LITERALS = (bool, int, str, bytes)
_TAKEN = ("cls", "parameters", "buffers", "non_persistent", "children", "attributes")


def _put(path: str) -> str:
    holder, _, leaf = path.rpartition(".")
    return f'get_submodule("{holder}")._modules["{leaf}"]'


def _calls(call: Call) -> Iterator[Call]:
    yield call
    for _, argument in call.arguments:
        if isinstance(argument, Call):
            yield from _calls(argument)


def render(call: Call | str, names: Mapping[str, str], indent: int, first: int = 0) -> str:
    """The expression over as many lines as it needs; parts that have a function are calls of it."""
    if isinstance(call, str):
        return call
    if call.text in names:
        return f"{names[call.text]}()"
    opening, closing, arguments = f"{call.called}(", ")", call.arguments
    is_dict = False
    if arguments and arguments[0][0] in ("{}", "[]"):
        opening, closing = tuple(arguments[0][0])
        is_dict = opening == "{"
        arguments = arguments[1:]
    keys = [f'"{key}": ' if is_dict else (f"{key}=" if key else "") for key, _ in arguments]
    items = [key + render(a, names, indent + 4, len(key) + 1) for key, (_, a) in zip(keys, arguments, strict=True)]
    line = f"{opening}{', '.join(items)}{closing}"
    if "\n" not in line and len(line) + indent + first <= WIDTH:
        return line
    inner = " " * (indent + 4)
    return f"{opening}\n" + "".join(f"{inner}{item},\n" for item in items) + " " * indent + closing


def _same(fresh: nn.Module, module: nn.Module, kept: frozenset[str]) -> bool:
    """Whether two modules without children have the same attributes and the same kinds of tensors."""
    ours = {k: v for k, v in module.__dict__.items() if k not in _PLAIN and k not in kept}
    theirs = {k: v for k, v in fresh.__dict__.items() if k not in _PLAIN}
    if ours.keys() != theirs.keys() or fresh._modules or module._non_persistent_buffers_set:
        return False
    if not all(type(ours[k]) is type(theirs[k]) and _equal(ours[k], theirs[k]) for k in ours):
        return False
    for own, other in ((module._parameters, fresh._parameters), (module._buffers, fresh._buffers)):
        if list(own) != list(other):
            return False
        for name, tensor in own.items():
            found = other[name]
            if (tensor is None) != (found is None) or (tensor is not None and tensor.shape != found.shape):  # type: ignore[union-attr]
                return False
    return not any(module.__dict__[hooks] for hooks in _PLAIN if hooks.endswith("_hooks") and "state_dict" not in hooks)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, functools.partial) and isinstance(other, functools.partial):
        return (one.func, one.args, one.keywords) == (other.func, other.args, other.keywords)
    if isinstance(one, torch.Tensor):
        return False
    try:
        return bool(one == other)
    except Exception:  # any class may define how it compares
        return False


def _collapsed(value: Any) -> Any:
    """`3` for `(3, 3)`: what most constructors accept in its place."""
    if type(value) is tuple and len(value) > 1 and len(set(value)) == 1 and type(value[0]) is int:
        return value[0]
    return value


def _snake(name: str) -> str:
    """`SqueezeExcite` as `squeeze_excite`."""
    letters = [
        f"_{c.lower()}" if c.isupper() and i and not name[i - 1].isupper() else c.lower() for i, c in enumerate(name)
    ]
    return "".join(letters).strip("_")


__all__ = ["Call", "ModuleWriter", "Written", "render"]
