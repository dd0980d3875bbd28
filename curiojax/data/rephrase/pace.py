"""How many requests may be in flight, and when the next one may start."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_FIRST = 8


class Window:
    """Additive increase, multiplicative decrease, as TCP does it.

    The window opens by one with each success until the endpoint first pushes back, later by one
    with each window of successes. Pushing back halves it, once for all requests that were under way
    at the time.

    Attributes:
      size: requests that may be in flight, at least 1.
      open_at: no request starts before this time.
    """

    def __init__(self, limit: int):
        self._limit = limit
        self._size = float(min(limit, _FIRST))
        self._searching = True
        self._cut_at = -math.inf
        self.open_at = -math.inf

    @property
    def size(self) -> int:
        return int(self._size)

    def succeeded(self) -> None:
        step = 1.0 if self._searching else 1.0 / self._size
        self._size = min(float(self._limit), self._size + step)

    def pushed_back(self, started: float, now: float) -> bool:
        """A request begun at `started` met an overloaded endpoint; whether that is news."""
        if started < self._cut_at:
            return False
        self._size = max(1.0, self._size / 2)
        self._searching = False
        self._cut_at = now
        return True

    def pause(self, until: float) -> None:
        self.open_at = max(self.open_at, until)


def backoff(tries: int, first: float, longest: float = 60.0) -> float:
    """Seconds to wait after that many failures in a row: doubled each time, half of it random."""
    return min(longest, first * 2.0 ** min(tries - 1, 30)) * random.uniform(0.5, 1.0)


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for, which holds seconds or an HTTP date.

    None if there is no header or it cannot be read.
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            then = parsedate_to_datetime(value)
        except ValueError:
            return None
        then = then if then.tzinfo else then.replace(tzinfo=UTC)
        seconds = (then - (now or datetime.now(UTC))).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
