"""Single-stage objectives: the model's own completions and an expert's demonstration at once.

They all start from the base model. What the releases share (LUFFY's fork of verl) is the default:
no clip, no division by the standard deviation, entropy bonus 0.001 over all tokens, those of the
demonstration included. What they also share and we do not is the reduction: their sums over
micro-batches add up, so that the balance of their terms depends on how many there are.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from curiojax.objectives.policy import RatioObjective


class HybridObjective(RatioObjective):
    """Base of the single-stage objectives; see `curiojax.losses.demonstrations`.

    The penalty of `kl_coef` and the weight of `tis_cap` are for tokens that the policy drew, so
    they leave the demonstration's out; the bonus of `entropy_coef` is for all.
    """

    clip_low: float | None = Field(default=None, gt=0, le=1)
    clip_high: float | None = Field(default=None, gt=0)
    normalize_std: bool = False
    entropy_coef: float = Field(default=0.001, ge=0)

    @property
    def needs_demonstrations(self) -> bool:
        return True


class Luffy(HybridObjective):
    """LUFFY (arXiv 2504.14945): the demonstration is one of the group, graded like the others.

    Own tokens: -A r. The demonstration's: -A p / (p + gamma). The value of a sequence is the sum
    over its tokens, divided by the longest response allowed, as released.

    Attributes:
      gamma: at which probability the demonstration's gradient is largest.
    """

    name: Literal["luffy"] = "luffy"
    gamma: float = Field(default=0.1, gt=0)
    aggregation: Literal[
        "token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "seq_mean_token_sum_norm"
    ] = "seq_mean_token_sum_norm"


class RlPlus(HybridObjective):
    """RL-PLUS (arXiv 2508.00222): LUFFY's group with another ratio for the demonstration.

    Its tokens: -A sg[(1 - p)^gamma] 2 p / (1.5 p_old + 0.5), p_old being the trainer's at the start
    of the step.

    Attributes:
      gamma: how much more the tokens count that the policy finds unlikely.
    """

    name: Literal["rl_plus"] = "rl_plus"
    gamma: float = Field(default=0.5, ge=0)
    aggregation: Literal[
        "token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "seq_mean_token_sum_norm"
    ] = "seq_mean_token_sum_norm"


class Srft(HybridObjective):
    """SRFT (arXiv 2506.19767), whose weights follow the entropy of each sequence.

    With H the mean entropy of a sequence's tokens under the current policy, a constant:

        demonstration    -sft_coef exp(-H) log p - A p / (p + gamma)
        own, right       -positive_coef exp(H) log p
        own, wrong       log p

    A is the demonstration's advantage in the group of it and the rollouts. Own tokens have neither
    ratio nor clip nor baseline. Its own code is not public; the signs of H and the shaped ratio are
    those of HPT's re-implementation. Own and demonstration tokens have a mean each.

    Attributes:
      sft_coef, positive_coef, gamma: see above.
    """

    name: Literal["srft"] = "srft"
    sft_coef: float = Field(default=0.5, ge=0)
    positive_coef: float = Field(default=0.1, ge=0)
    gamma: float = Field(default=0.1, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Srft:
        for name in ("clip_low", "clip_high", "dual_clip"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name}: srft has no probability ratio to clip; remove it")
        return self

    @property
    def stands_beside(self) -> bool:
        return True

    @property
    def needs_sequence_entropy(self) -> bool:
        return True


class Hpt(HybridObjective):
    """HPT (arXiv 2509.04419): a prompt is learnt by GRPO, or by SFT if the policy cannot solve it.

    Where at most `gate` own completions of a prompt are right, they are dropped and cross-entropy
    on the demonstration takes their place. Either kind is a mean over its own tokens, weighted by
    its share of the prompts.

    Attributes:
      gate: as released, 0 for Qwen2.5-Math-7B and 2 for Llama.
      sft_coef: weight of the cross-entropy; 0.3 was used for Qwen2.5-Math-1.5B.
    """

    name: Literal["hpt"] = "hpt"
    gate: int = Field(default=0, ge=0)
    sft_coef: float = Field(default=1.0, gt=0)

    @property
    def stands_beside(self) -> bool:
        return True


class SftRl(HybridObjective):
    """GRPO plus `sft_coef` times cross-entropy on the demonstrations ("RL w/ SFT loss" in LUFFY).

    Attributes:
      sft_coef: weight of the cross-entropy, a mean over its own tokens; 0 is GRPO.
    """

    name: Literal["sft_rl"] = "sft_rl"
    sft_coef: float = Field(default=1.0, ge=0)

    @property
    def needs_demonstrations(self) -> bool:
        return self.sft_coef > 0

    @property
    def stands_beside(self) -> bool:
        return True
