"""Makes a module for inference: BatchNorm folded into weights of its own, and the faster memory format."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import nn

from graphmodel.components.structure import leaves
from graphmodel.diagnostics import fail, first_line
from graphmodel.diagnostics.input_error import InputError
from graphmodel.graph.rows import rows_per_sample
from graphmodel.graph.types import ModelGraph
from graphmodel.lower.emit import emit_code
from graphmodel.lower.module import CompiledModel, assemble, check_compiled, check_unedited
from graphmodel.lower.random_inputs import random_inputs
from graphmodel.lower.shared_stages import attach_check
from graphmodel.passes.channels_last import is_convolutional, with_channels_last
from graphmodel.passes.fold_batchnorm import Everything, pairs_between_calls
from graphmodel.passes.foldable import has_activation, pairs_in
from graphmodel.passes.folding import FoldedForward, FoldedPair, folded_tensors
from graphmodel.passes.switches import optimize_graph

MemoryFormat = Literal["contiguous", "channels_last"]

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
"""How far results may move, of the largest value; folding rounds in another order."""

_OWN_PASSES = ("fold_batchnorm", "channels_last")


class InferenceModel(CompiledModel):
    """What `optimize_for_inference` returns: the same inputs and outputs, in eval mode for good, without gradients.

    Example:
        >>> import graphmodel, torch
        >>> spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
        >>> fast = graphmodel.optimize_for_inference(graphmodel.compile(spec, seed=0))
        >>> fast.training, fast(torch.zeros(1, 3, 64, 64))["features"].requires_grad
        (False, False)
    """

    for_inference = True

    def train(self, mode: bool = True) -> InferenceModel:
        """Stays in eval mode.

        Raises:
            CompileError: GM560 if `mode` is true.
        """
        if mode:
            message = "a module for inference cannot train: its BatchNorm is folded into the weights"
            raise fail("GM560", message, help="train the module that it was made from, and optimize that again")
        return super().train(False)

    def recompile(self) -> Any:
        code = super().recompile()
        type(self).__call__ = _call_without_gradients  # type: ignore[method-assign]
        return code


def _call_without_gradients(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    with torch.no_grad():
        return nn.Module.__call__(self, *args, **kwargs)


def optimize_for_inference(
    module: CompiledModel,
    example: Any = None,
    *,
    memory_format: MemoryFormat | None = None,
    compile: bool = False,
) -> InferenceModel:
    """A module for inference with the same inputs and outputs.

    BatchNorm is folded into the convolution or linear layer before it wherever that is exact, which is proved on the
    code and checked by running the module before and after. The weights are copies: the given module stays as it is.

    Example:
        >>> import graphmodel, torch
        >>> spec = {"inputs": {"images": [3, 64, 64]}, "trunk": {"name": "resnet", "depth": 18}}
        >>> model = graphmodel.compile({**spec, "heads": {"label": {"mlp": {"dims": ["auto", 10]}}}}, seed=0)
        >>> fast = graphmodel.optimize_for_inference(model)
        >>> images = torch.randn(2, 3, 64, 64)
        >>> torch.allclose(fast(images)["label"], model.eval()(images)["label"], atol=1e-4)
        True
        >>> [name for name in fast.state_dict() if "bn" in name]
        []

    Args:
        module: what `compile` returned.
        example: what the module is called with, for several inputs a tuple; with it the memory format is chosen by
            measurement, and results are compared on it. None chooses by rule, and compares on random inputs.
        memory_format: `contiguous` or `channels_last`, to choose it yourself.
        compile: whether to compile the result with inductor's freezing, on the first call. The weights are then
            constants of the code, so later changes of them have no effect.

    Returns:
        The module, in eval mode. It computes no gradients.

    Raises:
        CompileError: GM504 if the module's graph was edited, GM562 if an argument is not what the module takes or it
            cannot run on the example, GM563 if the results are not the same.
    """
    check_compiled(module, "optimize_for_inference")
    if module.for_inference:
        raise fail(
            "GM562", "the module is one for inference already", help="use it, or give the one that it was made from"
        )
    check_unedited(module, "a module for inference")
    if memory_format not in (None, "contiguous", "channels_last"):
        raise fail("GM562", f"`memory_format` is `contiguous` or `channels_last`, not {memory_format!r}")
    graph = module.model_graph
    if example is None:
        inputs = random_inputs(module, graph, {name: 2 * rows for name, rows in rows_per_sample(graph).items()})
    else:
        inputs = _as_arguments(example, graph)
    with torch.no_grad():
        with _without_tf32():
            made = _folded(module, inputs)
        if memory_format is None and example is None:
            memory_format = _by_rule(made)
        if memory_format != "contiguous":
            other = _in_channels_last(made, inputs)
            if other is not None and (memory_format or _faster(made, other, inputs)):
                made = other
    if compile:
        made.compile(options={"freezing": True})
    return made


def _as_arguments(example: Any, graph: ModelGraph) -> tuple[Any, ...]:
    given = example if isinstance(example, tuple) and len(graph.inputs) > 1 else (example,)
    if len(given) != len(graph.inputs):
        message = f"`example` has {len(given)} values and the module takes {len(graph.inputs)}"
        raise fail("GM562", message, help=f"give a tuple of {', '.join(graph.inputs)}")
    return given


# -- folding ----------------------------------------------------------------------------------------------------------


def _folded(module: CompiledModel, inputs: tuple[Any, ...]) -> InferenceModel:
    """A copy of the module with folded weights, checked on the inputs."""
    passes = tuple(name for name in module.passes if name not in _OWN_PASSES)
    graph = optimize_graph(module.model_graph, passes)
    source = copy.deepcopy(module)
    for part in list(source.modules()):
        if isinstance(getattr(part.__dict__.get("forward"), "__self__", None), FoldedForward):
            del part.__dict__["forward"]
        for name, child in list(part._modules.items()):
            if isinstance(child, FoldedPair):
                del part._modules[name]
    record = {**module.meta["graphmodel"], "optimized": graph, "passes": passes}
    made = _assembled(source, graph, record)
    between = [
        (layer, norm, calls)
        for layer, norm, calls in pairs_between_calls(graph, Everything())[0]
        if not any(graph.nodes[call].facts.of_order() for _, call in calls)
    ]
    pairs = [(made.get_submodule(t), p) for t in _targets(graph) for p in pairs_in(made.get_submodule(t)).pairs]
    found = [(called.get_submodule(pair.owner), pair.layer, pair.norm) for called, pair in pairs]
    found += [(made.get_submodule(norm.rpartition(".")[0]), *_names(layer, norm)) for layer, norm, _ in between]
    expected, proved = _run_watched(made, inputs, found)
    for owner, layer_name, norm_name in found:
        if (id(owner), norm_name) in proved:
            _fold(owner, layer_name, norm_name)
    merged = {
        call: source
        for _, norm, calls in between
        if isinstance(made.get_submodule(norm), nn.Identity)
        for source, call in calls
    }
    if merged:
        graph = graph.merge(merged)
        made = _assembled(made, graph, {**record, "optimized": graph})
        for path in {norm for _, norm, calls in between if calls[0][1] in merged}:
            holder, _, name = path.rpartition(".")
            del made.get_submodule(holder)._modules[name]
    attach_check(made, graph)
    _compare(made(*inputs), expected)
    return made


def _names(layer: str, norm: str) -> tuple[str, str]:
    return layer.rpartition(".")[2], norm.rpartition(".")[2]


def _targets(graph: ModelGraph) -> list[str]:
    return list(dict.fromkeys(str(n.target) for n in graph.nodes.values() if n.call == "module"))


def _assembled(source: nn.Module, graph: ModelGraph, record: dict[str, Any]) -> InferenceModel:
    made = assemble(emit_code(graph, record["returns"]), source, record, InferenceModel)
    assert isinstance(made, InferenceModel)
    for parameter in made.parameters():
        parameter.requires_grad_(False)
    return made.eval()


def _run_watched(
    made: nn.Module, inputs: tuple[Any, ...], found: Sequence[tuple[nn.Module, str, str]]
) -> tuple[Any, set[tuple[int, str]]]:
    """The module's result, and the pairs of which the BatchNorm read exactly what the layer returned, at every call."""
    results: dict[nn.Module, list[Any]] = {}
    read: dict[nn.Module, list[Any]] = {}

    def keep_result(part: nn.Module, args: Any, result: Any) -> None:
        results[part].append(result)

    def keep_input(part: nn.Module, args: Any) -> None:
        read[part].append(args[0] if len(args) == 1 else None)

    named = [(owner, owner.get_submodule(layer), name, owner.get_submodule(name)) for owner, layer, name in found]
    with ExitStack() as hooks:
        for _, layer, _, norm in named:
            if layer not in results and norm not in read:
                results[layer], read[norm] = [], []
                hooks.callback(layer.register_forward_hook(keep_result).remove)
                hooks.callback(norm.register_forward_pre_hook(keep_input).remove)
        expected = _call(made, inputs)
    proved = set()
    for owner, layer, name, norm in named:
        once = sum(layer is other or norm is norm_ for _, other, _, norm_ in named) == 1
        made_, read_ = results.get(layer, []), read.get(norm, [])
        same = len(made_) == len(read_) > 0 and all(a is b for a, b in zip(made_, read_, strict=True))
        # BatchNorm takes the second dimension of three as its channels, a linear layer makes the last one.
        if once and same and (not isinstance(layer, nn.Linear) or all(value.ndim == 2 for value in made_)):
            proved.add((id(owner), name))
    return expected, proved


def _call(made: nn.Module, inputs: tuple[Any, ...]) -> Any:
    try:
        return made(*inputs)
    except InputError as error:
        raise fail("GM562", f"`example` is not what the module takes: {error.args[1]}", help=error.args[2]) from error
    except Exception as error:  # whatever the module raises on what it was given
        raise fail("GM562", f"the module cannot run on the example: {first_line(error)}") from error


def _fold(owner: nn.Module, layer_name: str, norm_name: str) -> None:
    layer, norm = owner._modules[layer_name], owner._modules[norm_name]
    assert layer is not None
    assert norm is not None
    weight, bias = folded_tensors(layer, norm)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.bias = nn.Parameter(bias, requires_grad=False)
    rest = norm.act if has_activation(norm) else nn.Identity()
    assert isinstance(rest, nn.Module)
    owner._modules[norm_name] = rest.eval()


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Inside, a GPU multiplies single precision in full: TF32, the default of convolutions, rounds to 1 in 2,000."""
    backends: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    switches = backends if torch.cuda.is_available() else ()
    before = [(switch, switch.allow_tf32) for switch in switches]
    try:
        for switch, _ in before:
            switch.allow_tf32 = False
        yield
    finally:
        for switch, value in before:
            switch.allow_tf32 = value


def _compare(result: Any, expected: Any) -> None:
    """Refuses results that folding moved by more than rounding does."""
    for value, right in zip(leaves(result), leaves(expected), strict=True):
        if right.is_meta or not right.is_floating_point() or not right.numel() or torch.equal(value, right):
            continue
        scale = right.float().nan_to_num(0, 0, 0).abs().max()
        error = (value.float() - right.float()).nan_to_num(0, 0, 0).abs().max()
        same = torch.equal(value.isfinite(), right.isfinite())
        if not same or error > TOLERANCE.get(right.dtype, 5e-2) * scale:
            message = f"the optimized module is {float(error):.2g} off, where the largest value is {float(scale):.2g}"
            raise fail("GM563", message, help="please report the trunk; use the module as it is")


# -- memory format ----------------------------------------------------------------------------------------------------


def _by_rule(made: InferenceModel) -> MemoryFormat:
    """Channels last for convolutional trunks on a CPU, and on other devices in half precision."""
    weights = [p for p in made.parameters() if p.ndim == 4]
    half = bool(weights) and weights[0].dtype in (torch.float16, torch.bfloat16)
    suited = bool(weights) and (weights[0].device.type == "cpu" or half)
    return "channels_last" if suited and is_convolutional(made) else "contiguous"


def _in_channels_last(made: InferenceModel, inputs: tuple[Any, ...]) -> InferenceModel | None:
    """The module with weights and images in channels-last format; None if its code cannot run on them."""
    graph = with_channels_last(made.optimized_graph)
    source = copy.deepcopy(made)
    other = _assembled(source, graph, {**made.meta["graphmodel"], "optimized": graph})
    try:
        other.to(memory_format=torch.channels_last)
        with _without_tf32():
            _compare(other(*inputs), made(*inputs))
    except RuntimeError:  # weights of five dimensions, or code that takes a view of its input
        return None
    return other


def _faster(made: nn.Module, other: nn.Module, inputs: tuple[Any, ...], runs: int = 5) -> bool:
    """Whether the other module is faster by the median of interleaved pairs of runs."""
    ratios = []
    for i in range(runs + 1):
        taken = {}
        for each in (made, other) if i % 2 else (other, made):
            taken[each] = _seconds(each, inputs)
        ratios.append(taken[made] / max(taken[other], 1e-9))
    return sorted(ratios[1:])[runs // 2] > 1.02


def _seconds(module: Callable[..., Any], inputs: tuple[Any, ...]) -> float:
    cuda = any(isinstance(x, torch.Tensor) and x.is_cuda for x in leaves(inputs))
    if cuda:
        torch.cuda.synchronize()
    clock = time.perf_counter if cuda else time.process_time
    start = clock()
    module(*inputs)
    if cuda:
        torch.cuda.synchronize()
    return clock() - start
