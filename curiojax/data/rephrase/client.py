"""One request to an OpenAI-compatible endpoint, and what its failure means.

The key goes into one header and nowhere else: it is taken out of everything that comes back, since
endpoints like to quote it.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx

from curiojax.data.rephrase.pace import retry_after
from curiojax.data.rephrase.replies import Reply, parse_completion
from curiojax.errors import ConfigError

_MAX_BYTES = 4 << 20
_CONNECT_SECONDS = 15.0
_SECRET = 12  # characters; what is shorter is a word for servers that take any key
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529}


class Again(Exception):
    """The request failed and may work later.

    Attributes:
      overloaded: the endpoint has too much to do: fewer requests at a time are called for.
      limited: it said so itself (429); then the question is not at fault.
      after: seconds it asks to wait, or None.
      lost: the request may have been worked on, and billed.
    """

    def __init__(
        self,
        reason: str,
        *,
        overloaded: bool = False,
        limited: bool = False,
        after: float | None = None,
        lost: bool = False,
    ):
        super().__init__(reason)
        self.overloaded, self.limited, self.after, self.lost = overloaded, limited, after, lost


class Refused(Exception):
    """The endpoint will not answer this question, however often it is asked."""


class Endpoint:
    """An OpenAI-compatible endpoint; an async context manager.

    Args:
      base_url: up to and including `/v1`, as a rule.
      key: sent as a bearer token; None sends none.
      timeout: seconds for a request from start to end.
      connections: how many may be open.

    Raises:
      ConfigError: an address or a key that cannot be used.
    """

    def __init__(self, base_url: str, key: str | None, *, timeout: float, connections: int):
        check_address(base_url)
        self._url = base_url.rstrip("/") + "/chat/completions"
        self._key, self._timeout = key, timeout
        headers = {"content-type": "application/json", "accept": "application/json"}
        if key is not None:
            headers["authorization"] = f"Bearer {key}"
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS), pool=None),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        )

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._client.aclose()

    async def ask(self, body: Mapping[str, Any]) -> Reply:
        """Sends one request.

        Raises:
          Again: it may work later.
          Refused: it never will.
          ConfigError: no request can work: wrong address, key or model, or no credit left.
        """
        content = json.dumps(body).encode("ascii")
        try:
            async with asyncio.timeout(self._timeout):
                async with self._client.stream("POST", self._url, content=content) as response:
                    status, headers = response.status_code, response.headers
                    received = await _read(response)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise Again(self._shown(f"no connection ({error})")) from None
        except (TimeoutError, httpx.TimeoutException):
            reason = f"no reply within {self._timeout:g} s"
            raise Again(reason, overloaded=True, lost=True) from None
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise Again(self._shown(f"broken off ({type(error).__name__})"), lost=True) from None
        except (httpx.InvalidURL, UnicodeError) as error:
            raise ConfigError(f"--base-url: {self._shown(str(error))}") from None
        if status != 200:
            raise self._failure(status, headers, received)
        try:
            reply = parse_completion(json.loads(received))
        except (ValueError, RecursionError) as error:
            reason = "not JSON" if isinstance(error, json.JSONDecodeError) else str(error)
            raise Again(self._shown(f"malformed reply: {reason}"), lost=True) from None
        return Reply(
            self._without_key(reply.text),
            self._without_key(reply.finish),
            reply.prompt_tokens,
            reply.completion_tokens,
        )

    def _failure(self, status: int, headers: httpx.Headers, received: bytes) -> Exception:
        code, message = _error(received)
        said = self._shown(f"HTTP {status}: {message}" if message else f"HTTP {status}")
        if code in ("insufficient_quota", "billing_hard_limit_reached") or status == 402:
            return ConfigError(f"--api-key-env: the account has no credit left ({said})")
        if status in (401, 403):
            sent = "no key was sent" if self._key is None else "it does not accept the key"
            return ConfigError(
                f"--api-key-env: the endpoint refuses: {sent} ({said}); put a valid key into that "
                "environment variable"
            )
        if status in (404, 405) or 300 <= status < 400:
            return ConfigError(
                f"--base-url or --model: {self._url} does not answer ({said}); the address ends "
                "in /v1 as a rule, and the model is named as the endpoint lists it"
            )
        if status in _AGAIN:
            return Again(
                said,
                overloaded=status == 429 or status >= 500,
                limited=status == 429,
                after=retry_after(headers.get("retry-after")),
            )
        return Refused(said)

    def _without_key(self, text: str) -> str:
        if self._key is None or len(self._key) < _SECRET:
            return text
        return text.replace(self._key, "[key]")

    def _shown(self, text: str) -> str:
        """Text of the endpoint's on one line, short and without control characters."""
        text = " ".join(self._without_key(text).split())
        return "".join(c if c.isprintable() else "?" for c in text)[:300]


def read_key(variable: str) -> str | None:
    """The key in an environment variable; None if it is not set or empty.

    Raises:
      ConfigError: it cannot be sent in a header.
    """
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"--api-key-env: what {variable} holds is no key; set it again")
    return key or None


def check_address(base_url: str) -> None:
    """Refuses what is no address of an endpoint.

    Raises:
      ConfigError: not http(s), or with a password in it.
    """
    try:
        parts = urlsplit(base_url)
        port_fine = parts.port is None or parts.port > 0
    except ValueError:
        parts, port_fine = urlsplit(""), False
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_fine:
        raise ConfigError(
            "--base-url: not an address of the form https://HOST/v1; give that of the endpoint"
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(
            "--base-url: leave out user, password, ? and #; the key belongs into an environment "
            "variable (--api-key-env)"
        )


def is_exposed(base_url: str) -> bool:
    """Whether a key would travel unencrypted to another machine."""
    parts = urlsplit(base_url)
    local = parts.hostname in ("localhost", "::1") or str(parts.hostname).startswith("127.")
    return parts.scheme == "http" and not local


async def _read(response: httpx.Response) -> bytes:
    received = bytearray()
    async for chunk in response.aiter_bytes():
        received += chunk
        if len(received) > _MAX_BYTES:
            raise httpx.StreamError("the reply is too long")
    return bytes(received)


def _error(received: bytes) -> tuple[str, str]:
    """Code and message of an error's body, as far as it has them."""
    try:
        body = json.loads(received)
    except (ValueError, RecursionError):
        return "", received[:200].decode("utf-8", "replace")
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return "", str(error)[:200]
    return str(error.get("code") or error.get("type") or ""), str(
        error.get("message") or error.get("detail") or ""
    )
