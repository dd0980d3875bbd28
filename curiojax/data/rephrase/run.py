"""Asking many questions: pace, second tries, budget, and stopping in good order."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import math
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from curiojax.data.rephrase.cache import Cache
from curiojax.data.rephrase.client import Again, Endpoint, Refused
from curiojax.data.rephrase.pace import Window, backoff
from curiojax.data.rephrase.replies import Reply
from curiojax.data.rephrase.spending import Ledger
from curiojax.data.rephrase.template import Request
from curiojax.errors import ConfigError

INTERRUPTED, BUDGET = "interrupted", "budget"
_GIVEN_UP_IN_A_ROW = 10  # then something is wrong with more than these questions


@dataclass(frozen=True)
class Patience:
    """How hard to try.

    Attributes:
      concurrency: requests in flight, at most.
      timeout: seconds for one request.
      retries: further tries of a question, and of all of them while the endpoint says 429.
      backoff: seconds before the first of them; doubled each time, at most a minute.
      longest_wait: seconds; an endpoint that asks for more ends the run.
    """

    concurrency: int = 16
    timeout: float = 120.0
    retries: int = 6
    backoff: float = 1.0
    longest_wait: float = 600.0


@dataclass
class Outcome:
    """How a run went.

    Attributes:
      answered: questions answered by this run.
      failed: for questions that were given up, why.
      stopped: None if every question was tried, else `INTERRUPTED` or `BUDGET`.
      requests: how many were sent.
      again: requests that failed for a passing reason, counted by it.
    """

    answered: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    stopped: str | None = None
    requests: int = 0
    again: dict[str, int] = field(default_factory=dict)


Progress = Callable[..., None]


def ask_all(
    request: Request,
    questions: Sequence[str],
    cache: Cache,
    endpoint: Callable[[], Endpoint],
    patience: Patience,
    ledger: Ledger,
    progress: Progress | None = None,
) -> Outcome:
    """Asks questions, earlier ones first, and keeps the replies in the cache as they come.

    SIGINT and SIGTERM let the requests in flight finish; a second one ends at once.

    Args:
      request: model, prompt and sampling.
      questions: all different, none of them in the cache.
      cache: where replies go.
      endpoint: makes the connection, within the event loop.
      patience: how hard to try.
      ledger: what may be spent.
      progress: called with (questions settled, their number, and figures by name).

    Raises:
      ConfigError: no request can work; everything that was answered is kept.
      KeyboardInterrupt: on the second signal.
    """
    if not questions:
        return Outcome()
    run = _Run(request, questions, cache, patience, ledger, progress)
    return asyncio.run(run.whole(endpoint))


@dataclass(order=True)
class _Ask:
    ready: float
    number: int
    tries: int = field(default=0, compare=False)  # failures that count
    price: float = field(default=0.0, compare=False)
    started: float = field(default=0.0, compare=False)


class _Run:
    def __init__(
        self,
        request: Request,
        questions: Sequence[str],
        cache: Cache,
        patience: Patience,
        ledger: Ledger,
        progress: Progress | None,
    ):
        self._request, self._questions, self._cache = request, questions, cache
        self._patience, self._ledger, self._progress = patience, ledger, progress
        self._window = Window(patience.concurrency)
        self._new = deque(_Ask(0.0, number) for number in range(len(questions)))
        self._again: list[_Ask] = []  # a heap by the time from which each may be tried again
        self._running: dict[asyncio.Task[Reply], _Ask] = {}
        self._given_up = 0  # in a row
        # Failed rounds since the last success; what was in flight together is one round.
        self._rounds = 0
        self._round_ended = -math.inf
        self._fatal: ConfigError | None = None
        self._outcome = Outcome()

    async def whole(self, make_endpoint: Callable[[], Endpoint]) -> Outcome:
        self._stop = asyncio.Event()
        async with make_endpoint() as endpoint:
            with _signals(self._interrupt):
                stopping = asyncio.create_task(self._stop.wait())
                try:
                    await self._loop(endpoint, stopping)
                finally:
                    tasks: list[asyncio.Task[Any]] = [*self._running, stopping]
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
        if self._fatal is not None:
            raise self._fatal
        return self._outcome

    async def _loop(self, endpoint: Endpoint, stopping: asyncio.Task) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            blocked = self._start(endpoint, clock())
            if not self._running:
                if blocked:
                    self._outcome.stopped = self._outcome.stopped or BUDGET
                if blocked or self._ending or not (self._new or self._again):
                    return
            watched = {*self._running} | ({stopping} if not stopping.done() else set())
            await asyncio.wait(
                watched, timeout=self._until_next(clock()), return_when=asyncio.FIRST_COMPLETED
            )
            for task in [task for task in self._running if task.done()]:
                self._finish(task, clock())

    @property
    def _ending(self) -> bool:
        return self._fatal is not None or self._stop.is_set()

    def _interrupt(self) -> None:
        if self._stop.is_set():
            raise KeyboardInterrupt
        self._outcome.stopped = INTERRUPTED
        self._stop.set()
        message = f"stopping after the {len(self._running)} requests in flight; once more: at once"
        print(message, file=sys.stderr, flush=True)

    def _start(self, endpoint: Endpoint, now: float) -> bool:
        """Sends what may be sent; returns whether only the budget stands in the way."""
        while (
            not self._ending
            and self._window.open_at <= now
            and len(self._running) < self._window.size
        ):
            second = bool(self._again) and self._again[0].ready <= now
            if not second and not self._new:
                return False
            ask = self._again[0] if second else self._new[0]
            question = self._questions[ask.number]
            ask.price = self._ledger.highest(question)
            if not self._ledger.reserve(ask.price):
                return True
            heapq.heappop(self._again) if second else self._new.popleft()
            ask.started = now
            self._outcome.requests += 1
            task = asyncio.create_task(endpoint.ask(self._request.body(question)))
            self._running[task] = ask
        return False

    def _until_next(self, now: float) -> float | None:
        """Seconds until a request may start by the clock alone; None if something must end."""
        if self._ending or len(self._running) >= self._window.size:
            return None
        ready = 0.0 if self._new else self._again[0].ready if self._again else math.inf
        wait = max(ready, self._window.open_at) - now
        return wait if 0 < wait < math.inf else None

    def _finish(self, task: asyncio.Task[Reply], now: float) -> None:
        ask = self._running.pop(task)
        question = self._questions[ask.number]
        reply, lost = None, False
        try:
            reply = task.result()
            self._cache.add(self._request.key(question), reply)
            self._outcome.answered += 1
            self._given_up = self._rounds = 0
            self._window.succeeded()
        except Again as error:
            lost = error.lost
            self._try_again(ask, error, now)
        except Refused as error:
            self._give_up(ask, str(error))
        except ConfigError as error:
            self._fatal = self._fatal or error
        self._ledger.settle(ask.price, question, reply, lost=lost)
        self._show()

    def _try_again(self, ask: _Ask, error: Again, now: float) -> None:
        reason = str(error)
        kind = reason.partition(":")[0][:60]
        self._outcome.again[kind] = self._outcome.again.get(kind, 0) + 1
        if error.overloaded:
            self._window.pushed_back(ask.started, now)
        if ask.started >= self._round_ended:
            self._rounds, self._round_ended = self._rounds + 1, now
        wait = error.after
        if wait is not None and wait > self._patience.longest_wait:
            self._fatal = self._fatal or ConfigError(
                f"--base-url: the endpoint asks to wait {wait:.0f} s ({reason}); run the same "
                "command again then, everything answered is kept"
            )
        elif error.limited and self._rounds > self._patience.retries:
            self._fatal = self._fatal or ConfigError(
                f"--concurrency: {self._rounds} times in a row nothing came through ({reason}); "
                "wait, or lower it; everything answered is kept"
            )
        ask.tries += not error.limited
        if ask.tries > self._patience.retries:
            self._give_up(ask, reason)
            return
        if wait is None:
            wait = backoff(max(ask.tries, self._rounds), self._patience.backoff)
        if error.after is not None or error.limited or self._rounds > 1:
            self._window.pause(now + wait)  # it is not this question, it is the endpoint
        ask.ready = now + wait
        heapq.heappush(self._again, ask)

    def _give_up(self, ask: _Ask, reason: str) -> None:
        self._outcome.failed[self._questions[ask.number]] = reason
        self._given_up += 1
        if self._given_up >= _GIVEN_UP_IN_A_ROW:
            self._fatal = self._fatal or ConfigError(
                f"--base-url: {self._given_up} questions in a row could not be answered, the last "
                f"one for: {reason}; everything answered is kept"
            )

    def _show(self) -> None:
        if self._progress is not None:
            outcome, cost = self._outcome, self._ledger.cost
            self._progress(
                outcome.answered + len(outcome.failed),
                len(self._questions),
                in_flight=len(self._running),
                at_most=self._window.size,
                cost=None if cost is None else f"{cost:.4g}",
            )


@contextlib.contextmanager
def _signals(handle: Callable[[], Any]) -> Iterator[None]:
    """Calls `handle` on SIGINT and SIGTERM; on other threads than the main one nothing changes."""
    loop = asyncio.get_running_loop()
    taken = []
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, handle)
                taken.append(number)
        yield
    finally:
        for number in taken:
            loop.remove_signal_handler(number)
