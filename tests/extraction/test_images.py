"""Images from folders and tar files, and the transforms of the spec."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

import graphmodel
from graphmodel import CompileError, FeatureDataset, extract
from graphmodel.extraction.images import images_at
from graphmodel.extraction.transforms import default_notes, in_mode, transforms_of
from tests.extraction.helpers import SPEC, TRUNK, expected, model, write_images

pytest.importorskip("zarr")


@pytest.fixture(scope="module")
def module():
    return model()


def reference(module, files):
    step = transforms.Compose([transforms.Resize(18), transforms.CenterCrop(16), transforms.ToTensor()])
    return expected(module, torch.stack([step(Image.open(file).convert("RGB")) for file in files]))


def test_folder_with_classes(module, tmp_path):
    files = write_images(tmp_path / "images")
    report = extract(module, tmp_path / "images", tmp_path / "out", batch_size=4, rows=4)
    assert report.transform == 'images: resize {"size": 18}, center_crop {"size": 16}, to_tensor'
    stored = FeatureDataset(tmp_path / "out")
    assert stored.classes == ["cat", "dog"]
    assert stored.labels.tolist() == [0] * 4 + [1] * 4
    assert stored.paths() == [file.relative_to(tmp_path / "images").as_posix() for file in files]
    torch.testing.assert_close(stored.tensors()[0]["flatten"], reference(module, files)["flatten"])


@pytest.mark.slow
def test_folder_without_classes(module, tmp_path):
    files = write_images(tmp_path / "images", classes=("all",))
    extract(module, tmp_path / "images/all", tmp_path / "out")
    stored = FeatureDataset(tmp_path / "out")
    assert stored.labels is None
    assert stored.paths() == [file.name for file in files]


def test_images_beside_directories(module, tmp_path):
    """Directories without images do not make classes of a flat folder; images beside classes are not lost silently."""
    write_images(tmp_path / "images", classes=("all",))
    flat = tmp_path / "images/all"
    (flat / ".hidden").mkdir()
    found = images_at(str(flat))
    assert (found.classes, len(found)) == (None, 8)
    Image.new("RGB", (20, 20)).save(tmp_path / "images/stray.png")
    with pytest.warns(UserWarning, match=r"1 images beside them \(`stray.png`\), which are left out"):
        found = images_at(str(tmp_path / "images"))
    assert (found.classes, len(found)) == (["all"], 8)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.full((20, 24), 300, np.uint16), "300 to 300, mode I;16"),
        (np.full((20, 24), 70000, np.int32), "mode I"),
        (np.full((20, 24), 0.5, np.float32), "0.5 to 0.5, mode F"),
        (np.full((20, 24), -1, np.float32), "mode F"),
        (np.full((20, 24), 200, np.uint16), None),
        (np.full((20, 24), 200, np.float32), None),
    ],
)
def test_values_that_eight_bits_cannot_hold(values, why):
    """Pillow clips them, so that a 16-bit image would be white."""
    image = Image.fromarray(values)
    if why is None:
        assert np.array_equal(np.asarray(in_mode(image, "RGB"))[..., 0], values)
    else:
        with pytest.raises(ValueError, match=why):
            in_mode(image, "RGB")


def test_names_that_are_not_unicode(module, tmp_path):
    """File names are bytes on Linux; zarr and JSON store text."""
    folder = os.fsencode(tmp_path) + b"/images/caf\xe9"
    files = write_images(tmp_path / "images", 2)
    try:
        os.makedirs(folder)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    shutil.copy(files[0], folder + b"/\xff.png")
    Path(os.fsdecode(folder + b"/bad.png")).write_bytes(b"")
    report = extract(module, tmp_path / "images", tmp_path / "out")
    assert [name for name, _ in report.unreadable] == [r"caf\xe9/bad.png"]
    stored = FeatureDataset(tmp_path / "out")
    assert sorted(stored.classes) == [r"caf\xe9", "cat", "dog"]
    assert r"caf\xe9/\xff.png" in stored.paths()
    assert extract(module, tmp_path / "images", tmp_path / "out").found == 4


def test_damaged_image_is_named_and_skipped(module, tmp_path):
    files = write_images(tmp_path / "images")
    files[2].write_bytes(b"no image")
    report = extract(module, tmp_path / "images", tmp_path / "out")
    assert [name for name, _ in report.unreadable] == ["cat/002.png"]
    stored = FeatureDataset(tmp_path / "out")
    del files[2]
    torch.testing.assert_close(stored.tensors()[0]["flatten"], reference(module, files)["flatten"])


@pytest.mark.slow
def test_added_image_is_refused(module, tmp_path):
    write_images(tmp_path / "images")
    extract(module, tmp_path / "images", tmp_path / "out")
    write_images(tmp_path / "images", 9)
    with pytest.raises(CompileError, match="`data`"):
        extract(module, tmp_path / "images", tmp_path / "out")


@pytest.mark.parametrize("empty", [True, False])
def test_no_images(module, tmp_path, empty):
    if empty:
        (tmp_path / "images").mkdir()
    with pytest.raises(CompileError, match="GM601"):
        extract(module, tmp_path / "images", tmp_path / "out")


def write_tar(path, files, first):
    with tarfile.open(path, "w") as tar:
        for i, file in enumerate(files, first):
            for suffix, content in (("png", file.read_bytes()), ("cls", str(i % 2).encode())):
                member = tarfile.TarInfo(f"{i:05}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def test_tar_files(module, tmp_path):
    pytest.importorskip("webdataset")
    files = write_images(tmp_path / "images")
    write_tar(tmp_path / "s-0.tar", files[:5], 0)
    write_tar(tmp_path / "s-1.tar", files[5:], 5)
    extract(module, f"{tmp_path}/s-{{0..1}}.tar", tmp_path / "out", rows=4)
    stored = FeatureDataset(tmp_path / "out")
    assert stored.labels.tolist() == [i % 2 for i in range(8)]
    assert stored.paths()[6] == f"{tmp_path}/s-1.tar/00006.png"
    torch.testing.assert_close(stored.tensors()[0]["flatten"], reference(module, files)["flatten"])


def tar_of(path, members, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, content in members.items() if isinstance(members, dict) else members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return str(path)


def png(value):
    file = io.BytesIO()
    Image.new("L", (4, 4), value).save(file, "PNG")
    return file.getvalue()


def test_names_with_dots_in_tar_files(tmp_path):
    """WebDataset's key ends at the first dot: `a.left.png` is the field `left.png` of the sample `a`."""
    pytest.importorskip("webdataset")
    members = {"d.x/a.left.png": png(1), "d.x/a.left.cls": b"4", "b.left.PNG": png(2), "b.cls": b"5"}
    members |= {"c.seg.png": png(0), "c.png": png(3), "c.cls": b"6", "c.json": b"{}"}
    found = images_at(tar_of(tmp_path / "s.tar", members))
    assert [found.label(i) for i in range(3)] == [4, 5, 6]
    assert [found.open(i).getpixel((0, 0)) for i in range(3)] == [1, 2, 3]
    assert [found.path(i).removeprefix(f"{tmp_path}/s.tar/") for i in range(3)] == [
        "d.x/a.left.png",
        "b.left.PNG",
        "c.png",
    ]


@pytest.mark.parametrize(
    ("members", "mode", "text"),
    [
        ([("a.png", png(1)), ("a.jpg", png(2))], "w", "several images: `a.png`, `a.jpg`"),
        ([("a.0.png", png(1)), ("a.1.png", png(2))], "w", "ends at the first dot"),
        ([("a.png", png(1)), ("a.cls", b"1"), ("a.png", png(2)), ("a.cls", b"2")], "w", "holds `a.png` twice"),
        (
            [("a.png", png(1)), ("a.cls", b"1"), ("b.png", png(2))],
            "w",
            "1 of the 2 images in .* have no class: .*b.png",
        ),
        ([("a.png", png(1))], "w:gz", "decompress it"),
        ([("a.txt", b"")], "w", "there is no image"),
    ],
)
def test_ambiguous_tar_files(tmp_path, members, mode, text):
    pytest.importorskip("webdataset")
    place = tar_of(tmp_path / ("s.tar.gz" if "gz" in mode else "s.tar"), members, mode)
    with pytest.raises(CompileError, match=text) as error:
        images_at(place)
    assert {d.code for d in error.value.diagnostics} == {"GM601"}


def test_folder_with_tar_in_its_name(tmp_path):
    write_images(tmp_path / "my.target", classes=("all",))
    write_images(tmp_path / "my.tar", classes=("all",))
    assert len(images_at(str(tmp_path / "my.target"))) == len(images_at(str(tmp_path / "my.tar"))) == 8
    with pytest.raises(CompileError, match="write a range of numbers"):
        images_at(str(tmp_path / "s-*.tar"))


@pytest.mark.slow
def test_samples_of_webdataset_itself(module, tmp_path):
    wds = pytest.importorskip("webdataset")
    files = write_images(tmp_path / "images")
    write_tar(tmp_path / "s.tar", files, 0)
    step = transforms.Compose([transforms.Resize(18), transforms.CenterCrop(16), transforms.ToTensor()])
    stream = wds.WebDataset(str(tmp_path / "s.tar"), shardshuffle=False).decode("pil").to_tuple("png", "cls")
    extract(module, stream.map_tuple(step, int), tmp_path / "out", batch_size=3, rows=4)
    stored = FeatureDataset(tmp_path / "out")
    assert stored.labels.tolist() == [i % 2 for i in range(8)]
    torch.testing.assert_close(stored.tensors()[0]["flatten"], reference(module, files)["flatten"])


def graph_of(transform=None, shape=(3, 32, 32), trunk=TRUNK):
    item = {"shape": list(shape)} | ({} if transform is None else {"transform": transform})
    return graphmodel.build_graph(graphmodel.load_spec({"inputs": {"images": item}, "trunk": trunk}))


def test_default_is_that_of_imagenet_and_noted():
    graph = graph_of(shape=(3, 224, 224))
    found = transforms_of(graph)
    image = Image.effect_mandelbrot((300, 280), (-2, -2, 2, 2), 50).convert("RGB")
    usual = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    assert torch.equal(found["images"](image), usual(image))
    notes = default_notes(graph, found)
    assert [n.code for n in notes] == ["GM610"]
    assert "center_crop" in notes[0].message
    assert default_notes(graph_of([{"resize": [32, 32]}]), transforms_of(graph_of([{"resize": [32, 32]}]))) == []


@pytest.mark.slow
def test_timm_is_what_timm_says():
    import timm

    graph = graph_of("timm", trunk="timm:vit_tiny_patch16_224", shape=(3, 224, 224))
    network = timm.create_model("vit_tiny_patch16_224")
    usual = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    image = Image.effect_mandelbrot((300, 280), (-2, -2, 2, 2), 50).convert("RGB")
    assert torch.equal(transforms_of(graph)["images"](image), usual(image))


@pytest.mark.parametrize(
    ("shape", "dtype", "trunk"),
    [
        ((1, 32, 32), "float32", {"name": "timm:test_resnet", "in_chans": 1}),
        ((3, 32, 48), "uint8", TRUNK),
        ((3, 32, 32), "float16", TRUNK),
        ((3, 32, 32), "float16", "timm:test_resnet"),
    ],
)
def test_defaults_of_other_inputs(shape, dtype, trunk):
    """One channel (timm's values are for three), bytes (not normalized), and other floats."""
    item = {"shape": list(shape), "dtype": dtype}
    graph = graphmodel.build_graph(graphmodel.load_spec({"inputs": {"images": item}, "trunk": trunk}))
    image = Image.effect_mandelbrot((60, 50), (-2, -2, 2, 2), 50).convert("RGB")
    found = pickle.loads(pickle.dumps(transforms_of(graph)["images"]))(image)
    assert (tuple(found.shape), found.dtype) == (shape, getattr(torch, dtype))
    if dtype == "uint8":
        assert torch.equal(found, transforms.PILToTensor()(image.resize((48, 32), Image.Resampling.BILINEAR)))
    if shape[0] == 1:
        usual = [
            transforms.Resize(37),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize(0.5, 0.5),
        ]
        assert torch.equal(found, transforms.Compose(usual)(image.convert("L")))


@pytest.mark.parametrize(
    ("transform", "shape", "trunk"),
    [
        ("timm", (1, 32, 32), {"name": "timm:test_resnet", "in_chans": 1}),
        ("timm", (3, 32, 32), TRUNK),
        ([{"center_crop": 24}], (3, 32, 32), TRUNK),
        ([{"normalize": {"mean": [0.5, 0.5], "std": [1, 1]}}], (3, 32, 32), TRUNK),
    ],
)
def test_transforms_that_do_not_fit(transform, shape, trunk):
    with pytest.raises(CompileError, match="GM606"):
        transforms_of(graph_of(transform, shape, trunk))


def test_transforms_are_part_of_the_native_document():
    from graphmodel.dialects.native.dump import dump

    spec = graphmodel.load_spec(SPEC)
    assert graphmodel.load_spec(dump(spec)).inputs == spec.inputs
    assert dump(spec)["inputs"]["images"]["transform"] == [
        {"resize": {"size": 18}},
        {"center_crop": {"size": 16}},
        "to_tensor",
    ]


@pytest.mark.parametrize(
    ("transform", "code", "text"),
    [
        ("tim", "GM202", "takes a list"),
        ([{"resiz": 3}], "GM202", "did you mean `resize`"),
        ([{"resize": "x"}], "GM202", "`size` of `resize`"),
        ([{"resize": {"size": 3, "interpolation": "cubic"}}], "GM202", "bicubic"),
        ([{"resize": {"size": 3, "siz": 3}}], "GM201", "did you mean `size`"),
        ([{"normalize": {"mean": [0.5]}}], "GM203", "missing key `std`"),
        ([{"normalize": {"mean": [0.5], "std": [0]}}], "GM202", "divides by zero"),
        ([3], "GM202", "a transform is a name or one key"),
    ],
)
def test_mistakes_in_transforms(transform, code, text):
    with pytest.raises(CompileError, match=text) as error:
        graph_of(transform)
    assert [d.code for d in error.value.diagnostics] == [code]


def vissl(transforms_):
    return {
        "config": {
            "DATA": {"TEST": {"TRANSFORMS": transforms_}},
            "MODEL": {
                "TRUNK": {"NAME": "resnet", "RESNETS": {"DEPTH": 18}},
                "HEAD": {"PARAMS": [["mlp", {"dims": [512, 10]}]]},
            },
        }
    }


def test_vissl_transforms_for_testing():
    steps = [
        {"name": "Resize", "size": 40, "interpolation": 3},
        {"name": "CenterCrop", "size": 32},
        {"name": "ToTensor"},
        {"name": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    ]
    graph = graphmodel.build_graph(graphmodel.load_spec(vissl(steps)))
    usual = transforms.Compose(
        [
            transforms.Resize(40, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    image = Image.effect_mandelbrot((60, 50), (-2, -2, 2, 2), 50).convert("RGB")
    assert torch.equal(transforms_of(graph)["images"](image), usual(image))


def test_random_vissl_transforms_are_not_used():
    spec = graphmodel.load_spec(vissl([{"name": "RandomResizedCrop", "size": 32}, {"name": "ToTensor"}]))
    assert spec.inputs["images"].transform is None
    graph = graphmodel.build_graph(spec)
    (note,) = default_notes(graph, transforms_of(graph))
    assert "no `DATA.TEST.TRANSFORMS` that can be used" in note.message
    assert "all must be among Resize, CenterCrop" in note.help
