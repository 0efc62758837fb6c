"""`fused_cross_entropy` gives what torch's cross-entropy gives for each output alone."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphmodel
from graphmodel.components.fused import joined_result, run_heads

COUNT, ROWS, CLASSES = 4, 7, 5


def logits(kind: str, dtype: torch.dtype = torch.float32) -> tuple[list[torch.Tensor], list[nn.Parameter]]:
    """Outputs of linear heads, computed `fused` or one by one, with the parameters behind them."""
    torch.manual_seed(0)
    heads = tuple(nn.Linear(6, CLASSES, dtype=dtype) for _ in range(COUNT))
    x = torch.randn(ROWS, 6, dtype=dtype)
    outputs = list(run_heads(x, heads)) if kind == "fused" else [head(x) for head in heads]
    return outputs, [p for head in heads for p in head.parameters()]


def labels(kind: str) -> Any:
    indices = torch.tensor([2, 3, 0, 1, 2, 4, 0])
    if kind == "shared":
        return indices
    if kind == "probabilities":
        return torch.rand(ROWS, CLASSES).softmax(1)
    return [indices.roll(i) for i in range(COUNT)]


@pytest.mark.parametrize("target", ["shared", "own", "probabilities"])
@pytest.mark.parametrize("kind", ["fused", "single"])
def test_values_and_gradients_are_those_of_torch(kind: str, target: str) -> None:
    given = labels(target)
    for smoothing, weighted, ignored, reduction in product(
        (0.0, 0.1), (False, True), (-100, 2), ("mean", "sum", "none")
    ):
        if target == "probabilities" and ignored >= 0:
            continue  # torch refuses it
        weight = torch.rand(CLASSES) + 0.1 if weighted else None
        settings: dict[str, Any] = {
            "label_smoothing": smoothing,
            "weight": weight,
            "ignore_index": ignored,
            "reduction": reduction,
        }
        outputs, parameters = logits(kind)
        assert (joined_result(outputs) is not None) == (kind == "fused")
        named = {f"h{i}": output for i, output in enumerate(outputs)}
        own = {f"h{i}": y for i, y in enumerate(given)} if target == "own" else given
        losses = graphmodel.fused_cross_entropy(named, own, **settings)
        assert list(losses) == list(named)
        expected, theirs = logits("single")
        each = given if target == "own" else [given] * COUNT
        wanted = [F.cross_entropy(output, y, **settings) for output, y in zip(expected, each, strict=True)]
        torch.testing.assert_close(list(losses.values()), wanted, atol=1e-6, rtol=1e-6)
        sum(loss.sum() for loss in losses.values()).backward()
        sum(loss.sum() for loss in wanted).backward()
        torch.testing.assert_close([p.grad for p in parameters], [p.grad for p in theirs], atol=1e-6, rtol=1e-6)


def test_bfloat16_is_as_exact_as_torch() -> None:
    outputs, _ = logits("fused", torch.bfloat16)
    losses = graphmodel.fused_cross_entropy(outputs, labels("shared"))
    for output, loss in zip(outputs, losses, strict=True):
        assert loss.dtype == torch.bfloat16
        exact = F.cross_entropy(output.double(), labels("shared"))
        theirs = F.cross_entropy(output, labels("shared")).double()
        assert (loss.double() - exact).abs() <= max((theirs - exact).abs(), 2**-8 * exact)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_half_precision_is_added_in_single_precision(reduction: Any) -> None:
    outputs = [torch.zeros(2000, 2, dtype=torch.float16) for _ in range(2)]
    for output in outputs:
        output[:, 0] = 40  # 2000 losses of 40 are more than float16 holds
    y = torch.ones(2000).long()
    losses = graphmodel.fused_cross_entropy(outputs, y, reduction=reduction)
    assert losses == [F.cross_entropy(outputs[0].float(), y, reduction=reduction).half()] * 2
    assert losses[0].dtype == torch.float16


def test_labels_of_bytes_with_weights() -> None:
    outputs, y = [torch.randn(3, 3) for _ in range(2)], torch.tensor([1, 0, 2])
    weight = torch.tensor([1.0, 2.0, 5.0])
    losses = graphmodel.fused_cross_entropy(outputs, y.byte(), weight=weight)
    torch.testing.assert_close(losses, [F.cross_entropy(output, y, weight=weight) for output in outputs])


def test_outputs_of_several_numbers_of_classes() -> None:
    outputs = [torch.randn(ROWS, 3 + i % 2, requires_grad=True) for i in range(6)]
    y = torch.randint(0, 3, (ROWS,))
    losses = graphmodel.fused_cross_entropy(outputs, y)
    assert isinstance(losses, list)
    torch.testing.assert_close(losses, [F.cross_entropy(output, y) for output in outputs])
    total = graphmodel.fused_cross_entropy(outputs, y, total=True)
    torch.testing.assert_close(total, sum(losses))
    total.backward()
    assert all(output.grad is not None for output in outputs)


def test_large_outputs_are_computed_one_by_one_with_the_same_result() -> None:
    outputs = [torch.randn(5, 1000, requires_grad=True) for _ in range(3)] + [torch.randn(5, 4, requires_grad=True)]
    y = torch.randint(0, 4, (5,))
    expected = [F.cross_entropy(output, y, label_smoothing=0.1) for output in outputs]
    torch.testing.assert_close(graphmodel.fused_cross_entropy(outputs, y, label_smoothing=0.1), expected)
    own = [y, y.roll(1), y.roll(2), y]
    expected = [F.cross_entropy(output, target) for output, target in zip(outputs, own, strict=True)]
    torch.testing.assert_close(graphmodel.fused_cross_entropy(outputs, own), expected)
    torch.testing.assert_close(graphmodel.fused_cross_entropy(outputs, own, total=True), sum(expected))


@pytest.mark.parametrize("change", ["in_place", "order", "part", "no_grad"])
def test_outputs_that_are_no_longer_the_joined_result_are_copied(change: str) -> None:
    outputs, parameters = logits("fused")
    expected, theirs = logits("single")
    for found in (outputs, expected):
        if change == "in_place":
            found[1].mul_(2)
        elif change == "no_grad":
            with torch.no_grad():
                found[1].mul_(2)
        elif change == "order":
            found.reverse()
        else:
            del found[0]
    assert joined_result(outputs) is None
    y = labels("shared")
    losses = graphmodel.fused_cross_entropy(outputs, y)
    torch.testing.assert_close(losses, [F.cross_entropy(output, y) for output in expected])
    torch.stack(losses).sum().backward()
    sum(F.cross_entropy(output, y) for output in expected).backward()
    torch.testing.assert_close([p.grad for p in parameters], [p.grad for p in theirs])


@pytest.mark.parametrize("wish", ["hook", "retain_grad"])
def test_gradients_of_single_outputs_can_be_had(wish: str) -> None:
    grads = []
    for kind in ("fused", "single"):
        outputs, parameters = logits(kind)
        if wish == "hook":
            outputs[1].register_hook(lambda grad: grad * 3)  # type: ignore[no-untyped-call]
        else:
            outputs[1].retain_grad()
        graphmodel.fused_cross_entropy(outputs, labels("shared"), total=True).backward()
        grads.append([*[p.grad for p in parameters], *([outputs[1].grad] if wish == "retain_grad" else [])])
        assert all(grad is not None for grad in grads[-1])
    torch.testing.assert_close(*grads)


def test_the_loss_of_all_and_that_of_one_output_add_up() -> None:
    """Gradients arrive past the division of the joined result and through it."""
    grads = []
    for kind in ("fused", "single"):
        outputs, parameters = logits(kind)
        total = graphmodel.fused_cross_entropy(outputs, labels("shared"), total=True)
        (total + outputs[2].pow(2).sum()).backward()
        grads.append([p.grad for p in parameters])
    torch.testing.assert_close(*grads)


def test_everything_ignored_is_not_a_number_as_in_torch() -> None:
    outputs, _ = logits("fused")
    y = torch.full((ROWS,), -100)
    assert all(loss.isnan() for loss in graphmodel.fused_cross_entropy(outputs, y))
    assert F.cross_entropy(outputs[0], y).isnan()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torch_compile_makes_one_graph(dtype: torch.dtype) -> None:
    heads = nn.ModuleList(nn.Linear(6, CLASSES, dtype=dtype) for _ in range(COUNT))
    x, y = torch.randn(ROWS, 6, dtype=dtype), labels("shared")

    def step(x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = run_heads(x, tuple(heads))
        return graphmodel.fused_cross_entropy({f"h{i}": o for i, o in enumerate(outputs)}, y, label_smoothing=0.1)

    found = torch.compile(step, fullgraph=True)(x, y)
    expected = [F.cross_entropy(head(x), y, label_smoothing=0.1) for head in heads]
    tolerance = 1e-6 if dtype is torch.float32 else 0.02
    torch.testing.assert_close(list(found.values()), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(
    ("outputs", "given", "code", "message"),
    [
        ({}, torch.zeros(2).long(), "GM570", "there are no outputs to compute a loss of"),
        ({"a": 3}, torch.zeros(2).long(), "GM570", "the output `a` is int, and the loss takes logits"),
        ([torch.zeros(2, 3, 4)], torch.zeros(2).long(), "GM570", "the output `0` is of shape (2, 3, 4)"),
        ({"a": torch.zeros(2, 3)}, torch.zeros(4).long(), "GM571", "the labels of the output `a` are of shape (4,)"),
        ({"a": torch.zeros(2, 3)}, {"b": torch.zeros(2).long()}, "GM571", "there are no labels for the output `a`"),
        ({"a": torch.zeros(2, 3)}, [torch.zeros(2).long()], "GM571", "a mapping of these names: a"),
        ([torch.zeros(2, 3)] * 2, [torch.zeros(2).long()], "GM571", "a list of 2 tensors"),
        (torch.zeros(2, 3), torch.zeros(2).long(), "GM570", "by name, or a list of them, not one tensor"),
        (None, torch.zeros(2).long(), "GM570", "not NoneType"),
        ([torch.zeros(2, 3)] * 2, None, "GM571", "a list of 2 tensors"),
        ({"a": torch.zeros(2, 3)}, {"a": [0, 1]}, "GM571", "of the type list, not a tensor"),
        ({"a": torch.zeros(2, 3)}, torch.zeros(2, 3).long(), "GM571", "probabilities of dtype torch.int64"),
    ],
)
def test_what_does_not_fit_is_an_error(outputs: Any, given: Any, code: str, message: str) -> None:
    with pytest.raises(graphmodel.CompileError) as caught:
        graphmodel.fused_cross_entropy(outputs, given)
    (finding,) = caught.value.diagnostics
    assert finding.code == code
    assert message in finding.message
