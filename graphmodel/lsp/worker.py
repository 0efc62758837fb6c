"""The worker: a process with torch that does one job after the other, as lines of JSON, and can be interrupted.

A job is a line `{"id": 1, "kind": "check", ...}`, its answer a line `{"id": 1, "result": ...}`; a line `{"cancel": 1}`
ends the job while it runs. The first line that the worker writes is `{"ready": true}`.
"""

from __future__ import annotations

import _thread
import json
import os
import queue
import signal
import sys
import threading
import traceback
from types import FrameType
from typing import Any, TextIO


class Cancelled(BaseException):
    """Raised in a job that is not wanted any more; not an `Exception`, so that no library takes it for its own."""


class Interruptible:
    """The job that runs, and whether it may be ended; the signal handler and the reading thread look at it."""

    def __init__(self) -> None:
        self.current: int | None = None
        self.cancelled: set[int] = set()

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """The signal handler: it runs between two instructions of the main thread."""
        if self.current is not None and self.current in self.cancelled:
            self.current = None
            raise Cancelled

    def cancel(self, job: int) -> None:
        """Ends a job that runs, or keeps one that waits from running."""
        self.cancelled.add(job)
        _thread.interrupt_main(signal.SIGINT)


def main() -> None:
    """Reads jobs until the standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    state = Interruptible()
    signal.signal(signal.SIGINT, state.handle)
    jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    _import(sys.argv[1:])
    threading.Thread(target=_read, args=(jobs, state), daemon=True).start()
    _write(answers, {"ready": True})
    while True:
        job = jobs.get()
        answer = _answer(job, state)
        _write(answers, {"id": job["id"], "memory": _memory(), **answer})


def _import(modules: list[str]) -> None:
    """Imports what jobs need, so that no import is interrupted later, and the modules that the user asked for."""
    from graphmodel.cli.options import import_modules
    from graphmodel.lsp import jobs  # noqa: F401

    for library in ("timm", "torchvision"):
        __import__(library)
    try:
        import_modules(modules)
    except Exception as error:  # the user's own code
        print(error, file=sys.stderr)


def _read(jobs: queue.SimpleQueue[dict[str, Any]], state: Interruptible) -> None:
    for line in sys.stdin.buffer:
        message = json.loads(line)
        if "cancel" in message:
            state.cancel(message["cancel"])
        else:
            jobs.put(message)
    os._exit(0)  # the server is gone: whatever runs is not wanted


def _answer(job: dict[str, Any], state: Interruptible) -> dict[str, Any]:
    from graphmodel.lsp.jobs import run

    try:
        if job["id"] in state.cancelled:
            return {"cancelled": True}
        state.current = job["id"]
        try:
            result = run(job)
        finally:
            state.current = None
    except Cancelled:
        return {"cancelled": True}
    except Exception as error:  # a fault of ours, or of a library: the server goes on without the answer
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}"}
    finally:
        state.cancelled.difference_update({i for i in list(state.cancelled) if i <= job["id"]})
    return {"result": result}


def _write(stream: TextIO, message: dict[str, Any]) -> None:
    stream.write(json.dumps(message) + "\n")
    stream.flush()


def _memory() -> int:
    """The memory of this process in bytes; the most that it had, if the system does not tell what it has."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        try:
            import resource

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return peak if sys.platform == "darwin" else peak * 1024
        except ImportError:
            return 0


if __name__ == "__main__":
    main()
