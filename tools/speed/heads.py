"""Parts of the step alone: the temperature search, and the LM head with its loss."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from curiojax import losses
from curiojax.losses.lm_head import chunked_loss
from curiojax.objectives import Curio, Sft
from speed.inputs import teacher_logits
from speed.programs import timed
from speed.sizes import from_json
from speed.worker import SETUP_UNITS, Channel, reason_of

Job = dict[str, Any]


def plain_search(logits: jax.Array, objective: Curio) -> jax.Array:
    """Figure 6 in JAX without further thought: `lax.top_k` and 15 halvings. Tau [N]."""
    values, _ = jax.lax.top_k(logits, min(objective.top_k, logits.shape[-1]))

    def entropy(tau):
        log_probs = jax.nn.log_softmax(values / tau[:, None], axis=-1)
        return -(jnp.exp(log_probs) * log_probs).sum(axis=-1)

    one = jnp.ones(logits.shape[:1], jnp.float32)
    now = entropy(one)
    low, high = objective.tau_min * one, objective.tau_max * one
    rise = jax.nn.sigmoid(objective.gamma * (now - objective.entropy_pivot))
    target = now + objective.max_entropy_increment * rise
    target = jnp.clip(target, entropy(low), entropy(high))

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        too_low = entropy(middle) < target
        return jnp.where(too_low, middle, low), jnp.where(too_low, high, middle)

    low, high = jax.lax.fori_loop(0, objective.search_steps, halve, (low, high))
    return (low + high) / 2


def search(channel: Channel, job: Job) -> dict[str, Any]:
    """Ours by bisection, ours by Newton's method, and the plain one, on the same logits."""
    logits = jax.device_put(teacher_logits(job["tokens"], job["vocab_size"]))
    bisect = Curio(gate_entropy=None)
    newton = bisect.model_copy(update={"search": "newton"})
    functions = {
        "bisect": lambda x: losses.entropy_guided_temperature(x, bisect),
        "newton": lambda x: losses.entropy_guided_temperature(x, newton),
        "plain": lambda x: plain_search(x, bisect),
    }
    found: dict[str, dict[str, Any]] = {}
    runs = {}
    for name, function in functions.items():
        program = jax.jit(function).lower(logits).compile()
        found[name] = {
            "tau_mean": float(program(logits).mean()),
            "compiled_bytes": program.memory_analysis().temp_size_in_bytes,
        }
        runs[name] = lambda program=program: program(logits)
        channel.unit(SETUP_UNITS)
    for name, seconds in timed(channel, runs, job["repeats"]).items():
        found[name]["seconds"] = seconds
    return {"variants": found}


def head(channel: Channel, job: Job) -> dict[str, Any]:
    """Cross-entropy of one row and its gradients, in chunks and with all logits at once."""
    size = from_json(job["size"])
    model, tokens = size.model, size.row_length
    dtype = jnp.dtype(model.compute_dtype)
    keys = jax.random.split(jax.random.key(0), 3)
    # As a step has them: float32 weights, hidden states in the compute dtype.
    weights = 0.02 * jax.random.normal(keys[0], (model.vocab_size, model.hidden_size))
    hidden = jax.random.normal(keys[1], (1, tokens, model.hidden_size)).astype(dtype)
    labels = jax.random.randint(keys[2], (1, tokens), 0, model.vocab_size)
    mask = jnp.ones((1, tokens), jnp.float32)

    def chunked(weights, hidden, labels, mask):
        return chunked_loss(
            Sft(), weights.astype(dtype), hidden, labels, mask, chunk_tokens=size.chunk_tokens
        )

    def dense(weights, hidden, labels, mask):
        logits = jnp.einsum(
            "btd,vd->btv", hidden, weights.astype(dtype), preferred_element_type=jnp.float32
        )
        loss, metrics = losses.per_token_loss(
            Sft(), logits.reshape(tokens, -1), labels[0], mask=mask[0]
        )
        return (mask[0] * loss).sum(), metrics

    arguments = weights, hidden, labels, mask
    found: dict[str, dict[str, Any]] = {}
    runs = {}
    for name, function in {"chunked": chunked, "dense": dense}.items():
        both = jax.jit(jax.value_and_grad(function, argnums=(0, 1), has_aux=True))
        try:
            program = both.lower(*arguments).compile()
            (loss, _), _ = program(*arguments)
        except Exception as error:
            found[name] = {"failed": reason_of(error)}
        else:
            temporary = program.memory_analysis().temp_size_in_bytes
            found[name] = {"loss": float(loss), "compiled_bytes": temporary}
            runs[name] = lambda program=program: program(*arguments)
        channel.unit(SETUP_UNITS)
    for name, seconds in timed(channel, runs, job["repeats"]).items():
        found[name]["seconds"] = seconds
    return {"variants": found}
