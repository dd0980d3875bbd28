"""What all routes of the reward server share: bodies within limits, JSON, errors, counts."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_SECONDS = 60.0
# A body over the limit is read up to this multiple of it, lest the client miss the answer.
_DRAINED = 4


class Json(Response):
    """JSON in ASCII, so that lone surrogates of a response's text can be sent back."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":"), allow_nan=False).encode("ascii")


class Counted:
    """Counts responses by route and code; unknown paths count as one route."""

    def __init__(self, app: ASGIApp, counts: Counter[tuple[str, int]], paths: set[str]) -> None:
        self.app, self.counts, self.paths = app, counts, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = scope["path"] if scope["path"] in self.paths else "other"
                self.counts[route, message["status"]] += 1
            await send(message)

        await self.app(scope, receive, counted if scope["type"] == "http" else send)


async def read_body(request: Request, limit: int) -> bytearray:
    """The body; status 413 for one over the limit, of which nothing is kept."""
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= limit:
                    body += chunk
                elif body:
                    body = bytearray()
                if size > _DRAINED * limit:
                    break
    except TimeoutError:
        raise HTTPException(408, f"the body took more than {BODY_SECONDS:.0f} seconds") from None
    if size > limit:
        raise HTTPException(413, f"the body has more than {limit} bytes")
    return body


def parse_json(body: bytearray) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from None


async def as_json(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return Json({"error": error.detail}, status_code=error.status_code, headers=error.headers)


async def fault_as_json(request: Request, error: Exception) -> Response:
    return Json({"error": f"{type(error).__name__}: {error}"}, status_code=500)


def echoed(value: Any) -> Any:
    """A value of the client's that is sent back: as it is, or null if it is no plain JSON value."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int)) else None
