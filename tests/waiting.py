"""Waiting for something to happen, rather than for a time in which it should have."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable


def wait_until(
    condition: Callable[[], object],
    seconds: float = 120.0,
    *,
    process: subprocess.Popen | None = None,
) -> None:
    """Returns as soon as the condition holds.

    Args:
      seconds: the limit; generous, but below what would bring the end about by itself.
      process: what is to bring it about, and must be running until then.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, "it has ended"
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)
