"""Prefix-RFT: one rollout of the group continues the beginning of an expert's demonstration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from curiojax.objectives.hybrid import HybridObjective


class PrefixRft(HybridObjective):
    """Prefix-RFT (arXiv 2507.01679): `rollouts_per_prompt - 1` plain rollouts and a guided one.

    The guided rollout is the first part of the prompt's demonstration, continued by the policy and
    graded as a whole. With the rewards r, the advantages are Dr.GRPO's:

        plain             r - mean of the plain ones
        continuation      r           (the mean of a single continuation counts as 0)
        prefix            r - mean of the plain ones

    All tokens have PPO's clipped ratio, those of the prefix too: the denominator is the policy at
    the start of the step, not the expert. Of the prefix tokens of an update only those where that
    policy is least certain are learnt; the others have neither loss nor entropy bonus.
    A prompt without a demonstration has `rollouts_per_prompt` plain rollouts, which is GRPO.

    The prefix's share of the demonstration is low + (high - low) x with x ~ Beta(a, b), drawn for
    every prompt and step; low falls along a half cosine over the run. As released, except that the
    release selects tokens within a micro-batch, and that its newest variant takes the mean of the
    single continuation off first, which leaves nothing of it.

    Attributes:
      prefix_high: upper end of the share, throughout.
      prefix_low_start, prefix_low_end: lower end of the share at the first and at the last step.
      beta_a, beta_b: of the distribution between the ends; 1 and 1 is uniform.
      entropy_share: of the prefix tokens of an update, the share with the highest entropy that is
        learnt; 1: all of them.
      normalize_std: of the plain rollouts' advantages only.
    """

    name: Literal["prefix_rft"] = "prefix_rft"
    clip_low: float | None = Field(default=0.2, gt=0, le=1)
    clip_high: float | None = Field(default=0.2, gt=0)
    dual_clip: float | None = Field(default=3.0, gt=1)
    aggregation: Literal[
        "token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "seq_mean_token_sum_norm"
    ] = "seq_mean_token_sum_norm"
    prefix_high: float = Field(default=0.95, gt=0, lt=1)
    prefix_low_start: float = Field(default=0.95, ge=0, lt=1)
    prefix_low_end: float = Field(default=0.05, ge=0, lt=1)
    beta_a: float = Field(default=1.0, gt=0)
    beta_b: float = Field(default=1.0, gt=0)
    entropy_share: float = Field(default=0.2, gt=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> PrefixRft:
        for name in ("prefix_low_start", "prefix_low_end"):
            if getattr(self, name) > self.prefix_high:
                raise ValueError(
                    f"{name} ({getattr(self, name)}) must not be above prefix_high "
                    f"({self.prefix_high})"
                )
        return self

    @property
    def continues_demonstrations(self) -> bool:
        return True

    @property
    def selects_given(self) -> bool:
        return self.entropy_share < 1
