"""Two processes write one store, and a run that is killed at random moments goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from graphmodel import FeatureDataset, extract
from tests.extraction.helpers import SPEC, model, write_images

zarr = pytest.importorskip("zarr")

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
COMMAND = ("-m", "graphmodel", "extract", "spec.yaml", "--data", "images", "--batch-size", "4", "--rows", "4")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a spec, 40 images of which one is damaged, and the store of an undisturbed run."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "spec.yaml").write_text(yaml.safe_dump(SPEC, sort_keys=False))
    write_images(folder / "images", 42)[9].write_bytes(b"no image")
    subprocess.run([sys.executable, *COMMAND, "-o", "whole"], cwd=folder, env=ENVIRONMENT, check=True)
    return folder


def same_store(first: Path, second: Path) -> None:
    one, two = zarr.open_group(first, mode="r"), zarr.open_group(second, mode="r")
    assert one.attrs["graphmodel"] == two.attrs["graphmodel"]
    for group in ("features", "samples"):
        assert sorted(one[group].array_keys()) == sorted(two[group].array_keys())
        for name in one[group].array_keys():
            np.testing.assert_array_equal(one[group][name][:], two[group][name][:], err_msg=name)


def test_two_processes_write_the_store_of_one(place):
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
    subprocess.run([sys.executable, *launcher, *COMMAND, "-o", "two"], cwd=place, env=ENVIRONMENT, check=True)
    same_store(place / "whole", place / "two")


@pytest.mark.parametrize("rows", [8, 256])
def test_killed_runs_end_in_the_store_of_an_undisturbed_one(place, rows):
    """Every kill hits a run that is not finished: shards of two batches, and one shard of which parts are saved."""
    kills = int(os.environ.get("GRAPHMODEL_KILLS", "5"))
    script = [sys.executable, "-c", KILLED, str(rows), str(kills)]
    done = subprocess.run(script, cwd=place, env=ENVIRONMENT, check=True, stdout=subprocess.PIPE, text=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == kills
    assert all(run["stored"] >= run["before"] for run in found)
    assert all(run["before"] < run["length"] for run in found), "a kill came after the end"
    assert found[-1]["stored"] > 0
    same_store(place / f"whole{rows}", place / f"killed{rows}")
    assert not list((place / f"killed{rows}").rglob("*.partial"))
    assert not (place / f"killed{rows}" / "pending").exists()


KILLED = """
import json, os, random, signal, sys, time
import torch
import graphmodel
import graphmodel.extraction.filling as filling
from graphmodel.extraction.parts import chains
from graphmodel.extraction.store import open_store

filling.PART_BYTES = 1  # a part after each batch

rows, kills = int(sys.argv[1]), int(sys.argv[2])
module = graphmodel.compile("spec.yaml", seed=0, device="cpu")
shape = next(iter(module.model_graph.inputs.values())).shape
length = 400 * kills // 5  # more than all runs together have time for
images = torch.randn(length, *shape, generator=torch.Generator().manual_seed(0))
data = torch.utils.data.TensorDataset(images)
drawn = random.Random(0)


def run(out, progress=None):
    graphmodel.extract(module, data, out, batch_size=4, rows=rows, progress=progress)


def stored():
    store = open_store(f"killed{rows}")
    if store is None:
        return 0
    status, parts = store.status(), store.parts.found()
    missing = store.missing(store.length)
    return int((status != 0).sum()) + sum(b - a for each in chains(parts, missing, rows).values() for a, b in each)


def has_as_many(before):
    try:
        return stored() <= before
    except Exception:  # a file that is just being written
        return True


for i in range(kills):
    before = stored()
    child = os.fork()
    if child == 0:
        run(f"killed{rows}", lambda progress: time.sleep(0.02))
        os._exit(0)
    while i == kills - 1 and has_as_many(before):  # on a busy machine, the runs before may not have got that far
        time.sleep(0.01)
    time.sleep(drawn.uniform(0.05, 0.6))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(json.dumps({"before": before, "stored": stored(), "length": length}))
run(f"killed{rows}")
run(f"whole{rows}")
"""


def test_store_on_an_object_store(tmp_path):
    server = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    import boto3

    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    try:
        host, port = running.get_host_and_port()
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        url = f"http://{host}:{port}"
        boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys).create_bucket(Bucket="bucket")
        options = {"key": "test", "secret": "test", "endpoint_url": url, "client_kwargs": {"region_name": "us-east-1"}}
        write_images(tmp_path / "images")
        module = model()
        extract(module, tmp_path / "images", "s3://bucket/features", rows=4, storage_options=options)
        extract(module, tmp_path / "images", tmp_path / "features", rows=4)
        again = extract(module, tmp_path / "images", "s3://bucket/features", rows=4, storage_options=options)
        assert again.found == 8
        remote, labels = FeatureDataset("s3://bucket/features", storage_options=options).tensors()
        local, expected = FeatureDataset(tmp_path / "features").tensors()
        for name, value in local.items():
            assert value.equal(remote[name])
        assert labels.equal(expected)
    finally:
        running.stop()
