"""The sections of a run's config: frozen models with the paper's values as defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )

    @model_validator(mode="before")
    @classmethod
    def _no_truth_values_for_numbers(cls, values: Any) -> Any:
        """YAML's `true` would pass for the number 1."""
        if isinstance(values, Mapping):
            for key, value in values.items():
                field = cls.model_fields.get(key)
                if isinstance(value, bool) and field and bool not in types_of(field.annotation):
                    raise ValueError(f"{key} is {str(value).lower()}, which is no value for it")
        return values


class Model(Section):
    """Where the weights come from and how they are computed with.

    Attributes:
      path: a Hugging Face checkpoint, as a folder or hub id.
      compute_dtype: dtype of the forward and backward pass; parameters are kept in float32.
      remat: what the backward pass recomputes: `full` (all but layer inputs), `dots` (all but
        matmul outputs) or `none`.
      attention: `auto`, `xla` (dense mask), `blocked` (query blocks) or `cudnn` (GPU, one record
        per row, so `data.packing: false`).
      rope_theta, max_position_embeddings: override the checkpoint's values, to extend its context.
    """

    path: str | None = None
    compute_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    remat: Literal["full", "dots", "none"] = "full"
    attention: Literal["auto", "xla", "blocked", "cudnn"] = "auto"
    rope_theta: float | None = Field(default=None, gt=0)
    max_position_embeddings: int | None = Field(default=None, gt=0)


class Data(Section):
    """Which records are trained on and how they become token ids.

    Attributes:
      path: a hub id, or a parquet, JSONL or JSON file.
      format: schema of the records; null detects it from the columns.
      split: which split of a hub dataset.
      limit: use the first records only.
      template: how a prompt is rendered: `curio` (paper, Table 7), `luffy`, `qwen`, `model` (the
        tokenizer's own chat template) or `plain`.
      max_prompt_tokens: longer prompts are dropped, as released.
      max_response_tokens: includes the end-of-sequence token.
      overlong: what happens to longer responses: `drop`, `truncate` (as released: the cut response
        is trained on without an end-of-sequence token) or `error`.
      packing: several records share a row; attention and positions keep them apart.
      row_length: tokens per row; null: prompt + response maximum.
      workers: processes that tokenise; 0 uses threads.
      cache_dir: where tokenised data is kept; null: $CURIOJAX_CACHE or ~/.cache/curiojax.
      suppressed_path: wrong samples that are unlearnt beside `path`, for `objective.name: oxa`; in
        the same format and under the same limits.
      suppressed_per_step: how many of them per update; null: `sequences_per_step`.
    """

    path: str | None = None
    format: str | None = None
    split: str = "train"
    limit: int | None = Field(default=None, gt=0)
    template: str = "curio"
    max_prompt_tokens: int = Field(default=1024, gt=0)
    max_response_tokens: int = Field(default=8192, gt=0)
    overlong: Literal["drop", "truncate", "error"] = "drop"
    packing: bool = True
    row_length: int | None = Field(default=None, gt=0)
    workers: int = Field(default=0, ge=0)
    cache_dir: str | None = None
    suppressed_path: str | None = None
    suppressed_per_step: int | None = Field(default=None, gt=0)


class Loss(Section):
    """How per-token losses are computed and averaged.

    Attributes:
      chunk_tokens: tokens whose logits are held at once, per device.
      normalizer: `global_token_mean`, one division by the step's number of trained tokens;
        `pair_token_mean`, the released code's mean over pairs of records of their token means,
        which gives tokens of short records a larger weight; or `sequence_token_mean`, the mean over
        records of their token means (the default of `objective.name: oxa`, as released).
    """

    chunk_tokens: int = Field(default=1024, gt=0)
    normalizer: Literal["global_token_mean", "pair_token_mean", "sequence_token_mean"] = (
        "global_token_mean"
    )


class Teacher(Section):
    """The teacher's update: teacher <- (1 - step_size) teacher + step_size student, every n steps.

    With the paper's 0.99 the teacher is nearly a copy of the student that lags by up to `every`
    steps; Algorithm 1, line 17 and the released code agree on this direction.
    """

    step_size: float = Field(default=0.99, ge=0, le=1)
    every: int = Field(default=5, ge=1)


class Optimizer(Section):
    """AdamW, linear warm-up from `min_lr_ratio`, then cosine down to it or a constant.

    Attributes:
      schedule: what follows the warm-up: the default is `cosine` in the supervised stage and
        `constant` in RL.
      lr_horizon_multiplier: the cosine ends at `steps * lr_horizon_multiplier`; the released code
        uses 4, so that its learning rate ends at 0.88 of the peak.
      max_grad_norm: global-norm clipping.
      skip_limit: consecutive non-finite gradients after which the run stops.
    """

    learning_rate: float = Field(default=1e-5, ge=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = Field(default=60, ge=0)
    min_lr_ratio: float = Field(default=1e-4, ge=0, le=1)
    lr_horizon_multiplier: float = Field(default=1, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    skip_limit: int = Field(default=5, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Optimizer:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be in [0, 1); they are {list(self.betas)}")
        return self


class MeshShape(Section):
    """Devices along each mesh axis; -1 takes what is left."""

    data: int = 1
    fsdp: int = -1
    tensor: int = 1

    @model_validator(mode="after")
    def _check(self) -> MeshShape:
        for name in ("data", "fsdp", "tensor"):
            size = getattr(self, name)
            if size != -1 and size < 1:
                raise ValueError(f"{name} must be positive, or -1 for what is left; it is {size}")
        return self


class Checkpoint(Section):
    """When to save (every n steps, and at the end) and what to keep.

    The newest `keep_last` checkpoints stay, and those whose step `keep_every` divides.
    """

    every: int = Field(default=178, ge=1)
    keep_last: int = Field(default=3, ge=1)
    keep_every: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Checkpoint:
        if self.keep_every is not None and self.keep_every % self.every:
            raise ValueError(
                f"keep_every is {self.keep_every}, which is no multiple of every ({self.every}): "
                "such steps are never saved"
            )
        return self


class Logging(Section):
    """Loggers beside metrics.jsonl; `wandb` is a project name."""

    tensorboard: bool = False
    wandb: str | None = None


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


class World(Section):
    """An embedded, generated task with its own tokenizer, base model and verifier.

    Attributes:
      name: only `countdown`.
      demonstrations: the expert set, e.g. `two 0.2`: two canonical strategies, the second in 20 %.
      num_demonstrations: its size.
      num_prompts: problems that RL samples answers to; not those of the evaluation.
      hard_share: how many of them are hard, as a share.
      id_prompts, hard_prompts: held-out problems in the evaluation, in distribution and hard.
      samples: completions per problem in the evaluation.
    """

    name: Literal["countdown"] = "countdown"
    demonstrations: str = "two 0.2"
    num_demonstrations: int = Field(default=4000, gt=0)
    num_prompts: int = Field(default=2000, gt=0)
    hard_share: float = Field(default=0.5, ge=0, le=1)
    id_prompts: int = Field(default=256, gt=0)
    hard_prompts: int = Field(default=768, gt=0)
    samples: int = Field(default=16, gt=0)


def types_of(annotation: Any) -> list[type]:
    if isinstance(annotation, type):
        return [annotation]
    return [t for t in getattr(annotation, "__args__", ()) if isinstance(t, type)]
