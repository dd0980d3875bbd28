"""What a run will do, checked and shown before anything is compiled."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from curiojax.config import RunConfig
from curiojax.data.pipeline import SupervisedData
from curiojax.data.prompts import PromptData
from curiojax.errors import ConfigError
from curiojax.models import ModelConfig, abstract_params, check_mesh
from curiojax.sharding import check_divisible, num_batch_shards
from curiojax.training.memory import sharing, sharing_warnings


def check_fit(config: RunConfig, model: ModelConfig, mesh: Mesh) -> None:
    """Raises a `ConfigError` when the config, the model and the mesh do not go together."""
    check_divisible("rows_per_microbatch", config.rows_per_microbatch, mesh, "batch")
    check_mesh(model, mesh)
    longest = config.data.max_prompt_tokens + config.max_response_tokens
    if longest > model.max_position_embeddings:
        field = f"{'data' if config.stage == 'sft' else 'rollout'}.max_response_tokens"
        raise ConfigError(
            f"{field}: prompt + response may reach {longest} tokens, but the model's context is "
            f"{model.max_position_embeddings}; lower data.max_prompt_tokens or {field}, or extend "
            "the context with model.rope_theta and model.max_position_embeddings"
        )
    if config.stage == "grpo" and longest - 1 > config.row_length:
        raise ConfigError(
            f"data.row_length: {config.row_length} is shorter than prompt + response, which may "
            f"reach {longest} tokens; raise it, or lower rollout.max_response_tokens"
        )
    if config.model.attention == "cudnn" and mesh.devices.flat[0].platform != "gpu":
        raise ConfigError("model.attention: cudnn needs an NVIDIA GPU; use auto")


def total_steps(config: RunConfig, data: SupervisedData) -> int:
    """Optimiser updates of the whole run."""
    return config.steps or (config.epochs or 0) * data.steps_per_epoch


def warnings(config: RunConfig, steps: int) -> list[str]:
    """What is allowed but rarely meant."""
    found = sharing_warnings(config.rollout)
    warmup = config.optimizer.warmup_steps
    if warmup >= steps:
        found.append(
            f"optimizer.warmup_steps is {warmup}, but the run has {steps} steps: the learning rate "
            "never reaches its peak"
        )
    return found


def derived(
    config: RunConfig, model: ModelConfig, data: SupervisedData, mesh: Mesh, steps: int
) -> dict[str, Any]:
    """The numbers that follow from the config: per device, per step, per run."""
    shards = num_batch_shards(mesh)
    rows, length = config.rows_per_microbatch, config.row_length
    tokens = int(sum(data.lengths))
    per_step = tokens / max(data.num_examples, 1) * config.sequences_per_step
    epoch = f"{data.steps_per_epoch:,}"
    if data.remainder:
        epoch += f" ({data.remainder:,} records left over and dropped each epoch)"
    wrong = {}
    if data.suppressed is not None:
        per_step = data.suppressed.sequences_per_step
        wrong["suppressed records"] = f"{data.suppressed.num_examples:,}, {per_step:,} per step"
    return {
        "parameters": f"{count_parameters(model):,}",
        "devices": f"{mesh.size} = {' x '.join(f'{n} {s}' for n, s in mesh.shape.items())}",
        "records": f"{data.num_examples:,}, {tokens:,} tokens",
        "records per step": f"{config.sequences_per_step:,}; about {per_step:,.0f} tokens",
        **wrong,
        "rows per micro-batch": f"{rows} of {length:,} tokens; {rows // shards} per device",
        "micro-batches per step": f"{math.ceil(len(data.layout(0)) / rows)} in the first",
        "steps per epoch": epoch,
        "steps": f"{steps:,} = {steps / data.steps_per_epoch:.2f} epochs",
    }


def derived_rl(
    config: RunConfig, model: ModelConfig, prompts: PromptData, mesh: Mesh
) -> dict[str, Any]:
    """The numbers that follow from the config of the RL stage: per step, per run."""
    rollouts = config.prompts_per_step * config.rollouts_per_prompt
    per_update = config.prompts_per_update * config.rollouts_per_prompt
    rows, shards = config.rows_per_microbatch, num_batch_shards(mesh)
    seen = (config.steps or 0) * config.prompts_per_step / len(prompts)
    return {
        "parameters": f"{count_parameters(model):,}",
        "devices": f"{mesh.size} = {' x '.join(f'{n} {s}' for n, s in mesh.shape.items())}",
        "prompts": f"{len(prompts):,}",
        "completions per step": f"{rollouts:,} = {config.prompts_per_step:,} prompts x "
        f"{config.rollouts_per_prompt}, of at most {config.rollout.max_response_tokens:,} tokens",
        **_demonstrations(config, prompts),
        "updates per step": f"{config.updates_per_step}, of {per_update:,} completions",
        "rows per micro-batch": f"{rows} of {config.row_length:,} tokens; {rows // shards} per "
        "device",
        "steps": f"{config.steps:,} = {seen:.2f} epochs",
        "sampled by": config.rollout.engine,
        **sharing(config.rollout),
        "graded by": f"{config.reward.verifier}, format {config.reward.format}",
    }


def _demonstrations(config: RunConfig, prompts: PromptData) -> dict[str, str]:
    objective: Any = config.objective
    if not objective.needs_demonstrations:
        return {}
    tokens = sum(len(found) for found in prompts.demonstrations if found)
    role = "beside the completions" if objective.stands_beside else "one of the completions"
    if objective.continues_demonstrations:
        role = f"the beginning of {role}"
    count = prompts.num_demonstrations
    return {"demonstrations": f"{count:,} of {len(prompts):,} prompts, {tokens:,} tokens; {role}"}


def count_parameters(model: ModelConfig) -> int:
    """How many weights a model of this architecture has."""
    return sum(math.prod(p.shape) for p in jax.tree.leaves(abstract_params(model, np.float32)))
