"""Ending a run in good order: the steps in flight, two at most, are finished and saved."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax.experimental import multihost_utils


class Stop:
    """Whether the run has been asked to stop. All processes get the same answer for a step."""

    def __init__(self) -> None:
        self.asked = False

    def after(self, step: int) -> bool:
        """Whether to stop after this step; to be called once for every step."""
        if jax.process_count() == 1:
            return self.asked
        # JAX's own notifier takes SIGTERM on any process and makes all of them agree on a step.
        return multihost_utils.reached_preemption_sync_point(step)


@contextmanager
def stop_signal() -> Iterator[Stop]:
    """Turns SIGINT and SIGTERM into `Stop.asked`; a second signal ends the run at once.

    With several processes SIGTERM belongs to JAX, see `Stop`, and Ctrl-C becomes one.
    """
    stop = Stop()
    several = jax.process_count() > 1

    def handle(number: int, frame: Any) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True
        message = "stopping after the steps in flight, with a checkpoint; once more: at once"
        print(message, file=sys.stderr, flush=True)
        if several:
            os.kill(os.getpid(), signal.SIGTERM)

    taken = (signal.SIGINT,) if several else (signal.SIGINT, signal.SIGTERM)
    try:
        old = {number: signal.signal(number, handle) for number in taken}
    except ValueError:  # not on the main thread: the caller decides about signals
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
