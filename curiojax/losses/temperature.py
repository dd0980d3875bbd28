"""Entropy-guided temperature: how far the teacher's distribution of one token is flattened.

For a token whose teacher entropy is H, the temperature tau solves H(softmax(z / tau)) = H + Delta,
with the entropy increment Delta = max_entropy_increment * sigmoid(gamma * (H - entropy_pivot))
(CurioSFT, arXiv 2602.02244, Eq. 7-8 and Figure 6). The search sees only the `top_k` largest logits,
renormalised; what is then distilled is the softmax over the whole vocabulary.

Everything here is float32, whatever the logits' dtype: a bfloat16 tau has 52 values in [1.1, 1.5].
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from curiojax.objectives import Curio

# exp(-1e5 / tau) is 0 for every sane tau, and its square is finite: a stand-in for -inf.
_NEGLIGIBLE = -1e5


class Temperature(NamedTuple):
    """What the search chose for each token; float32 `[N]`, flags are 0 or 1 and exclude each other.

    Attributes:
      tau: the temperature.
      entropy: entropy of the teacher at temperature 1 over the whole vocabulary, in nats.
      increment: the entropy increment that was asked for, in nats; 0 with `fixed_tau`.
      gated: the token is near-deterministic, so the search was overruled with `tau_min`.
      at_floor: `tau_min` already raises the entropy by at least the increment.
      at_cap: even `tau_max` does not raise the entropy by more than the increment.
    """

    tau: jax.Array
    entropy: jax.Array
    increment: jax.Array
    gated: jax.Array
    at_floor: jax.Array
    at_cap: jax.Array


def log_softmax_parts(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns `(shifted, log_z)` with log_softmax(logits) = shifted - log_z[..., None].

    `shifted` `[..., V]` is relative to the largest logit, so that log-probabilities of logits near
    1e4 keep their digits. Columns of -inf (padded vocabulary) have probability and gradient 0.
    """
    shifted = logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
    return shifted, jnp.log(jnp.exp(shifted).sum(axis=-1))


def entropy(shifted: jax.Array, log_z: jax.Array) -> jax.Array:
    """Entropy in nats, `[...]`, from `log_softmax_parts`; differentiable, and 0 * -inf is 0."""
    probs = jnp.exp(shifted - log_z[..., None])
    return log_z - (probs * jnp.where(probs > 0, shifted, 0)).sum(axis=-1)


def _largest(x: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The `k` largest along the last axis and where they are, in no promised order.

    XLA's partitioner runs `top_k` on every device for the tokens of all devices. A sort stays with
    its rows, and on a GPU `top_k` of hundreds is a sort anyway. On a CPU it is ten times slower.
    """

    def by_sort(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        positions = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
        values, positions = jax.lax.sort((x, positions), num_keys=1, is_stable=False)
        return values[..., -k:], positions[..., -k:]

    def by_top_k(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        values, positions = jax.lax.top_k(x, k)
        return values, positions

    return jax.lax.platform_dependent(x, cpu=by_top_k, default=by_sort)


def _whole_rows(x: jax.Array) -> jax.Array:
    """Ends the split over devices of the last axis; the other axes stay as they are.

    From here on a row is short. Left split, as a vocabulary over `tensor` would leave it, every
    step of the search would sum over devices.
    """
    if jax.sharding.AxisType.Auto not in jax.sharding.get_abstract_mesh().axis_types:
        return x
    free = jax.P.UNCONSTRAINED
    return jax.lax.with_sharding_constraint(x, jax.P(*(free,) * (x.ndim - 1), None))


def top_k_values(logits: jax.Array, k: int) -> jax.Array:
    """The `min(k, V)` largest values of `logits` `[..., V]`, ties included, in no promised order.

    Two levels instead of a sort over the vocabulary: every value outside the k blocks with the
    largest maxima is at most as large as each of those k maxima, so the values inside these blocks
    contain a top k. Blocks of sqrt(V / k) make the two levels equally long; a divisor of V near
    that saves the copy that padding with -inf costs.
    """
    vocab_size = logits.shape[-1]
    if vocab_size <= k:
        return _whole_rows(logits)
    ideal = math.sqrt(vocab_size / k)
    near = [b for b in range(max(2, round(ideal / 2)), int(2 * ideal) + 1) if vocab_size % b == 0]
    block = min(near, key=lambda b: abs(b - ideal)) if near else max(1, round(ideal))
    num_blocks = -(-vocab_size // block)
    if block == 1 or num_blocks <= k:
        return _largest(_whole_rows(logits), k)[0]
    padding = [(0, 0)] * (logits.ndim - 1) + [(0, num_blocks * block - vocab_size)]
    blocks = jnp.pad(logits, padding, constant_values=-jnp.inf)
    blocks = blocks.reshape(*logits.shape[:-1], num_blocks, block)
    _, best = _largest(_whole_rows(blocks.max(axis=-1)), k)
    candidates = jnp.take_along_axis(blocks, best[..., None], axis=-2)
    return _largest(_whole_rows(candidates.reshape(*logits.shape[:-1], k * block)), k)[0]


def _entropy_and_slope(values: jax.Array, tau: jax.Array | float) -> tuple[jax.Array, jax.Array]:
    """Entropy of softmax(values / tau) in nats, and its derivative in tau: Var(values) / tau^3."""
    weights = jnp.exp(values / tau)
    total = weights.sum()
    probs = weights / total
    mean = (probs * values).sum()
    variance = (probs * jnp.square(values - mean)).sum()
    return jnp.log(total) - mean / tau, variance / tau**3


def _bisect(values, target, at_min, at_max, objective: Curio) -> jax.Array:
    """Figure 6, for one token: halves [tau_min, tau_max] `search_steps` times.

    The figure returns the middle of the last bracket, this the point where the line between its
    ends meets the target: at most half a bracket away, at no cost, and without the figure's grid.
    On a grid, rounding that differs between device layouts tips tokens by a whole bracket.
    """

    def halve(_, bracket):
        (low, h_low), (high, h_high) = bracket
        middle = (low + high) / 2
        h = _entropy_and_slope(values, middle)[0]
        too_low = h < target
        return (
            (jnp.where(too_low, middle, low), jnp.where(too_low, h, h_low)),
            (jnp.where(too_low, high, middle), jnp.where(too_low, h_high, h)),
        )

    ends = jnp.float32(objective.tau_min), jnp.float32(objective.tau_max)
    bracket = (ends[0], at_min[0]), (ends[1], at_max[0])
    (low, h_low), (high, h_high) = jax.lax.fori_loop(0, objective.search_steps, halve, bracket)
    rise = h_high - h_low
    share = jnp.where(rise > 0, (target - h_low) / jnp.where(rise > 0, rise, 1), 0.5)
    return low + jnp.clip(share, 0, 1) * (high - low)


def _newton(values, target, at_min, at_max, objective: Curio) -> jax.Array:
    """Bracketed Newton on log H(tau), for one token.

    The start inverts the cubic Hermite interpolation of tau as a function of log H between the end
    points, whose entropies and slopes are known already. In log H a few likely tokens over a far
    tail, where the entropy grows exponentially, are as easy as a broad distribution: three steps
    end below 1e-7 on rows that keep an error of 3e-4 when the same is done in H itself. Ranges much
    wider than the paper's get eight.
    """
    tau_min, tau_max = objective.tau_min, objective.tau_max
    steps = 3 if tau_max <= 1.4 * tau_min else 8

    def log_entropy(stats):
        h, slope = stats
        h = jnp.maximum(h, 1e-20)
        return jnp.log(h), jnp.maximum(slope, 1e-20) / h

    y = jnp.log(target)
    (y0, slope0), (y1, slope1) = log_entropy(at_min), log_entropy(at_max)
    width = jnp.maximum(y1 - y0, 1e-20)
    s = (y - y0) / width
    start = (
        (1 + 2 * s) * jnp.square(1 - s) * tau_min
        + s * jnp.square(1 - s) * width / slope0
        + jnp.square(s) * (3 - 2 * s) * tau_max
        + jnp.square(s) * (s - 1) * width / slope1
    )
    start = jnp.where(jnp.isfinite(start), start, (tau_min + tau_max) / 2)

    def improve(_, state):
        low, high, tau = state
        log_h, slope = log_entropy(_entropy_and_slope(values, tau))
        low, high = jnp.where(log_h < y, tau, low), jnp.where(log_h < y, high, tau)
        step = tau + (y - log_h) / slope
        # The bracket is closed: a converged tau is one of its ends, and has to be allowed to stay.
        inside = (step >= low) & (step <= high)
        return low, high, jnp.where(inside, step, (low + high) / 2)

    state = jnp.float32(tau_min), jnp.float32(tau_max), jnp.clip(start, tau_min, tau_max)
    return jax.lax.fori_loop(0, steps, improve, state)[2]


def _search_one(values: jax.Array, objective: Curio) -> tuple[jax.Array, ...]:
    """`(tau, increment, at_floor, at_cap)` of one token from its top-k logits `[k]`."""
    values = jnp.maximum(values - values.max(), _NEGLIGIBLE)
    now, _ = _entropy_and_slope(values, 1.0)
    increment = objective.max_entropy_increment * jax.nn.sigmoid(
        objective.gamma * (now - objective.entropy_pivot)
    )
    target = now + increment
    at_min = _entropy_and_slope(values, objective.tau_min)
    at_max = _entropy_and_slope(values, objective.tau_max)
    if objective.search == "newton":
        tau = _newton(values, target, at_min, at_max, objective)
    else:
        tau = _bisect(values, target, at_min, at_max, objective)
    # Explicit ends: the entropy of a near-deterministic row is flat, where a search goes anywhere.
    at_floor = target <= at_min[0]
    at_cap = ~at_floor & (target >= at_max[0])
    tau = jnp.where(at_floor, objective.tau_min, jnp.where(at_cap, objective.tau_max, tau))
    return tau, increment, at_floor, at_cap


def choose_temperature(teacher_logits: jax.Array, objective: Curio) -> Temperature:
    """Runs the search, the gate or the fixed temperature of `objective` on `[N, V]` logits.

    `fixed_tau` replaces both the search and the gate. The gate looks at the entropy over the whole
    vocabulary (as released; the paper's text has no gate). Nothing here carries a gradient.
    """
    logits = jax.lax.stop_gradient(teacher_logits).astype(jnp.float32)
    full_entropy = entropy(*log_softmax_parts(logits))
    no = jnp.zeros_like(full_entropy)
    if objective.fixed_tau is not None:
        tau = jnp.full_like(full_entropy, objective.fixed_tau)
        return Temperature(tau, full_entropy, no, no, no, no)
    values = top_k_values(logits, objective.top_k)
    search = jax.vmap(lambda row: _search_one(row, objective))
    tau, increment, at_floor, at_cap = search(values)
    gated = jnp.zeros_like(at_floor)
    if objective.gate_entropy is not None:
        gated = full_entropy <= objective.gate_entropy
        tau = jnp.where(gated, objective.tau_min, tau)
    flags = (x.astype(jnp.float32) for x in (gated, at_floor & ~gated, at_cap & ~gated))
    return Temperature(tau, full_entropy, increment, *flags)


def entropy_guided_temperature(teacher_logits: jax.Array, objective: Curio) -> jax.Array:
    """The teacher's temperature of each token.

    Args:
      teacher_logits: `[N, V]`, any float dtype; columns of -inf are no part of the vocabulary.
      objective: `curiojax.objectives.Curio`; its `search_steps` counts bisections.

    Returns:
      tau, float32 `[N]`, in [tau_min, tau_max] or equal to `fixed_tau`. No gradient.
    """
    return choose_temperature(teacher_logits, objective).tau
