"""What goes into the reward pool and what comes out of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

STATUSES = (
    "ok",  # the answer was compared
    "no_answer",  # there is none
    "unverifiable",  # nothing can be compared with this ground truth: leave the item out
    "error",  # the verifier failed
    "timeout",  # it took longer than `timeout_seconds`
    "memory",  # it took more than `memory_limit_mb`
    "crash",  # it took the worker down, twice
    "too_long",  # the response is over the size limit, and was not looked at
)


class Item(NamedTuple):
    """What is to be graded.

    Attributes:
      response: the response's text, without the prompt.
      ground_truth: the right answer.
      finished: whether the response ended by itself rather than at the limit of its length.
      verifier, format: instead of the pool's.
    """

    response: str
    ground_truth: str
    finished: bool = True
    verifier: str | None = None
    format: str | None = None


class Grade(NamedTuple):
    """The result for one item.

    Attributes:
      reward: 1.0 if `correct` and `format_ok`, else 0.0.
      correct: whether the answer is right.
      format_ok: whether the format rule is satisfied; False where it could not be found out.
      status: one of `STATUSES`.
      extracted: the beginning of the answer, as the response gives it.
    """

    reward: float
    correct: bool
    format_ok: bool
    status: str
    extracted: str | None


@dataclass(frozen=True)
class PoolStats:
    """Counts since the start, and the state now.

    Attributes:
      submitted: items handed in.
      statuses: how many were finished with which status.
      cached: items answered from the cache.
      shared: items that were equal to one in progress and got its grade.
      compared: verdicts taken from equal answers of other responses.
      graded: items that a worker worked on.
      grading_seconds: what that took, summed over the workers.
      replaced: workers that were killed or found dead.
      workers: workers that are ready.
      queued: items that wait for a worker.
      last_graded: when a worker last finished an item, on `time.monotonic`'s clock; 0 if none has.
    """

    submitted: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    cached: int = 0
    shared: int = 0
    compared: int = 0
    graded: int = 0
    grading_seconds: float = 0.0
    replaced: int = 0
    workers: int = 0
    queued: int = 0
    last_graded: float = 0.0


class Outcome(NamedTuple):
    correct: bool
    status: str
    extracted: str | None


@dataclass
class Preview:
    """What is known of an item while it is being graded."""

    format_ok: bool = False
    answer: str | None = None
    key: str | None = None
    is_known: bool = False  # a cached outcome of the same answer serves


@dataclass(eq=False)
class Job:
    """An item in progress, and everyone who waits for it."""

    key: str
    item: Item
    futures: list[Future[Grade]]
    attempts: int = 0

    def finish(self, grade: Grade) -> None:
        for future in self.futures:
            if future.set_running_or_notify_cancel():
                future.set_result(grade)

    def fail(self, error: Exception) -> None:
        for future in self.futures:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)


class Cache(Generic[K, V]):
    """The `size` entries used last; not locked."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        if self._size == 0:
            return
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)
