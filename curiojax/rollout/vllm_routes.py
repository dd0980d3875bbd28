"""The routes by which a vLLM server takes new weights, sleeps and wakes, each in its order.

A server that sleeps has given up its GPU memory, weights as well as keys and values (vLLM's level
2). It wakes in two halves with the new weights between them, so that at no time are there old
weights, new weights and a cache side by side. vLLM itself would let a half be left out, and would
then answer from whatever the memory holds; here no server wakes without being given weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from curiojax.rollout.vllm_client import EngineLost, RolloutError, ServerError, VllmClient
from curiojax.rollout.vllm_server import wait_until

_REFUSED = "curiojax refused the weights:"  # as in vllm_worker.py
_QUICK = 60.0  # seconds for what should take milliseconds


class WeightsRefused(RolloutError):
    """A server looked at new weights and did not take them."""


class Routes:
    """The requests to one server.

    Args:
      name: of the server, in messages.
      timeout: seconds for one request.
    """

    def __init__(self, client: VllmClient, name: str, timeout: float):
        self._client, self._name, self._timeout = client, name, timeout

    def transfer(self, directory: Path, tag: str) -> None:
        """Our own way, which looks at all of the weights before it touches the model.

        Raises:
          WeightsRefused: they do not fit; the model is as it was.
        """
        self.post("/start_weight_update")
        try:
            self.post("/update_weights", {"update_info": {"directory": str(directory)}})
        except ServerError as error:
            if _REFUSED in str(error):
                raise WeightsRefused(f"{directory}: {error}") from error
            raise
        self.post("/finish_weight_update", {"weight_version": tag})

    def reload(self, directory: Path, tag: str) -> None:
        """vLLM's own way."""
        call = {"method": "reload_weights", "kwargs": {"weights_path": str(directory)}}
        self.post("/collective_rpc", call)
        self.set_tag(tag)

    def while_awake(self, send: Callable[[], None]) -> None:
        """Sends new weights to a server that has some, once its requests are through."""
        with self._paused():
            send()
            self._reset_prefix_cache()

    def waking(self, send: Callable[[], None]) -> None:
        """Wakes a server and sends it weights on the way: it has none.

        The scheduler has stood still since the server fell asleep, and goes on by itself once all
        of the memory is back. `/resume` before that would let it use a cache that is not there.
        """
        self._wake("weights", "sleeping")
        send()
        self._wake("kv_cache", "awake")
        if self.is_asleep():
            raise RolloutError(f"{self._name}: is asleep after it was woken")
        self._reset_prefix_cache()

    def sleep(self) -> None:
        """Gives up the weights and the cache, without a copy of either.

        Raises:
          RolloutError: it did not.
        """
        self.post("/sleep?level=2")
        if not self.is_asleep():
            raise RolloutError(f"{self._name}: did not fall asleep")

    def is_asleep(self) -> bool:
        return self._client.get("/is_sleeping", timeout=_QUICK)["is_sleeping"] is not False

    def set_tag(self, tag: str) -> None:
        """Names the weights that the server has."""
        self.post("/update_weight_version", {"new_version": tag})

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return self._client.post(path, body, timeout=self._timeout)

    def _wake(self, what: str, then: str) -> None:
        found = self.post(f"/wake_up?tags={what}")["status"]
        if found != then:
            raise RolloutError(f"{self._name}: is {found} after waking its {what}, not {then}")

    @contextlib.contextmanager
    def _paused(self) -> Iterator[None]:
        self.post("/pause?mode=wait")
        try:
            yield
        finally:
            # Left paused, the server would let every later request wait.
            with contextlib.suppress(EngineLost):
                self.post("/resume")

    def _reset_prefix_cache(self) -> None:
        """Forgets keys and values of the old weights; prompts over a block would be read with them.

        The reply says whether it was done: it is not while requests hold blocks.
        """
        wait_until(
            lambda: self.post("/reset_prefix_cache")["success"] is True,
            _QUICK,
            f"{self._name}: emptying the prefix cache",
        )
