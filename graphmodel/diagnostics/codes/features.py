"""Codes GM60x: stores of features."""

from __future__ import annotations

from graphmodel.diagnostics.codes.entry import code

ENTRIES = (
    code(
        "GM600",
        "a package for stores of features is missing",
        """Stores of features need zarr, tar files need webdataset, and URLs need fsspec and a package for their
            protocol. All of them come with `pip install 'graphmodel[extract]'`.""",
        "graphmodel extract spec.yaml --data images -o features",
        "pip install 'graphmodel[extract]' && graphmodel extract spec.yaml --data images -o features",
        "shell",
    ),
    code(
        "GM601",
        "there is no data",
        """The folder does not exist, holds no images, or a tar file cannot be read. A folder has one directory for each
            class, or images without labels; a tar file has an image `KEY.jpg` and a class `KEY.cls` for each
            sample. Tar files must not be compressed, hold a name twice, or give classes to some samples only.""",
        "graphmodel extract spec.yaml --data nowhere -o features",
        "graphmodel extract spec.yaml --data images -o features",
        "shell",
    ),
    code(
        "GM602",
        "not a store, or one of something else",
        """A store holds features of one model on one set of data. It says which spec, weights, transforms and data it
            was made from, and a run that differs in any of them does not add to it. Nothing that `extract` did not
            write is touched either.""",
        "graphmodel extract other.yaml --data images -o features",
        "graphmodel extract other.yaml --data images -o other-features",
        "shell",
    ),
    code(
        "GM603",
        "the data has the wrong form",
        """A sample is the only input of the model, a tuple of the inputs and the label, or a dict by input name. The
            rows of a store are the samples of a dataset in their order, so a DataLoader that draws its samples with
            weights or repeatedly has no store.""",
        """
            import graphmodel

            spec = {"inputs": {"images": [3, 32, 32]}, "trunk": {"name": "resnet", "depth": 18}}
            graphmodel.extract(graphmodel.compile(spec), 5, "features")
            """,
        "",
        "python",
    ),
    code(
        "GM604",
        "an output cannot be stored",
        """A store has one row for each sample, so an output must be a tensor with a row for each, and its rows must
            have one shape. If the model takes images of any size, give all images one size.""",
        "graphmodel extract jigsaw.yaml --data images -o features",
        "graphmodel extract jigsaw.yaml --outputs res5 --data images -o features",
        "shell",
    ),
    code(
        "GM605",
        "a sample cannot be read",
        """The file is damaged or not an image. It is listed and skipped: its rows are zero and FeatureDataset leaves
            them out. With `--on-error fail` the run ends; it also ends if none of the first samples can be read.""",
        "graphmodel extract spec.yaml --data images --on-error fail -o features",
        "graphmodel extract spec.yaml --data images --on-error skip -o features",
        "shell",
    ),
    code(
        "GM606",
        "not a valid option or transform for extraction",
        """An input that is not an image of one or three channels cannot be made from a file; a transform must end with
            the shape of its input; `transform: timm` needs a trunk of timm.""",
        "graphmodel extract spec.yaml --set 'inputs.images.transform=timm' --data images -o features",
        "graphmodel extract spec.yaml --data images -o features",
        "shell",
    ),
    code(
        "GM607",
        "the store cannot be written",
        """The disk is full, the directory is not writable, or the object store refuses. What was written stays; the
            same command goes on where it stopped.""",
        "graphmodel extract spec.yaml --data images -o /proc/features",
        "graphmodel extract spec.yaml --data images -o features",
        "shell",
    ),
    code(
        "GM608",
        "the store is damaged or not complete",
        """Every chunk carries a checksum, which is compared when the store is finished and when zarr reads it. A store
            that is not complete can be completed by the same `graphmodel extract`.""",
        """
            import graphmodel

            graphmodel.FeatureDataset("nowhere")
            """,
        "",
        "python",
    ),
    code(
        "GM609",
        "a value is too large for the dtype",
        """float16 ends at 65,504, and a larger feature would be stored as infinity. bfloat16 has the range of float32
            with fewer digits.""",
        "graphmodel extract spec.yaml --data images --dtype float16 -o features",
        "graphmodel extract spec.yaml --data images --dtype bfloat16 -o features",
        "shell",
    ),
    code(
        "GM610",
        "a default transform is used",
        """The spec does not say what happens to an image before the model, so images are resized, cropped and
            normalized as is usual for ImageNet, or as timm says of its trunk. The note says how. Write
            `transform:` if the weights expect something else.""",
        "inputs: {images: {shape: [3, 224, 224]}}",
        "inputs: {images: {shape: [3, 224, 224], transform: [{resize: 256}, {center_crop: 224}, to_tensor]}}",
        "shell",
    ),
    code(
        "GM620",
        "not a valid rank",
        """`RANK` and `WORLD_SIZE` are whole numbers that torchrun sets for each process of a run. Something else has
            set them, or only one of them.""",
        "RANK=first graphmodel extract spec.yaml --data images -o features",
        "torchrun --nproc-per-node 2 -m graphmodel extract spec.yaml --data images -o features",
        "shell",
    ),
)
