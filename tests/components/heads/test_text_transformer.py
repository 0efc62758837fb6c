"""`text_transformer` is CLIP's text encoder, with the names of OpenAI's checkpoints."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import graphmodel
from graphmodel import CompileError
from tests.head_helpers import built
from tests.recipes.reference_text import TextEncoder, texts

PARAMS: dict[str, Any] = {"vocab_size": 20, "width": 8, "depth": 2, "num_heads": 2, "out_features": 4}
SPEC: dict[str, Any] = {
    "inputs": {"text": {"shape": [7], "dtype": "int64", "trunk": "none"}},
    "heads": {"words": {"text_transformer": PARAMS}},
    "mapping": [{"from": "text", "head": "words"}],
}


@pytest.fixture
def model() -> graphmodel.CompiledModel:
    return graphmodel.compile(SPEC, seed=0)


@pytest.mark.parametrize("length", [5, 7])
def test_it_is_the_encoder_of_clip(length: int) -> None:
    head = built("text_transformer", context_length=7, **PARAMS).double()
    reference = TextEncoder(20, 7, 8, 2, 2, 4).double()
    with torch.no_grad():  # biases begin at zero and norms at one: a mix-up would not be noticed
        for tensor in head.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
    reference.load_state_dict(head.state_dict())
    ids = texts(6, 7, 20)[:, :length]
    outputs = [module(ids) for module in (head, reference)]
    torch.testing.assert_close(*outputs)
    for output in outputs:
        (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    for name, parameter in reference.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(
            head.get_parameter(name).grad, parameter.grad, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_nothing_after_the_end_of_a_text_counts(model: graphmodel.CompiledModel) -> None:
    ids = texts(3, 7, 20)
    changed = torch.where(ids == 0, 5, ids)
    assert not torch.equal(ids, changed)
    assert torch.equal(model(ids)["words"], model(changed)["words"])
    assert not torch.equal(model(ids)["words"], model(torch.where(ids == 18, 5, ids))["words"])


def test_a_checkpoint_of_openai_fits(model: graphmodel.CompiledModel) -> None:
    """The text encoder's tensors stand at the top of the file, beside those of the image encoder (`visual.`)."""
    block = ("attn.in_proj_weight", "attn.in_proj_bias", "attn.out_proj.weight", "attn.out_proj.bias", "ln_1.weight")
    block += ("ln_1.bias", "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias", "ln_2.weight")
    names = ["positional_embedding", "text_projection", "token_embedding.weight", "ln_final.weight", "ln_final.bias"]
    names += [f"transformer.resblocks.{i}.{name}" for i in range(2) for name in (*block, "ln_2.bias")]
    shapes = {name.removeprefix("heads.words."): tensor.shape for name, tensor in model.state_dict().items()}
    assert shapes.keys() == set(names)
    checkpoint = {name: torch.randn(shapes[name]) for name in names}
    others = {"logit_scale": torch.tensor(4.6), "visual.proj": torch.randn(8, 4)}
    report = graphmodel.load_weights(model, {**checkpoint, **others}, network={"": "heads.words"})
    assert set(report.unexpected) == set(others)
    assert all(tensor.equal(model.state_dict()[f"heads.words.{name}"]) for name, tensor in checkpoint.items())


def test_initial_weights_are_those_of_clip() -> None:
    head = built("text_transformer", context_length=64, vocab_size=100, width=64, depth=2, num_heads=2)
    found = {name: p.std().item() for name, p in head.named_parameters() if p.ndim > 1}
    own = {"token_embedding.weight": 0.02, "positional_embedding": 0.01, "text_projection": 64**-0.5}
    blocks = {"in_proj_weight": 64**-0.5, "out_proj.weight": 1 / 16, "c_fc.weight": 128**-0.5, "c_proj.weight": 1 / 16}
    for name, std in found.items():
        expected = own.get(name) or next(value for end, value in blocks.items() if name.endswith(end))
        assert std == pytest.approx(expected, rel=0.1), name


def test_tracing_exporting_and_compiling_change_nothing(model: graphmodel.CompiledModel) -> None:
    model.eval()
    ids = texts(4, 7, 20)
    expected = model(ids)["words"]
    assert model(ids[:0])["words"].shape == (0, 4)
    assert torch.fx.symbolic_trace(model)(ids)["words"].equal(expected)
    batch = torch.export.Dim("batch", min=2, max=1024)  # torch 2.6 refuses a batch without a bound
    program = torch.export.export(model, (ids,), dynamic_shapes={"text": {0: batch}})
    torch.testing.assert_close(program.module()(ids[:2])["words"], expected[:2])
    assert torch.compile(model, backend="eager", fullgraph=True)(ids)["words"].equal(expected)


@pytest.mark.parametrize(
    ("inputs", "params", "text"),
    [
        ({"shape": [7], "trunk": "none"}, {}, "wants token ids and the feature is N×7 (float32)"),
        ({"shape": [7, 3], "dtype": "int64", "trunk": "none"}, {}, "wants token ids and the feature is N×7×3"),
        (SPEC["inputs"]["text"], {"num_heads": 3}, "has 3 attention heads, which do not divide the width 8"),
        (SPEC["inputs"]["text"], {"context_length": 5}, "has 5 position embeddings and the texts have 7 tokens"),
    ],
)
def test_what_it_cannot_read_is_said(inputs: Any, params: dict[str, Any], text: str) -> None:
    spec = {**SPEC, "inputs": {"text": inputs}, "heads": {"words": {"text_transformer": {**PARAMS, **params}}}}
    with pytest.raises(CompileError) as caught:
        graphmodel.compile(spec, device="meta")
    assert [d.code for d in caught.value.diagnostics] == ["GM304"]
    assert text in str(caught.value)


def test_there_is_an_attention_head_for_every_64_features() -> None:
    spec = {**SPEC, "heads": {"words": {"text_transformer": {"width": 768, "depth": 1}}}}
    model = graphmodel.compile(spec, device="meta")
    assert model.get_submodule("heads.words.transformer.resblocks.0.attn").num_heads == 12
