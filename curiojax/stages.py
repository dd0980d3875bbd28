"""What the stages and presets mean: defaults laid under a run's values, and what fits together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curiojax.objectives import OBJECTIVES, POLICY_OBJECTIVES, RatioObjective
from curiojax.sections import Data

# The paper's text and the released code differ. Where a preset is named, it sets these fields; what
# a file or an override says wins. Objective fields apply to `objective.name: curio` only.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "objective": {"search_steps": 15, "gate_entropy": None},
        "optimizer": {"lr_horizon_multiplier": 1},
        "data": {"overlong": "drop"},
    },
    "released": {
        # The 0.03-nat gate is the default already.
        "objective": {"search_steps": 20},
        "optimizer": {"lr_horizon_multiplier": 4},
        "data": {"overlong": "truncate"},
        "loss": {"normalizer": "pair_token_mean"},
    },
}


RL_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},  # its Table 6, which is the default
    "released": {
        "prompts_per_update": 32,
        "rollout": {"top_p": 1.0},
        "objective": {"name": "grpo_released"},
        "reward": {"verifier": "released", "format": "released"},
    },
}


# What a stage means by default, where it is not what the sections say.
STAGES: dict[str, dict[str, Any]] = {
    "sft": {"objective": {"name": "curio"}},
    "grpo": {
        "objective": {"name": "grpo"},
        "optimizer": {"learning_rate": 1e-6, "schedule": "constant", "warmup_steps": 0},
        "checkpoint": {"every": 20},
    },
}
# Keys that mean something in one stage only.
ONLY_IN = {
    "sft": ("epochs", "sequences_per_step", "teacher", "loss.normalizer", "data.suppressed_path"),
    "grpo": (
        "prompts_per_step",
        "rollouts_per_prompt",
        "prompts_per_update",
        "max_staleness",
        "rollout",
        "reward",
    ),
}
INSTEAD = {
    "epochs": "steps",
    "sequences_per_step": "prompts_per_step, rollouts_per_prompt and prompts_per_update",
    "loss.normalizer": "objective.aggregation",
}


def merge(base: Mapping[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `update` laid over it, section by section.

    An `objective` of another name replaces the whole objective: the fields of one objective mean
    nothing to another.
    """
    merged = dict(base)
    for key, value in update.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            renamed = "name" in value and value["name"] != old.get("name", value["name"])
            merged[key] = dict(value) if key == "objective" and renamed else merge(old, value)
        else:
            merged[key] = value
    return merged


def default_objective(values: Mapping[str, Any]) -> str:
    """The name of the objective where none is given."""
    stage, preset = values.get("stage", "sft"), values.get("preset")
    if stage not in STAGES:
        return "curio"
    chosen = RL_PRESETS.get(preset, {}) if stage == "grpo" and isinstance(preset, str) else {}
    return chosen.get("objective", STAGES[stage]["objective"])["name"]


def with_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` laid over its preset, which is laid over what its stage means by default."""
    stage, preset = values.get("stage", "sft"), values.get("preset")
    if stage not in STAGES:  # reported by validation, as is an unknown preset
        return dict(values)
    known = PRESETS if stage == "sft" else RL_PRESETS
    chosen = dict(known.get(preset, {})) if isinstance(preset, str) else {}
    objective = values.get("objective")
    if isinstance(objective, Mapping) and "name" in objective:
        if objective["name"] != default_objective(values):
            chosen.pop("objective", None)
    return merge(merge(STAGES[stage], chosen), values)


def check_stage(config: Any) -> None:
    """Raises a `ValueError` when the stage, its objective and its keys do not belong together."""
    rl = config.stage == "grpo"
    if rl != (config.objective.name in POLICY_OBJECTIVES):
        fitting = ", ".join(POLICY_OBJECTIVES if rl else OBJECTIVES)
        raise ValueError(
            f"objective.name: {config.objective.name} is none of stage {config.stage}; choose one "
            f"of {fitting}, or the other stage"
        )
    other = "sft" if rl else "grpo"
    for key in ONLY_IN[other]:
        section, _, leaf = key.rpartition(".")
        holder = getattr(config, section) if section else config
        default = type(holder).model_fields[leaf].get_default(call_default_factory=True)
        if getattr(holder, leaf) not in (default, None):
            instead = f"; use {INSTEAD[key]}" if key in INSTEAD else ""
            raise ValueError(
                f"{key}: means nothing in stage {config.stage}{instead or '; remove it'}"
            )
    if not rl:
        return
    if config.prompts_per_step % config.prompts_per_update:
        raise ValueError(
            f"prompts_per_update: {config.prompts_per_update} does not divide prompts_per_step "
            f"({config.prompts_per_step})"
        )
    if config.data.max_response_tokens != Data.model_fields["max_response_tokens"].default:
        raise ValueError(
            "data.max_response_tokens: means nothing in stage grpo; use rollout.max_response_tokens"
        )
    _check_demonstrations(config)
    corrects = isinstance(config.objective, RatioObjective)
    if config.max_staleness and corrects and not config.objective.tis_cap:
        raise ValueError(
            "max_staleness: completions from older weights need objective.tis_cap (2.0 is usual), "
            "with rollout.top_p=1.0; or set max_staleness=0"
        )
    rollout = config.rollout
    if config.max_staleness and rollout.shares_devices:
        raise ValueError(
            "max_staleness: servers on the trainer's GPUs sleep during the updates, so nothing can "
            "be sampled beside them; set max_staleness=0, or rollout.layout=separate"
        )
    if config.objective.needs_sampler_log_probs and (rollout.top_p < 1 or rollout.top_k > 0):
        raise ValueError(
            "objective.tis_cap: compares the trainer's probabilities with the sampler's, which "
            "top_p below 1 or top_k cut off; set rollout.top_p=1.0 (and top_k=0), or "
            "objective.tis_cap=null"
        )


def _check_demonstrations(config: Any) -> None:
    objective = config.objective
    if objective.needs_demonstrations and objective.stands_beside and objective.dynamic_sampling:
        raise ValueError(
            f"objective.dynamic_sampling: {objective.name} learns from the demonstration of a "
            "prompt even if all rewards are equal, so that none is to be dropped; remove it"
        )
