"""Grades responses in processes that can be killed, and never waits for one of them for ever.

Verifiers run computer algebra on text that a model wrote. Some of it takes for ever, some takes all
memory, and neither can be stopped from within. So every item has a deadline and every worker a
memory limit; a worker that exceeds one is killed and replaced, and the item gets a status of its
own rather than a quiet 0.

One thread per worker hands it one item at a time over a socket of its own. Process pools in which
the workers share a locked queue (pebble, concurrent.futures) stop for good, or fail as a whole,
when a worker is killed from outside while it holds the lock, as the kernel does when memory is
short.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from curiojax.errors import ConfigError
from curiojax.rewards.answers import MAX_RESPONSE_CHARS
from curiojax.rewards.board import Board
from curiojax.rewards.formats import check_format
from curiojax.rewards.items import STATUSES, Grade, Item, PoolStats
from curiojax.rewards.supervisor import Supervisor
from curiojax.rewards.verifiers import check_verifier
from curiojax.rewards.worker import digest

__all__ = ["STATUSES", "Grade", "Item", "PoolStats", "RewardPool", "available_cpus"]

_MAX_DEFAULT_WORKERS = 16
_START_PAUSES = (1.0, 2.0, 4.0)  # seconds between attempts at starting a worker
# What a container has for everything else is not the workers' to take.
_MIN_MEMORY_MB = 128


class RewardPool:
    """Worker processes that grade items; to be used in a `with` block, or closed.

        with RewardPool("math", "strict", workers=8) as pool:
            grades = pool.grade([Item(text, "42") for text in responses])

    May be shared by threads. Workers are fresh interpreters, not copies of this process, so they
    hold neither JAX nor an accelerator, wherever the pool is created. Creating it before JAX is
    imported lets the two start at the same time. They end with this process, whatever ends it.

    Args:
      verifier: name of the verifier (`verifiers.get_verifier`).
      format: name of the format rule (`formats.check_format`).
      workers: number of processes; None is one less than there are CPUs for this process, 16 at
        most.
      timeout_seconds: wall-clock limit per item. Ordinary items take milliseconds.
      memory_limit_mb: limit of a worker's resident memory.
      cache_size: number of results that are kept; 0 switches the cache off.
      max_response_chars: longer responses get the status `too_long`.
      preload: verifiers to get ready besides `verifier`, for items that name one of them; others
        are imported at an item's expense.

    Raises:
      ConfigError: for an unknown verifier or rule, or a limit that is none.
    """

    def __init__(
        self,
        verifier: str = "math",
        format: str = "strict",
        *,
        workers: int | None = None,
        timeout_seconds: float = 6.0,
        memory_limit_mb: int = 1024,
        cache_size: int = 65_536,
        max_response_chars: int = MAX_RESPONSE_CHARS,
        preload: Sequence[str] = (),
    ) -> None:
        if workers is None:
            workers = max(1, min(available_cpus() - 1, _MAX_DEFAULT_WORKERS))
        _check("workers", workers >= 1, f"{workers} workers grade nothing; use at least 1")
        _check("timeout_seconds", timeout_seconds > 0, "it has to be positive")
        _check("cache_size", cache_size >= 0, "it cannot be negative; 0 is no cache")
        _check(
            "memory_limit_mb",
            memory_limit_mb >= _MIN_MEMORY_MB,
            f"{memory_limit_mb} MB is too little for computer algebra; "
            f"use at least {_MIN_MEMORY_MB}, better 1024",
        )
        for name in (verifier, *preload):
            check_verifier(name)
        check_format(format, "")  # type: ignore[arg-type]
        self.verifier, self.format, self.workers = verifier, format, workers
        self.timeout_seconds, self.memory_limit_mb = timeout_seconds, memory_limit_mb
        self.max_response_chars = max_response_chars
        self._checked = {(verifier, format)}
        self._owner = os.getpid()
        self._board = Board(cache_size, workers)
        self._threads = [
            threading.Thread(
                target=Supervisor(
                    self._board,
                    list(dict.fromkeys((verifier, *preload))),
                    timeout_seconds=timeout_seconds,
                    memory_limit_mb=memory_limit_mb,
                    start_pauses=_START_PAUSES,
                ).run,
                name=f"reward-worker-{number}",
                daemon=True,
            )
            for number in range(workers)
        ]
        atexit.register(self.close)
        try:
            for thread in self._threads:
                thread.start()
            self._board.settled.wait()
        except BaseException:
            self.close()
            raise
        if self._board.error is not None:
            self.close()
            raise self._board.error

    def submit(self, item: Item) -> Future[Grade]:
        """Hands in one item; the future never raises unless the pool is closed or unusable.

        Equal items in progress share one grading, and finished ones are answered from the cache.

        Raises:
          ConfigError: for an item's own verifier or format rule that does not exist.
          RuntimeError: if the pool is closed or its workers cannot be started.
        """
        verifier, rule = item.verifier or self.verifier, item.format or self.format
        if (verifier, rule) not in self._checked:
            check_verifier(verifier)
            check_format(rule, "")  # type: ignore[arg-type]
            self._checked.add((verifier, rule))
        self._check_owner()
        future: Future[Grade] = Future()
        if len(item.response) > self.max_response_chars:
            self._board.refuse(Grade(0.0, False, False, "too_long", None), future)
        else:
            key = digest(verifier, rule, str(item.finished), item.ground_truth, item.response)
            self._board.post(key, item._replace(verifier=verifier, format=rule), future)
        return future

    def grade(
        self, items: Sequence[Item], *, progress: Callable[..., object] | None = None
    ) -> list[Grade]:
        """Grades items and returns the results in their order.

        Args:
          items: what to grade.
          progress: called with the number done and the total, such as a `progress.bar(...)`.
        """
        futures = [self.submit(item) for item in items]
        try:
            grades = []
            for future in futures:
                grades.append(future.result())
                if progress is not None:
                    progress(len(grades), len(futures))
            return grades
        finally:
            for future in futures:
                future.cancel()  # after an interruption; finished ones stay as they are

    @property
    def stats(self) -> PoolStats:
        """Counts since the start, and the state now."""
        return self._board.stats

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are ready."""
        return self._board.pids

    def close(self) -> None:
        """Ends the workers. Futures that are not done raise RuntimeError. May be called again."""
        if os.getpid() != self._owner:  # in a copy of the process, which owns no workers
            return
        self._board.close(len(self._threads))
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        atexit.unregister(self.close)

    def __enter__(self) -> RewardPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _check_owner(self) -> None:
        if os.getpid() != self._owner:
            raise RuntimeError("the reward pool is of the process that this one was forked from")


def available_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check(name: str, condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(f"reward.{name}: {message}")
