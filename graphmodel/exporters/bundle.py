"""Collects definitions from Python modules, with everything that they need, into one file that imports none of them."""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import inspect
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

OWN = __name__.partition(".")[0]
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


class NotBundled(Exception):
    """Something that cannot be written into a file of its own."""


@dataclass(frozen=True)
class Source:
    """A module's source: its top-level definitions and imports by name."""

    module: ModuleType
    lines: list[str]
    definitions: dict[str, _Definition]
    imports: dict[str, tuple[str, str]]


class Bundle:
    """A file under construction: import lines, and definitions in an order in which they can be executed.

    Functions and classes of installed libraries are imported. Definitions of graphmodel, and of files that are not
    installed, are copied. Constructors of modules (`nn.Module`) are left out, since modules are rebuilt from their
    attributes; so are decorators of graphmodel.

    Args:
        instead: source text by definition, `(module, name)`, to be written in its place.
        taken: names that definitions may not have.
    """

    def __init__(self, instead: Mapping[tuple[str, str], str], taken: set[str]) -> None:
        self.instead, self.taken = instead, {*taken, *dir(builtins)}
        self.import_lines: dict[str, None] = {}
        self.definitions: list[str] = []
        self._names: dict[Any, str] = {}
        self._sources: dict[str, Source] = {}

    def use(self, value: Any) -> str:
        """An expression for a class or function; its definition or import is added to the file.

        Raises:
            NotBundled: if it cannot be found by its name, such as a function that was defined inside of another.
        """
        module, path = home_of(value)
        if is_copied(module):
            if "." in path:
                return f"{self._define(module, path.partition('.')[0])}.{path.partition('.')[2]}"
            return self._define(module, path)
        if module == "builtins":
            return path
        is_layer = module == "torch.nn" or module.startswith("torch.nn.modules.")
        if is_layer and getattr(nn, path, None) is value:
            self._import("from torch import nn", nn, "nn")
            return f"nn.{path}"
        if module in ("torch", "torch.nn.functional"):
            self._import("import torch", sys.modules["torch"], "torch")
            return f"{module}.{path}"
        first, dot, rest = path.partition(".")
        return self._import(f"from {module} import {first}", _look_up(module, first), first) + dot + rest

    # -- definitions --------------------------------------------------------------------------------------------------

    def _define(self, module: str, name: str) -> str:
        """Adds a definition of a module, and returns its name in the file."""
        key = (module, name)
        if key in self._names:
            return self._names[key]
        source = self._source(module)
        if name in source.imports:
            return self._imported(source, name)
        definition = source.definitions.get(name)
        if definition is None and key not in self.instead:
            raise NotBundled(f"`{module}.{name}` is not defined at the top of its module")
        self._names[key] = self.free_name(name, module)
        if key in self.instead:
            text = self.instead[key]
        else:
            assert definition is not None
            text = self._text(source, name, definition)
        self.definitions.append(text)
        return self._names[key]

    def _imported(self, source: Source, name: str) -> str:
        """Adds what a module imports under a name."""
        origin, attribute = source.imports[name]
        if attribute and is_copied(origin) and not isinstance(getattr(_module(origin), attribute, None), ModuleType):
            return self._define(origin, attribute)
        if is_copied(origin):
            raise NotBundled(f"`{source.module.__name__}` uses the whole module `{origin}`; import names from it")
        line = f"from {origin} import {attribute}" if attribute else f"import {origin}"
        bound = attribute or origin.partition(".")[0]
        if name != bound:
            line += f" as {name}"
        value = vars(source.module).get(name, (origin, attribute))
        return self._import(line, value, name)

    def _import(self, line: str, value: Any, name: str) -> str:
        key = ("import", id(value) if not isinstance(value, tuple) else value, name)
        if key not in self._names:
            if name in self.taken and name not in ("torch", "nn"):
                other = self.free_name(name, "imported")
                line = f"{line.partition(' as ')[0]} as {other}"
                name = other
            self._names[key] = name
            self.taken.add(name)
        self.import_lines[line] = None
        return self._names[key]

    def free_name(self, name: str, module: str) -> str:
        """Reserves a name in the file: `name`, or a longer one with that of the module if it is taken."""
        found = name
        if found in self.taken:
            found = f"{name}_of_{module.rpartition('.')[2].strip('_')}"
        while found in self.taken:
            found += "_"
        self.taken.add(found)
        return found

    def _text(self, source: Source, name: str, definition: _Definition) -> str:
        """The source of a definition, without what a file of its own does not need and under the file's names."""
        dropped = list(self._dropped(source, definition))
        gone = {id(inner) for node in dropped for inner in ast.walk(node)}
        renamed = {name: self._names[source.module.__name__, name]}
        for used, needed in _names_in(definition, gone):
            if used == name:
                continue
            if used in source.definitions or used in source.imports:
                if needed or self._is_cheap(source, used):
                    renamed[used] = self._needed(source, used)
            elif needed and not hasattr(builtins, used) and used not in _DUNDERS:
                raise NotBundled(
                    f"`{source.module.__name__}.{name}` uses `{used}`, which is not at the top of its module"
                )
        edits = list(_renames(definition, {k: v for k, v in renamed.items() if k != v}, gone))
        return _cut(source.lines, definition, dropped, edits)

    def _needed(self, source: Source, used: str) -> str:
        if used in source.imports:
            return self._imported(source, used)
        return self._define(source.module.__name__, used)

    def _is_cheap(self, source: Source, used: str) -> bool:
        """Whether a name that only annotations use is worth having: an import of a library, or an alias."""
        if used in source.imports:
            return not is_copied(source.imports[used][0])
        return isinstance(source.definitions[used], (ast.Assign, ast.AnnAssign))

    def _dropped(self, source: Source, definition: _Definition) -> Iterator[ast.AST]:
        """Decorators of graphmodel, and the constructor of a module."""
        if not isinstance(definition, (ast.FunctionDef, ast.ClassDef)):
            return
        for decorator in definition.decorator_list:
            root = decorator.func if isinstance(decorator, ast.Call) else decorator
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and source.imports.get(root.id, ("", ""))[0].partition(".")[0] == OWN:
                yield decorator
        value = vars(source.module).get(definition.name)
        if isinstance(value, type) and issubclass(value, nn.Module):
            for item in definition.body:
                if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                    yield item

    def _source(self, module: str) -> Source:
        if module not in self._sources:
            self._sources[module] = _read(module)
        return self._sources[module]


_DUNDERS = {"__name__", "__file__", "__class__", "__doc__"}


def home_of(value: Any) -> tuple[str, str]:
    """The module and the qualified name under which a class or function is found.

    Raises:
        NotBundled: if it is not found there.
    """
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", getattr(value, "__name__", ""))
    for origin, path in ((module, name), *((home, name) for home in _HOMES)):
        if origin and path and _look_up(origin, path) is value:
            return origin, path
    described = f"{module}.{name}" if module else name or repr(value)
    raise NotBundled(f"`{described}` cannot be found by its name")


_HOMES = ("torch.nn.functional", "torch", "torch.Tensor", "torch.linalg", "operator", "math", "builtins")


def _look_up(module: str, path: str) -> Any:
    try:
        found: Any = _module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError):
        return None
    return found


def _module(name: str) -> ModuleType:
    return sys.modules.get(name) or importlib.import_module(name)


def is_copied(module: str) -> bool:
    """Whether definitions of a module are copied: those of graphmodel, and of files that are not installed."""
    if module.partition(".")[0] == OWN or module == "__main__":
        return True
    try:
        file = getattr(_module(module), "__file__", None)
    except ImportError:
        return False
    if not file:
        return False
    path, paths = Path(file).resolve(), sysconfig.get_paths()
    if {"site-packages", "dist-packages"} & set(path.parts):
        return False
    return not any(path.is_relative_to(Path(paths[key]).resolve()) for key in ("stdlib", "platstdlib"))


def _read(module: str) -> Source:
    found = _module(module)
    try:
        text = inspect.getsource(found)
    except (OSError, TypeError) as error:
        raise NotBundled(f"the source of `{module}` cannot be read") from error
    definitions: dict[str, _Definition] = {}
    imports: dict[str, tuple[str, str]] = {}
    for item in _top_level(ast.parse(text).body):
        if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            definitions[item.name] = item
        elif isinstance(item, (ast.Assign, ast.AnnAssign)):
            definitions.update((name.id, item) for name in _targets(item))
        elif isinstance(item, ast.Import):
            for alias in item.names:
                imports[alias.asname or alias.name.partition(".")[0]] = (alias.name, "")
        elif isinstance(item, ast.ImportFrom):
            package = found.__package__ or ""
            base = (
                importlib.util.resolve_name("." * item.level + (item.module or ""), package)
                if item.level
                else item.module
            )
            for alias in item.names:
                imports[alias.asname or alias.name] = (str(base), alias.name)
    imports.pop("annotations", None)
    return Source(found, text.splitlines(), definitions, imports)


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module, those in `if` and `try` included."""
    for item in body:
        yield item
        if isinstance(item, (ast.If, ast.Try)):
            yield from _top_level([*item.body, *item.orelse])


# -- names in a definition --------------------------------------------------------------------------------------------


def _names_in(definition: ast.AST, gone: set[int]) -> Iterator[tuple[str, bool]]:
    """Global names that a definition reads, and whether more than an annotation needs them."""
    found: dict[str, bool] = {}
    for node, annotation in _globals_of(definition, gone):
        found[node.id] = found.get(node.id, False) or not annotation
    return iter(found.items())


def _renames(definition: ast.AST, names: Mapping[str, str], gone: set[int]) -> Iterator[tuple[int, int, int, str]]:
    """Line, columns and new text of each global name that is called something else in the file."""
    for node, _ in _globals_of(definition, gone):
        if node.id in names:
            assert node.end_col_offset is not None
            yield node.lineno, node.col_offset, node.end_col_offset, names[node.id]
    if isinstance(definition, (ast.FunctionDef, ast.ClassDef)) and definition.name in names:
        word = "class " if isinstance(definition, ast.ClassDef) else "def "
        start = definition.col_offset + len(word)
        yield definition.lineno, start, start + len(definition.name), names[definition.name]


def _globals_of(definition: ast.AST, gone: set[int]) -> Iterator[tuple[ast.Name, bool]]:
    """Every global name in a definition, and whether it stands in an annotation."""

    def walk(node: ast.AST, bound: frozenset[str], annotation: bool) -> Iterator[tuple[ast.Name, bool]]:
        if id(node) in gone:
            return
        if isinstance(node, ast.Name):
            if node.id not in bound:
                yield node, annotation
            return
        inner = bound
        if isinstance(node, _FUNCTIONS):
            inner = bound | _bound_in(node)
        elif isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            inner = bound | {n.id for c in node.generators for n in ast.walk(c.target) if isinstance(n, ast.Name)}
        for name, value in ast.iter_fields(node):
            is_annotation = annotation or name in ("annotation", "returns")
            outside = isinstance(node, _FUNCTIONS) and name in ("decorator_list", "returns")
            for child in value if isinstance(value, list) else [value]:
                if not isinstance(child, ast.AST):
                    continue
                names = bound if outside else inner
                if isinstance(node, ast.ClassDef) and not isinstance(child, _FUNCTIONS):
                    names = names | _attributes_of(node)  # methods do not see the attributes of their class
                yield from walk(child, names, is_annotation)

    yield from walk(definition, frozenset(), False)


def _attributes_of(node: ast.ClassDef) -> set[str]:
    """Names that the body of a class assigns."""
    return {n.id for s in node.body if isinstance(s, (ast.Assign, ast.AnnAssign)) for n in _targets(s)}


def _targets(item: ast.Assign | ast.AnnAssign) -> Iterator[ast.Name]:
    """The names that an assignment binds."""
    for target in item.targets if isinstance(item, ast.Assign) else [item.target]:
        yield from (name for name in ast.walk(target) if isinstance(name, ast.Name))


def _bound_in(function: ast.AST) -> set[str]:
    """Names that are local to a function: arguments, and what its own body assigns."""
    arguments = function.args  # type: ignore[attr-defined]
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    found = {a.arg for a in every if a is not None}
    body = function.body if isinstance(function.body, list) else [function.body]  # type: ignore[attr-defined]

    def walk(node: ast.AST) -> None:
        if isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del)):
            found.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
            return
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found.update(a.asname or a.name.partition(".")[0] for a in node.names)
            origin = getattr(node, "module", None) or node.names[0].name
            if str(origin).partition(".")[0] == OWN:
                raise NotBundled(f"a function imports `{origin}` when it runs")
        elif isinstance(node, ast.ExceptHandler) and node.name:
            found.add(node.name)
        elif isinstance(node, ast.Lambda):
            return
        for child in ast.iter_child_nodes(node):
            walk(child)

    for statement in body:
        walk(statement)
    outer = {n for s in ast.walk(function) if isinstance(s, (ast.Global, ast.Nonlocal)) for n in s.names}
    return found - outer


def _cut(
    lines: list[str], definition: _Definition, dropped: list[ast.AST], edits: list[tuple[int, int, int, str]]
) -> str:
    """The lines of a definition with edits made and parts left out."""
    changed = {number: lines[number - 1] for number in _lines_of(definition)}
    for number, start, end, text in sorted(set(edits), reverse=True):
        raw = changed[number].encode()
        changed[number] = (raw[:start] + text.encode() + raw[end:]).decode()
    without = {number for node in dropped for number in _lines_of(node)}
    kept = [text for number, text in changed.items() if number not in without]
    if isinstance(definition, ast.ClassDef) and all(node in dropped for node in definition.body):
        kept.append("    pass")
    text = "\n".join(kept)
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text.rstrip()


def _lines_of(node: ast.AST) -> range:
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])  # type: ignore[attr-defined]
    return range(first, node.end_lineno + 1)  # type: ignore[attr-defined]
