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
import logging
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from curiojax.errors import ConfigError
from curiojax.rewards.answers import MAX_RESPONSE_CHARS
from curiojax.rewards.formats import check_format
from curiojax.rewards.items import STATUSES, Cache, Grade, Item, Job, Outcome, PoolStats, Preview
from curiojax.rewards.process import PoolClosing, WorkerFailed, WorkerProcess
from curiojax.rewards.verifiers import check_verifier
from curiojax.rewards.worker import digest

__all__ = ["STATUSES", "Grade", "Item", "PoolStats", "RewardPool", "available_cpus"]

logger = logging.getLogger(__name__)

# A worker may die of something else than the item it is at, such as what came before it.
_MAX_ATTEMPTS = 2
# A verdict on these would come out the same another time.
_REPEATABLE = frozenset(STATUSES) - {"crash"}
# After these the worker may not be what it was.
_TAINTED = frozenset({"timeout", "memory", "crash"})
# A worker this full is replaced between two items, so that none pays for its predecessors.
_RETIRE_SHARE = 0.5
_LOOK_EVERY = 50  # items, for a worker's memory
_IDLE_SECONDS = 1.0
_MAX_DEFAULT_WORKERS = 16
_START_PAUSES = (1.0, 2.0, 4.0)  # seconds between attempts at starting a worker
# What a container has for everything else is not the workers' to take.
_MIN_MEMORY_MB = 128


class WorkersUnavailable(RuntimeError):
    """No worker can be started, for want of processes or memory for example."""


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
        self._preload = list(dict.fromkeys((verifier, *preload)))
        self.verifier, self.format, self.workers = verifier, format, workers
        self.timeout_seconds, self.memory_limit_mb = timeout_seconds, memory_limit_mb
        self.max_response_chars = max_response_chars
        self._lock = threading.Lock()
        self._queue: queue.Queue[Job | None] = queue.Queue()
        self._grades: Cache[str, Grade] = Cache(cache_size)
        self._outcomes: Cache[str, Outcome] = Cache(cache_size)
        self._in_progress: dict[str, Job] = {}
        self._counts: Counter[str] = Counter()
        self._statuses: Counter[str] = Counter()
        self._grading_seconds = 0.0
        self._last_graded = 0.0
        self._ready: dict[int, WorkerProcess] = {}
        self._given_up = 0
        self._error: Exception | None = None
        self._closing = threading.Event()
        self._someone_ready = threading.Event()
        self._told: set[str] = set()
        self._checked = {(verifier, format)}
        self._owner = os.getpid()
        self._threads = [
            threading.Thread(target=self._supervise, name=f"reward-worker-{k}", daemon=True)
            for k in range(workers)
        ]
        atexit.register(self.close)
        try:
            for thread in self._threads:
                thread.start()
            self._someone_ready.wait()
        except BaseException:
            self.close()
            raise
        if self._error is not None:
            self.close()
            raise self._error

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
        future: Future[Grade] = Future()
        if len(item.response) > self.max_response_chars:
            grade = Grade(0.0, False, False, "too_long", None)
            with self._lock:
                self._check_usable()
                self._counts["submitted"] += 1
                self._statuses[grade.status] += 1
            future.set_result(grade)
            return future
        key = digest(verifier, rule, str(item.finished), item.ground_truth, item.response)
        with self._lock:
            self._check_usable()
            self._counts["submitted"] += 1
            grade = self._grades.get(key)
            if grade is not None:
                self._counts["cached"] += 1
                self._statuses[grade.status] += 1
            elif key in self._in_progress:
                self._counts["shared"] += 1
                self._in_progress[key].futures.append(future)
            else:
                job = Job(key, item._replace(verifier=verifier, format=rule), [future])
                self._in_progress[key] = job
                self._queue.put(job)
        if grade is not None:
            future.set_result(grade)
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
        with self._lock:
            names = ("submitted", "cached", "shared", "compared", "graded", "replaced")
            return PoolStats(
                statuses={status: self._statuses[status] for status in STATUSES},
                grading_seconds=self._grading_seconds,
                workers=len(self._ready),
                queued=self._queue.qsize(),
                last_graded=self._last_graded,
                **{name: self._counts[name] for name in names},
            )

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are ready."""
        with self._lock:
            return [worker.pid for worker in self._ready.values()]

    def close(self) -> None:
        """Ends the workers. Futures that are not done raise RuntimeError. May be called again."""
        if os.getpid() != self._owner:  # in a copy of the process, which owns no workers
            return
        with self._lock:
            self._closing.set()
            waiting = list(self._in_progress.values())
            self._in_progress.clear()
        for _ in self._threads:
            self._queue.put(None)
        for job in waiting:
            job.fail(RuntimeError("the reward pool was closed before this item was graded"))
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        atexit.unregister(self.close)

    def __enter__(self) -> RewardPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _check_usable(self) -> None:
        if os.getpid() != self._owner:
            raise RuntimeError("the reward pool is of the process that this one was forked from")
        if self._closing.is_set():
            raise RuntimeError("the reward pool is closed")
        if self._error is not None:
            raise self._error

    # What follows runs in the workers' threads.

    def _supervise(self) -> None:
        worker: WorkerProcess | None = None
        job: Job | None = None
        try:
            while not self._closing.is_set():
                if worker is not None and not worker.is_alive():
                    self._retire(worker)
                    worker = None
                worker = worker or self._start()
                try:
                    job = self._queue.get(timeout=_IDLE_SECONDS)
                except queue.Empty:
                    continue
                if job is None:
                    return
                fit = self._attempt(job, worker)
                job = None
                if not fit:
                    self._retire(worker)
                    worker = None
        except PoolClosing:
            pass
        except Exception as error:
            self._give_up(error)
        finally:
            if worker is not None:
                self._retire(worker)

    def _start(self) -> WorkerProcess:
        """A ready worker; keeps trying for a while, since processes or memory may be short."""
        for pause in (*_START_PAUSES, None):
            try:
                worker = WorkerProcess(
                    self._preload, self.memory_limit_mb, closing=self._closing.is_set
                )
            except (OSError, WorkerFailed) as error:
                logger.warning("a reward worker did not start: %s", error)
                if pause is None:
                    raise WorkersUnavailable(f"reward workers cannot be started: {error}") from None
                if self._closing.wait(pause):
                    raise PoolClosing from None
            else:
                with self._lock:
                    self._ready[worker.pid] = worker
                self._someone_ready.set()
                return worker
        raise AssertionError

    def _retire(self, worker: WorkerProcess) -> None:
        """Ends a worker; the caller starts another one."""
        with self._lock:
            self._ready.pop(worker.pid, None)
            self._counts["replaced"] += not self._closing.is_set()
        worker.kill()

    def _give_up(self, error: Exception) -> None:
        """Ends this thread's part.

        A worker that cannot be started leaves the work to the others. The last one, and every other
        error, ends the pool, so that nobody waits for it.
        """
        with self._lock:
            self._given_up += 1
            others = self._given_up < len(self._threads)
            if isinstance(error, WorkersUnavailable) and others:
                return
            if self._closing.is_set() or self._error is not None:
                return
            self._error = error
            waiting = list(self._in_progress.values())
            self._in_progress.clear()
        for job in waiting:
            job.fail(error)
        self._someone_ready.set()

    def _attempt(self, job: Job, worker: WorkerProcess) -> bool:
        """Grades a job on a worker; returns whether the worker is fit for another one."""
        with self._lock:
            if all(future.cancelled() for future in job.futures):
                self._in_progress.pop(job.key, None)
                return True
        began = time.monotonic()
        preview = Preview()
        try:
            outcome = self._converse(job.item, worker, preview, began + self.timeout_seconds)
            fit = preview.is_known or outcome.status not in _TAINTED
        except WorkerFailed as failure:
            job.attempts += 1
            if failure.status == "crash" and job.attempts < _MAX_ATTEMPTS:
                self._queue.put(job)
                return False
            outcome, fit = Outcome(False, failure.status, preview.answer), False
        seconds = time.monotonic() - began
        reward = float(outcome.correct and preview.format_ok)
        grade = Grade(reward, outcome.correct, preview.format_ok, outcome.status, outcome.extracted)
        with self._lock:
            self._counts["graded"] += 1
            self._grading_seconds += seconds
            self._last_graded = time.monotonic()
            if grade.status in _REPEATABLE:
                self._grades.put(job.key, grade)
                if preview.key is not None:
                    self._outcomes.put(preview.key, outcome)
        if self._take(job, grade):
            job.finish(grade)
        worker.served += 1
        return fit and not self._is_full(worker, seconds)

    def _take(self, job: Job, grade: Grade | None = None) -> bool:
        """Removes a job; whether it was still there, so that it is the caller's to finish."""
        with self._lock:
            if self._in_progress.pop(job.key, None) is not job:
                return False
            if grade is not None:
                self._statuses[grade.status] += len(job.futures)
            return True

    def _converse(
        self, item: Item, worker: WorkerProcess, preview: Preview, deadline: float
    ) -> Outcome:
        """Asks a worker, and lets it stop at an answer whose outcome is known.

        Fills `preview` on the way, which holds what is known should the worker fail.
        """
        reply = worker.ask(item._asdict(), deadline)
        preview.format_ok, preview.answer = reply["format_ok"], reply["answer"]
        if reply["key"] is not None:
            preview.key = digest(str(item.verifier), item.ground_truth, reply["key"])
            with self._lock:
                known = self._outcomes.get(preview.key)
                self._counts["compared"] += known is not None
            preview.is_known = known is not None
            if known is not None:
                worker.tell({"go": False}, deadline)
                return known
        reply = worker.ask({"go": True}, deadline)
        if reply["message"] is not None:
            self._tell_once(str(item.verifier), reply["message"])
        status = reply["status"] if reply["status"] in STATUSES else "error"
        return Outcome(reply["correct"], status, reply["extracted"])

    def _is_full(self, worker: WorkerProcess, seconds: float) -> bool:
        if seconds < 0.05 and worker.served % _LOOK_EVERY:
            return False
        return worker.resident_bytes() > _RETIRE_SHARE * self.memory_limit_mb * 2**20

    def _tell_once(self, verifier: str, message: str) -> None:
        """Reports a verifier's exception: one per kind, since a step may have thousands."""
        kind = f"{verifier} {message.partition(':')[0]}"
        with self._lock:
            if kind in self._told:
                return
            self._told.add(kind)
        logger.warning("verifier %s failed on an item: %s", verifier, message)


def available_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check(name: str, condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(f"reward.{name}: {message}")
