"""Decoding with the JAX sampler, and weights on their way to another engine."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from curiojax.rollout.base import Sampling
from curiojax.rollout.sampler import JaxSampler
from curiojax.rollout.weights import WeightStore
from speed.programs import peak_bytes, random_params, timed
from speed.sizes import from_json
from speed.worker import SETUP_UNITS, Channel

Job = dict[str, Any]


def decode(channel: Channel, job: Job) -> dict[str, Any]:
    """Completions of full length: prefill, decoding and what the host does, all in."""
    size = from_json(job["size"])
    model = size.model
    rng = np.random.default_rng(0)
    shape = size.decode_rows, size.decode_prompt
    prompts = rng.integers(0, model.vocab_size, shape).tolist()
    params = random_params(size)
    sampler = JaxSampler(params, model, num_slots=size.decode_rows)
    del params
    runs = {}
    for name, top_p in {"top_p_1": 1.0, "top_p_0.95": 0.95}.items():
        sampling = Sampling(max_tokens=size.decode_tokens, temperature=1.0, top_p=top_p)
        runs[name] = lambda s=sampling: sampler.generate(prompts, s, 0) and None
        runs[name]()
        channel.unit(SETUP_UNITS)
    tokens = size.decode_rows * size.decode_tokens
    seconds = timed(channel, runs, job["repeats"])
    found = {name: {"seconds": values, "tokens": tokens} for name, values in seconds.items()}
    return {"variants": found, "peak_bytes": peak_bytes()}


def export(channel: Channel, job: Job) -> dict[str, Any]:
    """Versions of the weights as bfloat16 files in memory."""
    size = from_json(job["size"])
    params = jax.block_until_ready(random_params(size))
    memory = Path("/dev/shm")
    parent = memory if memory.is_dir() else Path(tempfile.gettempdir())
    store = WeightStore(parent, size.model, "bfloat16")
    try:

        def run() -> None:
            store.discard(store.write(params, 0))

        run()
        channel.unit(SETUP_UNITS)
        seconds = timed(channel, {"bfloat16": run}, job["repeats"])
    finally:
        store.close()
    values = {"seconds": seconds["bfloat16"], "bytes": store.num_bytes, "to": str(parent)}
    return {"variants": {"bfloat16": values}}
