"""Every key of VISSL's MODEL block has a disposition, and the documentation's table is the code's."""

from __future__ import annotations

import importlib.util

import pytest

from graphmodel.dialects.vissl.config import CARRIED, IGNORED_BY_VISSL
from graphmodel.dialects.vissl.config_keys import HONOURED, disposition, keys
from tests.conftest import ROOT


@pytest.mark.parametrize("key", keys())
def test_every_key_is_honoured_or_accounted_for(key: str) -> None:
    assert disposition(key)[0] in ("honoured", "carried", "ignored by VISSL")


@pytest.mark.parametrize("table", [HONOURED, CARRIED, IGNORED_BY_VISSL])
def test_tables_name_only_keys_that_exist(table: dict[str, str]) -> None:
    known = keys()
    assert table
    assert all(any(k == entry or k.startswith(f"{entry}.") for k in known) for entry in table)


def test_the_documentations_table_is_the_codes() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    page = (ROOT / "docs" / "vissl.md").read_text("utf-8")
    assert generate.vissl_page(page) == page
    assert page.count("| `") >= 100


def test_every_block_of_the_trainer_is_in_the_documentations_table() -> None:
    page = (ROOT / "docs" / "vissl.md").read_text("utf-8")
    table = page.partition("## The trainer's settings")[2].partition("\n## ")[0]
    blocks = (
        "CHECKPOINT DATA DISTILLATION DISTRIBUTED GEO_LOCALIZATION HOOKS LOG_FREQUENCY LOSS LOW_SHOT_BENCHMARK MACHINE "
        "METERS MONITOR_PERF_STATS MULTI_PROCESSING_METHOD NEAREST_NEIGHBOR OPTIMIZER SEED_VALUE SVM "
        "TEST_EVERY_NUM_EPOCH TEST_MODEL TEST_ONLY TRAINER VERBOSE"
    )
    assert [name for name in blocks.split() if f"`{name}" not in table] == []
