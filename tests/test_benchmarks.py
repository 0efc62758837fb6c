"""The benchmark suite: what it compares, and what it writes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import harness, report
from benchmarks.harness import Row, Settings, Target


def test_a_target_says_whether_a_figure_meets_it() -> None:
    assert Target(">=", 1.5).met(1.5)
    assert not Target(">=", 1.5).met(1.49)
    assert Target("<=", 1.0).met(0.7)
    assert not Target("<=", 1.0).met(1.1)
    assert Row("w", "m", 2.0).met is None


def test_contestants_take_turns_in_alternating_order() -> None:
    seen: list[str] = []
    times = harness.interleave({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, pairs=3)
    assert "".join(seen) == "ab" + "abbaab", "one run each that does not count, then the pairs"
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}


def test_a_ratio_is_the_median_over_pairs() -> None:
    times = {"loop": [2.0, 3.0, 8.0], "ours": [1.0, 2.0, 2.0]}
    row = harness.ratio_row("w", "forward", times, "loop", "ours", Settings())
    assert (row.figure, row.low, row.high, row.pairs) == (2.0, 1.5, 4.0, 3)
    assert row.device.startswith("CPU, 1 thread")


def test_sides_that_differ_are_not_timed() -> None:
    x = torch.ones(2, 3)
    assert harness.check_equal("w", {"a": x}, [x]) == 0
    with pytest.raises(AssertionError, match="both sides differ by"):
        harness.check_equal("w", {"a": x * 1.1}, [x])
    with pytest.raises(AssertionError, match="1 outputs against 2"):
        harness.check_equal("w", [x], [x, x])


def test_weights_are_copied_in_order_and_shapes_must_agree() -> None:
    source, target = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), nn.ModuleList([nn.Linear(2, 3), nn.Linear(3, 1)])
    harness.copy_weights(source, target)
    assert torch.equal(target[1].weight, source[1].weight)
    with pytest.raises(AssertionError, match=r"0.weight \(3, 2\) against 0.weight \(2, 3\)"):
        harness.copy_weights(source, nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)))


def test_peak_memory_counts_what_is_held_at_once() -> None:
    def one_after_another() -> None:
        for _ in range(4):
            torch.zeros(1000, dtype=torch.float64)

    def together() -> list[torch.Tensor]:
        return [torch.zeros(1000, dtype=torch.float64) for _ in range(4)]

    assert harness.peak_bytes(one_after_another) == pytest.approx(8000, rel=0.1)
    assert harness.peak_bytes(together) == pytest.approx(32000, rel=0.1)


def test_the_page_has_targets_figures_and_what_was_not_run(tmp_path: Path) -> None:
    rows = [
        Row(
            "one", "forward", 1.0, baseline="hand", low=0.9, high=1.2, pairs=3, target=Target(">=", 0.98), device="CPU"
        ),
        Row("one", "training step", 0.5, baseline="hand", low=0.4, high=0.6, pairs=3, target=Target(">=", 0.98)),
        Row("two", "spec to shapes", 0.7, unit="s CPU"),
    ]
    report.write(rows, {"three": "no such pass"}, "python -m benchmarks", tmp_path)
    page = (tmp_path / "benchmarks.md").read_text()
    assert "1 of 2 figures with a target meet it." in page
    assert "| one | training step | hand | 0.50x (0.40–0.60) | >= 0.98 | **missed** |" in page
    assert "| spec to shapes | – | 0.70 s CPU | 1 | – | – |" in page
    assert "- `three`: no such pass" in page
    assert page.count("## Baselines") == 1
    data = json.loads((tmp_path / "benchmarks" / "results.json").read_text())
    assert [row["met"] for row in data["rows"]] == [True, False, None]
    assert (tmp_path / "benchmarks" / "ratios.svg").read_text().startswith("<?xml")


def test_pages_are_combined_from_several_runs(tmp_path: Path) -> None:
    def results(name: str, rows: list[Row], skipped: dict[str, str]) -> Path:
        report.write(rows, skipped, "python -m benchmarks --only x", tmp_path / name)
        return tmp_path / name / "benchmarks" / "results.json"

    meta = Row("meta", "shapes", 0.7, unit="s CPU", target=Target("<=", 1.0))
    first = results("first", [meta, Row("pirl", "forward", 1.0)], {"six_inputs": "no such pass", "graphs": "failed"})
    second = results("second", [Row("pirl", "forward", 1.5)], {"graphs": "failed again"})
    rows, skipped, command = report.read([first, second])
    assert rows == [Row("pirl", "forward", 1.5), meta], "the last run of a workload, in the order of the suite"
    assert (skipped["six_inputs"], skipped["graphs"]) == ("no such pass", "failed again")
    assert skipped["extraction"] == "not measured"
    assert not {"meta", "pirl"} & set(skipped)
    assert command == report.SEVERAL_RUNS
    assert "in several runs" in report.page(rows, skipped, command, drawn=())
    assert report.read([second])[2] == "python -m benchmarks --only x"
    assert "in several runs" not in report.page(*report.read([second]), drawn=())


def test_figures_of_a_gpu_are_kept_beside_those_of_a_cpu(tmp_path: Path) -> None:
    for device, value in (("cpu", 1.0), ("cuda", 2.0)):
        row = Row("pirl", "forward", value, baseline="hand", low=value, high=value, target=Target(">=", 0.98))
        row.run_on, row.device, row.note = device, device.upper(), "bf16 autocast"
        report.write([row], {}, "python -m benchmarks", tmp_path / device)
    rows, skipped, command = report.read(tmp_path / d / "benchmarks" / "results.json" for d in ("cuda", "cpu"))
    assert [(row.run_on, row.figure) for row in rows] == [("cpu", 1.0), ("cuda", 2.0)]
    report.write(rows, skipped, command, tmp_path)
    page = (tmp_path / "benchmarks.md").read_text()
    assert page.index("## Targets: CPU, one thread") < page.index("## Targets: GPU") < page.index("### pirl (GPU)")
    assert "| pirl | forward (bf16 autocast) | hand | 2.00x (2.00–2.00) | >= 0.98 | met |" in page
    assert (tmp_path / "benchmarks" / "ratios_gpu.svg").exists()


def test_a_part_that_fails_ends_itself_alone(capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings()

    def rows() -> Iterator[int]:
        for i in range(3):
            with settings.attempt("w", f"part {i}"):
                if i == 1:
                    raise RuntimeError("out of memory\nmore")
                yield i

    assert list(rows()) == [0, 2]
    assert [str(failure) for failure in settings.failures] == ["part 1 failed: RuntimeError: out of memory"]
    assert "part 1 failed" in capsys.readouterr().err
    with pytest.raises(harness.SkipWorkload), settings.attempt("w", "p"):
        raise harness.SkipWorkload("no GPU")


@pytest.mark.slow
def test_a_workload_runs_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.__main__ import main

    assert main(["--quick", "--pairs", "1", "--only", "one_millisecond,three_entries", "-o", str(tmp_path)]) == 0
    data = json.loads((tmp_path / "benchmarks" / "results.json").read_text())
    found = {(row["workload"], row["metric"], row["baseline"]) for row in data["rows"]}
    assert ("three_entries", "forward+backward", "VISSL-like loop") in found
    assert ("one_millisecond", "training step", "hand-written") in found
    assert not data["skipped"]
    assert main(["--list"]) == 0
    assert "three_entries" in capsys.readouterr().out


def test_the_page_of_ways_to_embed_has_rows_of_the_benchmark() -> None:
    from benchmarks.embedding import END, PAGE, START, read
    from benchmarks.embedding_ways import WAYS

    rows = PAGE.read_text("utf-8").partition(START)[2].partition(END)[0].strip().splitlines()[2:]
    found = list(read(PAGE))
    assert len(rows) == len(found) > 20, "a row of an unknown way: run `python -m benchmarks.embedding`"
    assert found == [name for name in WAYS if name in found]


@pytest.mark.slow
def test_ways_to_embed_are_measured_and_written(tmp_path: Path) -> None:
    from benchmarks import embedding

    page = tmp_path / "page.md"
    page.write_text(f"before\n{embedding.START}{embedding.END}\nafter\n")
    assert embedding.main(["--only", "plain loop; AveragedModel; graphmodel.save and load", "-o", str(page)]) == 0
    assert embedding.read(page) == {"plain loop": "0", "graphmodel.save and load": "0", "AveragedModel": "0"}
    assert page.read_text().startswith("before\n")
    assert page.read_text().endswith("after\n")
