"""What the callers of a pool and the threads of its workers share: jobs, caches and counts."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter
from concurrent.futures import Future

from curiojax.rewards.items import STATUSES, Cache, Grade, Item, Job, Outcome, PoolStats
from curiojax.rewards.process import WorkerProcess

logger = logging.getLogger(__name__)

# A verdict on these would come out the same another time.
_REPEATABLE = frozenset(STATUSES) - {"crash"}


class Board:
    """Thread-safe; knows nothing of processes but which workers are ready.

    Attributes:
      closing: set when the pool is being closed.
      settled: set once a worker is ready, or none will be.
      error: what made the pool unusable; None while it is not.
    """

    def __init__(self, cache_size: int, num_supervisors: int) -> None:
        self.closing, self.settled = threading.Event(), threading.Event()
        self.error: Exception | None = None
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
        self._left = num_supervisors
        self._told: set[str] = set()

    # For the callers.

    def check_usable(self) -> None:
        """Raises what the callers of an unusable pool are told."""
        if self.closing.is_set():
            raise RuntimeError("the reward pool is closed")
        if self.error is not None:
            raise self.error

    def post(self, key: str, item: Item, future: Future[Grade]) -> None:
        """Hands in an item; `future` gets its grade, now if that is known.

        Equal items have equal keys, and share one job while it is in progress.
        """
        with self._lock:
            self.check_usable()
            self._counts["submitted"] += 1
            grade = self._grades.get(key)
            if grade is not None:
                self._counts["cached"] += 1
                self._statuses[grade.status] += 1
            elif key in self._in_progress:
                self._counts["shared"] += 1
                self._in_progress[key].futures.append(future)
            else:
                job = Job(key, item, [future])
                self._in_progress[key] = job
                self._queue.put(job)
        if grade is not None:
            future.set_result(grade)

    def refuse(self, grade: Grade, future: Future[Grade]) -> None:
        """Gives an item its grade without any work."""
        with self._lock:
            self.check_usable()
            self._counts["submitted"] += 1
            self._statuses[grade.status] += 1
        future.set_result(grade)

    @property
    def stats(self) -> PoolStats:
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
        with self._lock:
            return [worker.pid for worker in self._ready.values()]

    def close(self, num_supervisors: int) -> None:
        """Ends the work; futures that are not done raise."""
        with self._lock:
            self.closing.set()
            waiting = list(self._in_progress.values())
            self._in_progress.clear()
        for _ in range(num_supervisors):
            self._queue.put(None)
        for job in waiting:
            job.fail(RuntimeError("the reward pool was closed before this item was graded"))

    # For the threads of the workers.

    def next_job(self, seconds: float) -> Job | None:
        """The job that waits longest; None: there is no more work.

        Raises:
          queue.Empty: none came within `seconds`.
        """
        return self._queue.get(timeout=seconds)

    def again(self, job: Job) -> None:
        """Puts a job back in line."""
        self._queue.put(job)

    def is_wanted(self, job: Job) -> bool:
        """Whether anybody still waits for a job; forgotten if not."""
        with self._lock:
            if all(future.cancelled() for future in job.futures):
                self._in_progress.pop(job.key, None)
                return False
            return True

    def known_outcome(self, key: str) -> Outcome | None:
        """The outcome of an answer that was compared before."""
        with self._lock:
            known = self._outcomes.get(key)
            self._counts["compared"] += known is not None
            return known

    def finish(
        self, job: Job, grade: Grade, outcome: Outcome, answer_key: str | None, seconds: float
    ) -> None:
        """Ends a job with its grade, unless it was ended already."""
        with self._lock:
            self._counts["graded"] += 1
            self._grading_seconds += seconds
            self._last_graded = time.monotonic()
            if grade.status in _REPEATABLE:
                self._grades.put(job.key, grade)
                if answer_key is not None:
                    self._outcomes.put(answer_key, outcome)
            if self._in_progress.pop(job.key, None) is not job:
                return
            self._statuses[grade.status] += len(job.futures)
        job.finish(grade)

    def add_worker(self, worker: WorkerProcess) -> None:
        with self._lock:
            self._ready[worker.pid] = worker
        self.settled.set()

    def remove_worker(self, worker: WorkerProcess) -> None:
        with self._lock:
            self._ready.pop(worker.pid, None)
            self._counts["replaced"] += not self.closing.is_set()

    def leave(self, error: Exception, *, others_may_go_on: bool) -> None:
        """A worker's thread ends with an error.

        The last one ends the pool, so that nobody waits for it, and so does every one unless the
        others may go on.
        """
        with self._lock:
            self._left -= 1
            if others_may_go_on and self._left:
                return
            if self.closing.is_set() or self.error is not None:
                return
            self.error = error
            waiting = list(self._in_progress.values())
            self._in_progress.clear()
        for job in waiting:
            job.fail(error)
        self.settled.set()

    def tell_once(self, verifier: str, message: str) -> None:
        """Reports a verifier's exception: one per kind, since a step may have thousands."""
        kind = f"{verifier} {message.partition(':')[0]}"
        with self._lock:
            if kind in self._told:
                return
            self._told.add(kind)
        logger.warning("verifier %s failed on an item: %s", verifier, message)
