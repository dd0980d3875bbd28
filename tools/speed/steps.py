"""Training steps: SFT, CurioSFT and CurioSFT with the student as its own teacher."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from curiojax.training.compilation import compilation_cache
from curiojax.training.state import TrainState
from curiojax.training.step import Step, compile_step
from speed.programs import (
    batches_of,
    compiled_bytes,
    peak_bytes,
    random_state,
    recipe_of,
    timed,
)
from speed.sizes import Size, from_json
from speed.worker import SETUP_UNITS, Channel

Job = dict[str, Any]

# objective, and what the backward pass recomputes
VARIANTS = {
    f"{objective}_{remat}": (objective, remat)
    for remat in ("full", "dots")
    for objective in ("sft", "curio", "self")
}
FIRST = "curio_full"  # its first steps are compared with the reference's
FIRST_STEPS = 3


class Shared:
    """One state for all variants: each takes what it needs of it, so that memory holds it once."""

    def __init__(self, state: TrainState, batches: list[Any]):
        self.state, self.batches = state, batches

    def step(self, step: Step) -> Any:
        follows = step.recipe.teacher is not None
        given = self.state if follows else self.state._replace(teacher=())
        state, scalars = step(given, self.batches)
        self.state = state if follows else state._replace(teacher=self.state.teacher)
        return self.state, scalars


def _compile(size: Size, variant: str) -> Step:
    return compile_step(recipe_of(size, *VARIANTS[variant]))


def steps(channel: Channel, job: Job) -> dict[str, Any]:
    """All variants in turn, on the same weights and tokens."""
    size = from_json(job["size"])
    found: dict[str, dict[str, Any]] = {}
    compiled: dict[str, Step] = {}
    for name in job["variants"]:
        start = time.perf_counter()
        try:
            compiled[name] = _compile(size, name)
        except Exception as error:  # the device has no room for this one
            found[name] = {"failed": str(error).splitlines()[0][:200]}
        else:
            found[name] = {
                "compile_seconds": time.perf_counter() - start,
                "compiled_bytes": compiled_bytes(compiled[name].recipe, compiled[name]),
            }
        channel.unit(SETUP_UNITS - 1)
    recipe = recipe_of(size, "curio", "full")
    shared = Shared(random_state(recipe, size), batches_of(job, recipe))
    with jax.set_mesh(recipe.mesh):
        if FIRST in compiled:
            losses = [float(shared.step(compiled[FIRST])[1].loss) for _ in range(FIRST_STEPS)]
            found[FIRST]["losses"] = losses
        runs: dict[str, Callable[[], Any]] = {}
        for name, step in compiled.items():

            def run(step: Step = step) -> Any:
                return shared.step(step)

            run()
            jax.block_until_ready(run())
            runs[name] = run
            channel.unit()
        for name, seconds in timed(channel, runs, job["repeats"]).items():
            found[name]["seconds"] = seconds
    return {"variants": found}


def memory(channel: Channel, job: Job) -> dict[str, Any]:
    """The peak of one variant, in a process that runs nothing else."""
    size, name = from_json(job["size"]), job["variant"]
    step = _compile(size, name)
    recipe = step.recipe
    shared = Shared(random_state(recipe, size), batches_of(job, recipe))
    with jax.set_mesh(recipe.mesh):
        for _ in range(2):
            jax.block_until_ready(shared.step(step))
    channel.unit(SETUP_UNITS)
    return {"variants": {name: {"peak_bytes": peak_bytes()}}}


def start(channel: Channel, job: Job) -> dict[str, Any]:
    """Seconds to trace and compile the step; a second process finds it in the cache on disk."""
    size = from_json(job["size"])
    with compilation_cache(Path(job["cache"])):
        began = time.perf_counter()
        _compile(size, FIRST)
        seconds = time.perf_counter() - began
    channel.unit(SETUP_UNITS)
    return {"variants": {job["variant"]: {"seconds": [seconds]}}}
