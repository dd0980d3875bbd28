"""How JAX's client for the other processes is kept from ending this one with a dump.

When another process is gone, the client ends its own from a C++ thread: with a stack trace, or, if
it was given a callback, by calling that, to which jaxlib (0.10) cannot hand its argument, so that
`std::terminate` is called. Either way nothing of Python's runs, `except` and `atexit` included. The
functions here are the only ones that know about this; on a jaxlib that behaves otherwise they do
nothing, and the process ends as it would without them.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_kept: list[Any] = []  # handlers that C++ holds a pointer to


def initialize(join_seconds: int, on_loss: Callable[[], None], **arguments: Any) -> None:
    """`jax.distributed.initialize`, which calls `on_loss` when another process is lost.

    Args:
      join_seconds: how long the processes wait for each other.
      on_loss: called in some thread; must not return.
      arguments: of `jax.distributed.initialize`.

    Raises:
      Exception: whatever JAX makes of processes that never come.
    """
    import jax
    from jax._src.lib import _jax  # type: ignore[attr-defined]

    client = getattr(_jax, "get_distributed_runtime_client", None)
    service = getattr(_jax, "get_distributed_runtime_service", None)
    if client is None or service is None or not _on_terminate(on_loss):
        jax.distributed.initialize(initialization_timeout=join_seconds, **arguments)
        return

    def client_with_callback(*args: Any, **kwargs: Any) -> Any:
        return client(*args, missed_heartbeat_callback=lambda *_: on_loss(), **kwargs)

    def patient_service(*args: Any, **kwargs: Any) -> Any:
        return service(*args, cluster_register_timeout=join_seconds, **kwargs)

    # The arguments that JAX's own function has no names for.
    _jax.get_distributed_runtime_client = client_with_callback
    _jax.get_distributed_runtime_service = patient_service
    try:
        # The client waits a little longer, so that it is the service that says who is missing.
        jax.distributed.initialize(initialization_timeout=join_seconds + 5, **arguments)
    finally:
        _jax.get_distributed_runtime_client = client
        _jax.get_distributed_runtime_service = service


def _on_terminate(then: Callable[[], None]) -> bool:
    """Makes C++ call `then` where an exception of its own would abort the process."""
    try:
        install = ctypes.CDLL("libstdc++.so.6")._ZSt13set_terminatePFvvE
    except (OSError, AttributeError):
        return False

    @ctypes.CFUNCTYPE(None)
    def handler() -> None:
        try:
            then()
        finally:
            os.abort()

    _kept.append(handler)
    install.restype = ctypes.c_void_p
    install(handler)
    return True


class Captured:
    """What was written to the standard error stream meanwhile."""

    text = ""

    def __init__(self, file: Any = None):
        self._file = file

    def wait_for_missing(self, seconds: float = 3.0) -> None:
        """Until the service has written who did not come; its clients may hear of it before."""
        until = time.monotonic() + seconds
        while self._file is not None and time.monotonic() < until:
            # Not `read`: the place in the file is where C++ goes on writing.
            text = os.pread(self._file.fileno(), 2**20, 0).decode(errors="replace")
            if missing_processes(text):
                return
            time.sleep(0.05)


@contextmanager
def captured_messages() -> Iterator[Captured]:
    """Keeps what C++ writes to standard error; it is written there at the end if all goes well."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        result = Captured(file)
        os.dup2(file.fileno(), 2)
        try:
            yield result
        except BaseException:
            result.text = _end(file, kept)
            raise
        os.write(2, _end(file, kept).encode())


def _end(file: Any, kept: int) -> str:
    os.dup2(kept, 2)
    os.close(kept)
    file.seek(0)
    return file.read().decode(errors="replace")


def missing_processes(text: str) -> list[int]:
    """The processes that did not come, from what the service said about it."""
    found = re.search(r"timed out task names:\n((?:\d+\n)+)", text)
    return sorted(int(line) for line in found[1].split()) if found else []
