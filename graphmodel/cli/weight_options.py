"""Options that say which weights a model gets, shared by the commands that build one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from warnings import catch_warnings, simplefilter

import typer

if TYPE_CHECKING:
    from graphmodel.lower.module import CompiledModel
    from graphmodel.weights.report import LoadReport


class Match(str, Enum):
    """How the tensors of a checkpoint find theirs."""

    names = "names"
    order = "order"


@dataclass(frozen=True)
class WeightOptions:
    """Which weights the model gets."""

    no_weights: Annotated[
        bool, typer.Option("--no-weights", help="Build no weights: they stay on the meta device and none are written.")
    ] = False
    weights: Annotated[
        Path | None,
        typer.Option("--weights", metavar="FILE", help="Load a checkpoint; how its keys map is inferred and printed."),
    ] = None
    partial: Annotated[
        bool, typer.Option("--partial", help="Accept a checkpoint that does not cover the whole trunk.")
    ] = False
    interpolate: Annotated[
        bool, typer.Option("--interpolate", help="Resize position embeddings of another size (bicubic).")
    ] = False
    antialias: Annotated[
        bool, typer.Option("--antialias", help="Resize position embeddings with antialiasing, as timm does.")
    ] = False
    network: Annotated[
        list[str] | None,
        typer.Option(
            "--weights-network",
            metavar="NAME[=TRUNK]",
            help="The network of the checkpoint to load, or the trunk (or head) that it fills. Repeatable with =.",
        ),
    ] = None
    match: Annotated[
        Match, typer.Option("--weights-match", help="Match tensors by name, or one by one in module order.")
    ] = Match.names
    allow_downloads: Annotated[
        bool,
        typer.Option("--allow-downloads", help="Let the spec name files on the Internet, such as `timm:hf-hub:NAME`."),
    ] = False
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The seed of the initial weights.")] = 0

    def load(self, module: CompiledModel) -> LoadReport:
        """Loads the checkpoint; its warnings are printed with the spec's own notes."""
        from graphmodel.weights.load import load_weights

        with catch_warnings():
            simplefilter("ignore")
            return load_weights(
                module,
                self.weights,
                network=_networks(self.network or []),
                match=self.match.value,
                partial=self.partial,
                interpolate=self.interpolate,
                antialias=self.antialias,
            )


def _networks(given: list[str]) -> str | dict[str, list[str]] | None:
    """`["teacher"]` as a name, `["student=a", "student=b"]` as a mapping."""
    if len(given) == 1 and "=" not in given[0]:
        return given[0]
    found: dict[str, list[str]] = {}
    for item in given:
        name, equals, target = item.rpartition("=")
        if not equals:
            raise typer.BadParameter(
                f"`{item}`: several networks are given as NAME=TRUNK", param_hint="--weights-network"
            )
        found.setdefault(name, []).append(target)
    return found or None
