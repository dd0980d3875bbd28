"""Ports that nobody else gets between being chosen and being used."""

from __future__ import annotations

import itertools
import os
import socket

# Below those that systems hand out by themselves, to servers that ask for any and to clients.
_FIRST, _PER_WORKER, _WORKERS = 12_000, 2_000, 8
_taken = itertools.count(os.getpid() * 7)


def free_port() -> int:
    """A port for a server that is started later; never the same one twice.

    The number that the system gives to a socket is free again as soon as that is closed, and goes
    to whoever asks next, which may be another test while the server still imports JAX. Processes
    that run tests at the same time have ranges of their own.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = _FIRST + _PER_WORKER * (worker % _WORKERS)
    for number in itertools.islice(_taken, _PER_WORKER):
        port = first + number % _PER_WORKER
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("", port))
            except OSError:
                continue
        return port
    raise AssertionError("all ports are taken")
