"""The devices' memory: what a run needs of it, and what it may have."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from curiojax.config import RunConfig
from curiojax.errors import ConfigError
from curiojax.rollout.memory import device_memory, num_bytes, sampler_memory
from curiojax.sections import Rollout
from curiojax.training.policy_step import PolicyStep
from curiojax.training.recipe import Recipe
from curiojax.training.step import Step
from curiojax.training.teacher import QuantisedTeacher, persistent

# The share of a GPU's memory that JAX takes, by either of its names; JAX refuses both at once.
VARIABLES = ("XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION")
# What CUDA itself, and the libraries of two processes, need beside the memory that these manage.
MARGIN = 0.05


def jax_share() -> float | None:
    """The share of a GPU's memory that the environment gives to JAX; None where it says nothing.

    Raises:
      ConfigError: it says something that is no number.
    """
    for name in VARIABLES:
        if text := os.environ.get(name, ""):
            try:
                return float(text)
            except ValueError:
                raise ConfigError(f"{name}: {text!r} is no number; set a share, or unset") from None
    return None


def leave_memory_to_servers(config: RunConfig) -> None:
    """Caps JAX's part of the GPUs' memory where vLLM's servers live on them too.

    JAX reads the variable when it first looks for devices, so this comes before. A value that is
    there already is somebody's choice.
    """
    if config.stage == "grpo" and config.rollout.shares_devices and jax_share() is None:
        os.environ[VARIABLES[0]] = f"{1 - config.rollout.memory_share - MARGIN:.3g}"


def sharing(rollout: Rollout) -> dict[str, str]:
    """What is said of the servers' part of the trainer's GPUs at the start of a run."""
    if not rollout.shares_devices:
        return {}
    ours = jax_share()
    theirs = f"{rollout.memory_share:.0%} for the servers"
    return {"GPU memory": theirs + ("" if ours is None else f", {ours:.0%} for JAX")}


def sharing_warnings(rollout: Rollout) -> list[str]:
    """Whether more is shared out than there is."""
    ours = jax_share()
    if not rollout.shares_devices or ours is None or ours + rollout.memory_share <= 1:
        return []
    return [
        f"rollout.memory_share: {rollout.memory_share:.0%} for the servers and {ours:.0%} for JAX, "
        f"which {' or '.join(name for name in VARIABLES if name in os.environ)} says, are more "
        "than a GPU has"
    ]


class SamplerCall(NamedTuple):
    """What decides how much memory the JAX sampler needs for a call of `generate`.

    Attributes:
      rows: completions computed at a time, at most.
      completions: in all.
      longest_prompt, max_tokens: in tokens.
      begun: some prompts come with the beginning of a response.
    """

    rows: int
    completions: int
    longest_prompt: int
    max_tokens: int
    begun: bool = False


def memory_budget(
    recipe: Recipe, step: Step | PolicyStep, held_out: SamplerCall | None = None
) -> dict[str, str]:
    """Bytes per device by kind: exact for what is kept, XLA's own figure for what is temporary.

    The updates and the sampling take turns, so only the larger of their temporary parts counts.

    Args:
      held_out: the largest call of an evaluation on the way; None: there is no evaluation.

    Raises:
      ConfigError: it is more than JAX may use.
    """
    state, rl = recipe.abstract_state(), recipe.config.stage == "grpo"
    kept = {
        "parameters (float32)": num_bytes(state.params),
        "optimiser": num_bytes(state.opt_state),
        **_teacher(recipe, state.teacher),
    }
    programs = step.memory().values()
    updates = {
        "gradient sums (float32)": num_bytes(state.params),
        "activations and buffers, at most": max(
            getattr(analysis, "temp_size_in_bytes", 0) or 0 for analysis in programs
        ),
    }
    weights, cache = sampler_bytes(recipe, held_out)
    sampling = {"sampler's keys and values, at most": cache}
    # In RL the sampler stays; for an evaluation in the supervised stage it comes and goes.
    (kept if rl else sampling)[f"sampler's weights ({recipe.model.compute_dtype})"] = weights
    turns = sum(updates.values()), sum(sampling.values())
    together = sum(kept.values()) + max(turns)
    parts = kept | updates | sampling
    shown = {name: format_bytes(size) for name, size in parts.items() if size}
    shown["at the same time"] = format_bytes(together)
    limit = device_memory()
    if limit:
        shown["device memory"] = format_bytes(limit)
        if together > limit:
            raise ConfigError(_too_much(recipe, shown, sampling=turns[1] > turns[0]))
    return shown


def _teacher(recipe: Recipe, teacher: Any) -> dict[str, int]:
    """Bytes of the second model, and of the eight-bit weights that its pass is run with."""
    if not isinstance(teacher, QuantisedTeacher):
        return {"teacher (float32)": num_bytes(teacher)}
    return {
        "teacher (float32)": num_bytes(persistent(teacher)),
        f"teacher's layers ({recipe.config.teacher.precision})": num_bytes(teacher.quantised),
    }


def sampler_bytes(recipe: Recipe, held_out: SamplerCall | None = None) -> tuple[int, int]:
    """Bytes of the JAX sampler's weights and of its largest cache; 0 where there is no sampler."""
    config, calls = recipe.config, []
    if config.stage == "grpo" and config.rollout.engine != "sampler":
        return 0, 0
    if config.stage == "grpo":
        calls.append(
            SamplerCall(
                rows=config.rollout.batch_size,
                completions=config.prompts_per_step * config.rollouts_per_prompt,
                longest_prompt=config.data.max_prompt_tokens,
                max_tokens=config.rollout.max_response_tokens,
                begun=config.objective.continues_demonstrations,  # type: ignore[union-attr]
            )
        )
    if held_out is not None:
        rows = config.rollout.batch_size if config.stage == "grpo" else held_out.rows
        calls.append(held_out._replace(rows=rows))
    found = [sampler_memory(recipe.model, recipe.mesh, **call._asdict()) for call in calls]
    if not found:
        return 0, 0
    return num_bytes(found[0][0]), max(num_bytes(cache) for _, cache in found)


def _too_much(recipe: Recipe, shown: dict[str, str], *, sampling: bool) -> str:
    lower, others = "rows_per_microbatch", " or data.row_length, set model.remat=full"
    if sampling:
        section = "rollout" if recipe.config.stage == "grpo" else "evaluation"
        lower, others = f"{section}.batch_size", ""
    more = "XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 in the environment raises that"
    if recipe.config.rollout.shares_devices:
        more = "a lower rollout.memory_share raises that"
    return (
        f"{lower}: the run needs {shown['at the same time']} per device, where JAX may use "
        f"{shown['device memory']} ({more}); lower {lower}{others}, or use more devices"
    )


def format_bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit in ("B", "kB") else f"{size:.2f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")
