"""Spreads the prompts of a call over the servers, and asks again where an answer was lost."""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence

from curiojax.rollout.base import Completion
from curiojax.rollout.vllm_client import Aborted, EngineLost, RequestTimeout, RolloutError
from curiojax.rollout.vllm_endpoint import Endpoint

ATTEMPTS = 4  # of one prompt; one that kills the engine each time must not go on for ever
REPORT_SECONDS = 60.0

Send = Callable[[Endpoint, int], list[Completion]]


class Dispatch:
    """One call: `count` prompts, each sent to the server with the fewest under way.

    Args:
      send: asks a server for the completions of a prompt.
      concurrent: prompts under way on one server, at most.
    """

    def __init__(self, endpoints: Sequence[Endpoint], count: int, send: Send, concurrent: int):
        self._endpoints, self._send, self._concurrent = list(endpoints), send, concurrent
        self._count = count
        self._pending = deque(range(count))
        self._attempts = [0] * count
        self._under_way: dict[Endpoint, dict[int, float]] = {e: {} for e in self._endpoints}
        self._down: dict[Endpoint, str] = {}
        self._changed = threading.Condition()
        self._stop = False
        self._results: queue.Queue[tuple[int, list[Completion]] | BaseException] = queue.Queue()

    def run(self) -> Generator[tuple[int, list[Completion]], None, None]:
        """Yields (index, completions) as they come in.

        Raises:
          RolloutError: the first error that asking again does not mend.
        """
        size = min(self._count, self._concurrent * len(self._endpoints))
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(size)]
        for thread in threads:
            thread.start()
        finished = False
        try:
            for done in range(self._count):
                item = self._next(done)
                if isinstance(item, BaseException):
                    raise item
                yield item
            finished = True
        finally:
            with self._changed:
                self._stop = True
                self._changed.notify_all()
            # A server that is being brought back need not be waited for, nor disturbed.
            if not finished:
                for endpoint in self._endpoints:
                    endpoint.client.cancel()
            for thread in threads:
                thread.join(timeout=0.1 if self._down else 10.0)

    def _next(self, done: int):
        while True:
            with contextlib.suppress(queue.Empty):
                return self._results.get(timeout=REPORT_SECONDS)
            print(f"rollout: {done} of {self._count} prompts done; {self._waiting()}",
                  file=sys.stderr, flush=True)  # fmt: skip

    def _waiting(self) -> str:
        with self._changed:
            now = time.monotonic()
            parts = [
                f"{e.name}: {self._down[e]}"
                if e in self._down
                else f"{e.name}: {len(started)} under way, the oldest for "
                f"{now - min(started.values()):.0f} s"
                for e, started in self._under_way.items()
                if started or e in self._down
            ]
        return "waiting for " + ("; ".join(parts) or "nothing")

    def _work(self) -> None:
        try:
            while (chosen := self._take()) is not None:
                self._one(*chosen)
        except BaseException as error:
            self._results.put(error)

    def _take(self) -> tuple[Endpoint, int] | None:
        with self._changed:
            while not self._stop:
                ready = [
                    e
                    for e in self._endpoints
                    if e not in self._down and len(self._under_way[e]) < self._concurrent
                ]
                if self._pending and ready:
                    endpoint = min(ready, key=lambda e: len(self._under_way[e]))
                    index = self._pending.popleft()
                    self._under_way[endpoint][index] = time.monotonic()
                    return endpoint, index
                if not self._pending and not any(self._under_way.values()):
                    return None
                self._changed.wait()
            return None

    def _one(self, endpoint: Endpoint, index: int) -> None:
        epoch, problem, lost = endpoint.epoch, None, False
        try:
            completions = self._send(endpoint, index)
        except (Aborted, RequestTimeout) as error:
            problem = error
            lost = isinstance(error, RequestTimeout) and not endpoint.answers()
        except EngineLost as error:
            problem, lost = error, True
        with self._changed:
            del self._under_way[endpoint][index]
            if self._stop:
                return
            if problem is not None:
                self._attempts[index] += 1
                if self._attempts[index] >= ATTEMPTS:
                    raise RolloutError(
                        f"prompt {index} came to nothing {ATTEMPTS} times; the last time: {problem}"
                    ) from problem
                self._pending.appendleft(index)
            # The others that were under way on it find out too; the first one sees to it.
            mine = lost and endpoint not in self._down and endpoint.epoch == epoch
            if mine:
                self._down[endpoint] = f"lost ({problem}), being brought back"
            self._changed.notify_all()
        if problem is None:
            self._results.put((index, completions))
        if mine:
            print(f"rollout: {endpoint.name} {self._down[endpoint]}", file=sys.stderr, flush=True)
            endpoint.recover(str(problem), epoch)
            with self._changed:
                del self._down[endpoint]
                self._changed.notify_all()
