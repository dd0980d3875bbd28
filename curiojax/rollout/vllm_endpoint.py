"""One vLLM server as the rollouts see it: ready or not, with which weights, and back after a loss.

A server answers `/health` while its model is empty or half-loaded, so ready means: healthy, the
right version, and a token for a prompt.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from pathlib import Path

from curiojax.errors import ConfigError
from curiojax.rollout.base import Sampling
from curiojax.rollout.vllm_client import (
    EngineLost,
    RequestTimeout,
    RolloutError,
    ServerError,
    VllmClient,
)
from curiojax.rollout.vllm_routes import Routes, WeightsRefused
from curiojax.rollout.vllm_server import ServerProcess, wait_until
from curiojax.rollout.vllm_settings import VllmSettings, check_version

_QUICK = 60.0  # seconds for what should take milliseconds
_PROBE = Sampling(max_tokens=1)
_STARTS = 3


class Endpoint:
    """A server, ours or somebody else's.

    Attributes:
      epoch: how often it was lost and came back.
      directory: of the weights that it should have.
      tag: their version, as the server reports it; unique to this run.
      asleep: whether it has given its memory up, and with it the weights.

    Args:
      server: the process, or the address of a server that runs already.
      tied: whether the model's head is its embedding. On CPUs vLLM's own reload leaves such a head
        as it was, so it is no fallback then.
    """

    def __init__(
        self,
        settings: VllmSettings,
        server: ServerProcess | str,
        directory: Path,
        tag: str,
        *,
        tied: bool,
    ):
        self.settings, self.directory, self.tag = settings, directory, tag
        self.process = server if isinstance(server, ServerProcess) else None
        self.client = VllmClient("http://127.0.0.1" if self.process else str(server))
        self._tied = tied
        self.epoch = 0
        self.asleep = False
        self._closed = False
        self._lock = threading.RLock()

    @property
    def name(self) -> str:
        return f"vLLM server {self.process.index}" if self.process else self.client.base_url

    # Starting -----------------------------------------------------------------------------------

    def launch(self) -> None:
        """Starts the server, if it is ours, without waiting for it."""
        with self._lock:
            if self._closed:
                raise RolloutError("the rollout engine is closed")
            if self.process is not None:
                self.process.start(self.directory)
                self.asleep = False
                self.client = VllmClient(self.process.base_url)

    def wait_ready(self) -> None:
        """Waits until the server answers with the weights that it should have.

        Raises:
          EngineLost: when it ended instead.
          RolloutError: when it took too long, or answers with nonsense.
        """
        seconds = self.settings.start_timeout_seconds
        wait_until(self._healthy, seconds, f"{self.name}: becoming healthy")
        if self.process is not None:
            self._routes.set_tag(self.tag)
        self.check()

    def check(self) -> None:
        """Raises a `RolloutError` unless health, version and a one-token probe are all right."""
        self.client.get("/health", timeout=_QUICK)
        found = self.client.weight_version(timeout=_QUICK)
        if found != self.tag:
            raise RolloutError(f"{self.name}: has weights {found}, not {self.tag}")
        self.client.complete(
            [0], _PROBE, 0, version=0, log_probs=True, timeout=self.settings.sync_timeout_seconds
        )

    def answers(self) -> bool:
        """Whether a one-token request comes through within a minute."""
        with contextlib.suppress(RolloutError):
            self.client.complete([0], _PROBE, 0, version=0, log_probs=False, timeout=_QUICK)
            return True
        return False

    def connect(self) -> None:
        """Checks a server that was started by somebody else, and gives it our weights.

        Raises:
          ConfigError: when it does not answer, or was not started as it must be.
        """
        what = f"rollout.base_urls: {self.name}"
        try:
            version = self.client.get("/version", timeout=_QUICK)["version"]
            check_version(version, what)
            model = self.client.get("/v1/models", timeout=_QUICK)["data"][0]
        except RolloutError as error:
            raise ConfigError(f"{what} is not a vLLM server that answers ({error})") from None
        self.client.model = model["id"]
        if model["max_model_len"] < self.settings.max_model_len:
            raise ConfigError(
                f"{what} was started with --max-model-len {model['max_model_len']}, "
                f"rollout.max_model_len is {self.settings.max_model_len}; make them agree"
            )
        try:
            info = self.client.get("/server_info?config_format=json", timeout=_QUICK)
        except RolloutError as error:
            raise ConfigError(
                f"{what} does not take weights ({error}); start it with VLLM_SERVER_DEV_MODE=1"
            ) from None
        mode = info["vllm_config"]["model_config"]["logprobs_mode"]
        if self.settings.need_log_probs and mode != self.settings.logprobs_mode:
            raise ConfigError(
                f"{what} was started with --logprobs-mode {mode}; rollout.temperature "
                f"{self.settings.temperature:g} needs {self.settings.logprobs_mode}"
            )
        self.load(self.directory, self.tag)

    @property
    def _routes(self) -> Routes:
        return Routes(self.client, self.name, self.settings.sync_timeout_seconds)

    def _healthy(self) -> bool:
        if self.process is not None:
            self.process.check_alive()
        try:
            self.client.get("/health", timeout=_QUICK)
        except (EngineLost, RequestTimeout, ServerError):
            return False
        return True

    # Losing and regaining -----------------------------------------------------------------------

    def recover(self, reason: str, epoch: int) -> None:
        """Brings a lost server back with the weights that it should have.

        Args:
          epoch: what `epoch` was when it was lost; nothing is done if it came back since.

        Raises:
          RolloutError: when it does not come back.
        """
        with self._lock:
            if self.epoch != epoch:
                return
            if self.process is None:
                self._await_return(reason)
            else:
                self._restart(reason)
            self.epoch += 1

    def _restart(self, reason: str) -> None:
        for attempt in range(1, _STARTS + 1):
            try:
                self.launch()
                self.wait_ready()
                return
            except RolloutError as error:
                if attempt == _STARTS or self._closed:
                    raise RolloutError(
                        f"{self.name}: lost ({reason}) and not back after {attempt} starts: {error}"
                    ) from error

    def _await_return(self, reason: str) -> None:
        seconds = self.settings.start_timeout_seconds
        what = f"{self.name}: lost ({reason}); its return"
        wait_until(lambda: self._closed or self._healthy(), seconds, what, interval=1.0)
        if self.client.weight_version(timeout=_QUICK) != self.tag:
            self.load(self.directory, self.tag)
        self.check()

    def close(self) -> None:
        self._closed = True  # before the lock, which a recovery may hold for long
        self.client.cancel()
        if self.process is not None:
            self.process.stop()
            with self._lock:
                self.process.stop()

    # Weights ------------------------------------------------------------------------------------

    def load(self, directory: Path, tag: str) -> str:
        """Gives the server new weights; nothing may be under way on it.

        Returns:
          How: `transfer`, or one of the fallbacks `reload` and `restart`.

        Raises:
          WeightsRefused: they do not fit, and the old ones serve on.
          RolloutError: when none of the ways worked.
        """
        with self._lock:
            ways = ("transfer",) if self._tied else ("transfer", "reload")
            before, problem = (self.directory, self.tag), None
            for how in ways:
                try:
                    self._take(how, directory, tag)
                    return how
                except WeightsRefused:
                    if self.asleep:
                        self._take_back()
                    raise
                except RolloutError as error:
                    self.directory, self.tag = before
                    problem = error
            if self.process is None:
                raise RolloutError(f"{self.name}: did not take the weights: {problem}")
            self.directory, self.tag = directory, tag
            try:
                self.recover(str(problem), self.epoch)
            except RolloutError:
                self.directory, self.tag = before
                raise
            return "restart"

    def _take(self, how: str, directory: Path, tag: str) -> None:
        routes = self._routes
        send = routes.transfer if how == "transfer" else routes.reload
        (routes.waking if self.asleep else routes.while_awake)(lambda: send(directory, tag))
        self.asleep = False
        self.directory, self.tag = directory, tag
        self.check()

    def _take_back(self) -> None:
        """Gives the server the old weights once more, which went when it fell asleep."""
        try:
            self._take("transfer", self.directory, self.tag)
        except RolloutError as error:
            self.recover(str(error), self.epoch)

    # Sleeping -----------------------------------------------------------------------------------

    def sleep(self) -> None:
        """Has the server give up its GPU memory; one that does not is ended, which frees it too."""
        with self._lock:
            if self.asleep or self.process is None:
                return
            try:
                self._routes.sleep()
            except RolloutError as error:
                print(f"rollout: {self.name} is ended, not asleep: {error}", file=sys.stderr)
                self.process.stop()
            # An ended one is found out, and started anew, when it is woken.
            self.asleep = True

    def wake(self) -> None:
        """Wakes the server with the weights that it should have; one that is awake is left alone.

        Raises:
          RolloutError: it neither woke nor could be restarted.
        """
        with self._lock:
            if self.asleep:
                self.load(self.directory, self.tag)
