"""The machine: what it is, what its matrix products reach, and which model fits its memory."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import psutil

from curiojax import models
from curiojax.training.step import compile_step
from speed.programs import (
    bytes_of,
    compiled_bytes,
    memory_limit,
    random_params,
    recipe_of,
    timed,
)
from speed.sizes import SIZES, Size, from_json, with_layers
from speed.worker import SETUP_UNITS, Channel, Skipped

Job = dict[str, Any]

# Share of the memory that arrays may take; the rest is fragmentation and the libraries'.
USABLE = 0.92


def probe(channel: Channel, job: Job) -> dict[str, Any]:
    """The device; the size `fit`, and a checkpoint of the random weights, where the job asks."""
    device = jax.local_devices()[0]
    limit = memory_limit()
    channel.unit()
    found: dict[str, Any] = {
        "device": device.device_kind,
        "platform": device.platform,
        "memory_bytes": limit,
        "software": {"jax": jax.__version__, "jaxlib": jaxlib.__version__},
    }
    if job["fit"]:
        # A back end without a limit of its own shares the machine's memory with everybody.
        found["fit"] = fitting(limit or psutil.virtual_memory().available // 2).to_json()
    if job["weights"]:
        size = from_json(job["size"])
        models.save_pretrained(random_params(size), size.model, job["weights"], dtype="float32")
    return found


def fitting(limit: int) -> Size:
    """The widest model of `SIZES` of which at least a quarter of the layers fit, with all layers
    that do, trained by CurioSFT with full rematerialisation.

    Args:
      limit: bytes.

    Raises:
      Skipped: none fits.
    """
    for size in reversed(SIZES.values()):
        most = size.model.num_layers
        least = -(-most // 4)
        if not _may_fit(with_layers(size, least), limit):
            continue
        # What a layer adds is the same for each, so two measurements give the number of layers.
        few, more = (_needed(with_layers(size, n)) for n in (least, least + 1))
        layers = min(most, least + int((USABLE * limit - few) // max(more - few, 1)))
        while layers >= least:
            if _needed(with_layers(size, layers)) <= USABLE * limit:
                return with_layers(size, layers)
            layers -= 1
    raise Skipped(f"no size fits {limit / 1e9:.1f} GB")


def _may_fit(size: Size, limit: int) -> bool:
    """Whether there is room for state and gradients alone, before anything is compiled."""
    state = recipe_of(size, "curio", "full").abstract_state()
    return bytes_of(state) + bytes_of(state.params) <= USABLE * limit


def _needed(size: Size) -> int:
    recipe = recipe_of(size, "curio", "full")
    return compiled_bytes(recipe, compile_step(recipe))


def matmul(channel: Channel, job: Job) -> dict[str, Any]:
    """Square products and the model's own, in its compute dtype; the best is the ceiling."""
    size = from_json(job["size"])
    model, tokens = size.model, size.rows * size.row_length
    side = job["side"]
    shapes = {
        "square": (side, side, side),
        "mlp": (tokens, model.hidden_size, model.intermediate_size),
        "head": (size.chunk_tokens, model.hidden_size, model.vocab_size),
    }
    runs, flops = {}, {}
    for name, (rows, inner, columns) in shapes.items():
        keys = jax.random.split(jax.random.key(0))
        dtype = jnp.dtype(model.compute_dtype)
        a = jax.random.normal(keys[0], (rows, inner), dtype)
        b = jax.random.normal(keys[1], (inner, columns), dtype)
        program = jax.jit(jnp.matmul).lower(a, b).compile()
        # Several at a time, so that the device never waits for the host; their results are held.
        work, held = 2.0 * rows * inner * columns, rows * columns * dtype.itemsize
        count = max(1, min(16, int(job["flops"] / work), int(4e9 / held)))

        def products(program=program, a=a, b=b, count=count):
            return [program(a, b) for _ in range(count)]

        jax.block_until_ready(products())
        runs[name] = products
        flops[name] = count * work
        channel.unit(SETUP_UNITS)
    seconds = timed(channel, runs, job["repeats"])
    return {"variants": {n: {"seconds": s, "flops": flops[n]} for n, s in seconds.items()}}
