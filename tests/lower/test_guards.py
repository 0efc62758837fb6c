"""What a compiled module is called with is checked: one clear error, never a silently different result."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from torch import nn

import graphmodel
from graphmodel.lower.guards import InputError, check_input, check_samples, check_views
from tests.effort import steps

SPEC = {
    "inputs": {
        "images": [3, 64, 64],
        "crops": {"views": [{"count": 2, "shape": [3, 64, 64]}, {"count": 3, "shape": [3, 32, 32]}]},
    },
    "trunk": {"name": "resnet", "depth": 18, "width_multiplier": 0.25},
    "mapping": {"images": {"flatten": {"as": "images"}}, "crops": {"flatten": {"as": "crops"}}},
}
VIT = {"inputs": {"images": [3, 32, 32]}, "trunk": {"name": "timm:vit_tiny_patch16_224", "img_size": 32}}


@pytest.fixture(scope="module")
def model() -> Any:
    return graphmodel.compile(SPEC, seed=0).eval()


def images(*size: int) -> torch.Tensor:
    return torch.randn(2, 3, *size)


def crops(large: int = 64, small: int = 32) -> list[torch.Tensor]:
    return [images(s, s) for s in (large, large, small, small, small)]


def test_each_input_is_checked_in_one_readable_line(model: Any) -> None:
    lines = [line.strip() for line in model.code.splitlines() if "check_" in line]
    assert lines == [
        "graphmodel_lower_guards_check_input(images, 'images', (3, None, None))",
        "graphmodel_lower_guards_check_views(crops, 'crops', (((0, 1), (3, None, None)), ((2, 3, 4), (3, None, None))))",
    ]


def test_plain_networks_take_every_size(model: Any) -> None:
    views = [{"count": 2, "shape": [3, 80, 70]}, {"count": 3, "shape": [3, 48, 50]}]
    inputs = {"images": [3, 96, 50], "crops": {"views": views}}
    other = graphmodel.compile({**SPEC, "inputs": inputs}, seed=0).eval()
    batch = images(96, 50), [images(80, 70)] * 2 + [images(48, 50)] * 3
    found, expected = model(*batch), other(*batch)
    assert all(torch.equal(found[name], expected[name]) for name in ("images", "crops"))


WRONG = {
    "a list for a tensor": (lambda: ([images(64, 64)], crops()), "GM540", "`images` is of type list .* takes a tensor"),
    "no tensor": (lambda: (None, crops()), "GM540", "NoneType"),
    "a tensor for views": (lambda: (images(64, 64), images(64, 64)), "GM540", "takes a list of 5 tensors"),
    "too many views": (lambda: (images(64, 64), [*crops(), images(32, 32)]), "GM540", "6 views .* takes 5"),
    "too few views": (lambda: (images(64, 64), crops()[:4]), "GM540", "4 views .* takes 5"),
    "a view that is no tensor": (lambda: (images(64, 64), [*crops()[:4], 3]), "GM540", "view 4 .* is of type int"),
    "channels": (lambda: (torch.randn(2, 1, 64, 64), crops()), "GM541", "2×1×64×64 .* takes N×3×H×W"),
    "channels last": (lambda: (torch.randn(2, 64, 64, 3), crops()), "GM541", "2×64×64×3"),
    "no batch": (lambda: (torch.randn(3, 64, 64), crops()), "GM541", "3×64×64 .*\n.*first dimension is the batch"),
    "sizes in a group": (lambda: (images(64, 64), crops()[::-1]), "GM541", "view 3.*64×64 and view 2.*32×32"),
    "channels of a view": (lambda: (images(64, 64), [*crops()[:4], torch.randn(2, 4, 32, 32)]), "GM541", "view 4"),
    "bytes": (lambda: (images(64, 64).byte(), crops()), "GM542", "uint8 .* floating-point"),
    "bytes of a view": (lambda: (images(64, 64), [*crops()[:4], images(32, 32).byte()]), "GM542", "view 4"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_input_is_one_diagnostic(model: Any, case: str) -> None:
    make, code, words = WRONG[case]
    with pytest.raises(InputError, match=f"(?s){words}") as caught:
        model(*make())
    (finding,) = caught.value.diagnostics
    assert finding.code == code
    assert isinstance(caught.value, graphmodel.CompileError)


def test_views_of_one_group_share_their_size_wherever_they_are() -> None:
    views = [{"shape": [3, s, s]} for s in (64, 32, 64, 32)]
    model = graphmodel.compile({"inputs": {"crops": {"views": views}}, "trunk": SPEC["trunk"]}).eval()
    assert model([images(s, s) for s in (40, 33, 40, 33)])["features"].shape == (8, 128)
    with pytest.raises(InputError, match=r"view 2.*33×33 and view 0.*40×40"):
        model([images(s, s) for s in (40, 33, 33, 40)])


def test_the_error_for_another_size_says_how_to_compile_for_it() -> None:
    model = graphmodel.compile(VIT).eval()
    with pytest.raises(InputError) as caught:
        model(images(32, 64))
    text = str(caught.value)
    assert "2×3×32×64" in text
    assert "N×3×32×32" in text
    assert "--input images=3x32x64" in text
    assert "inputs: {images: {shape: [3, 32, 64]}}" in text


def test_a_vector_is_no_image() -> None:
    table = graphmodel.compile(
        {
            "inputs": {"table": [7]},
            "heads": {"h": {"linear": {"out_features": 2}}},
            "mapping": [{"from": "table", "head": "h"}],
        }
    )
    with pytest.raises(InputError, match="N×7") as caught:
        table(torch.zeros(2, 8))
    assert "image" not in str(caught.value)
    assert "`--input table=8`" in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_converted_model_takes_its_dtype(dtype: torch.dtype) -> None:
    model = graphmodel.compile(VIT).eval().to(dtype)
    assert model(images(32, 32).to(dtype))["features"].dtype == dtype
    assert graphmodel.compile(VIT, device="meta")(torch.empty(2, 3, 32, 32, device="meta"))["features"].is_meta


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_another_dtype_than_that_of_the_weights_is_one_diagnostic(model: Any, dtype: torch.dtype) -> None:
    with pytest.raises(InputError, match=f"(?s)GM542.*`images` is {dtype} and the weights are torch.float32.*"):
        model(images(64, 64).to(dtype), crops())
    with pytest.raises(InputError, match=f"`crops` is {dtype} and the weights"):
        model(images(64, 64), [x.to(dtype) for x in crops()])


def test_other_errors_of_a_call_stay_as_they_are() -> None:
    class Raises(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not x.is_meta:
                raise RuntimeError("this dtype is about something else")
            return self.layer(x)

    spec = {"inputs": {"images": [3, 32, 32]}, "trunk": "given", "mapping": {"images": {"output": {"as": "out"}}}}
    model = graphmodel.compile(spec, trunks={"trunk": Raises()})
    with pytest.raises(RuntimeError, match="something else") as caught:
        model(images(32, 32))
    assert not isinstance(caught.value, graphmodel.CompileError)


class Affine(nn.Module):
    """A trunk of one layer, with one number for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


TABLES = {"inputs": {name: {"shape": [3]} for name in ("a", "b", "c")}, "trunk": "given"}


def joined(*sources: Any, combine: str = "sum", **rest: Any) -> Any:
    mapping = [{"from": [f"{s}.output" for s in sources], "combine": combine, "as": "both"}]
    mapping += [{"from": f"{name}.output", "as": name} for name in TABLES["inputs"]]
    return graphmodel.compile({**TABLES, "mapping": mapping, **rest}, trunks={"trunk": Affine()})


def tables(*sizes: int) -> list[torch.Tensor]:
    return [torch.randn(size, 3) for size in sizes]


@pytest.mark.parametrize("optimize", [True, False, {"batch_inputs": True}])
@pytest.mark.parametrize("combine", ["sum", "concat", "stack"])
def test_joined_inputs_have_one_batch_size(combine: str, optimize: Any) -> None:
    model = joined("a", "b", combine=combine, optimize=optimize)
    assert model(*tables(4, 4, 2))["both"].shape[0] == 4
    for sizes in ((2, 3, 2), (1, 3, 1)):  # a sum would repeat a batch of one
        with pytest.raises(
            InputError, match=r"GM541.*`a` has batch size .* and the input `b` has 3: the output `both`"
        ):
            model(*tables(*sizes))
    part = model.slice(outputs=["a", "b"])
    assert part(*tables(2, 3))["b"].shape == (3, 4)  # what joined them is not there


def test_inputs_of_outputs_that_are_joined_have_one_batch_size() -> None:
    sources = [{"from": ["both", "c.output"], "combine": "sum", "as": "all"}]
    mapping = [{"from": ["a.output", "b.output"], "combine": "sum", "as": "both"}, *sources]
    model = graphmodel.compile({**TABLES, "mapping": mapping, "outputs": ["all"]}, trunks={"trunk": Affine()})
    assert model(*tables(2, 2, 2))["all"].shape == (2, 4)
    with pytest.raises(InputError, match="`a` has batch size 2 and the input `c` has 1: the output `all`"):
        model(*tables(2, 2, 1))


class Masked(nn.Module):
    """A trunk whose own code takes a mask for each sample, or one for all."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.layer(torch.where(mask, x, 0.0))


def test_a_trunk_of_several_inputs_decides_itself_what_it_joins() -> None:
    names = {name: {"shape": [3], "with": ["mask"]} for name in "ab"}
    inputs = {**names, "mask": {"shape": [3], "dtype": "bool"}}
    mapping: list[Any] = [{"from": f"{name}.output", "as": name} for name in "ab"]
    mapping += [{"from": ["a", "b"], "combine": "sum", "as": "both"}]
    spec = {"inputs": inputs, "trunk": "given", "mapping": mapping}
    net = Masked()
    model = graphmodel.compile(spec, trunks={"trunk": net})
    a, b, mask = *tables(3, 3), torch.tensor([[True, False, True]])
    assert torch.equal(model(a, b, mask)["both"], net(a, mask) + net(b, mask))
    with pytest.raises(InputError, match="`a` has batch size 1 and the input `b` has 3"):
        model(a[:1], b, mask)


def test_views_that_are_joined_have_one_batch_size_each() -> None:
    views = {"views": [{"count": 2, "shape": [3]}]}
    spec = {"inputs": {"a": views, "b": views}, "trunk": "given"}
    mapping = [{"from": ["a.output", "b.output"], "combine": "sum", "as": "both"}]
    model = graphmodel.compile({**spec, "mapping": mapping}, trunks={"trunk": Affine()})
    assert model(tables(2, 3), tables(2, 3))["both"].shape == (5, 4)
    with pytest.raises(InputError, match="view 0 of the input `a` has batch size 2 and view 0 of the input `b` has 3"):
        model(tables(2, 3), tables(3, 2))  # as many rows, of other samples


def test_the_check_of_joined_inputs_survives_compilers() -> None:
    torch._dynamo.reset()
    model = joined("a", "b").eval()
    counter = torch._dynamo.testing.CompileCounter()
    fast = torch.compile(model, fullgraph=True, backend=counter)
    for size in (2, 3, 5):
        batch = tables(size, size, 7)
        for tensor in batch:
            torch._dynamo.mark_dynamic(tensor, 0)
        assert torch.equal(fast(*batch)["both"], model(*batch)["both"])
    assert counter.frame_count == 1
    with pytest.raises(Exception, match="`a` has batch size 1 and the input `b` has 3"):
        fast(*tables(1, 3, 3))
    batch, other = torch.export.Dim("batch", min=2), torch.export.Dim("other", min=2)
    exported = torch.export.export(model, tuple(tables(3, 3, 4)), dynamic_shapes=({0: batch}, {0: batch}, {0: other}))
    five = tables(5, 5, 6)
    assert torch.equal(exported.module()(*five)["both"], model(*five)["both"])
    traced = torch.fx.symbolic_trace(model)
    assert torch.equal(traced(*five)["both"], model(*five)["both"])
    with pytest.raises(InputError, match="GM541"):
        traced(*tables(1, 3, 3))


class Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.table(x)


def test_declared_integers_are_exact() -> None:
    spec = {
        "inputs": {"tokens": {"shape": [7], "dtype": "int64"}},
        "trunk": "given",
        "mapping": {"tokens": {"output": {"as": "out"}}},
    }
    model = graphmodel.compile(spec, trunks={"trunk": Embedding()})
    assert model(torch.ones(2, 7, dtype=torch.int64))["out"].shape == (2, 7, 4)
    with pytest.raises(InputError, match=r"torch.float32 .* takes torch.int64"):
        model(torch.ones(2, 7))


def test_copies_and_pickles_keep_the_checks() -> None:
    model = graphmodel.compile(VIT).eval()
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    for twin in (copy.deepcopy(model), torch.load(stream, weights_only=False), model.slice(outputs=["features"])):
        with pytest.raises(InputError, match="GM541"):
            twin(images(32, 64))
        assert torch.equal(twin(x := images(32, 32))["features"], model(x)["features"])


def test_torch_fx_records_the_checks() -> None:
    model = graphmodel.compile(SPEC, seed=0).eval()
    traced = torch.fx.symbolic_trace(model)
    assert [n.target for n in traced.graph.nodes if n.op == "call_function"][:2] == [check_input, check_views]
    traced.graph.eliminate_dead_code()
    traced.recompile()
    x, views = images(64, 64), crops()
    assert torch.equal(traced(x, views)["crops"], model(x, views)["crops"])
    with pytest.raises(InputError, match="GM540"):
        traced(x, views[:3])


@pytest.mark.slow
def test_torch_compile_makes_one_graph_for_all_batch_sizes_and_shows_the_message() -> None:
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    model = graphmodel.compile(SPEC, seed=0).eval()
    fast = torch.compile(model, fullgraph=True, backend=counter)
    for batch in (2, 3, 5):
        x, views = torch.randn(batch, 3, 64, 64), [torch.randn(batch, 3, s, s) for s in (64, 64, 32, 32, 32)]
        for tensor in (x, *views):
            torch._dynamo.mark_dynamic(tensor, 0)
        assert torch.equal(fast(x, views)["crops"], model(x, views)["crops"])
    assert counter.frame_count == 1
    with pytest.raises(Exception, match=r"the input `images` is .* and the model takes N×3×H×W"):
        fast(torch.randn(2, 1, 64, 64), crops())


def test_export_serves_every_batch_size() -> None:
    model = graphmodel.compile(VIT).eval()
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(model, (images(32, 32),), dynamic_shapes=({0: batch},))
    x = torch.randn(5, 3, 32, 32)
    assert torch.allclose(program.module()(x)["features"], model(x)["features"], atol=1e-5)
    with pytest.raises(InputError, match="GM541"):
        torch.export.export(model, (images(64, 64),))


@pytest.mark.slow
def test_onnx_serves_every_batch_size(tmp_path: Any) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model = graphmodel.compile(VIT, returns="tensor").eval()
    file = tmp_path / "model.onnx"
    batch = torch.export.Dim("batch", min=2)
    torch.onnx.export(model, (images(32, 32),), file, dynamo=True, dynamic_shapes=({0: batch},))
    x = torch.randn(5, 3, 32, 32)
    session = runtime.InferenceSession(file)
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert torch.allclose(torch.from_numpy(found), model(x), atol=1e-4)


def test_jit_tracing_does_not_warn() -> None:
    model = graphmodel.compile(VIT, returns="tensor").eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", "Converting a tensor to a Python boolean", torch.jit.TracerWarning)
        traced = torch.jit.trace(lambda x: (check_input(x, "x", (3, None, 32)), x + 1)[1], (images(32, 32),))
    del model
    assert traced(images(32, 32)).shape == (2, 3, 32, 32)


def test_a_check_takes_a_few_steps() -> None:
    """It takes microseconds: nothing in it depends on the size of a tensor."""
    x, views, groups = images(8, 8), crops(8, 4), (((0, 1), (3, None, None)), ((2, 3, 4), (3, None, None)))
    assert steps(lambda: check_input(x, "x", (3, 8, 8)))[0] < 80
    assert steps(lambda: check_views(views, "views", groups))[0] < 300
    assert steps(lambda: check_samples(((x, "x", None), (views, "views", 1)), "out"))[0] < 80
