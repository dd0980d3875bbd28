"""What the measurements of our side share: recipes, states, and a watch on compilations."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from curiojax import models
from curiojax.config import load_config
from curiojax.sharding import make_mesh
from curiojax.training.recipe import Recipe, place
from curiojax.training.state import TrainState, create_state, shardings_of
from curiojax.training.step import Step
from speed.sizes import Size
from speed.worker import Channel, take_turns

# The paper's objective, without the gate that Figure 6 does not have either.
CURIO = {"name": "curio", "gate_entropy": None}
OBJECTIVES = {
    "sft": {"name": "sft"},
    "curio": CURIO,
    "self": {**CURIO, "teacher": "self"},
    "fp8": CURIO,  # its teacher's layers are multiplied in eight bits
}
STEP_SIZE = {"learning_rate": 1e-4, "warmup_steps": 0, "schedule": "constant"}


def recipe_of(size: Size, objective: str, remat: str) -> Recipe:
    """The recipe of one variant, on the first device."""
    values = {
        "rows_per_microbatch": size.rows,
        "data": {"row_length": size.row_length},
        "loss": {"chunk_tokens": size.chunk_tokens},
        "optimizer": STEP_SIZE,
    }
    overrides = [f"objective={json.dumps(OBJECTIVES[objective])}"]
    for key, value in values.items():
        section = value.items() if isinstance(value, dict) else [(None, value)]
        overrides += [f"{key}.{name}={x}" if name else f"{key}={x}" for name, x in section]
    if objective == "fp8":
        overrides.append("teacher.precision=fp8")
    config = load_config(None, overrides)
    model = dataclasses.replace(size.model, remat=remat)
    return Recipe(config, model, make_mesh(devices=jax.devices()[:1]), total_steps=1000)


def random_params(size: Size, seed: int = 0) -> Any:
    """Float32 parameters; see `Size.gain`."""
    params = models.init_params(jax.random.key(seed), size.model)
    if size.gain is None:
        return params

    def scale(path, x):
        last = path[0].key == "lm_head"
        return x * (size.gain * (8 if last else 1)) if path[-1].key == "kernel" else x

    return jax.tree.map_with_path(scale, params)


def random_state(recipe: Recipe, size: Size) -> TrainState:
    """A state with a teacher, if the recipe has one."""
    create = jax.jit(
        lambda p: create_state(p, recipe.optimizer, recipe.teacher, 0),
        out_shardings=shardings_of(recipe.abstract_state()),
        donate_argnums=0,
    )
    with jax.set_mesh(recipe.mesh):
        return create(random_params(size))


def batches_of(job: Mapping[str, Any], recipe: Recipe) -> list[Any]:
    """The micro-batches of the job's rows, on the device."""
    with np.load(job["arrays"]) as arrays:
        return jax.block_until_ready(list(place(dict(arrays), recipe.mesh)))


def bytes_of(tree: Any) -> int:
    """Bytes of arrays or abstract arrays."""
    return sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def compiled_bytes(recipe: Recipe, step: Step) -> int:
    """State, gradient sums, and the largest temporary memory that XLA plans for a program."""
    state = recipe.abstract_state()
    temporary = max(analysis.temp_size_in_bytes for analysis in step.memory().values())
    return bytes_of(state) + bytes_of(state.params) + temporary


def memory_limit() -> int | None:
    """Bytes that arrays may take on the device; None where it does not say."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def peak_bytes() -> int | None:
    """What the device held at most since the process began; None where it does not say."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def timed(
    channel: Channel, variants: Mapping[str, Callable[[], Any]], repeats: int
) -> dict[str, list[float]]:
    """`take_turns`, each variant waiting for its result.

    Raises:
      RuntimeError: something was compiled meanwhile, so that its time would be in the result.
    """
    compiled: list[str] = []

    def listen(event: str, duration: float, **_: Any) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    waiting = {n: lambda run=run: jax.block_until_ready(run()) for n, run in variants.items()}
    seconds = take_turns(channel, waiting, repeats)
    jax.monitoring.unregister_event_duration_listener(listen)
    if compiled:
        raise RuntimeError(f"{len(compiled)} programs were compiled while the clock ran")
    return seconds
