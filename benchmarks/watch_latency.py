"""How long `graphmodel watch` takes from a save to the new picture, and to diagnostics.

    python benchmarks/watch_latency.py                  # PIRL and sixty probes, 24 saves each
    python benchmarks/watch_latency.py --saves 40 --json latency.json
    python benchmarks/watch_latency.py --browser        # until Chromium shows it

Every save changes the width of a head. The time ends when the picture at the level of detail that is shown first is
served ("picture"), when that with all levels and numbers is ("complete"), and, after a save with a misspelled head, when
its diagnostics are. "picture, CPU" is the processor time of the first. With `--browser` "shown" is when the page in headless Chromium has put the first picture in place.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

from graphmodel.watching import Watch
from graphmodel.watching.board import Shown

ROOT = Path(__file__).resolve().parent.parent
SPECS = ("pirl", "layer_probes")


class Recorder:
    """When each state was shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[float, Shown]] = []
        self.changed = threading.Condition()

    def __call__(self, shown: Shown) -> None:
        with self.changed:
            self.shown.append((time.monotonic(), shown))
            self.changed.notify_all()

    def wait(self, true: Callable[[Shown], bool]) -> tuple[float, Shown]:
        """The first matching state that was not yet waited for, and those before it are forgotten."""
        with self.changed:
            while True:
                for i, (at, shown) in enumerate(self.shown):
                    if true(shown):
                        del self.shown[: i + 1]
                        return at, shown
                if not self.changed.wait(300):
                    raise TimeoutError("nothing was drawn within five minutes")


def measure(name: str, saves: int, browser: Any) -> dict[str, list[float]]:
    """Seconds from each save, by what they end with."""
    source = (ROOT / "examples" / "native" / f"{name}.yaml").read_text("utf-8")
    found: dict[str, list[float]] = {"picture": [], "picture, CPU": [], "complete": [], "diagnostics": []}
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / f"{name}.yaml"
        spec.write_text(source, "utf-8")
        recorder = Recorder()
        watch = Watch([str(spec)], report=recorder)
        thread = threading.Thread(target=watch.run)
        thread.start()
        try:
            recorder.wait(lambda shown: shown.complete and shown.state == "valid")
            if browser is not None:
                found["shown"] = []
                browser.get(watch.url)
            for i in range(saves):
                # The last width of the first head is another one on every save.
                changed = re.sub(r"(mlp: \{dims: \[auto, )\d+", rf"\g<1>{50 + i}", source, count=1)
                time.sleep(0.3)
                began, used = time.monotonic(), _cpu()
                spec.write_text(changed, "utf-8")
                at, shown = recorder.wait(lambda shown: shown.state == "valid")
                found["picture"].append(at - began)
                found["picture, CPU"].append(_cpu() - used)
                if browser is not None:
                    _wait_for(browser, shown.picture)
                    found["shown"].append(time.monotonic() - began)
                at, _ = recorder.wait(lambda shown: shown.complete)
                found["complete"].append(at - began)
            for i in range(saves):
                broken = source.replace("{mlp:", "{mpl:", 1) + "\n" * i
                began = time.monotonic()
                spec.write_text(broken, "utf-8")
                at, _ = recorder.wait(lambda shown: shown.state == "invalid")
                found["diagnostics"].append(at - began)
        finally:
            watch.stop()
            thread.join()
    return found


def _cpu() -> float:
    """Seconds of processor time of this process and of those that it ran: comparable even on a busy machine."""
    return sum(os.times()[:4])


def _wait_for(browser: Any, picture: int) -> None:
    script = "return Number((document.querySelector('#stage iframe:not(.next)') || {dataset: {}}).dataset.picture || 0)"
    while browser.execute_script(script) < picture:
        time.sleep(0.005)


def _chromium() -> Any:
    import shutil

    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,900"):
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saves", type=int, default=24, help="of each kind")
    parser.add_argument("--browser", action="store_true", help="measure until headless Chromium shows the picture")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    parser.add_argument("specs", nargs="*", default=SPECS, help="names of examples")
    args = parser.parse_args()

    torch.set_num_threads(1)
    gc.set_threshold(200_000, 20, 20)  # as the command line does
    browser = _chromium() if args.browser else None
    results = {}
    for name in args.specs:
        results[name] = measure(name, args.saves, browser)
        for what, seconds in results[name].items():
            late = quantiles(seconds, n=20)[-1]
            print(f"{name:14s} {what:14s} median {median(seconds):.2f} s, 95th percentile {late:.2f} s", flush=True)
    if browser is not None:
        browser.quit()
    if args.json:
        args.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
