"""Nearest neighbours equal a brute-force reference in numpy, logistic regression equals scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import graphmodel
from graphmodel import FeatureDataset, probe
from graphmodel.probing.knn import nearest
from tests.probing.helpers import CLASSES, extracted, images, model

pytest.importorskip("zarr")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    place = tmp_path_factory.mktemp("stores")
    return extracted(place / "train"), extracted(place / "test", images(30, seed=2))


def arrays(store):
    values, labels = FeatureDataset(store).tensors()
    return {name: value.flatten(1).numpy() for name, value in values.items()}, labels.numpy()


@pytest.mark.parametrize("temperature", [0.07, 1e-4])
def test_neighbours_equal_a_reference_in_numpy(stores, temperature, monkeypatch):
    monkeypatch.setattr("graphmodel.probing.knn._TEST", 7)
    monkeypatch.setattr("graphmodel.probing.knn._TRAIN", 11)
    report = probe(model(), stores[0], test=stores[1], method="knn", k=[1, 20], temperature=temperature)
    (train, labels), (test, wanted) = arrays(stores[0]), arrays(stores[1])
    found = {(r.features[0], r.settings["k"]): r for r in report.results}
    assert len(found) == 4
    for name, x in train.items():
        x = x.astype(np.float64) / np.linalg.norm(x, axis=1, keepdims=True)
        y = test[name].astype(np.float64) / np.linalg.norm(test[name], axis=1, keepdims=True)
        similar = y @ x.T
        for k in (1, 20):
            right = near = 0
            for row, label in zip(similar, wanted, strict=True):
                order = np.argsort(-row, kind="stable")[:k]
                votes = np.zeros(CLASSES)
                np.add.at(votes, labels[order], np.exp((row[order] - row[order[0]]) / temperature))
                right += votes.argmax() == label
                near += label in np.argsort(-votes, kind="stable")[:5]
            assert found[name, k].accuracy == right / len(wanted)
            if k == 20 and temperature > 0.01:  # votes of 0 tie
                assert found[name, k].top5 == near / len(wanted)
    assert report.best.accuracy > 2 / CLASSES


def test_nearest_in_parts_equals_the_nearest_of_all(monkeypatch):
    monkeypatch.setattr("graphmodel.probing.knn._TRAIN", 10)
    queries, neighbours = torch.randn(5, 8), torch.randn(47, 8)
    best, rows = nearest(queries, neighbours, 13)
    expected = (queries @ neighbours.T).topk(13)
    torch.testing.assert_close(best, expected.values)
    assert torch.equal(rows, expected.indices)


def test_logistic_regression_equals_scikit_learns(stores):
    pytest.importorskip("sklearn")
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss, top_k_accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    report = probe(model(), stores[0], test=stores[1], method="logistic", C=[0.01, 1.0])
    (train, labels), (test, wanted) = arrays(stores[0]), arrays(stores[1])
    found = {(r.features[0], r.settings["C"]): r for r in report.results}
    assert len(found) == 4
    for (name, c), result in found.items():
        pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000)).fit(train[name], labels)
        assert result.accuracy == pipeline.score(test[name], wanted)
        assert result.train_accuracy == pipeline.score(train[name], labels)
        probabilities = pipeline.predict_proba(test[name])
        assert result.loss == pytest.approx(log_loss(wanted, probabilities), rel=1e-6)
        assert result.top5 == pytest.approx(top_k_accuracy_score(wanted, probabilities, k=5))
        assert result.name == f"{name} C={c:g}"


def test_features_of_a_spec_without_heads(tmp_path):
    spec = {
        "inputs": {"images": [3, 32, 32]},
        "trunk": "timm:test_resnet",
        "mapping": {"images": {"res3": None, "flatten": None}},
    }
    module = graphmodel.compile(spec, seed=0)
    graphmodel.extract(module, images(), tmp_path / "store")
    report = probe(module, tmp_path / "store", method="knn", k=5)
    assert {r.name for r in report.results} == {"res3", "flatten"}
    assert [r.name for r in probe(module, tmp_path / "store", method="knn", k=5, outputs=["flatten"]).results] == [
        "flatten"
    ]
