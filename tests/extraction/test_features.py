"""`FeatureDataset`: a DataLoader's samples, batches, tensors in memory."""

from __future__ import annotations

import pickle

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
