"""How a measuring process talks to the one that started it; needs the standard library only.

Lines of JSON go out on what was standard output; one line comes in for every round. So a process
waits, compiled and warm, until it is its turn, and processes that are compared take turns.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# A variant's compilation and warm-up count as so many timed runs in the progress bar.
SETUP_UNITS = 4


class Channel:
    """The worker's end."""

    def __init__(self) -> None:
        # Libraries print what they like; it must not end up between our lines.
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def send(self, event: str, **values: Any) -> None:
        self._out.write(json.dumps({"event": event, **values}) + "\n")
        self._out.flush()

    def unit(self, count: int = 1) -> None:
        """Reports progress."""
        self.send("progress", units=count)

    def wait_for_turn(self) -> None:
        self.send("ready")
        if not sys.stdin.readline():  # nobody is there any more
            raise SystemExit(1)


def take_turns(
    channel: Channel, variants: Mapping[str, Callable[[], Any]], repeats: int
) -> dict[str, list[float]]:
    """Wall seconds of each variant, `repeats` times, in turn; each call returns when it is done."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        channel.wait_for_turn()
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
            channel.unit()
    return seconds


def main(measurements: Mapping[str, Callable[[Channel, dict[str, Any]], dict[str, Any]]]) -> None:
    """Runs the measurement that the job file names; any failure becomes a message."""
    channel = Channel()
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        result = measurements[job["measurement"]](channel, job)
    except Skipped as reason:
        channel.send("skipped", reason=str(reason))
        return
    except Exception as error:
        channel.send("failed", reason=reason_of(error))
        raise
    channel.send("result", **result)


class Skipped(Exception):
    """The measurement is not possible here."""


def reason_of(error: BaseException) -> str:
    """One line about what went wrong."""
    lines = str(error).strip().splitlines() or [""]
    text = f"{type(error).__name__}: {lines[0]}"
    words = ("RESOURCE_EXHAUSTED", "out of memory", "OutOfMemory", "MemoryError")
    full = text + str(error)[:2000]
    return f"out of memory ({text[:160]})" if any(w in full for w in words) else text[:300]
