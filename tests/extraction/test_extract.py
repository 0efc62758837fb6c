"""`graphmodel.extract`: what is stored equals what the bare module computes, however the data comes."""

from __future__ import annotations

import gc
import json
import weakref

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, WeightedRandomSampler
from torchvision import transforms
from torchvision.datasets import ImageFolder

import graphmodel
from graphmodel import CompileError, FeatureDataset, extract
from graphmodel.extraction.filling import Filling
from graphmodel.extraction.fingerprints import digest_of_value
from graphmodel.extraction.layout import CHUNK_BYTES
from tests.extraction.helpers import SPEC, TRUNK, data, expected, model, write_images

zarr = pytest.importorskip("zarr")


@pytest.fixture(scope="module")
def module():
    return model()


def codes(error) -> list[str]:
    return [d.code for d in error.value.diagnostics]


def test_store_holds_every_output_and_label(module, tmp_path):
    samples = data()
    module.train()
    report = extract(module, samples, tmp_path / "out", batch_size=3, rows=4)
    assert module.training
    assert (report.samples, report.extracted, report.found, report.skipped) == (8, 8, 0, 0)
    assert report.outputs == {"res2": [64, 4, 4], "flatten": [512]}
    values, labels = FeatureDataset(tmp_path / "out").tensors()
    for name, value in expected(module, samples.tensors[0]).items():
        torch.testing.assert_close(values[name], value)
    assert torch.equal(labels, samples.tensors[1])


def test_batches_of_equal_size_give_equal_bits(module, tmp_path):
    samples = data()
    extract(module, samples, tmp_path / "out", batch_size=4, rows=4)
    values, _ = FeatureDataset(tmp_path / "out").take([4, 5, 6, 7])
    assert torch.equal(values["flatten"], expected(module, samples.tensors[0][4:])["flatten"])


@pytest.mark.slow
def test_plain_zarr_and_xarray_open_the_store(module, tmp_path):
    xarray = pytest.importorskip("xarray")
    samples = data()
    extract(module, samples, tmp_path / "out", rows=4)
    reference = expected(module, samples.tensors[0])
    group = zarr.open_group(tmp_path / "out", mode="r")
    np.testing.assert_allclose(group["features/flatten"][:], reference["flatten"].numpy(), rtol=1e-4, atol=1e-5)
    assert group["samples/label"][:].tolist() == [i * 10 for i in range(8)]
    assert group["features/res2"].shards == (4, 64, 4, 4)
    record = group.attrs["graphmodel"]
    assert record["complete"]
    assert "resnet" in record["spec"]
    assert len(record["weights"]) == 64
    assert record["versions"]["torch"]
    opened = xarray.open_zarr(tmp_path / "out", group="features", consolidated=False)
    assert opened["res2"].dims == ("sample", "res2_1", "res2_2", "res2_3")


@pytest.mark.parametrize(
    ("dtype", "compression"),
    [
        ("bfloat16", None),
        *(
            pytest.param(*c, marks=pytest.mark.slow)
            for c in (("float16", "zstd"), ("bfloat16", "zstd"), ("float16", None))
        ),
    ],
)
def test_dtypes_and_compression(module, tmp_path, dtype, compression):
    samples = data()
    extract(module, samples, tmp_path / "out", dtype=dtype, compression=compression, rows=4)
    values, _ = FeatureDataset(tmp_path / "out").take([7, 0, 7])
    assert values["flatten"].dtype is getattr(torch, dtype)
    reference = expected(module, samples.tensors[0])["flatten"][[7, 0, 7]]
    torch.testing.assert_close(values["flatten"].float(), reference, rtol=1e-2, atol=1e-2)
    single = FeatureDataset(tmp_path / "out", dtype=torch.float32)[7][0]["flatten"]
    assert single.dtype is torch.float32


def test_too_large_a_value_for_float16_is_an_error(tmp_path):
    big = model()
    with torch.no_grad():
        big.trunk.layer4[1].bn2.weight.fill_(1e6)
    with pytest.raises(CompileError) as error:
        extract(big, data(), tmp_path / "out", dtype="float16")
    assert codes(error) == ["GM609"]


class Stream(IterableDataset):
    def __init__(self, samples, stop=None):
        self.samples, self.stop = samples, stop

    def __iter__(self):
        for i in range(len(self.samples)):
            if i == self.stop:
                raise RuntimeError("stopped")
            yield self.samples[i]


@pytest.mark.slow
def test_stream_of_unknown_length(module, tmp_path):
    samples = data(10)
    report = extract(module, DataLoader(Stream(samples), batch_size=3), tmp_path / "out", rows=4)
    assert report.samples == 10
    values, labels = FeatureDataset(tmp_path / "out").tensors()
    torch.testing.assert_close(values["flatten"], expected(module, samples.tensors[0])["flatten"])
    assert torch.equal(labels, samples.tensors[1])


def test_stream_goes_on_where_it_stopped(module, tmp_path):
    samples = data(10)
    with pytest.raises(RuntimeError, match="stopped"):
        extract(module, DataLoader(Stream(samples, 9), batch_size=3), tmp_path / "out", rows=4)
    report = extract(module, DataLoader(Stream(samples), batch_size=3), tmp_path / "out", rows=4)
    assert (report.found, report.samples) == (8, 10)
    values, labels = FeatureDataset(tmp_path / "out").tensors()
    torch.testing.assert_close(values["flatten"], expected(module, samples.tensors[0])["flatten"])
    assert torch.equal(labels, samples.tensors[1])


def test_generator_of_batches(module, tmp_path):
    images, labels = data().tensors
    extract(module, ((images[i : i + 5], labels[i : i + 5]) for i in (0, 5)), tmp_path / "out")
    values, found = FeatureDataset(tmp_path / "out").tensors()
    torch.testing.assert_close(values["flatten"], expected(module, images)["flatten"])
    assert torch.equal(found, labels)


def test_dicts_with_ids_and_paths(module, tmp_path):
    images, labels = data().tensors
    items = [{"images": images[i], "label": labels[i], "id": f"n{i}", "path": f"a/{i}.png"} for i in range(8)]
    extract(module, items, tmp_path / "out", rows=4)
    stored = FeatureDataset(tmp_path / "out")
    assert stored.ids() == [f"n{i}" for i in range(8)]
    assert stored.paths() == [f"a/{i}.png" for i in range(8)]


@pytest.mark.slow
def test_images_without_labels(module, tmp_path):
    extract(module, TensorDataset(data().tensors[0]), tmp_path / "a")
    assert FeatureDataset(tmp_path / "a").labels is None
    extract(module, list(data().tensors[0]), tmp_path / "b")
    assert FeatureDataset(tmp_path / "b")[3][1] == 3


def test_shuffling_loader_is_read_in_the_order_of_its_dataset(module, tmp_path):
    with pytest.warns(UserWarning, match="the DataLoader shuffles; the store has the samples in the order"):
        extract(module, DataLoader(data(), batch_size=3, shuffle=True, drop_last=True), tmp_path / "out")
    assert FeatureDataset(tmp_path / "out").labels.tolist() == [i * 10 for i in range(8)]


def reversed_data():
    images, labels = data().tensors
    return TensorDataset(images.flip(0), labels.flip(0))


def replaced_data():
    images, labels = data().tensors
    return TensorDataset(images + 1, labels)


def relabelled_data():
    images, labels = data().tensors
    return TensorDataset(images, labels + 1)


@pytest.mark.parametrize("other", [reversed_data, replaced_data, relabelled_data])
@pytest.mark.parametrize("as_stream", [False, True])
def test_data_without_names_that_has_changed_is_refused(module, tmp_path, other, as_stream):
    def given(samples):
        return DataLoader(Stream(samples), batch_size=4) if as_stream else samples

    extract(module, given(data()), tmp_path / "out")
    with pytest.raises(CompileError) as error:
        extract(module, given(other()), tmp_path / "out")
    assert codes(error) == ["GM602"]
    assert "another `data`" in str(error.value)
    assert extract(module, given(data()), tmp_path / "out").found == 8


def test_data_that_depends_on_chance_is_noted(module, tmp_path):
    images, labels = data().tensors

    class Random(TensorDataset):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return image + torch.rand(()), label

    with pytest.warns(UserWarning, match="sample 0 of the data is another one each time it is read"):
        extract(module, Random(images, labels), tmp_path / "out")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.tensor([1, 2]), torch.tensor([[1, 2]])),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        ({"a": 1}, {"b": 1}),
        ([1, [2]], [[1], 2]),
        (Image.new("RGB", (2, 3)), Image.new("RGB", (3, 2))),
        (np.zeros(2, np.float32), np.zeros(2, np.int32)),
        ("1", 1),
    ],
)
def test_digests_tell_values_apart(one, other):
    assert digest_of_value(one) == digest_of_value(one)
    assert digest_of_value(one) != digest_of_value(other)


class Kept(Exception):
    pass


def interrupted(module, samples, out):
    def stop(progress):
        if progress.done >= 8:
            raise Kept

    with pytest.raises(Kept):
        extract(module, samples, out, rows=4, batch_size=4, progress=stop)


class Numbers(ImageFolder):
    """Images whose values are multiplied by what no description shows."""

    factor = 1

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image * self.factor, label


@pytest.mark.parametrize("change", ["lambda", "target", "class", "file", "nothing", "repaired"])
def test_data_with_paths_that_gives_other_samples_is_refused(module, tmp_path, change):
    files = write_images(tmp_path / "images", 12)
    if change == "repaired":
        content = files[11].read_bytes()
        files[11].write_bytes(b"")

    def folder(factor=1, shift=0, outer=1):
        step = transforms.Compose([transforms.Resize((16, 16)), transforms.ToTensor(), lambda x: x * factor])
        found = Numbers(tmp_path / "images", step, target_transform=lambda y: y + shift)
        found.factor = outer
        return found

    interrupted(module, folder(), tmp_path / "out")
    if change == "file":
        Image.new("RGB", (20, 20)).save(files[11])
    if change == "repaired":
        files[11].write_bytes(content)
    other = folder(2 if change == "lambda" else 1, int(change == "target"), 2 if change == "class" else 1)
    if change in ("nothing", "repaired"):
        assert extract(module, other, tmp_path / "out").found == 8
    else:
        with pytest.raises(CompileError, match="`data`"):
            extract(module, other, tmp_path / "out")


def test_folder_whose_files_have_changed_is_refused(module, tmp_path):
    files = write_images(tmp_path / "images", 12)
    interrupted(module, tmp_path / "images", tmp_path / "out")
    Image.new("RGB", (20, 20)).save(files[11])
    with pytest.raises(CompileError, match="`data`"):
        extract(module, tmp_path / "images", tmp_path / "out")


def test_stream_that_has_become_shorter_is_refused(module, tmp_path):
    images = data(12).tensors[0]
    interrupted(module, [images[i : i + 4] for i in range(0, 12, 4)].__iter__(), tmp_path / "out")
    with pytest.raises(CompileError, match="the data ends after 4 samples, and the store has 8"):
        extract(module, iter([images[:4]]), tmp_path / "out")


@pytest.mark.parametrize("first", ["label", "id"])
def test_samples_with_other_keys_are_refused(module, tmp_path, first):
    """`default_collate` drops what the first sample of a batch lacks."""
    images = data().tensors[0]
    samples = [
        {"images": image} | ({first: "x" if first == "id" else 3} if i else {}) for i, image in enumerate(images)
    ]
    for size in (1, 4):
        with pytest.raises(CompileError, match="GM603"):
            extract(module, samples, tmp_path / f"{first}{size}", batch_size=size)


def test_loader_that_does_not_batch(module, tmp_path):
    """torch takes the samples of such a DataLoader for batches."""
    images, labels = data().tensors
    loader = DataLoader([(images[:5], labels[:5]), (images[5:], labels[5:])], batch_size=None)
    extract(module, loader, tmp_path / "out", rows=4)
    values, found = FeatureDataset(tmp_path / "out").tensors()
    torch.testing.assert_close(values["flatten"], expected(module, images)["flatten"])
    assert torch.equal(found, labels)
    with pytest.raises(CompileError, match="GM603"):
        extract(module, DataLoader(data(), batch_size=None, shuffle=True), tmp_path / "other")


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"batch_size": 2.5}, {"num_workers": -1}, {"rows": True}])
def test_numbers_are_checked(module, tmp_path, wrong):
    with pytest.raises(CompileError, match=f"`{next(iter(wrong))}` takes a whole number"):
        extract(module, data(), tmp_path / "out", **wrong)


def test_other_modules_are_refused(tmp_path):
    with pytest.raises(CompileError, match="`extract` takes a compiled model, not Identity"):
        extract(torch.nn.Identity(), data(), tmp_path / "out")


def test_reasons_name_the_first_sample(module, tmp_path):
    with pytest.raises(CompileError, match="of the first one: OSError: not an image"):
        extract(module, Broken(set(range(8))), tmp_path / "none")
    with pytest.raises(CompileError, match="`sample 5` cannot be read, nor can 1 more of its batch"):
        extract(module, Broken({5, 7}), tmp_path / "some", on_error="fail")


def test_file_url(module, tmp_path):
    extract(module, data(), f"{tmp_path.as_uri()}/a%20b", rows=4)
    assert len(FeatureDataset(f"{tmp_path.as_uri()}/a%20b")) == len(FeatureDataset(tmp_path / "a b")) == 8


def test_shapes_are_learnt_from_one_sample(module, tmp_path, monkeypatch):
    """No second pass over a batch: the module sees one sample more than there are."""
    seen = []
    handle = module.trunk.conv1.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    try:
        extract(module, data(), tmp_path / "out", batch_size=8)
    finally:
        handle.remove()
    assert seen == [1, 8]


def test_loader_that_repeats_samples_is_refused(module, tmp_path):
    loader = DataLoader(data(), sampler=WeightedRandomSampler([1.0] * 8, 8))
    with pytest.raises(CompileError) as error:
        extract(module, loader, tmp_path / "out")
    assert codes(error) == ["GM603"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [[{"image": torch.zeros(3, 16, 16)}], [(torch.zeros(3, 16, 16), 1, 2)], 5])
def test_data_of_another_form_is_refused(module, tmp_path, wrong):
    with pytest.raises(CompileError) as error:
        extract(module, wrong, tmp_path / "out")
    assert codes(error) == ["GM603"]


def test_finished_store_is_found_and_verified(module, tmp_path):
    extract(module, data(), tmp_path / "out", rows=4)
    report = extract(module, data(), tmp_path / "out", rows=4)
    assert (report.extracted, report.found) == (0, 8)
    shard = tmp_path / "out/features/flatten/c/1/0"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CompileError) as error:
        extract(module, data(), tmp_path / "out", rows=4)
    assert codes(error) == ["GM608"]
    shard.unlink()
    with pytest.raises(CompileError) as error:
        extract(module, data(), tmp_path / "out", rows=4)
    assert codes(error) == ["GM608"]


@pytest.mark.parametrize(
    "what", ["data", *(pytest.param(w, marks=pytest.mark.slow) for w in ("spec", "weights", "dtype"))]
)
def test_store_of_something_else_is_refused(module, tmp_path, what):
    extract(module, data(), tmp_path / "out", rows=4)
    other, samples, dtype = module, data(), None
    if what == "spec":
        other = model(spec={**SPEC, "mapping": {"images": {"res2": {"pool": {"avg_pool2d": 2}}, "flatten": None}}})
    elif what == "weights":
        other = model(seed=1)
    elif what == "data":
        samples = data(9)
    else:
        dtype = "float16"
    with pytest.raises(CompileError) as error:
        extract(other, samples, tmp_path / "out", dtype=dtype)
    assert codes(error) == ["GM602"]
    assert f"`{what}`" in str(error.value)


@pytest.mark.slow
def test_another_transform_is_refused(module, tmp_path):
    class Images(TensorDataset):
        transform = "crop"

    extract(module, Images(*data().tensors), tmp_path / "out")
    Images.transform = "resize"
    with pytest.raises(CompileError, match="`transform`"):
        extract(module, Images(*data().tensors), tmp_path / "out")


@pytest.mark.slow
def test_other_files_are_left_alone(module, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(CompileError) as error:
        extract(module, data(), tmp_path / "out")
    assert codes(error) == ["GM602"]
    zarr.create_group(tmp_path / "other")
    with pytest.raises(CompileError) as error:
        extract(module, data(), tmp_path / "other")
    assert codes(error) == ["GM602"]


def test_unfinished_store_is_not_read(module, tmp_path):
    with pytest.raises(RuntimeError, match="stopped"):
        extract(module, DataLoader(Stream(data(), 6), batch_size=2), tmp_path / "out", rows=4)
    with pytest.raises(CompileError) as error:
        FeatureDataset(tmp_path / "out")
    assert codes(error) == ["GM608"]


@pytest.mark.slow
def test_creation_that_was_interrupted_begins_again(module, tmp_path, monkeypatch):
    import graphmodel.extraction.store as store

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "_create", stop)
        with pytest.raises(KeyboardInterrupt):
            extract(module, data(), tmp_path / "out")
    (tmp_path / "out/zarr.0.partial").write_bytes(b"left")
    assert extract(module, data(), tmp_path / "out").samples == 8
    assert not (tmp_path / "out/zarr.0.partial").exists()


def test_full_disk_is_one_diagnostic_and_the_run_goes_on(module, tmp_path, monkeypatch):
    from graphmodel.extraction.store import Store

    write, calls = Store.array, []

    def fails(self, group, name):
        calls.append(name)
        if calls.count("flatten") == 2:
            raise OSError(28, "No space left on device")
        return write(self, group, name)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "array", fails)
        with pytest.raises(CompileError) as error:
            extract(module, data(), tmp_path / "out", rows=4)
    assert codes(error) == ["GM607"]
    assert "No space left" in str(error.value)
    report = extract(module, data(), tmp_path / "out", rows=4)
    assert (report.found, report.extracted) == (4, 4)
    values, _ = FeatureDataset(tmp_path / "out").tensors()
    torch.testing.assert_close(values["flatten"], expected(module, data().tensors[0])["flatten"])


class Broken(Dataset):
    def __init__(self, bad):
        self.samples, self.bad = data(), bad

    def __len__(self):
        return 8

    def __getitem__(self, i):
        if i in self.bad:
            raise OSError("not an image")
        return self.samples[i]


@pytest.mark.parametrize("bad", [{4, 5, 6, 7}, *(pytest.param(b, marks=pytest.mark.slow) for b in ({2}, {0, 7}))])
def test_unreadable_samples_are_listed_and_left_out(module, tmp_path, bad):
    report = extract(module, Broken(bad), tmp_path / "out", batch_size=3, rows=4)
    assert [name for name, _ in report.unreadable] == [f"sample {i}" for i in sorted(bad)]
    assert "not an image" in report.unreadable[0][1]
    assert report.skipped == len(bad)
    stored = FeatureDataset(tmp_path / "out")
    good = [i for i in range(8) if i not in bad]
    assert stored.rows.tolist() == good
    assert stored.labels.tolist() == [i * 10 for i in good]
    values, _ = stored.tensors()
    torch.testing.assert_close(values["flatten"], expected(module, data().tensors[0][good])["flatten"])


@pytest.mark.parametrize(("bad", "on_error"), [({2}, "fail"), (set(range(8)), "skip")])
def test_unreadable_samples_end_the_run(module, tmp_path, bad, on_error):
    with pytest.raises(CompileError) as error:
        extract(module, Broken(bad), tmp_path / "out", on_error=on_error)
    assert codes(error) == ["GM605"]


@pytest.mark.slow
def test_subset(module, tmp_path):
    extract(module, Subset(data(), [5, 1]), tmp_path / "out")
    assert FeatureDataset(tmp_path / "out").labels.tolist() == [50, 10]


def test_another_subset_of_the_same_length_is_refused(module, tmp_path):
    extract(module, Subset(data(), [0, 1, 2]), tmp_path / "out", rows=4)
    with pytest.raises(CompileError) as error:
        extract(module, Subset(data(), [3, 4, 5]), tmp_path / "out", rows=4)
    assert codes(error) == ["GM602"]


class Numbered(Dataset):
    """Images with a label, or a size, that depends on the number of the sample."""

    def __init__(self, label, size=lambda i: 32):
        self.label, self.size = label, size

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return torch.zeros(3, self.size(i), self.size(i)), self.label(i)


def test_labels_that_the_first_ones_type_cannot_hold_are_refused(module, tmp_path):
    with pytest.raises(CompileError, match="float") as error:
        extract(module, Numbered(lambda i: i if i < 2 else i + 0.5), tmp_path / "out", batch_size=2, rows=2)
    assert codes(error) == ["GM603"]


def test_samples_that_do_not_make_a_batch_are_refused(module, tmp_path):
    with pytest.raises(CompileError, match="samples 0 to 3") as error:
        extract(module, Numbered(lambda i: i, lambda i: 32 + i), tmp_path / "out", batch_size=4, rows=4)
    assert codes(error) == ["GM603"]


def test_output_without_a_row_for_each_sample_is_refused(tmp_path):
    spec = {
        "inputs": {"patches": [3, 16, 16]},
        "trunk": TRUNK,
        "heads": {"h": {"siamese_concat_view": {"num_towers": 2}}},
        "mapping": {"patches": {"flatten": "h"}},
    }
    with pytest.raises(CompileError) as error:
        extract(model(spec=spec), data(), tmp_path / "out")
    assert codes(error) == ["GM604"]


def test_split_module_and_other_forms_of_results(tmp_path):
    spec = {"inputs": {"images": [3, 16, 16]}, "trunk": TRUNK, "heads": {"label": {"mlp": {"dims": ["auto", 3]}}}}
    whole = graphmodel.compile(spec, seed=0, returns="tuple")
    features, heads = graphmodel.split_frozen(whole)
    samples = data()
    extract(features, samples, tmp_path / "features")
    extract(whole, samples, tmp_path / "outputs")
    values, _ = FeatureDataset(tmp_path / "features").tensors()
    outputs, _ = FeatureDataset(tmp_path / "outputs").tensors()
    torch.testing.assert_close(heads(**values)[0], outputs["label"])


@pytest.mark.slow
def test_several_inputs(tmp_path):
    spec = {
        "inputs": {"left": [3, 16, 16], "right": [3, 16, 16]},
        "trunk": TRUNK,
        "mapping": {"left": {"flatten": None}, "right": {"res2": None}},
    }
    module = model(spec=spec)
    images, labels = data().tensors
    extract(module, TensorDataset(images, -images, labels), tmp_path / "out")
    values, found = FeatureDataset(tmp_path / "out").tensors()
    module.eval()
    with torch.inference_mode():
        reference = module(images, -images)
    assert list(values) == list(reference)
    for name, value in reference.items():
        torch.testing.assert_close(values[name], value)
    assert torch.equal(found, labels)


def test_progress_is_called(module, tmp_path):
    seen = []
    extract(module, data(), tmp_path / "out", batch_size=4, progress=seen.append)
    assert [(p.done, p.total) for p in seen] == [(4, 8), (8, 8)]


@pytest.mark.parametrize("option", [{"dtype": "int8"}, {"compression": "lz"}, {"on_error": "x"}, {"rows": 0}])
def test_options_are_checked(module, tmp_path, option):
    with pytest.raises(CompileError) as error:
        extract(module, data(), tmp_path / "out", **option)
    assert codes(error) == ["GM606"]


def test_missing_package_is_one_line(module, tmp_path, monkeypatch):
    import graphmodel.extraction.packages as packages

    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(CompileError) as error:
        extract(module, data(), tmp_path / "out")
    assert codes(error) == ["GM600"]
    assert "pip install 'graphmodel[extract]'" in str(error.value)


@pytest.mark.slow
def test_store_says_what_it_was_made_from(module, tmp_path):
    extract(module, data(), tmp_path / "out")
    record = json.loads((tmp_path / "out/zarr.json").read_text())["attributes"]["graphmodel"]
    import yaml

    again = graphmodel.compile(yaml.safe_load(record["spec"]), seed=0)
    assert list(again.state_dict()) == list(module.state_dict())


@pytest.mark.slow
def test_chunks_of_nan_are_read_as_they_are(tmp_path):
    broken = model()
    with torch.no_grad():
        broken.trunk.layer4[1].bn2.bias.fill_(torch.nan)
    extract(broken, data(), tmp_path / "out", rows=4, verify=False)
    values, _ = FeatureDataset(tmp_path / "out").tensors()
    assert values["flatten"].isnan().all()
    torch.testing.assert_close(values["res2"], expected(broken, data().tensors[0])["res2"])


class Stopping(TensorDataset):
    """Fails with an error that is not the sample's, as a process that is killed would end."""

    stop = 10**9

    def __getitem__(self, index):
        if index == self.stop:
            raise KeyboardInterrupt
        return super().__getitem__(index)


WIDE = {**SPEC, "mapping": {"images": {"conv1": None, "flatten": None}}}
"""18,432 bytes of features for a 16 pixel image: 29 rows make a part."""


@pytest.mark.parametrize("stop", [33, 70, 126])
def test_stopped_run_loses_at_most_a_chunk(tmp_path, stop):
    """One shard takes all samples; rows that were computed before are not computed again."""
    module = model(spec=WIDE)
    samples = Stopping(*data(128).tensors)
    samples.stop = stop
    done = []
    with pytest.raises(KeyboardInterrupt):
        extract(module, samples, tmp_path / "out", batch_size=4, rows=128, progress=lambda p: done.append(p.done))
    samples.stop = 10**9
    seen = []
    handle = module.trunk.conv1.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    report = extract(module, samples, tmp_path / "out", batch_size=4, rows=128)
    handle.remove()
    assert report.found + report.extracted == report.samples == 128
    assert sum(seen) == report.extracted
    assert report.found >= done[-1] - CHUNK_BYTES // 18432
    extract(module, samples, tmp_path / "whole", batch_size=4, rows=128)
    values, labels = FeatureDataset(tmp_path / "out").tensors()
    wanted, wanted_labels = FeatureDataset(tmp_path / "whole").tensors()
    assert all(torch.equal(values[name], wanted[name]) for name in wanted)
    assert torch.equal(labels, wanted_labels)
    assert not (tmp_path / "out" / "pending").exists()


def test_damaged_part_is_computed_again(tmp_path):
    module = model(spec=WIDE)
    samples = Stopping(*data(128).tensors)
    samples.stop = 126
    with pytest.raises(KeyboardInterrupt):
        extract(module, samples, tmp_path / "out", batch_size=4, rows=128)
    parts = sorted((tmp_path / "out" / "pending").iterdir(), key=lambda p: int(p.name.partition("-")[0]))
    assert len(parts) >= 2
    parts[1].write_bytes(parts[1].read_bytes()[:-100])
    samples.stop = 10**9
    report = extract(module, samples, tmp_path / "out", batch_size=4, rows=128)
    assert report.found == int(parts[1].name.partition("-")[0])
    values, _ = FeatureDataset(tmp_path / "out").tensors()
    torch.testing.assert_close(values["flatten"], expected(module, samples.tensors[0])["flatten"])


def test_stopped_stream_goes_on_from_a_part(tmp_path):
    module = model(spec=WIDE)
    samples = data(128)
    with pytest.raises(RuntimeError, match="stopped"):
        extract(module, DataLoader(Stream(samples, 101), batch_size=4), tmp_path / "out", rows=96)
    report = extract(module, DataLoader(Stream(samples), batch_size=4), tmp_path / "out", rows=96)
    assert report.samples == 128
    assert report.found >= 96
    values, labels = FeatureDataset(tmp_path / "out").tensors()
    torch.testing.assert_close(values["flatten"], expected(module, samples.tensors[0])["flatten"])
    assert torch.equal(labels, samples.tensors[1])


@pytest.mark.parametrize("count", [16, pytest.param(96, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_number_of_images(module, tmp_path, monkeypatch, count):
    """However many blocks there are: one is written while the next one is filled, and the others are gone."""
    blocks = []
    finished = Filling._finished

    def recorded(self):
        block = finished(self)
        blocks.append(weakref.ref(block))
        return block

    monkeypatch.setattr(Filling, "_finished", recorded)
    alive = []

    def progress(_):
        gc.collect()
        alive.append(sum(block() is not None for block in blocks))

    extract(module, data(count), tmp_path / "out", batch_size=4, rows=4, progress=progress)
    assert len(blocks) == count // 4
    assert max(alive) <= 2
