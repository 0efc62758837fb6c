"""Servers that tests talk to: one without the process that checks shapes, and one with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lsp.client import Client


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server that checks structure and names only, for all tests."""
    client = Client(tmp_path_factory.mktemp("quick"), {"shapes": False})
    yield client
    client.end()


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server that checks shapes too, for all tests."""
    client = Client(tmp_path_factory.mktemp("whole"))
    yield client
    client.end()


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """The address of a file that does not exist: the document is not saved."""
    return (tmp_path / "spec.yaml").as_uri()
