"""The sections about completions: how they are sampled and graded, and on which questions."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from curiojax.sections.base import Section


class Rollout(Section):
    """Where completions come from in the RL stage, and how they are sampled.

    Attributes:
      engine: `sampler`, the JAX sampler on the trainer's own devices, or `vllm`, servers of their
        own; see the README for their environment.
      temperature, top_p, top_k, min_tokens: of the sampling; top_k 0 takes all tokens.
      max_response_tokens: includes the end-of-sequence token.
      stop_token_ids: ids that end a completion beside the tokenizer's end-of-sequence token.
      batch_size: completions that the JAX sampler computes at once, over all devices.
      vllm_python: the interpreter of vLLM's environment; servers are started with it.
      base_urls: servers that run already, instead of starting some.
      num_servers: servers to start; null: one per device, or one where no devices are named.
      devices: GPUs of the servers, shared out evenly; the trainer takes the others, unless `layout`
        is `shared`.
      layout: `separate`, servers with GPUs of their own, or `shared`, servers on the trainer's GPUs
        that sleep during the updates.
      memory_share: of a GPU's memory, the part of a server that shares it; JAX takes the rest.
      weights_dir: where weights are handed to the servers: in memory, with room for two versions.
      extra_args: further command-line arguments of the servers.
      timeout_seconds: of one request, which is one prompt with all its completions.
      keep_steps: completions of how many last steps stay on disk; null: of all.
    """

    engine: Literal["sampler", "vllm"] = "sampler"
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    min_tokens: int = Field(default=0, ge=0)
    max_response_tokens: int = Field(default=8192, gt=0)
    stop_token_ids: tuple[int, ...] = ()
    batch_size: int = Field(default=256, gt=0)
    vllm_python: str | None = None
    base_urls: tuple[str, ...] = ()
    num_servers: int | None = Field(default=None, ge=1)
    devices: tuple[int, ...] = ()
    layout: Literal["separate", "shared"] = "separate"
    memory_share: float = Field(default=0.4, gt=0, le=0.9)
    weights_dir: str = "/dev/shm"
    extra_args: tuple[str, ...] = ()
    timeout_seconds: float = Field(default=1800, gt=0)
    keep_steps: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Rollout:
        if self.min_tokens >= self.max_response_tokens:
            raise ValueError(
                f"min_tokens is {self.min_tokens}, which leaves no room in max_response_tokens "
                f"({self.max_response_tokens})"
            )
        if self.engine == "vllm" and self.vllm_python is None and not self.base_urls:
            raise ValueError(
                "engine vllm needs vllm_python (the interpreter of its environment, e.g. "
                "/opt/vllm/bin/python) or base_urls of running servers"
            )
        if self.vllm_python is not None and self.base_urls:
            raise ValueError("vllm_python and base_urls are both set; remove one of them")
        if self.shares_devices:
            self._check_shared()
        return self

    def _check_shared(self) -> None:
        if self.engine != "vllm":
            raise ValueError(
                "layout shared is one of vLLM's servers; the sampler shares the devices anyway, so "
                "remove it, or set engine=vllm"
            )
        if self.base_urls:
            raise ValueError(
                "layout shared needs servers that the trainer starts; set vllm_python instead of "
                "base_urls, or layout=separate"
            )

    @property
    def shares_devices(self) -> bool:
        """Whether vLLM's servers live on the trainer's GPUs."""
        return self.layout == "shared"


class Reward(Section):
    """How completions are graded: 1 where the answer is right and the format kept, else 0.

    Attributes:
      verifier: `math` (math-verify), `choice`, `exact`, `number`, `countdown`, `released`,
        `reasoning_gym:TASK`, or `module:function` of your own.
      format: `strict`, `released` or `none`.
      workers: processes that grade; null: one less than there are cores, 16 at most.
      timeout_seconds: for one completion; a worker that takes longer is killed.
      memory_limit_mb: of one worker.
    """

    verifier: str = "math"
    format: Literal["strict", "released", "none"] = "strict"
    workers: int | None = Field(default=None, ge=1)
    timeout_seconds: float = Field(default=10.0, gt=0)
    memory_limit_mb: int = Field(default=2048, ge=128)


class Evaluation(Section):
    """Held-out questions that are answered during training; what is learnt does not depend on them.

    Attributes:
      every: how many steps lie between two evaluations; the first comes before the first step, and
        the last one after the last. null: none at all.
      benchmarks: as in a config of `python -m curiojax.evaluate`: names, sets of them, or mappings
        that give a file of one's own.
      benchmarks_dir: where their files are looked for first.
      limit: first questions of each benchmark only.
      samples: completions per question.
      temperature, top_p: of their sampling; temperature 0 takes the most likely token.
      max_response_tokens: includes the end-of-sequence token; null: what the run is trained with.
      seed: of the sampling, the same at every step.
      verifier: grades all benchmarks, instead of each one's own.
      batch_size: completions that the JAX sampler of the supervised stage computes at once.
    """

    every: int | None = Field(default=None, ge=1)
    benchmarks: tuple[str | dict[str, Any], ...] = ()
    benchmarks_dir: str | None = None
    limit: int | None = Field(default=None, gt=0)
    samples: int = Field(default=4, ge=1)
    temperature: float = Field(default=0.6, ge=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_response_tokens: int | None = Field(default=None, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**31)
    verifier: str | None = None
    batch_size: int = Field(default=256, gt=0)

    @field_validator("benchmarks", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | dict) else value

    @model_validator(mode="after")
    def _check(self) -> Evaluation:
        if self.every is not None and not self.benchmarks:
            raise ValueError(
                "every is set, but benchmarks is empty; name some, e.g. "
                "evaluation.benchmarks=[aime24], or set every=null"
            )
        return self
