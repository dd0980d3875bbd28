"""The objectives that learn from demonstrations alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from curiojax.objectives.base import Objective


class Sft(Objective):
    """Cross-entropy on the expert tokens (paper, Eq. 1)."""

    name: Literal["sft"] = "sft"


class Curio(Objective):
    """CurioSFT: cross-entropy plus self-exploratory distillation (paper, Eq. 4-8).

    The defaults are the paper's, with one exception: `gate_entropy` is on, as in the released
    code. Without it the temperature search does the opposite of what the paper says on confident
    tokens (the entropy increment never falls below 0.04 nats, which a near-deterministic token
    reaches only at a large temperature).

    Attributes:
      alpha: weight of the distillation term; 0 is plain SFT.
      entropy_pivot: teacher entropy, in nats, at which half of the entropy increment is asked for.
      gamma: steepness of that sigmoid, per nat.
      max_entropy_increment: largest entropy increment, in nats.
      tau_min, tau_max: range of the teacher's temperature.
      top_k: logits kept in the temperature search; the softmax itself is over all of them.
      search: `bisect` (paper, Figure 6) or `newton` (same answer in fewer steps).
      search_steps: bisections. Newton takes three steps (eight for a range wider than 1.4-fold).
      gate_entropy: teacher entropy, in nats, up to which tau is `tau_min`; null: no gate.
      fixed_tau: one temperature for every token instead of the search.
      teacher: `ema` (a second set of weights) or `self` (the student's own detached logits, with no
        second forward pass and no second set of weights).
    """

    name: Literal["curio"] = "curio"
    alpha: float = Field(default=1.0, ge=0)
    entropy_pivot: float = 1.2
    gamma: float = Field(default=2.0, gt=0)
    max_entropy_increment: float = Field(default=0.5, ge=0)
    tau_min: float = Field(default=1.1, ge=1)
    tau_max: float = Field(default=1.5, gt=1)
    top_k: int = Field(default=512, ge=2)
    search: Literal["bisect", "newton"] = "bisect"
    search_steps: int = Field(default=15, ge=1, le=40)
    gate_entropy: float | None = Field(default=0.03, ge=0)
    fixed_tau: float | None = Field(default=None, ge=1)
    teacher: Literal["ema", "self"] = "ema"
    divergence: Literal["expert_k2", "forward_kl", "reverse_kl"] = "expert_k2"

    @model_validator(mode="before")
    @classmethod
    def _fixed_or_searched(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("fixed_tau") is None:
            return values
        if values.get("gate_entropy") is not None:
            raise ValueError(
                "fixed_tau gives every token one temperature, so gate_entropy cannot be set too; "
                "remove one of them (or set gate_entropy: null)"
            )
        return {**values, "gate_entropy": None}

    @model_validator(mode="after")
    def _check(self) -> Curio:
        if self.tau_min >= self.tau_max:
            raise ValueError(f"tau_min ({self.tau_min}) must be below tau_max ({self.tau_max})")
        return self

    @property
    def needs_teacher(self) -> bool:
        return self.teacher == "ema" and self.alpha > 0

    @property
    def needs_teacher_logits(self) -> bool:
        return self.needs_teacher and self.divergence != "expert_k2"


class Entropy(Objective):
    """Cross-entropy minus `coef` times the student's entropy (paper, Eq. 2).

    The entropy is that of the whole vocabulary at temperature 1, and the gradient flows through it.

    Attributes:
      coef: weight of the entropy. The paper finds 0.06 reasonable and calls 0.08 and more an
        explosion.
      top_fraction: only this share of the tokens, those with the highest entropy, gets the bonus;
        the rest of the loss is unchanged and nothing is rescaled. 0.2 is the last row of the
        paper's Table 1, whose code is not public.
      scope: among which tokens that share is taken: those of the whole optimiser step (`batch`,
        which costs a forward pass more) or of each micro-batch, which makes the result depend on
        `rows_per_microbatch`.
    """

    name: Literal["entropy"] = "entropy"
    coef: float = Field(default=0.06, ge=0)
    top_fraction: float = Field(default=1.0, gt=0, le=1)
    scope: Literal["batch", "microbatch"] = "batch"

    @property
    def selects_tokens(self) -> bool:
        """Whether the tokens with the bonus have to be found before the loss is taken."""
        return self.top_fraction < 1 and self.coef > 0

    @property
    def warnings(self) -> tuple[str, ...]:
        if self.coef < 0.08:
            return ()
        return (
            f"objective.coef: at {self.coef} the paper reports exploding entropy (it uses 0.06)",
        )


class Kl(Objective):
    """Cross-entropy plus `coef` times a divergence from the frozen base model.

    Attributes:
      coef: weight of the divergence.
      estimator: with d = log student - log base of the expert token: `k1` = d, `k2` = d^2 / 2,
        `k3` = exp(-d) - 1 + d; or the divergence over the whole vocabulary, `reverse_full`
        (student to base) or `forward_full` (base to student).
      min_base_prob: above 0, only tokens to which the base itself gives at least this probability
        are held; it is how a format that the base does not know stays learnable.
      exempt_tokens: ids of expert tokens that are never held.
    """

    name: Literal["kl"] = "kl"
    coef: float = Field(default=0.1, ge=0)
    estimator: Literal["k1", "k2", "k3", "reverse_full", "forward_full"] = "k3"
    min_base_prob: float = Field(default=0.0, ge=0, le=1)
    exempt_tokens: tuple[Annotated[int, Field(ge=0)], ...] = ()

    @property
    def needs_teacher(self) -> bool:
        return self.coef > 0

    @property
    def needs_teacher_logits(self) -> bool:
        return self.needs_teacher and self.estimator in ("reverse_full", "forward_full")

    @property
    def warnings(self) -> tuple[str, ...]:
        if self.estimator != "k1":
            return ()
        return (
            "objective.estimator: as a loss k1 only scales the cross-entropy by 1 + coef; "
            "its gradient does not know the base model",
        )


class Gem(Objective):
    """GEM (arXiv 2408.16673), which keeps the student near its own sharpened distribution.

    Attributes:
      beta: temperature of that distribution; near 1 is cross-entropy, near 0 more diversity.
      h: `logsigmoid`, as in GEM's scripts (its gradient is about half as long), or `linear`.
    """

    name: Literal["gem"] = "gem"
    beta: float = Field(default=0.7, gt=0)
    h: Literal["logsigmoid", "linear"] = "logsigmoid"


class Dft(Objective):
    """DFT (arXiv 2508.05629): cross-entropy times the token's own probability, a constant."""

    name: Literal["dft"] = "dft"


class Psft(Objective):
    """Proximal SFT (arXiv 2508.17784): PPO's clipped ratio with advantage 1 on every expert token.

    Attributes:
      clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high]. With a positive
        advantage the lower end never acts.
      updates_per_snapshot: optimiser updates for which the old policy stays the same. The ratio of
        the first is 1, so with 1 this is plain SFT.
    """

    name: Literal["psft"] = "psft"
    clip_low: float = Field(default=0.2, gt=0, le=1)
    clip_high: float = Field(default=0.28, gt=0)
    updates_per_snapshot: int = Field(default=8, ge=1)

    @property
    def needs_teacher(self) -> bool:
        return self.updates_per_snapshot > 1

    @property
    def warnings(self) -> tuple[str, ...]:
        if self.updates_per_snapshot > 1:
            return ()
        return (
            "objective.updates_per_snapshot: with 1 the probability ratio is always 1 and this is "
            "plain SFT",
        )


class Oxa(Objective):
    """OXA (arXiv 2603.16206): cross-entropy on promoted, unlikelihood on suppressed sequences.

    Attributes:
      ul_weight: weight of the unlikelihood -log(1 - p); 0 trains on the promoted data alone.
    """

    name: Literal["oxa"] = "oxa"
    ul_weight: float = Field(default=1e-4, ge=0)

    @property
    def needs_suppressed(self) -> bool:
        return self.ul_weight > 0
