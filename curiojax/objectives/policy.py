"""The objectives that learn from rewards of the model's own completions."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from curiojax.objectives.base import Objective


class PolicyObjective(Objective):
    """Base of the objectives that learn from rewards. See `curiojax.losses.policy_loss`.

    Attributes:
      clip_low, clip_high: the probability ratio is clipped to [1 - clip_low, 1 + clip_high]; null:
        no bound at that end.
      aggregation: how the losses of the tokens become one number. `token_mean`: over all tokens of
        the update (DAPO), so a long response counts for more; `seq_mean_token_mean`: over
        sequences, of the mean over their tokens (the first GRPO), so a token of a long response
        counts for less; `seq_mean_token_sum`: over sequences, of the sum; and
        `seq_mean_token_sum_norm`: the same over the longest response allowed (Dr.GRPO).
      normalize_std: divide a group's advantages by the standard deviation of its rewards; off in
        Dr.GRPO.
      overlong: responses that were cut at the limit are graded like the others (`keep`), get
        reward 0 (`zero`), or are left out of the loss while their reward still counts in their
        group (`mask`).
      dynamic_sampling: drop the groups whose rewards are all equal, which teach nothing, and sample
        other prompts until the step is full (DAPO).
    """

    clip_low: float | None = Field(default=0.2, gt=0, le=1)
    clip_high: float | None = Field(default=0.28, gt=0)
    aggregation: Literal[
        "token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "seq_mean_token_sum_norm"
    ] = "token_mean"
    normalize_std: bool = True
    overlong: Literal["keep", "zero", "mask"] = "keep"
    dynamic_sampling: bool = False

    @property
    def stands_beside(self) -> bool:
        """Whether a prompt's demonstration stands beside its `rollouts_per_prompt` completions,
        with a mean of its own, instead of taking the place of one of them."""
        return False

    @property
    def continues_demonstrations(self) -> bool:
        """Whether one of a prompt's completions continues the beginning of its demonstration, which
        is then learnt nowhere else."""
        return False

    @property
    def selects_given(self) -> bool:
        """Whether the tokens that were given are learnt only where the policy is uncertain, which
        the scoring pass has to find out for all of an update."""
        return False

    @property
    def needs_sampler_log_probs(self) -> bool:
        """Whether the loss weighs tokens by how much the sampler's policy differs."""
        return False

    @property
    def needs_sequence_entropy(self) -> bool:
        """Whether a sequence is weighed by the mean entropy of its tokens."""
        return False


class RatioObjective(PolicyObjective):
    """Base of the objectives whose own tokens are learnt by a probability ratio and what may be
    added to it.

    Attributes:
      dual_clip: upper bound on the ratio where the advantage is negative and the range above has
        none in force; null: none. verl's default is 3, DAPO's scripts take 10.
      tis_cap: truncated importance sampling: the loss of a token is multiplied by the probability
        that the trainer's old policy gave it over the sampler's, at most this; null: off. 2 is
        usual.
      kl_coef: weight of a penalty on leaving the reference, the checkpoint that the run started
        from.
      kl_estimator: with d = log p - log p_ref of the sampled token, `k1` = d, `k2` = d^2 / 2 (its
        gradient is that of KL(p || ref) on samples from p), `k3` = exp(-d) - 1 + d.
      entropy_coef: weight of an entropy bonus, over the whole vocabulary.
    """

    dual_clip: float | None = Field(default=None, gt=1)
    tis_cap: float | None = Field(default=None, gt=0)
    kl_coef: float = Field(default=0.0, ge=0)
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    entropy_coef: float = Field(default=0.0, ge=0)

    @property
    def needs_teacher(self) -> bool:
        return self.kl_coef > 0

    @property
    def needs_sampler_log_probs(self) -> bool:
        return self.tis_cap is not None

    @property
    def warnings(self) -> tuple[str, ...]:
        found = []
        if self.kl_coef > 0 and self.kl_estimator == "k1":
            found.append(
                "objective.kl_estimator: as a loss k1 has no gradient on average, so it holds "
                "nothing near the reference; k2 or k3 does"
            )
        if self.tis_cap is not None and self.tis_cap < 1:
            found.append(
                f"objective.tis_cap: at {self.tis_cap} even tokens on which trainer and sampler "
                "agree are weighted down; 2 is usual"
            )
        if self.dual_clip and self.clip_high and self.dual_clip < 1 + self.clip_high:
            found.append(
                f"objective.dual_clip: {self.dual_clip} is inside the clip range (up to "
                f"{1 + self.clip_high:g}); 3 and 10 are usual"
            )
        return tuple(found)


class Grpo(RatioObjective):
    """GRPO with two clip ranges (paper, Table 6)."""

    name: Literal["grpo"] = "grpo"


class GrpoReleased(PolicyObjective):
    """The loss of the code released with the paper, which is not that of its Table 6.

    With the ratio r and the advantage A a token's loss is min(-A log p, -A clip(r)). It works out
    to -A clip(r) where A > 0, whose gradient vanishes beyond either end of the range, and to
    -A log p where A < 0: REINFORCE, with neither ratio nor clip. The value of a sequence is the sum
    over its tokens, divided by the longest response allowed.
    """

    name: Literal["grpo_released"] = "grpo_released"
    clip_high: float | None = Field(default=0.2, gt=0)
    aggregation: Literal[
        "token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "seq_mean_token_sum_norm"
    ] = "seq_mean_token_sum_norm"

    @property
    def warnings(self) -> tuple[str, ...]:
        return (
            "objective.name: grpo_released pushes tokens with a negative advantage down without "
            "ratio or clip, as the released code does; the paper's text describes grpo",
        )
