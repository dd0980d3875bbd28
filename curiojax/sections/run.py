"""The sections that say what a run works on, where, and what it keeps."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from curiojax.sections.base import Section


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


class World(Section):
    """An embedded, generated task with its own tokenizer, base model and verifier.

    Attributes:
      name: `countdown` (reach a target from four numbers) or `modchain` (work out an expression
        modulo 10, line by line).
      demonstrations: the expert set, e.g. `two 0.2`: two canonical strategies, the second in 20 %.
      num_demonstrations: its size.
      num_prompts: problems that RL samples answers to; not those of the evaluation.
      hard_share: how many of them are hard, as a share.
      id_prompts, hard_prompts, longer_prompts: held-out problems in the evaluation: like those of
        the demonstrations, hard, and longer than in any training data (`modchain` only).
      samples: completions per problem in the evaluation.
    """

    name: Literal["countdown", "modchain"] = "countdown"
    demonstrations: str = "two 0.2"
    num_demonstrations: int = Field(default=4000, gt=0)
    num_prompts: int = Field(default=2000, gt=0)
    hard_share: float = Field(default=0.5, ge=0, le=1)
    id_prompts: int = Field(default=256, gt=0)
    hard_prompts: int = Field(default=768, gt=0)
    longer_prompts: int = Field(default=0, ge=0)
    samples: int = Field(default=16, gt=0)

    @property
    def prompts(self) -> dict[str, int]:
        """How many problems of each kind are evaluated."""
        return {"id": self.id_prompts, "hard": self.hard_prompts, "longer": self.longer_prompts}
