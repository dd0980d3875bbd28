"""What can be trained: one frozen, validated model per objective, told apart by `name`.

The maths lives in `curiojax.losses`; these models are its hyper-parameters. They are hashable, so
they serve as static arguments of jitted functions.
"""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import Field

from curiojax.objectives.base import Objective
from curiojax.objectives.hybrid import Hpt, HybridObjective, Luffy, RlPlus, SftRl, Srft
from curiojax.objectives.policy import Grpo, GrpoReleased, PolicyObjective, RatioObjective
from curiojax.objectives.prefix import PrefixRft
from curiojax.objectives.supervised import Curio, Dft, Entropy, Gem, Kl, Oxa, Psft, Sft

__all__ = [
    "ALL_OBJECTIVES",
    "OBJECTIVES",
    "POLICY_OBJECTIVES",
    "AnyObjective",
    "AnyPolicyObjective",
    "AnyStageObjective",
    "Curio",
    "Dft",
    "Entropy",
    "Gem",
    "Grpo",
    "GrpoReleased",
    "Hpt",
    "HybridObjective",
    "Kl",
    "Luffy",
    "Objective",
    "Oxa",
    "Policy",
    "PolicyObjective",
    "PrefixRft",
    "Psft",
    "RatioObjective",
    "RlPlus",
    "Sft",
    "SftRl",
    "Srft",
    "Supervised",
]

Supervised = Sft | Curio | Entropy | Kl | Gem | Dft | Psft | Oxa
AnyObjective = Annotated[Supervised, Field(discriminator="name")]
Policy = Grpo | GrpoReleased | Luffy | RlPlus | Srft | Hpt | SftRl | PrefixRft
AnyPolicyObjective = Annotated[Policy, Field(discriminator="name")]
AnyStageObjective = Annotated[Supervised | Policy, Field(discriminator="name")]


def _by_name(union: Any) -> dict[str, type[Objective]]:
    return {model.model_fields["name"].default: model for model in get_args(union)}


OBJECTIVES = _by_name(Supervised)
POLICY_OBJECTIVES = _by_name(Policy)
ALL_OBJECTIVES = OBJECTIVES | POLICY_OBJECTIVES
