"""Rollouts by vLLM: servers in an interpreter of their own, token ids and weights over HTTP.

`VllmRollout` starts the servers (or takes the addresses of running ones), spreads prompts over
them, hands them new weights and replaces those that die. The trainer needs neither torch nor vLLM.

Log-probs are those of the raw logits at temperature 1, whatever `top_p` is. At another temperature
vLLM can only report those of the distribution that it draws from, which are the promised ones when
nothing else shapes it (`top_p` 1, `top_k` 0, `min_tokens` 0); anything else is refused, or sampled
without log-probs where they are not needed.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from curiojax import progress
from curiojax.errors import ConfigError
from curiojax.models import ModelConfig, check_context
from curiojax.models.config import config_to_hf
from curiojax.models.files import INDEX_FILE, find_checkpoint
from curiojax.rollout.base import Completion, OnGroup, Sampling, SyncReport, orders_of
from curiojax.rollout.vllm_client import EngineLost, RolloutError, one_prompt, request_seed
from curiojax.rollout.vllm_dispatch import Dispatch
from curiojax.rollout.vllm_endpoint import Endpoint
from curiojax.rollout.vllm_routes import WeightsRefused
from curiojax.rollout.vllm_server import ServerProcess, make_run_directory
from curiojax.rollout.vllm_settings import SUPPORTED_WINDOW, VllmSettings, check_interpreter
from curiojax.rollout.weights import NotFinite, WeightStore

__all__ = ["RolloutError", "VllmRollout", "VllmSettings", "WeightsRefused"]


class VllmRollout:
    """A `curiojax.rollout.base.Rollout`; also a context manager that closes itself.

    Args:
      config: of the model, as `load_pretrained` returns it.
      checkpoint: directory or hub id of the weights that the servers start with.
      settings: see `VllmSettings`.
      version: of those weights.

    Attributes:
      version: of the weights in use.
      last_sync: seconds of the last `sync` by part, and how each server took the weights.

    Raises:
      ConfigError: for what a user can mend: no interpreter, no vLLM or the wrong one, no room for
        weights, a context that the model does not have, a server that does not start or answer.
    """

    def __init__(
        self,
        config: ModelConfig,
        checkpoint: str | Path,
        settings: VllmSettings,
        *,
        version: int = 0,
    ):
        check_context(config, settings.max_model_len, "rollout.max_model_len")
        found = check_interpreter(settings.vllm_python) if settings.vllm_python else None
        directory = find_checkpoint(checkpoint).resolve()
        self.config, self.settings, self.version = config, settings, version
        self.last_sync: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._run = uuid.uuid4().hex[:8]
        self._store: WeightStore | None = None
        if settings.weights_dir is not None:
            self._store = WeightStore(settings.weights_dir, config, settings.dtype)
        self._run_dir: Path | None = None
        self._endpoints: list[Endpoint] = []
        try:
            if found is None:
                self._connect(directory)
            else:
                self._start(directory, found)
        except BaseException:
            self.close()
            raise

    def _start(self, directory: Path, found: str) -> None:
        settings, count = self.settings, self.settings.server_count
        self._run_dir = make_run_directory()
        directory = _linked(directory, self.config, self._run_dir / "start")
        remove = [self._run_dir, *([] if self._store is None else [self._store.folder])]
        for index in range(count):
            process = ServerProcess(
                settings,
                index,
                self._run_dir,
                Path(settings.log_dir).resolve(),
                remove=remove,
            )
            self._endpoints.append(self._endpoint(process, directory))
        shared = "" if settings.memory_share is None else ", shared with the trainer"
        devices = f" on devices {', '.join(map(str, settings.devices))}" if settings.devices else ""
        message = (
            f"starting {count} vLLM server{'s' * (count > 1)}{devices}{shared} "
            f"(vLLM {found}; supported: {SUPPORTED_WINDOW})"
        )
        with progress.status(message):
            for endpoint in self._endpoints:
                endpoint.launch()
            for endpoint in self._endpoints:
                try:
                    endpoint.wait_ready()
                except RolloutError as error:
                    raise ConfigError(
                        f"rollout.vllm_python: {error}; the logs are in {settings.log_dir}"
                    ) from error

    def _connect(self, directory: Path) -> None:
        with progress.status(f"connecting to vLLM (supported: {SUPPORTED_WINDOW})"):
            for url in self.settings.base_urls:
                endpoint = self._endpoint(url, directory)
                self._endpoints.append(endpoint)
                endpoint.connect()

    def _endpoint(self, server: ServerProcess | str, directory: Path) -> Endpoint:
        tied = self.config.tie_word_embeddings
        return Endpoint(self.settings, server, directory, self._tag(self.version), tied=tied)

    def _tag(self, version: int) -> str:
        # Unique to this run, so that an external server's leftovers of an earlier one do not pass.
        return f"{self._run}-{version}"

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seed: int,
        *,
        on_group: OnGroup | None = None,
        keys: Sequence[int] | None = None,
        counts: Sequence[int] | None = None,
        limits: Sequence[int] | None = None,
    ) -> list[list[Completion]]:
        """See `Rollout.generate`; a `sync` waits until this is through, and the other way round.

        Every prompt's draws are seeded by (`seed`, its key). vLLM's arithmetic depends on what
        shares its batches, so that a second call is equal only as far as rounding leaves it so.

        Raises:
          ConfigError: as there; for ids that are none, and for settings whose log-probs vLLM does
            not report.
          RolloutError: when a server refuses a request, or is lost for good.
        """
        orders = orders_of(prompts, sampling, counts, limits)
        log_probs = self._check(prompts, sampling, orders.limits)
        results: list[list[Completion]] = [[] for _ in prompts]
        if not results:
            return results
        with self._lock:
            if self.settings.memory_share is not None:
                self._all(Endpoint.wake)
            tag, version = self._tag(self.version), self.version

            def send(endpoint: Endpoint, index: int) -> list[Completion]:
                completions = endpoint.client.complete(
                    prompts[index],
                    one_prompt(sampling, orders.counts[index], orders.limits[index]),
                    request_seed(seed, index if keys is None else keys[index]),
                    version=version,
                    log_probs=log_probs,
                    timeout=self.settings.request_timeout_seconds,
                )
                found = endpoint.client.weight_version(timeout=60.0)
                if found != tag:  # somebody else restarted or updated the server meanwhile
                    raise EngineLost(f"{endpoint.name}: its weights are now {found}, not {tag}")
                return completions

            concurrent = self.settings.concurrent_groups
            dispatch = Dispatch(self._endpoints, len(prompts), send, concurrent)
            with contextlib.closing(dispatch.run()) as groups:
                for index, completions in groups:
                    results[index] = completions
                    if on_group is not None:
                        on_group(index, completions)
        return results

    def _check(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, limits: Sequence[int]
    ) -> bool:
        """Checks a call before anything is sent; returns whether to ask for log-probs."""
        limit, vocabulary = self.settings.max_model_len, self.config.vocab_size
        for index, (prompt, new) in enumerate(zip(prompts, limits, strict=True)):
            if min(prompt) < 0 or max(prompt) >= vocabulary:
                raise ConfigError(
                    f"prompts: prompt {index} has ids outside the vocabulary of {vocabulary}; "
                    "does the tokenizer belong to the model?"
                )
            if len(prompt) + new > limit:
                raise ConfigError(
                    f"rollout.max_model_len: prompt {index} has {len(prompt)} tokens, which with "
                    f"max_tokens {new} exceeds {limit}; raise it, or ask for less"
                )
        shaped = sampling.top_p < 1 or sampling.top_k > 0 or sampling.min_tokens > 0
        if self.settings.logprobs_mode == "raw_logprobs":
            right = sampling.temperature in (0.0, 1.0)
        else:
            # Greedy, the logits are not scaled, so that the temperature is 1 as promised.
            right = not shaped or (sampling.temperature == 0 and sampling.min_tokens == 0)
        needed = self.settings.need_log_probs and sampling.log_probs
        if needed and not right:
            raise ConfigError(
                f"rollout.temperature: with servers started for temperature "
                f"{self.settings.temperature:g}, vLLM does not report log-probs at temperature "
                f"{sampling.temperature:g} with top_p {sampling.top_p:g}, top_k {sampling.top_k}, "
                f"min_tokens {sampling.min_tokens}; use temperature 1, or top_p 1 and no others"
            )
        return right and sampling.log_probs

    def sync(self, params: Any, version: int) -> SyncReport:
        """Writes new weights, has every server take them over, and makes sure that it did.

        Raises:
          ConfigError: when there is no room for them.
          WeightsRefused: they are not finite, or a server found them unfit; the old ones serve on.
          RolloutError: when a server neither took them nor could be restarted with them.
        """
        store = self._store
        if store is None:
            raise RuntimeError("sync: without a weights_dir there is nothing to hand over with")
        with self._lock:
            began = time.monotonic()
            try:
                directory = store.write(params, version)
            except NotFinite as error:
                raise WeightsRefused(f"weights of version {version}: {error}") from error
            written = time.monotonic()
            ways = self._load(directory, self._tag(version), store)
            self.version = version
            ended = time.monotonic()
        self.last_sync = {"write": written - began, "load": ended - written, "ways": ways}
        return SyncReport(version, ended - began, store.num_bytes)

    def _load(self, directory: Path, tag: str, store: WeightStore) -> list[str]:
        before = [(endpoint.directory, endpoint.tag) for endpoint in self._endpoints]
        with ThreadPoolExecutor(len(self._endpoints)) as pool:
            futures = [pool.submit(e.load, directory, tag) for e in self._endpoints]
        errors = [error for f in futures if (error := f.exception()) is not None]
        if not errors:
            return [future.result() for future in futures]
        # All or none: those that took the weights go back, and the old ones serve on.
        for endpoint, future, (old, old_tag) in zip(self._endpoints, futures, before, strict=True):
            if future.exception() is None:
                endpoint.load(old, old_tag)
        store.discard(directory)
        raise errors[0]

    def sleep(self) -> None:
        """See `Rollout.sleep`; servers on GPUs of their own do not.

        Servers on the trainer's give up weights and cache. Whatever is asked for next, `sync` or
        `generate`, wakes them and hands them weights on the way: new ones, or again those in use.
        """
        if self.settings.memory_share is not None:
            with self._lock:
                self._all(Endpoint.sleep)

    def _all(self, call: Callable[[Endpoint], None]) -> None:
        with ThreadPoolExecutor(len(self._endpoints)) as pool:
            for future in [pool.submit(call, endpoint) for endpoint in self._endpoints]:
                future.result()

    def close(self) -> None:
        """Ends the servers that were started here, and removes all that was shared with them."""
        for endpoint in self._endpoints:
            endpoint.close()
        if self._store is not None:
            self._store.close()
        if self._run_dir is not None:
            shutil.rmtree(self._run_dir, ignore_errors=True)

    def __enter__(self) -> VllmRollout:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _linked(checkpoint: Path, config: ModelConfig, folder: Path) -> Path:
    """The checkpoint's weights under our `config.json`, which may override some of its own."""
    folder.mkdir()
    for file in (*checkpoint.glob("*.safetensors"), *checkpoint.glob(INDEX_FILE)):
        (folder / file.name).symlink_to(file.resolve())
    content = json.dumps(config_to_hf(config), indent=2)
    (folder / "config.json").write_text(content, encoding="utf-8")
    return folder
