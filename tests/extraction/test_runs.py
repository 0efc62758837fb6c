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


@pytest.mark.parametrize("kills", [int(os.environ.get("GRAPHMODEL_KILLS", "5"))])
@pytest.mark.parametrize("rows", [4, 64])
def test_killed_runs_end_in_the_store_of_an_undisturbed_one(place, kills, rows):
    """Commits of a batch, and one commit of everything, of which parts are saved."""
    out = f"killed{rows}"
    script = [sys.executable, "-c", KILLED, out, str(rows), str(kills)]
    done = subprocess.run(script, cwd=place, env=ENVIRONMENT, check=True, stdout=subprocess.PIPE, text=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == kills
    assert all(run["stored"] >= run["before"] for run in found)
    command = [sys.executable, *COMMAND[:-1], str(rows)]
    subprocess.run([*command, "-o", out], cwd=place, env=ENVIRONMENT, check=True)
    subprocess.run([*command, "-o", f"whole{rows}"], cwd=place, env=ENVIRONMENT, check=True)
    same_store(place / f"whole{rows}", place / out)
    assert not list((place / out).rglob("*.partial"))
    assert not (place / out / "pending").exists()


KILLED = """
import json, os, random, signal, sys, time
import graphmodel
import graphmodel.extraction.filling as filling
from graphmodel.extraction.parts import chains
from graphmodel.extraction.store import open_store

filling.PART_BYTES = 1  # a part after each batch

out, rows, kills = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
module = graphmodel.compile("spec.yaml", seed=0, device="cpu")
drawn = random.Random(0)


def stored():
    store = open_store(out)
    if store is None:
        return 0
    status, parts = store.status(), store.parts.found()
    whole = int((status != 0).sum())
    missing = store.missing(store.length)
    return whole + sum(b - a for each in chains(parts, missing, rows).values() for a, b in each)


for _ in range(kills):
    before = stored()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        def report(progress):
            os.write(writing, f"{progress.done} ".encode())
            time.sleep(0.05)

        graphmodel.extract(module, "images", out, batch_size=4, rows=rows, progress=report)
        os._exit(0)
    os.close(writing)
    time.sleep(drawn.uniform(0, 1.2))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    lines = os.read(reading, 1 << 16).split()
    os.close(reading)
    print(json.dumps({"before": before, "done": int(lines[-1]) if lines else 0, "stored": stored()}))
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
