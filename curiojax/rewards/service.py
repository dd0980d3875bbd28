"""The HTTP routes of the reward server: admission, JSON in, grades out, health and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from curiojax.errors import ConfigError
from curiojax.rewards import official
from curiojax.rewards.formats import FORMAT_RULES
from curiojax.rewards.pool import STATUSES, Grade, Item, RewardPool
from curiojax.rewards.transport import (
    Counted,
    Json,
    as_json,
    echoed,
    fault_as_json,
    parse_json,
    read_body,
)
from curiojax.rewards.verifiers import VERIFIERS

# Bodies that are being read or graded, together, as a multiple of the largest one.
_BODIES_IN_MEMORY = 4
# A canary is graded when nothing was for so long; ready is who graded something lately.
_CANARY_SECONDS = 10.0
_READY_SECONDS = 30.0
_ITEM_KEYS = {"id", "response", "ground_truth", "verifier", "format", "finished"}
_INVALID = "invalid"  # the status of an item that is not one


@dataclass(frozen=True)
class Limits:
    """What the server takes on.

    Attributes:
      body_bytes: size of a request's body.
      queued_items: items that wait or are being graded, of all requests together.
    """

    body_bytes: int = 64 * 2**20
    queued_items: int = 50_000


class Service:
    """The routes around a pool.

    Args:
      pool: grades the items; closed by whoever made it.
      limits: what is refused.
      token: what requests other than the health checks have to present as bearer token, if any.
    """

    def __init__(self, pool: RewardPool, limits: Limits, token: str | None = None) -> None:
        self.pool, self.limits, self.token = pool, limits, token
        self.verifiers = {*VERIFIERS, pool.verifier}
        self.pending_items = 0
        self.pending_bytes = 0
        self.responses: Counter[tuple[str, int]] = Counter()
        self.items: Counter[str] = Counter()
        self._canaries = 0

    def app(self) -> ASGIApp:
        """The ASGI application."""
        routes = [
            Route("/v1/grade", self.grade, methods=["POST"]),
            Route("/healthz", self.alive),
            Route("/readyz", self.ready),
            Route("/metrics", self.metrics),
            Route("/health", self.official_health),
            Route("/process_batch", self.official_batch, methods=["POST"]),
            Route("/process_single", self.official_single, methods=["POST"]),
        ]
        app = Starlette(
            routes=routes,
            lifespan=self._lifespan,
            exception_handlers={HTTPException: as_json, Exception: fault_as_json},
        )
        return Counted(app, self.responses, {route.path for route in routes})

    async def grade(self, request: Request) -> Response:
        """`POST /v1/grade`: any number of items, each with its own result."""
        async with self._body(request) as body:
            entries = body.get("items") if isinstance(body, dict) else None
            if not isinstance(entries, list):
                raise HTTPException(400, 'the body is {"items": [{"response", "ground_truth"}]}')
            outcomes = await self._grade(request, entries, self._read_item)
            results = [_write_result(*pair) for pair in zip(entries, outcomes, strict=True)]
            counts = Counter(result["status"] for result in results)
            return Json({"results": results, "counts": counts})

    async def official_batch(self, request: Request) -> Response:
        """`POST /process_batch`, as the released client calls it."""
        async with self._body(request) as body:
            entries = body.get("items") if isinstance(body, dict) else None
            if not isinstance(entries, list) or not entries:
                raise HTTPException(400, "No items provided")
            outcomes = await self._grade(request, entries, official.read_item)
            pairs = zip(entries, outcomes, strict=True)
            results = [official.write_result(entry, outcome) for entry, outcome in pairs]
            late = sum(isinstance(o, Grade) and o.status == "timeout" for o in outcomes)
            return Json(
                {"results": results, "total_processed": len(results), "timeout_count": late}
            )

    async def official_single(self, request: Request) -> Response:
        """`POST /process_single`: one item, one result."""
        async with self._body(request) as body:
            (outcome,) = await self._grade(request, [body], official.read_item)
            return Json(official.write_result(body, outcome))

    async def official_health(self, request: Request) -> Response:
        """`GET /health`."""
        return Json(
            {
                "status": "healthy",
                "timestamp": time.time(),
                "version": "1",
                "pool_type": "RewardPool",
            }
        )

    async def alive(self, request: Request) -> Response:
        """`GET /healthz`: the server answers."""
        return Json({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """`GET /readyz`: a worker graded something lately, and there is room in the queue."""
        stats = self.pool.stats
        age = time.monotonic() - stats.last_graded
        ready = (
            stats.workers > 0
            and age < _READY_SECONDS + self.pool.timeout_seconds
            and self.pending_items < self.limits.queued_items
        )
        state = {"ready": ready, "workers": stats.workers, "pending_items": self.pending_items}
        return Json(state, status_code=200 if ready else 503)

    async def metrics(self, request: Request) -> Response:
        """`GET /metrics`, in Prometheus' text format."""
        self._authorise(request)
        return PlainTextResponse(
            "\n".join(self._metric_lines()) + "\n", media_type="text/plain; version=0.0.4"
        )

    def _metric_lines(self) -> list[str]:
        stats = self.pool.stats
        labelled = {
            "responses": ("counter", "HTTP responses.", [
                (f'{{route="{route}",code="{code}"}}', count)
                for (route, code), count in sorted(self.responses.items())
            ]),
            "items": ("counter", "Items answered, by status.", [
                (f'{{status="{status}"}}', self.items[status]) for status in (*STATUSES, _INVALID)
            ]),
        }  # fmt: skip
        plain = {
            "cached_items": ("counter", "Items answered from the cache.", stats.cached),
            "shared_items": ("counter", "Items that shared an equal one's grading.", stats.shared),
            "known_answers": ("counter", "Verdicts taken from equal answers.", stats.compared),
            "graded_items": ("counter", "Items that a worker worked on.", stats.graded),
            "grading_seconds": ("counter", "Worker time on items.", stats.grading_seconds),
            "workers_replaced": ("counter", "Workers killed or found dead.", stats.replaced),
            "workers": ("gauge", "Workers that are ready.", stats.workers),
            "pending_items": ("gauge", "Items waiting or being graded.", self.pending_items),
        }
        labelled |= {
            name: (kind, text, [("", value)]) for name, (kind, text, value) in plain.items()
        }
        lines = []
        for name, (kind, text, samples) in labelled.items():
            full = f"curiojax_reward_{name}" + ("_total" if kind == "counter" else "")
            lines += [f"# HELP {full} {text}", f"# TYPE {full} {kind}"]
            lines += [f"{full}{labels} {value:.12g}" for labels, value in samples]
        return lines

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(self._keep_testing())
        try:
            yield
        finally:
            task.cancel()

    async def _keep_testing(self) -> None:
        """Has something graded when nobody asks for it, so that `/readyz` knows."""
        while True:
            if time.monotonic() - self.pool.stats.last_graded > _CANARY_SECONDS:
                self._canaries += 1
                number = str(self._canaries)
                with contextlib.suppress(Exception):
                    self.pool.submit(Item(number, number, verifier="exact", format="none"))
            await asyncio.sleep(_CANARY_SECONDS / 2)

    def _authorise(self, request: Request) -> None:
        if self.token is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        matches = hmac.compare_digest(given.strip().encode(), self.token.encode())
        if scheme.lower() != "bearer" or not matches:
            raise HTTPException(
                401, "a bearer token is needed", headers={"WWW-Authenticate": "Bearer"}
            )

    @contextlib.asynccontextmanager
    async def _body(self, request: Request) -> AsyncIterator[Any]:
        """The JSON of a request, counted against the memory for bodies while it is in use."""
        self._authorise(request)
        limit = self.limits.body_bytes
        size = min(int(request.headers.get("content-length", limit)), limit)
        if self.pending_bytes + size > _BODIES_IN_MEMORY * limit:
            raise self._busy()
        self.pending_bytes += size
        try:
            yield parse_json(await read_body(request, limit))
        finally:
            self.pending_bytes -= size

    async def _grade(
        self, request: Request, entries: Sequence[Any], read: Callable[[Any], Item]
    ) -> list[Grade | str]:
        """For each entry its grade, or what is wrong with it."""
        if len(entries) > self.limits.queued_items:
            raise HTTPException(
                413, f"{len(entries)} items; at most {self.limits.queued_items} at once"
            )
        if self.pending_items + len(entries) > self.limits.queued_items:
            raise self._busy()
        self.pending_items += len(entries)
        waiting: list[asyncio.Future[Grade] | str] = []
        try:
            for k, entry in enumerate(entries):
                try:
                    waiting.append(asyncio.wrap_future(self.pool.submit(read(entry))))
                except (ValueError, ConfigError) as error:
                    waiting.append(str(error))
                if k % 256 == 255:
                    await asyncio.sleep(0)  # health checks are answered meanwhile
            futures = [future for future in waiting if not isinstance(future, str)]
            await self._wait(request, futures)
            outcomes = [w if isinstance(w, str) else w.result() for w in waiting]
        finally:
            self.pending_items -= len(entries)
            for future in waiting:
                if not isinstance(future, str):
                    future.cancel()
        self.items.update(o.status if isinstance(o, Grade) else _INVALID for o in outcomes)
        return outcomes

    async def _wait(self, request: Request, futures: list[asyncio.Future[Grade]]) -> None:
        """Waits for all; gives up when nobody waits for the response."""
        pending = set(futures)
        while pending:
            _, pending = await asyncio.wait(pending, timeout=1.0)
            if pending and await request.is_disconnected():
                raise HTTPException(499, "the client has gone")

    def _busy(self) -> HTTPException:
        stats = self.pool.stats
        mean = stats.grading_seconds / max(stats.graded, 1)
        seconds = math.ceil(mean * self.pending_items / max(stats.workers, 1))
        return HTTPException(
            503, "the queue is full", headers={"Retry-After": str(min(max(seconds, 1), 60))}
        )

    def _read_item(self, entry: Any) -> Item:
        if not isinstance(entry, dict):
            raise ValueError("an item is an object")
        if unknown := sorted(set(entry) - _ITEM_KEYS):
            raise ValueError(
                f"unknown key {unknown[0]!r}; known are {', '.join(sorted(_ITEM_KEYS))}"
            )
        for name in ("response", "ground_truth"):
            if not isinstance(entry.get(name), str):
                raise ValueError(f"{name} is missing or no text")
        if not isinstance(entry.get("finished", True), bool):
            raise ValueError("finished is true or false")
        verifier, rule = entry.get("verifier"), entry.get("format")
        # Not every name that the pool would take: `module:function` runs code.
        if verifier is not None and not (isinstance(verifier, str) and verifier in self.verifiers):
            raise ValueError(f"verifier is one of {', '.join(sorted(self.verifiers))}")
        if rule is not None and rule not in FORMAT_RULES:
            raise ValueError(f"format is one of {', '.join(FORMAT_RULES)}")
        return Item(
            entry["response"], entry["ground_truth"], entry.get("finished", True), verifier, rule
        )


def _write_result(entry: Any, outcome: Grade | str) -> dict[str, Any]:
    name = echoed(entry.get("id")) if isinstance(entry, dict) else None
    if isinstance(outcome, str):
        nothing = {"reward": 0.0, "correct": False, "format_ok": False, "extracted": None}
        return {"id": name, **nothing, "status": _INVALID, "error": outcome}
    return {"id": name, **outcome._asdict(), "error": None}
