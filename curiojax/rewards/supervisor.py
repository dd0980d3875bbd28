"""One worker process of a pool and the thread that feeds it: jobs in, grades out, kills between."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Sequence

from curiojax.rewards.board import Board
from curiojax.rewards.items import STATUSES, Grade, Item, Job, Outcome, Preview
from curiojax.rewards.process import PoolClosing, WorkerFailed, WorkerProcess
from curiojax.rewards.worker import digest

logger = logging.getLogger(__name__)

# A worker may die of something else than the item it is at, such as what came before it.
_MAX_ATTEMPTS = 2
# After these the worker may not be what it was.
_TAINTED = frozenset({"timeout", "memory", "crash"})
# A worker this full is replaced between two items, so that none pays for its predecessors.
_RETIRE_SHARE = 0.5
_LOOK_EVERY = 50  # items, for a worker's memory
_IDLE_SECONDS = 1.0


class WorkersUnavailable(RuntimeError):
    """No worker can be started, for want of processes or memory for example."""


class Supervisor:
    """Keeps one worker alive and hands it one job at a time.

    Args:
      verifiers: what a worker gets ready before its first job.
      start_pauses: seconds between attempts at starting a worker.
    """

    def __init__(
        self,
        board: Board,
        verifiers: Sequence[str],
        *,
        timeout_seconds: float,
        memory_limit_mb: int,
        start_pauses: Sequence[float],
    ) -> None:
        self._board, self._verifiers = board, list(verifiers)
        self._timeout_seconds, self._memory_limit_mb = timeout_seconds, memory_limit_mb
        self._start_pauses = start_pauses

    def run(self) -> None:
        """Works until the board closes; to be run in a thread of its own."""
        board = self._board
        worker: WorkerProcess | None = None
        try:
            while not board.closing.is_set():
                if worker is not None and not worker.is_alive():
                    self._retire(worker)
                    worker = None
                worker = worker or self._start()
                try:
                    job = board.next_job(_IDLE_SECONDS)
                except queue.Empty:
                    continue
                if job is None:
                    return
                if not self._attempt(job, worker):
                    self._retire(worker)
                    worker = None
        except PoolClosing:
            pass
        except Exception as error:
            # A worker that cannot be started leaves the work to the others.
            board.leave(error, others_may_go_on=isinstance(error, WorkersUnavailable))
        finally:
            if worker is not None:
                self._retire(worker)

    def _start(self) -> WorkerProcess:
        """A ready worker; keeps trying for a while, since processes or memory may be short."""
        board = self._board
        for pause in (*self._start_pauses, None):
            try:
                worker = WorkerProcess(
                    self._verifiers, self._memory_limit_mb, closing=board.closing.is_set
                )
            except (OSError, WorkerFailed) as error:
                logger.warning("a reward worker did not start: %s", error)
                if pause is None:
                    raise WorkersUnavailable(f"reward workers cannot be started: {error}") from None
                if board.closing.wait(pause):
                    raise PoolClosing from None
            else:
                board.add_worker(worker)
                return worker
        raise AssertionError

    def _retire(self, worker: WorkerProcess) -> None:
        """Ends a worker; the caller starts another one."""
        self._board.remove_worker(worker)
        worker.kill()

    def _attempt(self, job: Job, worker: WorkerProcess) -> bool:
        """Grades a job on a worker; returns whether the worker is fit for another one."""
        if not self._board.is_wanted(job):
            return True
        began = time.monotonic()
        preview = Preview()
        try:
            outcome = self._converse(job.item, worker, preview, began + self._timeout_seconds)
            fit = preview.is_known or outcome.status not in _TAINTED
        except WorkerFailed as failure:
            job.attempts += 1
            if failure.status == "crash" and job.attempts < _MAX_ATTEMPTS:
                self._board.again(job)
                return False
            outcome, fit = Outcome(False, failure.status, preview.answer), False
        seconds = time.monotonic() - began
        reward = float(outcome.correct and preview.format_ok)
        grade = Grade(reward, outcome.correct, preview.format_ok, outcome.status, outcome.extracted)
        self._board.finish(job, grade, outcome, preview.key, seconds)
        worker.served += 1
        return fit and not self._is_full(worker, seconds)

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
            known = self._board.known_outcome(preview.key)
            preview.is_known = known is not None
            if known is not None:
                worker.tell({"go": False}, deadline)
                return known
        reply = worker.ask({"go": True}, deadline)
        if reply["message"] is not None:
            self._board.tell_once(str(item.verifier), reply["message"])
        status = reply["status"] if reply["status"] in STATUSES else "error"
        return Outcome(reply["correct"], status, reply["extracted"])

    def _is_full(self, worker: WorkerProcess, seconds: float) -> bool:
        if seconds < 0.05 and worker.served % _LOOK_EVERY:
            return False
        return worker.resident_bytes() > _RETIRE_SHARE * self._memory_limit_mb * 2**20
