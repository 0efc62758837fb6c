"""The text of model.py: how to load a saved model, and the forward that it runs, to be read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphmodel.graph.types import ModelGraph
    from graphmodel.lower.module import CompiledModel

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


def load(device: str = "cpu", weights: bool = {weights}) -> graphmodel.CompiledModel:
    """The module in training mode, with the weights beside this file or the initial ones of its seed."""
    return graphmodel.load(HERE, device=device, weights=weights{options})


{forward}
'''


def in_docstring(text: str) -> str:
    r"""Text for a docstring: it cannot end it, and control characters and backslashes are written as escapes.

    >>> print(in_docstring("say \\x"))
    say \\x
    """

    def one(character: str) -> str:
        if character in '\\"':
            return f"\\{character}"
        return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")

    return "".join(map(one, text))


def model_source(module: CompiledModel, *, weights: bool = True, imports: Sequence[str] = ()) -> str:
    """The text of model.py.

    Args:
        module: the module.
        weights: whether weights are written beside it.
        imports: Python modules that register heads or trunks of this model.
    """
    from graphmodel import __version__

    graph = module.model_graph
    code = module.graph.python_code("self")
    needed = ["import graphmodel", *(f"import {m}" for m in imports if all(map(str.isidentifier, m.split("."))))]
    return _TEMPLATE.format(
        title=in_docstring(f"The model `{graph.spec.name}`, compiled by graphmodel {__version__}."),
        shapes="\n".join(in_docstring(line) for line in shape_lines(graph)),
        imports="\n".join([*needed, *dict.fromkeys(_imports(code.globals, code.src))]),
        weights=weights,
        options=", allow_imports=True" if any(t.imports for t in graph.spec.trunks.values()) else "",
        forward=forward_source(code.src),
    )


def shape_lines(graph: ModelGraph) -> list[str]:
    """The shapes of inputs and outputs, a line each."""
    from graphmodel.graph.text import info_text

    shapes = [("Inputs", [(n, graph.nodes[n].info) for n in graph.inputs])]
    shapes.append(("Outputs", [(k, graph.nodes[n].info) for o in graph.outputs.values() for k, n in o.parts.items()]))
    lines = []
    for title, items in shapes:
        wide = max(len(name) for name, _ in items)
        lines += [f"{title}:", *(f"    {name:{wide}}  {info_text(info)}" for name, info in items)]
    return lines


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


def forward_source(source: str) -> str:
    """fx's code without the deletions that it appends to lines (`;  x = None`), functions under their public names."""
    import torch

    def public(match: re.Match[str]) -> str:
        return f"torch.nn.functional.{match[1]}" if hasattr(torch.nn.functional, match[1]) else match[0]

    source = re.sub(r"\btorch\._C\._nn\.(\w+)", public, source)
    lines = [re.sub(r";  (?:\w+ = )+None(?=\s*(?:#|$))", "", line).rstrip() for line in source.strip().splitlines()]
    return "\n".join(lines)
