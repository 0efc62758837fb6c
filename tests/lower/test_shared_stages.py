"""A shared stage that was changed after the compilation is refused, and harmless changes are not."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

import graphmodel
from graphmodel.diagnostics.input_error import InputError
from graphmodel.passes.per_sample import registered
from tests.passes.test_batch_inputs import Across, batches, spec, trunk


@cache
def _model() -> Any:
    layers = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()), nn.Sequential(nn.Conv2d(4, 4, 1), nn.Dropout(0.0))
    changes = {"freeze": ["trunk.s0"], "optimize": {"batch_inputs": True}}
    model = graphmodel.compile(spec(**changes), seed=0, trunks={"trunk": trunk(*layers)})
    assert "2 passes through `trunk` -> 1" in model.optimized_graph.summary[0]
    return model


def model() -> Any:
    return copy.deepcopy(_model())


def train_the_norm(made: Any) -> None:
    made.trunk.s0[0].training = True


def train_everything_frozen(made: Any) -> None:
    for module in made.modules():
        nn.Module.train(module)


def replace_a_module(made: Any) -> None:
    made.trunk.s0[1] = nn.BatchNorm2d(4).eval()


def replace_a_stage(made: Any) -> None:
    made.trunk.s1 = Across("mean")


def add_a_module(made: Any) -> None:
    made.trunk.s1.append(nn.BatchNorm2d(4))


def drop_samples(made: Any) -> None:
    made.trunk.s1[1].p = 0.5


CHANGES: dict[Callable[[Any], None], str] = {
    train_the_norm: r"`trunk\.s0\.0` is frozen and in training mode",
    train_everything_frozen: r"`trunk\.s0` is frozen and in training mode",
    replace_a_module: r"`trunk\.s0\.1` is a `BatchNorm2d` and was a `ReLU`",
    replace_a_stage: r"`trunk\.s1` is a `Across` and was a `Sequential`",
    add_a_module: r"`trunk\.s1\.2` is a `BatchNorm2d` and did not exist",
    drop_samples: r"`trunk\.s1\.1\.p` is 0\.5 and was 0\.0",
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("made", [model, lambda: pickle.loads(pickle.dumps(model()))], ids=["copy", "pickle"])
def test_a_stage_that_may_mix_the_batch_now_is_refused(change: Callable[[Any], None], made: Callable[[], Any]) -> None:
    changed = made()
    change(changed)
    with pytest.raises(InputError, match=CHANGES[change]) as found:
        changed(*batches(2, 3))
    assert [d.code for d in found.value.diagnostics] == ["GM412"]


def test_a_change_that_is_undone_is_accepted_again() -> None:
    made, inputs = model().eval(), batches(2, 3)
    expected = made(*inputs)
    train_the_norm(made)
    with pytest.raises(InputError):
        made(*inputs)
    made.trunk.s0[0].training = False
    torch.testing.assert_close(made(*inputs), expected)


class Lora(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 1


def test_a_registered_type_may_take_the_place_of_another() -> None:
    made = model()
    made.trunk.s1[0] = Lora(4, 4, 1)
    with pytest.raises(InputError, match="register_per_sample"):
        made(*batches(2, 3))
    graphmodel.register_per_sample(Lora)
    try:
        a, b = batches(2, 3)
        torch.testing.assert_close(made(a, b)["a_flatten"], made(a, b[:1])["a_flatten"])
    finally:
        del registered[Lora]


def test_parametrizations_and_converted_norms_are_accepted() -> None:
    made, inputs = model().eval(), batches(2, 3)
    expected = made(*inputs)
    nn.utils.parametrizations.weight_norm(made.trunk.s1[0])
    made = nn.SyncBatchNorm.convert_sync_batchnorm(made)
    assert type(made.trunk.s0[0]) is nn.SyncBatchNorm
    torch.testing.assert_close(made(*inputs), expected)
    made.trunk.s0[0].training = True
    with pytest.raises(InputError, match=r"`trunk\.s0\.0` is frozen and in training mode"):
        made(*inputs)


def test_a_slice_of_a_changed_model_knows_what_was_compiled() -> None:
    made = model()
    replace_a_module(made)
    made.slice(inputs=["a"])(batches(2)[0])  # nothing is shared
    with pytest.raises(InputError, match="BatchNorm2d"):
        made.slice()(*batches(2, 3))


def test_the_check_has_no_state_and_is_copied_by_tracing() -> None:
    made = model()
    assert not [name for name in made.state_dict() if name.startswith("shared_stages")]
    assert "self.shared_stages(trunk_stages)\n" in made.code
    without = graphmodel.compile(spec(optimize=False), seed=0, trunks={"trunk": trunk(nn.ReLU())})
    assert not hasattr(without, "shared_stages")


@pytest.mark.slow
def test_a_change_after_torch_compile_is_noticed() -> None:
    made, inputs = model().eval(), batches(2, 3)
    compiled = torch.compile(made, fullgraph=True, backend="eager")
    expected = compiled(*inputs)
    train_the_norm(made)
    with pytest.raises(Exception, match="Observed exception"):
        compiled(*inputs)
    made.trunk.s0[0].training = False
    torch.testing.assert_close(compiled(*inputs), expected)
    replace_a_module(made)
    with pytest.raises(Exception, match="Observed exception"):
        compiled(*inputs)
