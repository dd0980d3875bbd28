"""Training steps: SFT, CurioSFT, with a teacher in eight bits, and with the student as its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from curiojax.training.compilation import compilation_cache
from curiojax.training.state import TrainState, persistent_state
from curiojax.training.step import Step, compile_step
from curiojax.training.teacher import QuantisedTeacher
from speed.programs import (
    batches_of,
    compiled_bytes,
    memory_limit,
    peak_bytes,
    random_state,
    recipe_of,
    timed,
)
from speed.sizes import Size, from_json
from speed.worker import SETUP_UNITS, Channel, reason_of

Job = dict[str, Any]

# objective, and what the backward pass recomputes
VARIANTS = {
    f"{objective}_{remat}": (objective, remat)
    for remat in ("full", "dots")
    for objective in ("sft", "curio", "self", "fp8")
}
FIRST = "curio_full"  # its first steps are compared with the reference's
FIRST_STEPS = 3


class Shared:
    """One state for all variants: each takes what it needs of it, so that memory holds it once."""

    def __init__(self, state: TrainState, batches: list[Any]):
        self.state, self.batches = persistent_state(state), batches
        self.quantised: Any = None

    def step(self, step: Step) -> Any:
        teacher = step.recipe.teacher
        if teacher is None:
            state, scalars = step(self.state._replace(teacher=()), self.batches)
            self.state = state._replace(teacher=self.state.teacher)
        elif teacher.quantise is None:
            self.state, scalars = step(self.state, self.batches)
        else:
            if self.quantised is None:
                self.quantised = jax.jit(teacher.quantise)(self.state.teacher.params)
            plain = self.state.teacher
            whole = QuantisedTeacher(plain.params, plain.count, self.quantised)
            state, scalars = step(self.state._replace(teacher=whole), self.batches)
            self.state, self.quantised = persistent_state(state), state.teacher.quantised
        return self.state, scalars


def _compile(size: Size, variant: str) -> Step:
    return compile_step(recipe_of(size, *VARIANTS[variant]))


def steps(channel: Channel, job: Job) -> dict[str, Any]:
    """All variants in turn, on the same weights and tokens; one without room leaves the others."""
    size = from_json(job["size"])
    found: dict[str, dict[str, Any]] = {}
    compiled: dict[str, Step] = {}
    for name in job["variants"]:
        start = time.perf_counter()
        try:
            step = _compile(size, name)
        except Exception as error:
            found[name] = {"failed": reason_of(error)}
        else:
            seconds, needed = time.perf_counter() - start, compiled_bytes(step.recipe, step)
            found[name] = {"compile_seconds": seconds, "compiled_bytes": needed}
            if needed > (limit := memory_limit() or needed):
                reason = f"needs {needed / 1e9:.1f} GB, the device has {limit / 1e9:.1f}"
                found[name]["failed"] = reason
            else:
                compiled[name] = step
        channel.unit(SETUP_UNITS - 1)
    recipe = recipe_of(size, "curio", "full")
    shared = Shared(random_state(recipe, size), batches_of(job, recipe))
    runs: dict[str, Callable[[], Any]] = {}
    with jax.set_mesh(recipe.mesh):
        # The first steps of this one are compared with the reference's, so it has to go first.
        for name in sorted(compiled, key=lambda name: name != FIRST):

            def run(step: Step = compiled[name]) -> Any:
                return shared.step(step)

            try:
                losses = [float(run()[1].loss) for _ in range(FIRST_STEPS)]
            except Exception as error:
                found[name]["failed"] = reason_of(error)
                if any(x.is_deleted() for x in jax.tree.leaves(shared.state)):
                    shared.state, shared.quantised = random_state(recipe, size), None
            else:
                found[name] |= {"losses": losses} if name == FIRST else {}
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
