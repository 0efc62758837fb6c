"""The ways of `python -m benchmarks.embedding`; each returns the largest difference from a network by hand."""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import graphmodel

ROOT = Path(__file__).resolve().parent.parent
SPEC: dict[str, Any] = {
    "inputs": {"images": [3, 32, 32]},
    "trunk": "torchvision:resnet18",
    "heads": {"digit": {"mlp": {"dims": ["auto", 10]}}},
}
STEPS, BATCH, PARTS = 4, 16, 4
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Way:
    """A way to embed a model.

    Attributes:
        what: what was run.
        compared: which numbers are compared.
        measure: gives their largest absolute difference.
    """

    what: str
    compared: str
    measure: Callable[[], float]


WAYS: dict[str, Way] = {}
"""By name, in the order of the table."""


def way(name: str, what: str, compared: str = "losses and weights") -> Callable[[Callable[[], float]], None]:
    """Adds a function to the ways."""

    def add(measure: Callable[[], float]) -> None:
        WAYS[name] = Way(what, compared, measure)

    return add


# -- the network by hand ----------------------------------------------------------------------------------------------


def by_hand(double: bool = True) -> nn.Module:
    """torchvision's ResNet-18 with a layer for ten digits, and the weights that graphmodel gives it."""
    from torchvision.models import resnet18

    network: nn.Module = resnet18(num_classes=10)
    network.load_state_dict(library_names(compiled(False).state_dict()))
    return network.double() if double else network


def library_names(state: Mapping[str, torch.Tensor]) -> State:
    """Weights of a compiled model by the names of torchvision."""
    renamed = {n.removeprefix("trunk.").replace("heads.digit.clf.0", "fc"): t for n, t in state.items()}
    return {name: tensor.detach().clone() for name, tensor in renamed.items()}


def compiled(double: bool = True, **options: Any) -> graphmodel.CompiledModel:
    """The model that is embedded."""
    model = graphmodel.compile(SPEC, seed=0, **options)
    return model.double() if double else model


@cache
def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Digits of scikit-learn as images (16, 3, 32, 32), and their labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = F.interpolate(torch.tensor(found.images)[:, None] / 16, size=32, mode="bilinear").expand(-1, 3, -1, -1)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[: STEPS * BATCH]
    labels = torch.tensor(found.target)
    return list(zip(images[order].split(BATCH), labels[order].split(BATCH), strict=True))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.02, momentum=0.9)


def train(
    model: nn.Module, run: Callable[[torch.Tensor], Any], parts: int = 1, share: slice = slice(None), steps: int = STEPS
) -> list[float]:
    """A plain loop; with parts, it accumulates the gradients of small batches. Returns the losses."""
    optimizer, losses = sgd(model), []
    dtype = next(model.parameters()).dtype
    for images, labels in batches()[:steps]:
        optimizer.zero_grad()
        total = 0.0
        for x, y in zip(images[share].chunk(parts), labels[share].chunk(parts), strict=True):
            result = run(x.to(dtype))
            loss = F.cross_entropy(result if isinstance(result, torch.Tensor) else result["digit"], y) / parts
            loss.backward()
            total += loss.item()
        optimizer.step()
        losses.append(total)
    return losses


@cache
def wanted(double: bool = True, parts: int = 1) -> tuple[list[float], State]:
    """Losses and weights of the network by hand."""
    network = by_hand(double)
    return train(network, network, parts), dict(network.state_dict())


def largest(losses: Iterable[float], state: Mapping[str, torch.Tensor], double: bool = True, parts: int = 1) -> float:
    """The largest difference from the network by hand after training."""
    expected, weights = wanted(double, parts)
    found = library_names(state)
    assert found.keys() == weights.keys()
    moved = [(found[n].double() - w.double()).abs().max().item() for n, w in weights.items()]
    return max(moved + [abs(a - b) for a, b in zip(losses, expected, strict=True)])


# -- training in one process ------------------------------------------------------------------------------------------


@way("plain loop", "SGD for 4 steps in double precision; so are the others unless they say otherwise")
def _() -> float:
    model = compiled()
    return largest(train(model, model), model.state_dict())


@way("plain loop, bfloat16", "`torch.autocast` for one step, weights in single precision")
def _() -> float:
    def cast(model: nn.Module) -> tuple[list[float], State]:
        def run(x: torch.Tensor) -> Any:
            with torch.autocast("cpu", torch.bfloat16):
                result = model(x)
            return (result if isinstance(result, torch.Tensor) else result["digit"]).float()

        return train(model, run, steps=1), dict(model.state_dict())

    losses, state = cast(compiled(False))
    expected, weights = cast(by_hand(False))
    found = library_names(state)
    moved = [(found[n] - w).abs().max().item() for n, w in weights.items()]
    return float(max(moved + [abs(a - b) for a, b in zip(losses, expected, strict=True)]))


@way("functional_call", "`torch.func.functional_call` with detached weights, in the plain loop")
def _() -> float:
    model, holder = compiled(), compiled()
    named = dict(holder.named_parameters()) | dict(holder.named_buffers())
    return largest(train(holder, lambda x: torch.func.functional_call(model, named, (x,))), holder.state_dict())


@way("torch.compile", "`torch.compile(model, fullgraph=True)` with inductor")
def _() -> float:
    torch.compiler.reset()
    model = compiled()
    return largest(train(model, torch.compile(model, fullgraph=True)), model.state_dict())


@way("graphmodel.torch_compile", "the same by regions")
def _() -> float:
    torch.compiler.reset()
    model = compiled()
    return largest(train(model, graphmodel.torch_compile(model)), model.state_dict())


@way("Lightning", "`LightningModel` with `Trainer`, single precision")
def _() -> float:
    import lightning

    from graphmodel.integrations.lightning import LightningModel

    losses: list[float] = []

    class Record(lightning.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
            losses.append(outputs["loss"].item())

    model = compiled(False)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", callbacks=[Record()], enable_model_summary=False, **quiet
    )
    module = LightningModel(model, {"digit": F.cross_entropy}, optimizer=lambda groups: sgd(model))
    items = [(x, y) for images, labels in batches() for x, y in zip(images.float(), labels, strict=True)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the number of workers
        trainer.fit(module, torch.utils.data.DataLoader(items, batch_size=BATCH))
    return largest(losses, model.state_dict(), False)


@way("Hugging Face's Trainer", "`TrainerModel` with `Trainer`, single precision", "weights")
def _() -> float:
    import transformers

    from graphmodel.integrations.hf import TrainerModel

    class InOrder(transformers.Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    model = compiled(False)
    items = [
        {"images": x, "labels": y} for images, labels in batches() for x, y in zip(images.float(), labels, strict=True)
    ]
    settings = {"max_grad_norm": 0.0, "lr_scheduler_type": "constant", "save_strategy": "no", "report_to": "none"}
    with tempfile.TemporaryDirectory() as place:
        arguments = transformers.TrainingArguments(
            place, num_train_epochs=1, per_device_train_batch_size=BATCH, use_cpu=True, disable_tqdm=True, **settings
        )
        trainer = InOrder(model=TrainerModel(model), args=arguments, train_dataset=items, optimizers=(sgd(model), None))
        trainer.train()
    return largest(wanted(False)[0], model.state_dict(), False)  # the log rounds losses


@way("Accelerate", "`Accelerator.prepare`, single precision")
def _() -> float:
    import accelerate

    accelerator = accelerate.Accelerator(cpu=True)
    model, losses = compiled(False), []
    items = [(x, y) for images, labels in batches() for x, y in zip(images.float(), labels, strict=True)]
    run, optimizer, loader = accelerator.prepare(model, sgd(model), torch.utils.data.DataLoader(items, BATCH))
    for x, y in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(run(x)["digit"], y)
        accelerator.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    return largest(losses, model.state_dict(), False)


# -- training in two processes ----------------------------------------------------------------------------------------


@cache
def two_processes(*names: str) -> dict[str, float]:
    """The differences of ways that `benchmarks/embedding_processes.py` runs."""
    with tempfile.TemporaryDirectory() as place:
        torch.save({(True, parts): wanted(True, parts) for parts in (1, PARTS)}, f"{place}/wanted.pt")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        command += ["-m", "benchmarks.embedding_processes", place, *names]
        places = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        subprocess.run(command, check=True, env=environment, cwd=ROOT)
        found: dict[str, float] = json.loads(Path(place, "found.json").read_text("utf-8"))
        return found


EAGER = ("DDP", "FSDP2", "pipeline, GPipe", "pipeline, 1F1B")
SYNCHRONIZED = "two processes on gloo, BatchNorm synchronized"
for _name, _what in {
    "DDP": SYNCHRONIZED,
    "DDP(torch.compile)": f"{SYNCHRONIZED}, `torch.compile` inside",
    "torch.compile(DDP)": f"{SYNCHRONIZED}, `torch.compile` outside",
    "FSDP2": f"{SYNCHRONIZED}, `shard_plan` and `materialise`",
    "pipeline, GPipe": "two processes, `split_pipeline`, 4 small batches a step",
    "pipeline, 1F1B": "two processes, `split_pipeline`, 4 small batches a step",
}.items():
    # What needs no compiler runs in one group of processes.
    way(_name, _what)(lambda name=_name: two_processes(*((name,) if "compile" in name else EAGER))[name])  # type: ignore[misc]


# -- copies, files and other runtimes ---------------------------------------------------------------------------------


@cache
def trained() -> tuple[graphmodel.CompiledModel, nn.Module]:
    """A model after training, in single precision, and the network by hand with the same weights; both in eval mode."""
    model, network = compiled(False), by_hand(False)
    train(model, model)
    network.load_state_dict(library_names(model.state_dict()))
    return model.eval(), network.eval()


def output(run: Callable[[torch.Tensor], Any], network: nn.Module | None = None) -> float:
    """The largest difference between logits, for a batch of 16 images and for one image."""
    images = batches()[0][0].float()
    found = []
    with torch.no_grad():
        for x in (images, images[:1].contiguous()):
            result = run(x)
            expected = (network or trained()[1])(x)
            found.append((result if isinstance(result, torch.Tensor) else result["digit"]) - expected)
    return float(max(f.abs().max() for f in found))


@way("deepcopy, pickle and torch.save", "all three", "outputs")
def _() -> float:
    model, _ = trained()
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    made = (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False))
    return max(output(each) for each in made)


def in_child(module: nn.Module, images: torch.Tensor, queue: Any) -> None:
    """Runs a module in another process."""
    torch.set_num_threads(1)
    with torch.no_grad():
        queue.put(module(images)["digit"].numpy())


@way("multiprocessing", "the module is sent to a process that `spawn` started", "outputs")
def _() -> float:
    context = multiprocessing.get_context("spawn")

    def run(images: torch.Tensor) -> torch.Tensor:
        queue = context.Queue()
        child = context.Process(target=in_child, args=(trained()[0], images, queue))
        child.start()
        found = torch.from_numpy(queue.get(timeout=600))
        child.join()
        return found

    return output(run)


@way("graphmodel.save and load", "the directory is loaded again", "outputs")
def _() -> float:
    with tempfile.TemporaryDirectory() as place:
        graphmodel.save(trained()[0], f"{place}/model")
        return output(graphmodel.load(f"{place}/model").eval())


@way("AveragedModel", "the mean of the weights before and after training, by both networks", "outputs")
def _() -> float:
    from torch.optim.swa_utils import AveragedModel

    found = []
    for start, end in zip((compiled(False), by_hand(False)), trained(), strict=True):
        averaged = AveragedModel(start)
        averaged.update_parameters(start)
        averaged.update_parameters(end)
        found.append(averaged.eval())
    return output(found[0], found[1])


@way("torchao, int8", "`Int8WeightOnlyConfig` on both networks", "outputs")
def _() -> float:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    both = [copy.deepcopy(each) for each in trained()]
    for each in both:
        quantize_(each, Int8WeightOnlyConfig())
    return output(both[0], both[1])


@way("LoRA", "peft's adapters on convolutions of `layer4` of both networks, trained for 4 steps", "losses and outputs")
def _() -> float:
    import peft

    losses, made = [], []
    for each, prefix in zip(trained(), ("trunk.", ""), strict=True):
        names = [f"{prefix}layer4.{i}.conv{j}" for i in (0, 1) for j in (1, 2)]
        torch.manual_seed(0)
        adapted = peft.inject_adapter_in_model(peft.LoraConfig(target_modules=names), copy.deepcopy(each))
        losses.append(train(adapted, adapted))
        made.append(adapted.eval())
    return max(output(made[0], made[1]), *(abs(a - b) for a, b in zip(*losses, strict=True)))


@way("optimize_for_inference", "BatchNorm folded into convolutions", "outputs")
def _() -> float:
    return output(graphmodel.optimize_for_inference(trained()[0], memory_format="contiguous"))


@way("torch.fx.symbolic_trace", "and `torch.fx.experimental.optimization.fuse`", "outputs")
def _() -> float:
    from torch.fx.experimental.optimization import fuse

    return max(output(torch.fx.symbolic_trace(trained()[0])), output(fuse(trained()[0])))


@way("standalone model.py", "`save(standalone=True)`, run from its own code", "outputs")
def _() -> float:
    with tempfile.TemporaryDirectory() as place:
        graphmodel.save(trained()[0], f"{place}/model", standalone=True)
        spec = importlib.util.spec_from_file_location("standalone_of_benchmark", f"{place}/model/model.py")
        assert spec is not None
        assert spec.loader is not None
        code = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(code)
        return output(code.Model.load(f"{place}/model").eval())


def exported(to: str, **options: Any) -> float:
    """Writes a file, and compares what the format's own runtime makes of it."""
    with tempfile.TemporaryDirectory() as place:
        file = f"{place}/model.{'onnx' if to == 'onnx' else 'pt2'}"
        graphmodel.export(trained()[0], file, to=to, **options)
        if to == "pt2":
            return output(torch.export.load(file).module())
        if to == "aoti":
            return output(torch._inductor.aoti_load_package(file))
        import onnxruntime

        session = onnxruntime.InferenceSession(file)
        return output(lambda x: torch.from_numpy(session.run(["digit"], {"images": x.numpy()})[0]))


way("pt2", "`graphmodel.export`, `torch.export.load`", "outputs")(lambda: exported("pt2"))
way("pt2, folded", "the same with `fold=True`", "outputs")(lambda: exported("pt2", fold=True))
way("onnx", "`graphmodel.export`, onnxruntime", "outputs")(lambda: exported("onnx"))
way("aoti", "`graphmodel.export`, `aoti_load_package`", "outputs")(lambda: exported("aoti"))
