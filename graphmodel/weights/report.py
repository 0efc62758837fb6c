"""What a load did: which tensor went where, what is missing, and what deserves a second look."""

from __future__ import annotations

from dataclasses import dataclass, field

from graphmodel.diagnostics import Diagnostic, printable


@dataclass(frozen=True)
class WrongShape:
    """A tensor whose shape differs.

    Attributes:
        key: its key in the checkpoint.
        ours: our key.
        shape: its shape in the checkpoint.
        wanted: our shape.
    """

    key: str
    ours: str
    shape: tuple[int, ...]
    wanted: tuple[int, ...]


@dataclass
class LoadReport:
    """What `load_weights` did. `str(report)` is the summary that `graphmodel compile --weights` prints.

    Every tensor of the state dict that was read is in exactly one of `matched`, `unexpected`, `pruned`, `skipped`,
    `duplicates` and `wrong_shape`, and every floating-point tensor of the model in `matched` or `missing`.

    Example:
        >>> import graphmodel
        >>> spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
        >>> model, other = graphmodel.compile(spec, seed=0), graphmodel.compile(spec, seed=1)
        >>> report = graphmodel.load_weights(model, other.state_dict())
        >>> report.missing, report.unexpected
        ([], [])

    Attributes:
        source: which state dict of the checkpoint was read, and how its keys were translated.
        matched: our key and the checkpoint's, of every tensor that was copied.
        resized: position embeddings that were interpolated, by our key.
        copied: trunks and heads that got the weights of others, as copies and their originals do if the checkpoint has
            one of the two; `matched` names their keys `KEY -> OURS`.
        missing: our keys that got no weights. Integer buffers such as `num_batches_tracked` may be absent.
        unexpected: the checkpoint's keys that have no counterpart in the model.
        pruned: the checkpoint's keys of stages that this model does without.
        skipped: the checkpoint's keys that the spec's `weights.skip` leaves out.
        duplicates: the checkpoint's keys that name a tensor which another of its keys has filled.
        wrong_shape: tensors that were left out because their shapes differ.
        deeper: the checkpoint's keys of layers that come after the last of ours; with `partial=True` only, since such
            a checkpoint is refused otherwise.
        parameters: how many numbers were copied.
        total: how many floating-point tensors the model has.
        ordered: the tensors were matched by their order, not by their names.
        warnings: what the load cannot decide for you: several networks that fit equally well (GM514), values that
            are not finite, keys that contradict each other, layers that the trunk does not have, a position embedding
            whose grid is a guess (GM517).
    """

    source: str = ""
    matched: dict[str, str] = field(default_factory=dict)
    resized: list[str] = field(default_factory=list)
    copied: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    pruned: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    wrong_shape: list[WrongShape] = field(default_factory=list)
    deeper: list[str] = field(default_factory=list)
    parameters: int = 0
    total: int = 0
    ordered: bool = False
    warnings: list[Diagnostic] = field(default_factory=list)

    @property
    def covered(self) -> int:
        """How many of the model's `total` floating-point tensors got weights."""
        return self.total - len(self.missing)

    def __str__(self) -> str:
        return "\n".join([self.summary, *(w.render() for w in self.warnings)])

    @property
    def summary(self) -> str:
        """What was loaded and what was not, without the warnings."""
        lines = [f"loaded {len(self.matched)} tensors ({self.parameters:,} numbers) by {self.source}"]
        if self.ordered:
            lines += [f"  {ours} <- {key}" for ours, key in self.matched.items()]
        for source in dict.fromkeys(self.copied.values()):
            alike = ", ".join(f"`{part}`" for part, other in self.copied.items() if other == source)
            lines.append(f"{alike} got the weights of `{source}`: the checkpoint has none of their own")
        for what, items in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of pruned stages", self.pruned),
            ("skipped", self.skipped),
            ("given twice", self.duplicates),
            ("interpolated", self.resized),
        ):
            if items:
                lines.append(f"{len(items)} {what}: {_shown(items, 6)}")
        lines += [f"wrong shape: {w.key} is {w.shape}, {w.ours} is {w.wanted}" for w in self.wrong_shape]
        return "\n".join(printable(line) for line in lines)


def _shown(items: list[str], most: int) -> str:
    return ", ".join(items[:most]) + (", …" if len(items) > most else "")
