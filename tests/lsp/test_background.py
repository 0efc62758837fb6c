"""Which job the worker does next, what interrupts it, and what happens if it ends."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any

import pytest

from graphmodel.lsp.background import MEMORY_LIMIT, MOST_FAILURES, REST, TIME_LIMIT, Job, Worker
from tests.lsp.client import Client
from tests.lsp.test_diagnostics import RESNET


class Recorded(Worker):
    """A worker whose process is a list of what it was told."""

    def __init__(self) -> None:
        self.reports: list[str] = []
        super().__init__(lambda line: None, report=self.reports.append)
        self.told: list[dict[str, Any]] = []
        self.starts = 0
        self.start()

    def start(self) -> None:
        self.starts += 1
        self.process = subprocess.CompletedProcess("", -signal.SIGKILL)  # type: ignore[assignment]
        self.is_ready = False

    def stop(self) -> None:
        self.process = None

    def _write(self, message: dict[str, Any]) -> None:
        self.told.append(message)

    def says(self, **message: Any) -> None:
        self.handle({"process": self.process, **message})

    def ends(self, result: Any = None, memory: int = 0) -> None:
        """The end of the job that runs; a cancelled one if it was interrupted."""
        assert self.running is not None
        answer = {"cancelled": True} if self.is_interrupted and result is None else {"result": result}
        self.says(id=self.running[0], memory=memory, **answer)


@pytest.fixture
def worker() -> Recorded:
    return Recorded()


def job(key: str, rank: int, results: list[Any]) -> Job:
    return Job(key, {"kind": key}, rank, results.append)


def kinds(worker: Recorded) -> list[str]:
    return [m.get("kind", "cancel") for m in worker.told]


def test_jobs_wait_until_the_worker_is_ready_and_lower_ranks_go_first(worker: Recorded) -> None:
    results: list[Any] = []
    worker.submit(job("trunk", 3, results))
    worker.submit(job("check", 1, results))
    assert worker.told == []
    worker.says(ready=True)
    assert kinds(worker) == ["check"]
    worker.ends(1)
    worker.ends(2)
    assert (kinds(worker), results) == (["check", "trunk"], [1, 2])


def test_a_newer_job_replaces_one_that_waits_and_interrupts_one_that_runs(worker: Recorded) -> None:
    old: list[Any] = []
    new: list[Any] = []
    worker.says(ready=True)
    worker.submit(job("check", 1, old))
    worker.submit(job("check", 1, old))
    worker.submit(job("check", 1, new))
    assert kinds(worker) == ["check", "cancel"]
    worker.ends("late")  # it ended before it could be interrupted: nobody wants the result
    worker.ends("right")
    assert (old, new, kinds(worker)) == ([], ["right"], ["check", "cancel", "check"])


def test_a_job_of_a_higher_rank_is_interrupted_once_and_runs_again(worker: Recorded) -> None:
    results: list[Any] = []
    worker.says(ready=True)
    worker.submit(job("trunk", 3, results))
    worker.submit(job("check", 1, results))
    worker.ends()
    worker.ends("check")
    assert kinds(worker) == ["trunk", "cancel", "check", "trunk"]
    worker.submit(job("check", 1, results))
    assert kinds(worker)[-1] == "trunk"
    worker.ends("trunk")
    worker.ends("check again")
    assert results == ["check", "trunk", "check again"]


def test_a_dropped_job_has_no_result(worker: Recorded) -> None:
    results: list[Any] = []
    worker.says(ready=True)
    worker.submit(job("check", 1, results))
    worker.drop("check")
    worker.ends("late")
    worker.drop("check")
    assert (results, worker.running, worker.waiting) == ([], None, {})


def test_a_job_that_takes_too_long_or_too_much_memory_ends_the_worker(worker: Recorded) -> None:
    results: list[Any] = []
    worker.says(ready=True)
    worker.submit(job("check", 1, results))
    assert worker.running is not None
    worker.tick(worker.running[2] + TIME_LIMIT + 1)
    assert (worker.starts, worker.running, worker.is_ready) == (2, None, False)
    worker.says(ready=True)
    worker.submit(job("check", 1, results))
    worker.ends("large", memory=MEMORY_LIMIT + 1)
    assert (worker.starts, results) == (3, ["large"])


def test_a_job_whose_worker_ended_is_tried_again_once(worker: Recorded) -> None:
    results: list[Any] = []
    worker.says(ready=True)
    worker.submit(job("check", 1, results))
    worker.says(ended=True)
    worker.says(ready=True)
    assert kinds(worker) == ["check", "check"]
    worker.says(ended=True)  # the job is to blame
    worker.says(ready=True)
    assert (kinds(worker), worker.running, worker.waiting) == (["check", "check"], None, {})
    worker.submit(job("check", 1, results))
    worker.says(ended=True)
    worker.submit(job("check", 1, results))  # a newer one takes the place of the one to be tried again
    worker.start_again(worker.ended_at)
    worker.says(ready=True)
    worker.ends("shapes")
    assert (results, worker.running, worker.waiting) == (["shapes"], None, {})


def test_a_worker_that_cannot_live_is_not_started_for_ever(worker: Recorded) -> None:
    for _ in range(MOST_FAILURES + 2):
        worker.says(ended=True)
    assert worker.starts == MOST_FAILURES


def test_a_worker_that_failed_too_often_is_reported_once_and_starts_again_later(worker: Recorded) -> None:
    for _ in range(MOST_FAILURES):
        worker.says(ready=True)
        worker.submit(job("check", 1, []))
        worker.says(ended=True)
    assert len(worker.reports) == 1
    assert "SIGKILL" in worker.reports[0]
    results: list[Any] = []
    worker.submit(job("check", 1, results))
    assert (worker.running, worker.starts) == (None, MOST_FAILURES)
    worker.start_again(worker.ended_at + REST - 1, REST)  # an edit
    assert worker.starts == MOST_FAILURES
    worker.start_again(worker.ended_at + REST, REST)
    assert worker.starts == MOST_FAILURES + 1
    worker.says(ended=True)
    assert (worker.starts, len(worker.reports)) == (MOST_FAILURES + 1, 1)
    worker.start_again(worker.ended_at)  # a save
    worker.says(ready=True)
    worker.ends("shapes")
    assert (results, worker.failures, worker.starts) == (["shapes"], 0, MOST_FAILURES + 2)
    for _ in range(MOST_FAILURES):
        worker.says(ended=True)
    assert len(worker.reports) == 2


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="looks for the process with ps")
def test_a_worker_that_was_killed_is_started_again(whole: Client, uri: str) -> None:
    text = RESNET + "heads: {a: {mlp: {dims: [100, 2]}}}\n"
    whole.open(uri, text)
    whole.until(lambda: "GM304" in whole.codes(uri))
    command = ["ps", "--ppid", str(whole.process.pid), "-o", "pid="]
    worker = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0])
    os.kill(worker, signal.SIGKILL)
    whole.change(uri, 2, text.replace("depth: 18", "depth: 19"))
    whole.until(lambda: "GM202" in whole.codes(uri))
