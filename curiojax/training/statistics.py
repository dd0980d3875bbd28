"""Masked statistics of per-token quantities that add up over micro-batches and devices.

Sums, extremes and histograms are all a step keeps, so that no metric is ever a mean of means and
quantiles over a step's millions of tokens need neither a sort nor the tokens themselves.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from curiojax.objectives import Curio, Objective

ENTROPY_BINS = 2048
TAU_BINS = 1000
SHOWN_TAU_BINS = 40

# Per-token metrics that are reported as their mean over the trained tokens: name there, name here.
MEANS = {
    "sed_k2": "sed_k2",
    "sed_kl": "sed_kl",
    "teacher_entropy": "teacher_entropy",
    "entropy_increment": "entropy_increment",
    "gated": "gated",
    "at_floor": "at_floor",
    "at_cap": "at_cap",
    "tau": "tau_mean",
    "selected": "entropy_selected",
    "kl": "kl",
    "kl_held": "kl_held",
    "kl_k1": "kl_k1",
    "kl_k3": "kl_k3",
    "reference_nll": "reference_nll",
    "gem_s": "gem_s",
    "gem_q_max": "gem_q_max",
    "ratio": "ratio_mean",
    "clipped": "clipped",
    "old_kl": "old_kl",
    "policy_loss": "policy_loss",
    "clipped_high": "clipped_high",
    "clipped_low": "clipped_low",
    "dual_clipped": "dual_clipped",
    "mismatch_abs": "mismatch_abs",
    "mismatch_k1": "mismatch_k1",
    "mismatch_k3": "mismatch_k3",
    "tis_weight": "tis_weight",
    "tis_weight_squared": "tis_weight_squared",
    "tis_capped": "tis_capped",
}
# The same over tokens that are set apart: those to be unlearnt, and those that were given to the
# policy. Of them nothing else is measured.
APART = {
    "suppressed": {
        "unlikelihood": "unlikelihood",
        "suppressed_prob": "suppressed_prob",
        "entropy": "suppressed_entropy",
    },
    "given": {
        "given_loss": "given_loss",
        "given_prob": "given_prob",
        "entropy": "given_entropy",
        "sft_weight": "sft_weight",
        "given_kept": "given_kept",
        "given_advantage": "given_advantage",
        "given_clipped": "given_clipped",
    },
}
# And over some of the others: the policy's own right and wrong completions.
AMONG = {
    "positive": {"positive_weight": "positive_weight"},
    "negative": {"log_prob": "negative_log_prob"},
}
PARTS = {**APART, **AMONG}


class Stats(NamedTuple):
    """Attributes:
    sums: masked sums over tokens, float32 [] each.
    extremes: {"weight_min": ..., "ratio_max": ..., "mismatch_max": ...}, where there are such.
    entropy: {name: float32 [2, ENTROPY_BINS]}, token counts and entropy sums per bin.
    tau: float32 [TAU_BINS], token counts.
    """

    sums: dict[str, jax.Array]
    extremes: dict[str, jax.Array]
    entropy: dict[str, jax.Array]
    tau: jax.Array


def tau_range(objective: Objective) -> tuple[float, float]:
    """Range of the temperature histogram."""
    if not isinstance(objective, Curio):
        return 1.0, 2.0
    return 1.0, max(objective.tau_max, objective.fixed_tau or 0.0, 1.0 + 1e-3)


def measure(
    objective: Objective, tokens: dict[str, jax.Array], mask: jax.Array, vocab_size: int
) -> Stats:
    """Statistics of one micro-batch.

    Args:
      objective: decides which quantities exist.
      tokens: per-token metrics of `curiojax.losses`, float32 [B, T] each.
      mask: bool [B, T], the trained tokens. Of those that are `suppressed` or `given`, only what
        `APART` says is measured.
      vocab_size: bounds the entropy histogram at log(vocab_size).
    """
    parts = {}
    for part, means in PARTS.items():
        if part not in tokens:
            continue
        members = mask & (tokens[part] > 0)
        if part in APART:
            mask = mask & (tokens[part] == 0)
        parts[f"{part}_tokens"] = jnp.sum(members.astype(jnp.float32))
        for key, name in means.items():
            if key in tokens:
                parts[name] = jnp.sum(jnp.where(members, tokens[key], 0.0))
    valid = mask.astype(jnp.float32)

    def total(x):
        return jnp.sum(jnp.where(mask, x.astype(jnp.float32), 0.0))

    sums = {"tokens": jnp.sum(valid), "sft_nll": -total(tokens["log_prob"])}
    sums |= {"entropy": total(tokens["entropy"]), **parts}
    entropy = {"entropy": _entropy_histogram(tokens["entropy"], mask, vocab_size)}
    extremes = {}
    tau = jnp.zeros((TAU_BINS,), jnp.float32)
    for key, name in MEANS.items():
        if key in tokens:
            sums[name] = total(tokens[key])
    if "weight" in tokens:
        weight = tokens["weight"]
        sums["weight_mean"] = total(weight)
        sums["weight_squared"] = total(jnp.square(weight))
        sums["weight_below_0.9"] = total(weight < 0.9)
        sums["weight_negative"] = total(weight < 0.0)
        extremes["weight_min"] = jnp.min(jnp.where(mask, weight, jnp.inf))
        extremes["weight_max"] = jnp.max(jnp.where(mask, weight, -jnp.inf))
    for key, name in (("ratio", "ratio_max"), ("mismatch_abs", "mismatch_max")):
        if key in tokens:
            extremes[name] = jnp.max(jnp.where(mask, tokens[key], -jnp.inf))
    if "teacher_entropy" in tokens:
        entropy["teacher_entropy"] = _entropy_histogram(tokens["teacher_entropy"], mask, vocab_size)
    if "tau" in tokens:
        low, high = tau_range(objective)
        tau = _counts(tokens["tau"], valid, low, high, TAU_BINS)
    return Stats(sums, extremes, entropy, tau)


def add(a: Stats, b: Stats) -> Stats:
    """Statistics of two disjoint sets of tokens together."""
    extremes = {
        key: (jnp.minimum if key.endswith("min") else jnp.maximum)(a.extremes[key], b.extremes[key])
        for key in a.extremes
    }
    plus = jax.tree.map(jnp.add, (a.sums, a.entropy, a.tau), (b.sums, b.entropy, b.tau))
    return Stats(plus[0], extremes, plus[1], plus[2])


def empty(like: Stats) -> Stats:
    """The neutral element of `add`, with the structure of `like` (arrays or abstract arrays)."""
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    extremes = {
        key: jnp.full((), jnp.inf if key.endswith("min") else -jnp.inf, jnp.float32)
        for key in like.extremes
    }
    return zeros._replace(extremes=extremes)


def summarize(stats: Stats, objective: Objective, vocab_size: int) -> dict[str, Any]:
    """What a step reports, on the host: means over tokens, quantiles and shares.

    `weight_effective` is (sum w)^2 / (n sum w^2), the share of the tokens that would have the same
    variance with equal weights. `*_top20` is the mean over the 20 % of the step's tokens with the
    highest entropy, `*_rest` over the others, as in the paper's Figure 2; each model's tokens are
    grouped by its own entropy.
    Quantiles are exact to a bin: 5e-4 for tau, log(vocab_size) / 2048 nats for the entropy bound.
    """
    on_host: Any = jax.tree.map(np.asarray, stats)
    tokens = float(on_host.sums["tokens"])
    count = max(tokens, 1.0)
    report: dict[str, Any] = {key: float(value) / count for key, value in on_host.sums.items()}
    report["tokens"] = int(tokens)
    for part, means in PARTS.items():
        if f"{part}_tokens" not in report:
            continue
        members = report[f"{part}_tokens"] = int(on_host.sums[f"{part}_tokens"])
        for name in means.values():
            if name in report:
                report[name] = float(on_host.sums[name]) / max(members, 1)
    # An update that learns from given tokens alone has none to find the largest ratio among.
    report |= {key: float(value) if tokens else 0.0 for key, value in on_host.extremes.items()}
    if "weight_squared" in report:
        squares = report.pop("weight_squared")
        report["weight_effective"] = report["weight_mean"] ** 2 / max(squares, 1e-30)
    for name, histogram in on_host.entropy.items():
        report[f"{name}_top20"], report[f"{name}_rest"] = _split_mean(histogram, share=0.2)
    if "tau_mean" in report:
        low, high = tau_range(objective)
        for key, q in (("tau_p10", 0.1), ("tau_p50", 0.5), ("tau_p90", 0.9)):
            report[key] = _quantile(on_host.tau, q, low, high)
        shown = on_host.tau.reshape(SHOWN_TAU_BINS, -1).sum(axis=1)
        report["tau_histogram"] = {
            "edges": [round(float(e), 6) for e in np.linspace(low, high, SHOWN_TAU_BINS + 1)],
            "counts": [int(c) for c in shown],
        }
    return report


def _counts(x: jax.Array, weights: jax.Array, low: float, high: float, bins: int) -> jax.Array:
    position = (x.astype(jnp.float32) - low) * (bins / (high - low))
    index = jnp.clip(jnp.nan_to_num(position), 0, bins - 1).astype(jnp.int32)
    return jax.ops.segment_sum(weights.ravel(), index.ravel(), num_segments=bins)


def _entropy_histogram(x: jax.Array, mask: jax.Array, vocab_size: int) -> jax.Array:
    high = math.log(vocab_size)
    valid = mask.astype(jnp.float32)
    sums = jnp.where(mask, x.astype(jnp.float32), 0.0)
    both = [_counts(x, weights, 0.0, high, ENTROPY_BINS) for weights in (valid, sums)]
    return jnp.stack(both)


def _split_mean(histogram: np.ndarray, share: float) -> tuple[float, float]:
    """Means over the top `share` of the tokens and over the rest; a bin on the border is split."""
    counts, sums = histogram.astype(np.float64)
    total = counts.sum()
    if total == 0:
        return 0.0, 0.0
    above = np.cumsum(counts[::-1])[::-1]  # tokens in this bin or higher ones
    taken = np.clip(share * total - (above - counts), 0.0, counts)
    part = np.divide(taken, counts, out=np.zeros_like(counts), where=counts > 0)
    top = float((sums * part).sum() / (share * total))
    rest = float((sums * (1.0 - part)).sum() / max((1.0 - share) * total, 1e-12))
    return top, rest


def _quantile(counts: np.ndarray, q: float, low: float, high: float) -> float:
    total = counts.sum()
    if total == 0:
        return float("nan")
    index = int(np.searchsorted(np.cumsum(counts), q * total))
    width = (high - low) / len(counts)
    return float(low + (min(index, len(counts) - 1) + 0.5) * width)
