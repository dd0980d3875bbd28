"""vLLM's HTTP interface, as far as it is used here: token ids in, token ids and log-probs out.

vLLM ignores fields that it does not know, shortens outputs that do not fit, and reports an aborted
request as a success. So the request is a fixed set of fields, and every reply is checked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.client
import json
import math
import socket
import threading
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from curiojax.errors import ConfigError
from curiojax.rollout.base import Completion, RolloutError, Sampling


class EngineLost(RolloutError):
    """A server died, or its engine did: nothing that it was asked for will be answered."""


class RequestTimeout(RolloutError):
    """A server did not answer in time."""


class Aborted(RolloutError):
    """A request ended early on the server's side; its completions are to be thrown away."""


class ServerError(RolloutError):
    """A reply that refuses; `status` is its HTTP status."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class VllmClient:
    """One server.

    Args:
      base_url: such as `http://127.0.0.1:8000`.
    """

    def __init__(self, base_url: str):
        parts = urlsplit(base_url.rstrip("/"))
        if parts.scheme != "http" or not parts.hostname:
            raise ConfigError(
                f"rollout.base_urls: {base_url!r} is not of the form http://HOST:PORT; give one "
                "such address per server"
            )
        self.base_url = base_url.rstrip("/")
        self._host, self._port, self._prefix = parts.hostname, parts.port or 80, parts.path
        self._open: set[http.client.HTTPConnection] = set()
        self._lock = threading.Lock()
        self.model = "policy"

    def get(self, path: str, *, timeout: float) -> Any:
        return self.request("GET", path, None, timeout=timeout)

    def post(self, path: str, body: dict[str, Any] | None = None, *, timeout: float) -> Any:
        return self.request("POST", path, body, timeout=timeout)

    def request(self, method: str, path: str, body: dict | None, *, timeout: float) -> Any:
        """Sends one request; returns the JSON of the reply (None when it is empty).

        Raises:
          EngineLost: the server is gone (refused, disconnected).
          RequestTimeout: no reply within `timeout` seconds.
          ServerError: the reply is a refusal.
        """
        status, text = self._exchange(method, path, body, timeout)
        if status == 200:
            if not text:
                return None
            try:
                return json.loads(text)
            except ValueError as error:
                raise RolloutError(f"{self.base_url}{path}: the reply is no JSON") from error
        raise ServerError(f"{self.base_url}{path}: HTTP {status}: {_error_message(text)}", status)

    def _exchange(self, method, path, body, timeout) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        content = None if body is None else json.dumps(body, allow_nan=False).encode()
        with self._lock:
            self._open.add(connection)
        try:
            headers = {"Content-Type": "application/json"} if content is not None else {}
            connection.request(method, self._prefix + path, content, headers)
            response = connection.getresponse()
            return response.status, response.read().decode("utf-8", "replace")
        except TimeoutError as error:
            raise RequestTimeout(
                f"{self.base_url}{path}: no answer within {timeout:g} seconds"
            ) from error
        except (OSError, http.client.HTTPException, AttributeError, ValueError) as error:
            # A connection that `cancel` closes under our hands fails in any of these ways.
            raise EngineLost(
                f"{self.base_url}{path}: {type(error).__name__}: {error or 'disconnected'}"
            ) from error
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def cancel(self) -> None:
        """Drops all requests under way; the server stops working on them."""
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError, AttributeError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def complete(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        seed: int,
        *,
        version: int,
        log_probs: bool,
        timeout: float,
    ) -> list[Completion]:
        """All `sampling.n` completions of one prompt.

        Raises:
          Aborted: when the server ended one of them early.
          EngineLost: also for the statuses that a server with a dead engine answers.
          RolloutError: as `request`, and for a reply that is not what was asked for. A status of
            400 means that the request is wrong, and asking again would not help.
        """
        body = completion_body(self.model, prompt, sampling, seed, log_probs=log_probs)
        try:
            reply = self.post("/v1/completions", body, timeout=timeout)
        except ServerError as error:
            if error.status >= 500:
                raise EngineLost(str(error)) from error
            raise RolloutError(
                f"{error} (prompt of {len(prompt)} tokens, {sampling}); vLLM calls the request "
                "itself wrong, so it is not sent again"
            ) from error
        return read_completions(reply, prompt, sampling, version=version, log_probs=log_probs)

    def weight_version(self, *, timeout: float) -> str:
        return str(self.get("/weight_info", timeout=timeout)["weight_version"])


def one_prompt(sampling: Sampling, count: int, limit: int) -> Sampling:
    """The settings of one prompt's request; vLLM refuses `min_tokens` above `max_tokens`."""
    least = min(sampling.min_tokens, limit)
    return dataclasses.replace(sampling, n=count, max_tokens=limit, min_tokens=least)


def completion_body(
    model: str, prompt: Sequence[int], sampling: Sampling, seed: int, *, log_probs: bool
) -> dict[str, Any]:
    """The request: these fields and no others, every one of them spelt out.

    Greedy completions are all the same, and vLLM refuses to draw more than one.
    """
    return {
        "model": model,
        "prompt": [int(token) for token in prompt],
        "n": 1 if sampling.temperature == 0 else sampling.n,
        "max_tokens": sampling.max_tokens,
        "min_tokens": sampling.min_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "seed": seed,
        "stop_token_ids": list(sampling.stop_ids),
        "ignore_eos": True,  # what ends a completion is in stop_token_ids, and nowhere else
        "logprobs": 0 if log_probs else None,  # 0: of the sampled token only
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "stream": False,
    }


def read_completions(
    reply: Any, prompt: Sequence[int], sampling: Sampling, *, version: int, log_probs: bool
) -> list[Completion]:
    """Checks a reply to `completion_body` and takes it apart."""
    try:
        choices = sorted(reply["choices"], key=lambda choice: choice["index"])
        expected = 1 if sampling.temperature == 0 else sampling.n
        if [choice["index"] for choice in choices] != list(range(expected)):
            raise RolloutError(f"vLLM returned {len(choices)} completions, {expected} were asked")
        completions = [_read_choice(c, prompt, sampling, version, log_probs) for c in choices]
    except (KeyError, TypeError, AttributeError) as error:
        raise RolloutError(
            f"vLLM's reply lacks {error}; is the server's version supported?"
        ) from error
    return completions if expected == sampling.n else completions * sampling.n


def _read_choice(choice, prompt, sampling: Sampling, version, log_probs: bool) -> Completion:
    tokens, reason = list(choice["token_ids"]), choice["finish_reason"]
    if reason not in ("stop", "length"):
        raise Aborted(f"vLLM ended a completion early (finish_reason {reason!r})")
    if list(choice["prompt_token_ids"]) != [int(token) for token in prompt]:
        raise RolloutError("vLLM changed the prompt; its tokens are not those that were sent")
    stopped = bool(tokens) and tokens[-1] in sampling.stop_ids
    if not 1 <= len(tokens) <= sampling.max_tokens or (reason == "stop") != stopped:
        raise RolloutError(
            f"vLLM returned {len(tokens)} tokens with finish_reason {reason!r}, which does not "
            f"follow from max_tokens {sampling.max_tokens} and stop ids {list(sampling.stop_ids)}"
        )
    if reason == "length" and len(tokens) != sampling.max_tokens:
        raise RolloutError(
            f"vLLM cut a completion at {len(tokens)} of {sampling.max_tokens} tokens; "
            "is its context shorter than rollout.max_model_len?"
        )
    values = [float(x) for x in choice["logprobs"]["token_logprobs"]] if log_probs else []
    if log_probs and (len(values) != len(tokens) or not all(map(math.isfinite, values))):
        raise RolloutError("vLLM's log-probs are not one finite number per token")
    return Completion(tokens, values, reason, version)


def request_seed(seed: int, index: int) -> int:
    """The seed of a prompt's request; vLLM adds the sample's index to it.

    A hash, so that neither neighbouring prompts nor neighbouring steps share draws.
    """
    digest = hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 2  # below 2^62: vLLM takes a signed 64-bit integer


def _error_message(text: str) -> str:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        content = json.loads(text)
        error = content.get("error", content.get("detail", content))
        text = error["message"] if isinstance(error, dict) else str(error)
    return " ".join(text.split())[:2000] or "no message"
