"""The processes of a run as each of them knows the others: who they are, and who still answers.

They talk through the key-value store of JAX's coordination service, which lives in process 0. A
thread of every process looks there for a failure that another one has announced, and leaves a sign
of life. JAX's own heartbeat decides that a process is gone; the signs of life say which.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from curiojax import progress

GONE = 75  # sysexits.h: a temporary failure, to be tried again
POLL_SECONDS = 0.5
FAREWELL_SECONDS = 5.0
FAILURE, ENDED, ALIVE, DONE = (f"curiojax/{x}" for x in ("failure", "ended", "alive", "done"))

current: Group | None = None  # as JAX's own: a process joins once


class Group:
    """The processes of a run.

    Args:
      client: JAX's client of the key-value store.
      index, count: this process, and how many there are.
      heartbeat_seconds: after which JAX takes a process that is not heard of for gone.

    Attributes:
      hosts: the name of each process's machine.
    """

    def __init__(self, client: Any, index: int, count: int, heartbeat_seconds: int):
        self.index, self.count = index, count
        self.hosts: dict[int, str] = {}
        self._client, self._heartbeat = client, heartbeat_seconds
        now = time.monotonic()
        self._seen = {k: ("", now) for k in range(count)}  # its last sign of life, and since when
        self._stop = threading.Event()
        self._ending = threading.Lock()
        self._finished: int | None = None  # the exit code of a run that is over
        self._thread = threading.Thread(target=self._watch, name="other processes", daemon=True)

    def start(self) -> None:
        self._thread.start()

    # ---- the store ---------------------------------------------------------------------------

    def put(self, key: str, value: str) -> None:
        self._client.key_value_set(key, value, allow_overwrite=True)

    def gather(self, key: str, value: str) -> dict[int, str]:
        """What every process gives under this key; waits for the last of them."""
        self.put(f"{key}/{self.index}", value)
        return self.wait_for(key, self.count)

    def wait_for(self, key: str, count: int) -> dict[int, str]:
        """What is under this key, by process, as soon as it is so many."""
        pause = 0.02
        while len(found := self.read(key)) < count:
            time.sleep(pause)
            pause = min(2 * pause, POLL_SECONDS)
        return found

    def read(self, key: str) -> dict[int, str]:
        """What is under this key so far, by process."""
        found = self._client.key_value_dir_get(f"{key}/")
        return {int(name.rpartition("/")[2]): value for name, value in found}

    # ---- watching ----------------------------------------------------------------------------

    def _watch(self) -> None:
        beat, next_beat = 0, 0.0
        while not self._stop.wait(POLL_SECONDS):
            # An error means that process 0 cannot be reached, which JAX's client notices itself.
            with contextlib.suppress(Exception):
                if failures := self.read(FAILURE):
                    self._end_with(failures)
                if time.monotonic() >= next_beat:
                    beat, next_beat = beat + 1, time.monotonic() + self._heartbeat / 10
                    self.put(f"{ALIVE}/{self.index}", str(beat))
                    self._look()

    def _look(self) -> None:
        now = time.monotonic()
        for index, sign in self.read(ALIVE).items():
            if sign != self._seen[index][0]:
                self._seen[index] = sign, now

    def _end_with(self, failures: dict[int, str]) -> None:
        index, failure = min(failures.items())
        told = json.loads(failure)
        self.end(
            told["code"], f"ending, because {self.name(index)} {told['what']}: {told['message']}"
        )

    def lost(self) -> None:
        """Ends this process because JAX says that another one is gone."""
        if self._finished is not None:
            os._exit(self._finished)
        silent_since = time.monotonic() - self._heartbeat / 2
        silent = [k for k, (_, seen) in self._seen.items() if seen < silent_since]
        silent = [k for k in silent if k != self.index]
        if not silent and self.index != 0:
            silent = [0]  # whose store is what we lost
        who = " and ".join(self.name(k) for k in silent) or "another process"
        self.end(
            GONE,
            f"{who} stopped answering, so this process ends too; the same command on every host "
            "goes on from the last checkpoint",
        )

    # ---- ending ------------------------------------------------------------------------------

    def fail(self, what: str, message: str, code: int, show: Callable[[], None]) -> None:
        """Ends this process, after `show`, and tells the others why. Does not return."""
        with contextlib.suppress(Exception):
            told = {"what": what, "message": message, "code": code}
            self.put(f"{FAILURE}/{self.index}", json.dumps(told))
        with self._ending:
            show()
            self._leave(code)

    def end(self, code: int, message: str) -> None:
        """Ends this process with a line. Does not return."""
        with self._ending:  # the first reason is the one that is told
            print(message, file=sys.stderr)
            self._leave(code)

    def await_verdict(self) -> None:
        """Waits for the reason of an error in what the processes compute together.

        Returns when there is none to be had: when all the others still answer.
        """
        time.sleep(self._heartbeat + 5)

    def finish(self, code: int) -> None:
        """Waits until all processes have got here; what becomes of them then is no matter."""
        self.gather(DONE, "")
        self._finished = code
        self._stop.set()
        self._thread.join()

    def name(self, index: int) -> str:
        return f"process {index} ({self.hosts.get(index, 'unknown host')})"

    def _leave(self, code: int) -> None:
        """Ends the process wherever its main thread is, which may wait for the others for ever."""
        progress.restore_terminal()
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        for child in multiprocessing.active_children():
            child.kill()
            child.join(1)
        with contextlib.suppress(Exception):
            if code != GONE:
                self.put(f"{ENDED}/{self.index}", "")
                # The store goes with process 0, so it is the last to go.
                until = time.monotonic() + (FAREWELL_SECONDS if self.index == 0 else 0)
                while time.monotonic() < until and len(self.read(ENDED)) < self.count:
                    time.sleep(0.1)
        os._exit(code)
