"""The rollout engine that a run asks for."""

from __future__ import annotations

from pathlib import Path

from curiojax.rollout.base import Rollout
from curiojax.rollout.sampler import JaxSampler
from curiojax.training.memory import SamplerCall
from curiojax.training.recipe import Recipe
from curiojax.training.run_directory import require
from curiojax.training.state import TrainState


def start_engine(
    recipe: Recipe, state: TrainState, directory: Path, held_out: SamplerCall | None = None
) -> Rollout:
    """An engine that holds the state's weights.

    Args:
      held_out: the largest call besides those of the training itself.

    Raises:
      ConfigError: what a user can mend: see `curiojax.rollout.vllm.VllmRollout`.
    """
    config, step = recipe.config, int(state.step)
    section = config.rollout
    if section.engine == "sampler":
        return JaxSampler(
            state.params,
            recipe.model,
            num_slots=section.batch_size,
            version=step,
            mesh=recipe.mesh,
        )
    from curiojax.rollout.vllm import VllmRollout, VllmSettings

    checkpoint = require(config.model.path, "model.path")
    longest = config.data.max_prompt_tokens + section.max_response_tokens
    if held_out is not None:
        longest = max(longest, held_out.longest_prompt + held_out.max_tokens)
    settings = VllmSettings(
        max_model_len=longest,
        log_dir=directory / "vllm",
        vllm_python=section.vllm_python,
        base_urls=section.base_urls,
        num_servers=section.num_servers,
        devices=section.devices,
        memory_share=section.memory_share if section.shares_devices else None,
        dtype=recipe.model.compute_dtype or "float32",
        temperature=section.temperature,
        extra_args=section.extra_args,
        weights_dir=section.weights_dir,
        request_timeout_seconds=section.timeout_seconds,
    )
    engine = VllmRollout(recipe.model, checkpoint, settings)
    if step:  # a run that is continued: the servers have the weights it began with
        engine.sync(state.params, step)
    return engine
