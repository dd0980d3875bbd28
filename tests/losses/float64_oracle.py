"""The maths of the losses once more, in numpy float64 and by bisection to the last bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden"


def golden(vocab_size: int) -> dict[str, np.ndarray]:
    """Inputs, losses and gradients that were made independently of this package, in float64."""
    with np.load(GOLDEN / f"objectives_v{vocab_size}.npz") as file:
        return dict(file)


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def entropy(x: np.ndarray) -> np.ndarray:
    log_probs = log_softmax(x)
    probs = np.exp(log_probs)
    return -(probs * np.where(probs > 0, log_probs, 0)).sum(axis=-1)


def label_log_probs(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return log_softmax(x)[np.arange(len(labels)), labels]


def temperature(logits: np.ndarray, objective) -> np.ndarray:
    """tau per token for a searching objective, gate included."""
    logits = np.asarray(logits, np.float64)
    values = -np.sort(-logits, axis=-1)[:, : objective.top_k]
    now = entropy(values)
    target = now + objective.max_entropy_increment / (
        1 + np.exp(-objective.gamma * (now - objective.entropy_pivot))
    )
    low = np.full(len(logits), objective.tau_min)
    high = np.full(len(logits), objective.tau_max)
    at_floor = target <= entropy(values / objective.tau_min)
    at_cap = target >= entropy(values / objective.tau_max)
    for _ in range(60):
        middle = (low + high) / 2
        too_low = entropy(values / middle[:, None]) < target
        low, high = np.where(too_low, middle, low), np.where(too_low, high, middle)
    tau = np.where(at_cap, objective.tau_max, (low + high) / 2)
    tau = np.where(at_floor, objective.tau_min, tau)
    if objective.gate_entropy is not None:
        tau = np.where(entropy(logits) <= objective.gate_entropy, objective.tau_min, tau)
    return tau


def curio_loss(logits, teacher_logits, labels, tau, alpha) -> np.ndarray:
    log_probs = label_log_probs(logits, labels)
    teacher = label_log_probs(teacher_logits / tau[:, None], labels)
    return -log_probs + alpha / 2 * (log_probs - teacher) ** 2


def assorted_rows(rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
    """Logit rows that are broad, power-law, few-token, or a few tokens over a far tail."""
    made = []
    for i in range(rows):
        kind = i % 4
        if kind == 0:
            row = rng.normal(size=width) * np.exp(rng.uniform(np.log(0.05), np.log(40)))
        elif kind == 1:
            row = -rng.uniform(0.5, 8) * np.log(np.arange(1, width + 1)) + rng.normal(size=width)
        elif kind == 2:
            row = np.full(width, -1e4)
            few = rng.integers(2, 12)
            row[:few] = rng.normal(size=few) * rng.uniform(0.1, 8)
        else:
            row = -rng.uniform(0, 25) + rng.normal(size=width) * rng.uniform(0, 3)
            few = rng.integers(1, 6)
            row[:few] = rng.uniform(0, 4, size=few)
        made.append(rng.permutation(row))
    return np.stack(made)
