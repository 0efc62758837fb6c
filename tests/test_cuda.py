"""On a GPU: compiled modules equal hand-written ones there, and what depends on the device works.

Every test is skipped without a GPU. float32 is computed without TF32, since references and models may call different
kernels.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphmodel
from tests.reference import PIRL_NAMES, Pirl, Trunk, copy_weights

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

ROOT = Path(__file__).parent.parent
GPU = "cuda"


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = before


def pirl(two_inputs: dict[str, Any], **changes: Any) -> tuple[Any, Pirl]:
    """A compiled model and its hand-written twin with the same weights, both on the GPU."""
    model = graphmodel.compile({**two_inputs, **changes}, seed=0)
    twin = Pirl()
    copy_weights(model, twin, {ours: theirs for theirs, ours in PIRL_NAMES.items()})
    return model.to(GPU), twin.to(GPU)


def batch(size: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(size, 3, 64, 64, device=GPU), torch.randn(9 * size, 3, 32, 32, device=GPU)


def gradients(model: nn.Module, names: dict[str, str]) -> dict[str, torch.Tensor]:
    """The gradients under the names of the compiled model."""
    found = {}
    for name, parameter in model.named_parameters():
        prefix = next((p for p in names if name.startswith(p)), "")
        found[names.get(prefix, "") + name.removeprefix(prefix)] = parameter.grad
    return found


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_outputs_gradients_and_statistics_equal_a_hand_written_module(
    two_inputs: dict[str, Any], training: bool, dtype: torch.dtype | None
) -> None:
    model, twin = pirl(two_inputs)
    inputs = batch()
    with torch.autocast("cuda", dtype or torch.bfloat16, enabled=dtype is not None):
        ours, theirs = model.train(training)(*inputs), twin.train(training)(*inputs)
    assert ours["image"].dtype == theirs[0].dtype
    for mine, other in zip(ours.values(), theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)
    sum(value.float().square().mean() for value in ours.values()).backward()
    sum(value.float().square().mean() for value in theirs).backward()
    expected = gradients(twin, PIRL_NAMES)
    found = dict(model.named_parameters())
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name].grad, gradient, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    buffers = dict(model.named_buffers())
    for name, buffer in twin.trunk.model.named_buffers():
        torch.testing.assert_close(buffers[f"trunk.{name}"], buffer)


def test_one_full_graph_under_inductor_and_under_cuda_graphs(two_inputs: dict[str, Any]) -> None:
    model, _ = pirl(two_inputs)
    model.eval()
    inputs = batch(2)
    expected = model(*inputs)
    for mode in ("default", "reduce-overhead"):
        torch._dynamo.reset()
        fast = torch.compile(model, fullgraph=True, mode=mode)
        with torch.no_grad():
            for _ in range(3):
                found = {name: value.clone() for name, value in fast(*inputs).items()}
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)


def test_a_training_step_is_captured_as_a_cuda_graph(small: dict[str, Any]) -> None:
    model = graphmodel.compile(small, seed=0).to(GPU)
    twin = copy.deepcopy(model)
    x = torch.randn(4, 3, 64, 64, device=GPU)
    graphed = torch.cuda.make_graphed_callables(model, (x,))
    with torch.no_grad():  # the warm-up runs moved the statistics
        for mine, other in zip(graphed.buffers(), twin.buffers(), strict=True):
            other.copy_(mine)
    fresh = torch.randn_like(x)
    found, expected = graphed(fresh), twin(fresh)
    torch.testing.assert_close(found["head"], expected["head"], rtol=1e-4, atol=1e-5)
    found["head"].sum().backward()
    expected["head"].sum().backward()
    for mine, other in zip(graphed.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_channels_last_gives_the_same_numbers(small: dict[str, Any], dtype: torch.dtype) -> None:
    plain = graphmodel.compile(small, seed=0).to(GPU, dtype).eval()
    last = graphmodel.compile({**small, "trunk": {**small["trunk"], "memory_format": "channels_last"}}, seed=0)
    last = last.to(GPU, dtype).eval()
    x = torch.randn(4, 3, 64, 64, device=GPU, dtype=dtype)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 5e-2, "atol": 2e-2}
    torch.testing.assert_close(last(x)["head"], plain(x)["head"], **tolerance)


@pytest.mark.parametrize("freeze", [True, False])
def test_inference_modules_give_the_same_numbers(small: dict[str, Any], freeze: bool) -> None:
    model = graphmodel.compile({**small, "trunk": {**small["trunk"], "freeze": freeze}}, seed=0).to(GPU).eval()
    x = torch.randn(4, 3, 64, 64, device=GPU)
    fast = graphmodel.optimize_for_inference(model, x)
    assert not any(name.endswith("running_var") for name in fast.state_dict())
    torch.testing.assert_close(fast(x)["head"], model(x)["head"], rtol=1e-3, atol=1e-5)
    half = copy.deepcopy(model).half()
    torch.testing.assert_close(
        graphmodel.optimize_for_inference(half, x.half())(x.half())["head"],
        half(x.half())["head"],
        rtol=5e-2,
        atol=5e-3,
    )


def test_many_heads_and_their_losses_equal_a_loop(small: dict[str, Any]) -> None:
    heads = {f"h{i}": {"mlp": {"dims": ["auto", 10]}} for i in range(20)}
    spec = {**small, "heads": heads, "mapping": {"images": {"flatten": list(heads)}}}
    fused = graphmodel.compile(spec, seed=0, passes=["fuse_heads"]).to(GPU)
    loop = graphmodel.compile(spec, seed=0, passes=()).to(GPU)
    x, y = torch.randn(8, 3, 64, 64, device=GPU), torch.randint(10, (8,), device=GPU)
    together = graphmodel.fused_cross_entropy(fused(x), y)
    alone = {name: F.cross_entropy(value, y) for name, value in loop(x).items()}
    for name, loss in alone.items():
        torch.testing.assert_close(together[name], loss, rtol=1e-5, atol=1e-5)
    sum(together.values()).backward()
    sum(alone.values()).backward()
    for (name, mine), other in zip(fused.named_parameters(), loop.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_small_inputs_are_joined(small: dict[str, Any]) -> None:
    spec = {
        **small,
        "inputs": {f"x{i}": [3, 32, 32] for i in range(4)},
        "trunk": {"name": "timm:convnext_atto"},
        "mapping": {f"x{i}": {"flatten": {"head": "head", "as": f"y{i}"}} for i in range(4)},
    }
    joined = graphmodel.compile(spec, seed=0, passes=["batch_inputs"]).to(GPU)
    apart = graphmodel.compile(spec, seed=0, passes=()).to(GPU)
    inputs = [torch.randn(2, 3, 32, 32, device=GPU) for _ in range(4)]
    for name, value in apart(*inputs).items():
        torch.testing.assert_close(joined(*inputs)[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("trunk", "size", "batch_size"),
    [("timm:resnet50", 224, 32), ("timm:vit_small_patch16_224", 224, 32), ("timm:convnext_tiny", 224, 32)],
)
def test_the_peak_within_a_budget_is_as_predicted(trunk: str, size: int, batch_size: int) -> None:
    """The caching allocator's peak also holds workspaces of cuDNN and rounding; the prediction counts tensors."""
    spec = {
        "inputs": {"images": [3, size, size]},
        "trunk": {"name": trunk},
        "heads": {"head": {"mlp": {"dims": ["auto", 10]}}},
    }
    before = 0
    for share in (None, 0.75):
        budget = f"{int(before * share) >> 20}MiB" if share else ""
        checkpoint: Any = {"memory_budget": budget, "batch": batch_size} if share else 0
        model = graphmodel.compile({**spec, "checkpoint": checkpoint}, seed=0)
        predicted = graphmodel.profile(model, batch=batch_size).peak
        torch.cuda.synchronize()
        start = torch.cuda.memory_allocated()
        model.to(GPU)
        x = torch.randn(batch_size, 3, size, size, device=GPU)
        torch.cuda.reset_peak_memory_stats()
        model(x)["head"].sum().backward()
        measured = torch.cuda.max_memory_allocated() - start
        print(f"{trunk} checkpoint={checkpoint}: predicted {predicted:,}, measured {measured:,}")
        before = measured
        assert measured == pytest.approx(predicted, rel=0.1)


def test_norms_synchronise_and_frozen_ones_stay_frozen(small: dict[str, Any]) -> None:
    freeze = ["trunk.layer1*", "trunk.bn1"]
    model = graphmodel.compile({**small, "freeze": freeze}, seed=0).to(GPU)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29517")
    torch.distributed.init_process_group("nccl", rank=0, world_size=1)
    try:
        converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model)).train()
        x = torch.randn(8, 3, 64, 64, device=GPU)
        found, expected = converted(x), model.train()(x)
        torch.testing.assert_close(found["head"], expected["head"], rtol=1e-3, atol=1e-4)
        ours, theirs = dict(converted.named_buffers()), dict(model.named_buffers())
        for name, buffer in theirs.items():
            torch.testing.assert_close(ours[name], buffer, rtol=1e-3, atol=1e-4)
        assert torch.equal(ours["trunk.bn1.running_mean"], torch.zeros_like(ours["trunk.bn1.running_mean"]))
        wrapped = nn.parallel.DistributedDataParallel(converted, device_ids=[0])
        wrapped(x)["head"].sum().backward()
    finally:
        torch.distributed.destroy_process_group()


def test_a_sharded_build_on_the_gpu_has_the_numbers_of_a_plain_one(small: dict[str, Any]) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29518")
    torch.distributed.init_process_group("nccl", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cuda", (1,))
        model = graphmodel.compile(small, device="meta", seed=0)
        for stage in graphmodel.shard_plan(model):
            fully_shard(stage, mesh=mesh)
        fully_shard(model, mesh=mesh)
        graphmodel.materialise(model, mesh=mesh)
        plain = graphmodel.compile(small, seed=0)
        for (name, mine), other in zip(model.named_parameters(), plain.parameters(), strict=True):
            assert mine.device.type == "cuda", name
            torch.testing.assert_close(mine.full_tensor().cpu(), other)
        x = torch.randn(4, 3, 64, 64)
        torch.testing.assert_close(model(x.to(GPU))["head"].cpu(), plain(x)["head"], rtol=1e-3, atol=1e-4)
    finally:
        torch.distributed.destroy_process_group()


def test_artifacts_load_onto_the_gpu_and_leave_it(small: dict[str, Any], tmp_path: Path) -> None:
    model = graphmodel.compile(small, seed=0).to(GPU).eval()
    graphmodel.save(model, tmp_path / "model")
    x = torch.randn(2, 3, 64, 64, device=GPU)
    loaded = graphmodel.load(tmp_path / "model", device=GPU).eval()
    torch.testing.assert_close(loaded(x)["head"], model(x)["head"], rtol=0, atol=0)
    on_cpu = graphmodel.load(tmp_path / "model").eval()
    assert next(on_cpu.parameters()).device.type == "cpu"


@pytest.mark.parametrize("to", ["pt2", "aoti"])
def test_exports_run_on_the_gpu(small: dict[str, Any], tmp_path: Path, to: str) -> None:
    model = graphmodel.compile(small, seed=0).to(GPU).eval()
    file = tmp_path / ("model.pt2")
    graphmodel.export(model, file, to=to)
    x = torch.randn(3, 3, 64, 64, device=GPU)
    load = {
        "pt2": lambda: torch.export.load(file).module(),
        "aoti": lambda: torch._inductor.aoti_load_package(str(file)),
    }
    loaded = load[to]()
    torch.testing.assert_close(loaded(x)["head"], model(x)["head"], rtol=1e-3, atol=1e-4)


def test_teachers_follow_and_groups_train_in_one_kernel(small: dict[str, Any]) -> None:
    spec = {**small, "trunks": {"student": small["trunk"], "teacher": {"copy": "student"}}}
    del spec["trunk"]
    spec["mapping"] = [
        {"from": "images.student.flatten", "head": "head", "as": "s"},
        {"from": "images.teacher.flatten", "as": "t"},
    ]
    model = graphmodel.compile(spec, seed=0).to(GPU)
    optimizer = torch.optim.AdamW(graphmodel.param_groups(model, lr=1e-3, weight_decay=0.05), fused=True)
    model(torch.randn(4, 3, 64, 64, device=GPU))["s"].sum().backward()
    before = {n: p.clone() for n, p in model.trunks.teacher.named_parameters()}
    optimizer.step()
    graphmodel.update_teacher(model, 0.9)
    student = dict(model.trunks.student.named_parameters())
    for name, parameter in model.trunks.teacher.named_parameters():
        torch.testing.assert_close(parameter, 0.9 * before[name] + 0.1 * student[name])


def test_profile_measures_on_the_gpu(small: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(small))
    run = subprocess.run(
        [sys.executable, "-m", "graphmodel", "profile", "spec.json", "--measure", "--device", "cuda", "--format", "json"],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "cuda" in run.stdout.lower() or "NVIDIA" in run.stdout


def test_a_plain_trunk_equals_the_library_on_other_sizes(small: dict[str, Any]) -> None:
    mapping = [{"from": f"images.{name}", "as": name} for name in ("conv1", "res2", "res3", "res4", "res5", "flatten")]
    spec = {"inputs": small["inputs"], "trunk": small["trunk"], "mapping": mapping}
    model = graphmodel.compile(spec, seed=0).to(GPU).eval()
    twin = Trunk().to(GPU).eval()
    copy_weights(model, twin, {"trunk.": "model."})
    for size in (64, 96, 65):
        x = torch.randn(2, 3, size, size, device=GPU)
        ours, theirs = model(x), twin(x)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
