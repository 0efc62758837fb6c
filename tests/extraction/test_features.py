"""`FeatureDataset`: a DataLoader's samples, batches, tensors in memory."""

from __future__ import annotations

import pickle
import shutil

import pytest
import torch
from torch.utils.data import DataLoader

from graphmodel import CompileError, FeatureDataset, extract
from tests.extraction.helpers import data, expected, model

pytest.importorskip("zarr")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    out = tmp_path_factory.mktemp("features") / "out"
    extract(model(), data(11), out, rows=4, batch_size=4)
    return out


@pytest.fixture(scope="module")
def reference():
    return expected(model(), data(11).tensors[0])


def test_sample_and_negative_index(place, reference):
    stored = FeatureDataset(place)
    assert len(stored) == 11
    values, label = stored[-1]
    assert label == 100
    torch.testing.assert_close(values["res2"], reference["res2"][10])
    with pytest.raises(IndexError):
        stored[11]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_data_loader(place, reference, workers):
    loader = DataLoader(FeatureDataset(place, ["flatten"]), batch_size=4, shuffle=True, num_workers=workers)
    seen = []
    for values, labels in loader:
        assert list(values) == ["flatten"]
        torch.testing.assert_close(values["flatten"], reference["flatten"][labels // 10])
        seen += labels.tolist()
    assert sorted(seen) == [i * 10 for i in range(11)]


def test_masks_and_no_samples(place, reference):
    """A mask chooses samples (as numbers it would be zeros and ones); numbers are whole."""
    with pytest.raises(CompileError, match="GM503"):
        FeatureDataset(place, "flatten")
    stored = FeatureDataset(place, ["flatten"])
    values, labels = stored.take(torch.arange(11) > 8)
    assert labels.tolist() == [90, 100]
    torch.testing.assert_close(values["flatten"], reference["flatten"][9:])
    for empty in ([], torch.arange(11) > 20):
        values, labels = stored.take(empty)
        assert (values["flatten"].shape, len(labels)) == ((0, 512), 0)
    assert stored.__getitems__([]) == []
    with pytest.raises(IndexError, match="a mask of"):
        stored.take([True, False])
    for wrong in (1.5, slice(0, 2)):
        with pytest.raises(TypeError):
            stored[wrong]
    with pytest.raises(TypeError, match="whole numbers"):
        stored.take([1.5])
    with pytest.raises(ValueError, match="batch_size is -1"):
        next(stored.batches(-1))


@pytest.mark.parametrize("compression", [None, pytest.param("zstd", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("array", "change", "text"),
    [
        ("features/flatten", "delete", "rows 4 to 7 of `features/flatten` are gone"),
        ("samples/status", "delete", "rows 4 to 7 of `samples/status` are gone"),
        ("features/flatten", "cut", "`features/flatten` cannot be read"),
        ("features/flatten", "empty", "rows 4 to 7 of `features/flatten` are gone"),
    ],
)
def test_lost_files_are_an_error(place, tmp_path, compression, array, change, text):
    """zarr takes a missing file for rows of the fill value: not numbers, or zeros."""
    out = tmp_path / "out"
    if compression is None:
        shutil.copytree(place, out)
    else:
        extract(model(), data(11), out, rows=4, compression=compression)
    file = next(
        f for f in (out / array / "c/1").parent.rglob("*") if f.is_file() and f.relative_to(out / array).parts[1] == "1"
    )
    content = file.read_bytes()
    file.unlink()
    if change != "delete":
        file.write_bytes(content[: len(content) // 2] if change == "cut" else b"")
    with pytest.raises(CompileError, match=text) as error:
        FeatureDataset(out).tensors()
    assert [d.code for d in error.value.diagnostics] == ["GM608"]


def test_batches(place, reference):
    stored = FeatureDataset(place)
    batches = list(stored.batches(4, shuffle=True, generator=torch.Generator().manual_seed(0)))
    assert [len(labels) for _, labels in batches] == [4, 4, 3]
    for values, labels in batches:
        torch.testing.assert_close(values["res2"], reference["res2"][labels // 10])
    again = list(stored.batches(4, shuffle=True, generator=torch.Generator().manual_seed(0), drop_last=True))
    assert [labels.tolist() for _, labels in again] == [labels.tolist() for _, labels in batches[:2]]


def test_copy_that_was_pickled(place, reference):
    stored = FeatureDataset(place)
    stored.take([0])
    values, _ = pickle.loads(pickle.dumps(stored)).tensors()
    torch.testing.assert_close(values["flatten"], reference["flatten"])


def test_mapped_rows_are_zarrs_rows(place):
    import zarr

    stored = FeatureDataset(place)
    rows = torch.tensor([9, 0, 3, 3, 10, 4])
    array = zarr.open_group(place, mode="r")["features/res2"]
    assert torch.equal(stored.take(rows)[0]["res2"], torch.from_numpy(array[:])[rows])


def test_unknown_output_and_missing_store(place, tmp_path):
    with pytest.raises(CompileError, match="did you mean `flatten`"):
        FeatureDataset(place, ["flattn"])
    with pytest.raises(CompileError, match="GM608"):
        FeatureDataset(tmp_path / "nowhere")
