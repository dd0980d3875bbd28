"""What can be trained: one frozen, validated model per objective, told apart by `name`.

The maths lives in `curiojax.losses`; these models are its hyper-parameters. They are hashable, so
they serve as static arguments of jitted functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Objective(BaseModel):
    """Base of all objectives: immutable, hashable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @property
    def needs_teacher(self) -> bool:
        """Whether a second set of weights (the teacher) has to be kept and run."""
        return False


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


OBJECTIVES: dict[str, type[Objective]] = {"sft": Sft, "curio": Curio}
AnyObjective = Annotated[Sft | Curio, Field(discriminator="name")]
