"""The server's side of the worker: which job it does next, when one is not wanted any more, and its limits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]

TIME_LIMIT = 60.0
"""Seconds after which a job is given up and the worker is started anew."""
MEMORY_LIMIT = 3 * 1024**3
"""Bytes of memory with which the worker is started anew after a job."""
MOST_FAILURES = 3
"""How many times in a row a worker may end by itself before no further one is started for a while."""
REST = 60.0
"""Seconds after which an edit starts a worker again that has failed too often; a save does at once."""


@dataclass(frozen=True)
class Job:
    """A job for the worker.

    Attributes:
        key: what it is about; a newer job replaces a waiting one with the same key.
        content: what the worker is told.
        rank: jobs of a lower rank go first, and interrupt those of a higher rank.
        then: called with its result; not if it is replaced, interrupted or fails.
    """

    key: Hashable
    content: Json
    rank: int
    then: Callable[[Json], None]


@dataclass
class Worker:
    """A worker process and the jobs that wait for it; everything but the reading of answers is in one thread.

    Attributes:
        post: called in another thread with each line that the worker writes; they come back to `handle`.
        imports: modules that the worker imports, which register heads and trunks.
        report: called with a sentence for the user when no further worker is started; once, until a job ends well.
    """

    post: Callable[[Json], None]
    imports: Sequence[str] = ()
    report: Callable[[str], None] = lambda text: None
    process: subprocess.Popen[bytes] | None = None
    is_ready: bool = False
    waiting: dict[Hashable, Job] = field(default_factory=dict)
    running: tuple[int, Job, float] | None = None
    last: int = 0
    failures: int = 0
    ended_at: float = 0.0
    is_reported: bool = False
    memory: int = 0
    patient: set[Hashable] = field(default_factory=set)
    is_interrupted: bool = False
    is_dropped: bool = False
    tried_again: Job | None = None

    def start(self) -> None:
        """Starts the process; it is ready some seconds later."""
        # The folder of the package is the worker's own: files of the workspace must not be imported as modules.
        folder = Path(__file__).resolve().parents[2]
        code = "import sys; from graphmodel.lsp.worker import main; main()"
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        if self.imports:  # as for `--import` of other commands, which search the current directory
            known = environment.get("PYTHONPATH", "")
            environment["PYTHONPATH"] = os.pathsep.join([*([known] if known else []), os.getcwd()])
        self.is_ready = False
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, *self.imports],
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=None,
            )
        except OSError as error:  # no memory, or too many processes
            self.failures, self.ended_at = MOST_FAILURES, time.monotonic()
            self._report(f"cannot be started ({error})")
            return
        threading.Thread(target=_read, args=(self.process, self.post), daemon=True).start()

    def start_again(self, now: float, rest: float = 0.0) -> None:
        """Starts the process if there is none: none was wanted before, or it failed too often, `rest` seconds ago."""
        if self.process is None and (not self.failures or now - self.ended_at >= rest):
            self.failures = max(0, self.failures - 1)  # one more failure, and it rests again
            self.start()

    def submit(self, job: Job) -> None:
        """Adds a job; what runs is interrupted if it has the same key or a higher rank."""
        self.waiting[job.key] = job
        if self.running is not None:
            now = self.running[1]
            # A job is interrupted for another once: it would never end while somebody types.
            if now.key == job.key:
                self.is_dropped = True
                self._interrupt()
            elif now.rank > job.rank and now.key not in self.patient:
                self.patient.add(now.key)
                self.waiting.setdefault(now.key, now)
                self._interrupt()
        self._next()

    def has(self, key: Hashable) -> bool:
        """Whether a job waits or runs."""
        running = self.running is not None and self.running[1].key == key and not self.is_dropped
        return running or key in self.waiting

    def drop(self, key: Hashable) -> None:
        """Takes a job back: it does not run, or is interrupted."""
        self.waiting.pop(key, None)
        if self.running is not None and self.running[1].key == key:
            self.is_dropped = True
            self._interrupt()

    def handle(self, message: Json) -> None:
        """Takes a line of the worker."""
        if message.get("process") is not self.process:
            return  # of a worker that was ended
        if "ready" in message:
            self.is_ready = True
        elif "ended" in message:
            self._restart(failed=True)
        elif self.running is not None and message["id"] == self.running[0]:
            _, job, _ = self.running
            self.running, self.failures, self.memory = None, 0, message["memory"]
            if "result" in message:
                self.is_reported = False
                self.patient.discard(job.key)
                if self.waiting.get(job.key) is job:  # it ended before it could be interrupted
                    del self.waiting[job.key]
            if "result" in message and not self.is_dropped:
                job.then(message["result"])
            self.is_interrupted = self.is_dropped = False
            if self.memory > MEMORY_LIMIT:
                self._restart()
        self._next()

    def tick(self, now: float) -> None:
        """Ends a job that takes too long."""
        if self.running is not None and now - self.running[2] > TIME_LIMIT:
            self.running = None
            self._restart()

    def stop(self) -> None:
        """Ends the process."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def _restart(self, *, failed: bool = False) -> None:
        self.failures += failed
        if failed and self.running is not None and not self.is_dropped and self.running[1] is not self.tried_again:
            # Something else may have ended the worker, or it had ended before the job came. If not, the job would end
            # the next one too: it is tried again once.
            self.tried_again = self.running[1]
            self.waiting.setdefault(self.tried_again.key, self.tried_again)
        self.running, self.is_interrupted, self.is_dropped, self.is_ready = None, False, False, False
        self.patient.clear()
        process = self.process
        self.stop()
        if self.failures < MOST_FAILURES:
            self.start()
            return
        self.ended_at = time.monotonic()
        code = process.returncode if process is not None else None
        how = f"exit code {code}" if code is None or code >= 0 else signal.Signals(-code).name
        self._report(f"ended by itself {self.failures} times in a row (the last time with {how})")

    def _report(self, what: str) -> None:
        if not self.is_reported:
            self.is_reported = True
            self.report(
                f"The process that checks shapes {what}. Structure and names are still checked; "
                "it is started again with the next save. What it printed is in the log of the language server."
            )

    def _interrupt(self) -> None:
        if self.running is not None and not self.is_interrupted:
            self.is_interrupted = True
            self._write({"cancel": self.running[0]})

    def _next(self) -> None:
        if self.running is not None or not self.is_ready or not self.waiting:
            return
        job = min(self.waiting.values(), key=lambda j: j.rank)
        del self.waiting[job.key]
        self.last += 1
        self.running = (self.last, job, time.monotonic())
        self._write({"id": self.last, **job.content})

    def _write(self, message: Json) -> None:
        if self.process is None or self.process.stdin is None:
            return
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            pass  # the reader reports the end


def _read(process: subprocess.Popen[bytes], post: Callable[[Json], None]) -> None:
    assert process.stdout is not None
    try:
        for line in process.stdout:
            post({"process": process, **json.loads(line)})
    except ValueError:  # the pipe was closed
        pass
    with suppress(subprocess.TimeoutExpired):  # its own exit code, and not that of the signal that ends it for certain
        process.wait(5.0)
    post({"process": process, "ended": True})
