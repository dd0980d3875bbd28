"""The sections that say how weights are learnt."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from curiojax.sections.base import Section


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

    Attributes:
      precision: of the products with the layers' weights in the teacher's pass: `same` as the
        student's (the paper), or eight bits (ours): `fp8` or `int8`, with weights that are
        quantised whenever the teacher moves. Its float32 weights, its embedding and its LM head
        stay as they are.
    """

    step_size: float = Field(default=0.99, ge=0, le=1)
    every: int = Field(default=5, ge=1)
    precision: Literal["same", "fp8", "int8"] = "same"


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
