"""Step statistics against numpy on all tokens at once, however they were split."""

import jax.numpy as jnp
import numpy as np
import pytest

from curiojax.objectives import Curio, Sft
from curiojax.training import statistics

VOCAB = 1000
CURIO = Curio()


def tokens_and_mask(seed=0, rows=12, length=64):
    rng = np.random.default_rng(seed)
    tokens = {
        "log_prob": -rng.exponential(1.0, (rows, length)),
        "entropy": rng.gamma(0.5, 1.0, (rows, length)).clip(0, 6.9),
        "weight": rng.normal(1.0, 0.4, (rows, length)),
        "sed_k2": rng.exponential(0.1, (rows, length)),
        "teacher_entropy": rng.gamma(0.5, 1.0, (rows, length)).clip(0, 6.9),
        "entropy_increment": rng.uniform(0, 0.5, (rows, length)),
        "tau": rng.uniform(1.1, 1.5, (rows, length)),
        "gated": rng.integers(0, 2, (rows, length)),
        "at_floor": rng.integers(0, 2, (rows, length)),
        "at_cap": rng.integers(0, 2, (rows, length)),
    }
    mask = rng.uniform(size=(rows, length)) < 0.7
    return {k: jnp.asarray(v, jnp.float32) for k, v in tokens.items()}, jnp.asarray(mask)


def summarize(tokens, mask, parts, objective=CURIO):
    total = None
    for part in np.array_split(np.arange(mask.shape[0]), parts):
        chosen = {k: v[part] for k, v in tokens.items()}
        stats = statistics.measure(objective, chosen, mask[part], VOCAB)
        total = statistics.add(total or statistics.empty(stats), stats)
    return statistics.summarize(total, objective, VOCAB)


@pytest.mark.parametrize("parts", [1, 3, 12])
def test_agrees_with_numpy_for_every_split(parts):
    tokens, mask = tokens_and_mask()
    report = summarize(tokens, mask, parts)
    valid = {k: np.asarray(v)[np.asarray(mask)].astype(np.float64) for k, v in tokens.items()}
    weight, tau = valid["weight"], valid["tau"]
    want = {
        "tokens": mask.sum(),
        "sft_nll": -valid["log_prob"].mean(),
        "entropy": valid["entropy"].mean(),
        "weight_mean": weight.mean(),
        "weight_min": weight.min(),
        "weight_max": weight.max(),
        "weight_below_0.9": (weight < 0.9).mean(),
        "weight_negative": (weight < 0).mean(),
        "tau_mean": tau.mean(),
        "gated": valid["gated"].mean(),
    }
    for key, value in want.items():
        assert report[key] == pytest.approx(float(value), rel=1e-5), key
    for key, q in (("tau_p10", 10), ("tau_p50", 50), ("tau_p90", 90)):
        assert report[key] == pytest.approx(np.percentile(tau, q), abs=2e-3)
    for name in ("entropy", "teacher_entropy"):
        ordered = np.sort(valid[name])
        cut = len(ordered) - round(0.2 * len(ordered))
        assert report[f"{name}_top20"] == pytest.approx(ordered[cut:].mean(), rel=5e-3)
        assert report[f"{name}_rest"] == pytest.approx(ordered[:cut].mean(), rel=5e-3)
    assert sum(report["tau_histogram"]["counts"]) == report["tokens"]


def test_masked_garbage_is_ignored():
    tokens, mask = tokens_and_mask()
    clean = summarize(tokens, mask, 2)
    dirty = {k: jnp.where(mask, v, jnp.nan) for k, v in tokens.items()}
    assert summarize(dirty, mask, 2) == clean


def test_no_tokens_at_all_is_finite():
    tokens, mask = tokens_and_mask()
    report = summarize(tokens, jnp.zeros_like(mask), 1)
    assert report["tokens"] == 0 and report["sft_nll"] == 0.0 and report["entropy_top20"] == 0.0


def test_plain_sft_reports_no_teacher():
    tokens, mask = tokens_and_mask()
    tokens = {k: tokens[k] for k in ("log_prob", "entropy")}
    report = summarize(tokens, mask, 1, Sft())
    assert not any(key.startswith(("tau", "teacher", "weight", "sed")) for key in report)
