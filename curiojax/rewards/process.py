"""The parent's side of one worker: start it, ask it with a deadline, watch its memory, kill it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import psutil

from curiojax.errors import ConfigError
from curiojax.rewards.worker import decode, message_size, send

# Importing computer algebra takes a second alone and much longer on a crowded machine.
START_SECONDS = 180.0
POLL_SECONDS = 0.05
_MAX_REPLY_BYTES = 2**20

# Not multiprocessing: its children import the parent's __main__ again, hence JAX, and run a script
# without a __main__ guard a second time.
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from curiojax.rewards.worker import main; main()"
)
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # A verifier of the user's that imports JAX must not take the trainer's accelerators.
    "JAX_PLATFORMS": "cpu",
    # The order of sets decides the way computer algebra takes: the same one in every process.
    "PYTHONHASHSEED": "0",
}


class WorkerFailed(Exception):
    """The worker gave no answer and is to be replaced; `status` says why."""

    status = "crash"


class WorkerLate(WorkerFailed):
    status = "timeout"


class WorkerTooLarge(WorkerFailed):
    status = "memory"


class PoolClosing(Exception):
    """The pool is being closed, so nobody waits for the answer."""


class WorkerProcess:
    """One worker, started and ready.

    Args:
      verifiers: names of the verifiers to import and warm up.
      memory_limit_mb: resident memory over which the worker is given up.
      closing: tells whether the pool is being closed; looked at while waiting.

    Raises:
      ConfigError: if a verifier cannot be had.
      WorkerFailed: if the worker did not come up.
    """

    def __init__(
        self, verifiers: list[str], memory_limit_mb: int, closing: Callable[[], bool]
    ) -> None:
        self._closing = closing
        self._memory_limit = memory_limit_mb * 2**20
        self._buffer = bytearray()
        self.served = 0  # items, counted by the pool
        self._connection, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [
                        *(sys.executable, "-c", _BOOT, json.dumps(sys.path)),
                        *(str(theirs.fileno()), str(os.getpid())),
                    ],
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, **_ENVIRONMENT},
                    pass_fds=(theirs.fileno(),),
                    # Ctrl-C is the trainer's business; and what a verifier starts dies with it.
                    start_new_session=True,
                )
        except BaseException:
            self._connection.close()
            raise
        try:
            self._usage = psutil.Process(self.pid)
            deadline = time.monotonic() + START_SECONDS
            settings = {"verifiers": verifiers, "memory_limit_mb": memory_limit_mb}
            reply = self.ask(settings, deadline)
            if "config_error" in reply:
                raise ConfigError(reply["config_error"])
            if "ready" not in reply:
                raise WorkerFailed(str(reply.get("failed")))
        except psutil.Error as error:
            self.kill()
            raise WorkerFailed("it ended at once") from error
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def resident_bytes(self) -> int:
        """Resident memory now; 0 for a process that has ended."""
        try:
            return self._usage.memory_info().rss
        except psutil.Error:
            return 0

    def ask(self, message: dict[str, Any], deadline: float) -> dict[str, Any]:
        """Sends a message and waits for the reply until `deadline` (of `time.monotonic`).

        Raises:
          WorkerFailed: if there is none. The worker is of no further use then, and still running.
          PoolClosing: if the pool was closed meanwhile.
        """
        self.tell(message, deadline)
        while True:
            size = message_size(self._buffer)
            if size is not None and size > _MAX_REPLY_BYTES:
                raise WorkerFailed("a reply of impossible size")
            if size is not None and len(self._buffer) >= size:
                frame, self._buffer = self._buffer[:size], self._buffer[size:]
                try:
                    return decode(frame)
                except ValueError as error:
                    raise WorkerFailed("a reply that is no message") from error
            self._wait_for_more(deadline)

    def tell(self, message: dict[str, Any], deadline: float) -> None:
        """Sends a message that has no reply; raises as `ask` does."""
        # With a time limit: a stopped process reads nothing, and a long response fills the socket.
        self._connection.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            send(self._connection, message)
        except TimeoutError as error:
            raise WorkerLate from error
        except OSError as error:
            raise WorkerFailed(f"it ended with code {self._process.poll()}") from error

    def _wait_for_more(self, deadline: float) -> None:
        remaining = deadline - time.monotonic()
        # What is there is taken even after the deadline: this thread may have been kept waiting.
        self._connection.settimeout(min(max(remaining, 0.0), POLL_SECONDS))
        try:
            part = self._connection.recv(2**16)
        except (TimeoutError, BlockingIOError):
            if remaining <= 0:
                raise WorkerLate from None
            if self._closing():
                raise PoolClosing from None
            if self.resident_bytes() > self._memory_limit:
                raise WorkerTooLarge from None
            return
        except OSError as error:
            raise WorkerFailed(f"it ended with code {self._process.poll()}") from error
        if not part:
            raise WorkerFailed(f"it ended with code {self._process.poll()}")
        self._buffer += part

    def kill(self) -> None:
        """Ends the worker and whatever it started; returns when it is gone."""
        self._connection.close()
        if self._process.returncode is None:  # not reaped, so its number is still its own
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10.0)
