"""Synthetic runs with the shape of real ones: what the report has to show well."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

EDGES = [round(1 + 0.5 * i / 40, 6) for i in range(41)]


def run(steps: int, *, curio: bool, fixed_tau: float | None = None, seed: int = 0) -> list[dict]:
    """Metrics of a run; `curio` adds the keys of CurioSFT."""
    rng = np.random.default_rng(seed)
    lines: list[dict[str, Any]] = []
    lift = 0.0 if not curio else (0.10 if fixed_tau else 0.05)
    for step in range(1, steps + 1):
        t = step / 80

        def wobble(size: float) -> float:
            return float(1 + size * rng.standard_normal())

        base = 0.27 + lift * (1 - math.exp(-t)) + 0.5 * math.exp(-t)
        entropy = base * wobble(0.04)
        nll = (0.30 + 2.6 * math.exp(-4 * t) + 0.3 * math.exp(-t)) * wobble(0.05)
        k2 = 0.02 * wobble(0.2) * (1 + 4 * math.exp(-3 * t)) if curio else 0.0
        seconds = 0.027 * wobble(0.1) if step > 1 else 3.1
        tokens = 64 * 13
        line = {
            "step": step,
            "loss": nll + k2,
            "sft_nll": nll,
            "entropy": entropy,
            "entropy_top20": 3.6 * entropy * wobble(0.02),
            "entropy_rest": 0.35 * entropy * wobble(0.03),
            "learning_rate": 5e-4 * min(1.0, step / 5),
            "grad_norm": 0.8 * wobble(0.2) + 9 * math.exp(-6 * t),
            "tokens": tokens,
            "padding_share": 0.06 * wobble(0.1),
            "tokens_per_second": tokens / seconds,
            "step_seconds": seconds,
        }
        if curio:
            counts = np.zeros(40, int)
            if fixed_tau:
                counts[-1] = tokens
            else:
                taus = np.clip(1.1 + rng.exponential(0.05, tokens) - 0.02, 1.1, 1.5)
                taus[: int(tokens * (0.55 - 0.2 * math.exp(-t)))] = 1.1
                counts, _ = np.histogram(taus, bins=EDGES)
            values = np.repeat((np.array(EDGES)[1:] + np.array(EDGES)[:-1]) / 2, counts)
            floor = float((values < 1.12).mean())
            line |= {
                "sed_k2": k2,
                "weight_mean": (0.92 if fixed_tau else 0.985) * wobble(0.003),
                "weight_min": -0.4 * wobble(0.4) + 0.4,
                "weight_max": 1.9 * wobble(0.15),
                "weight_below_0.9": (0.24 if fixed_tau else 0.06) * wobble(0.08),
                "weight_negative": 0.001 * abs(wobble(1.0)),
                "teacher_entropy": entropy * 1.02,
                "teacher_entropy_top20": line["entropy_top20"] * 1.03,
                "teacher_entropy_rest": line["entropy_rest"] * 1.03,
                "tau_mean": float(values.mean()),
                "tau_p10": float(np.quantile(values, 0.1)),
                "tau_p50": float(np.quantile(values, 0.5)),
                "tau_p90": float(np.quantile(values, 0.9)),
                "tau_histogram": {"edges": EDGES, "counts": [int(c) for c in counts]},
                "teacher_lag": step % 5,
                "teacher_distance": 0.02 * (step % 5 + 0.2) * wobble(0.05),
            }
            if not fixed_tau:
                line |= {
                    "entropy_increment": 0.16 * wobble(0.02),
                    "gated": 0.55 - 0.2 * math.exp(-t),
                    "at_floor": floor,
                    "at_cap": 0.004 * abs(wobble(0.5)),
                }
        lines.append(line)
    return lines


def other_methods(steps: int) -> list[dict]:
    """A run with the keys of all methods that are not CurioSFT."""
    keys = ("sed_kl", "kl", "kl_k3", "kl_held", "clipped", "ratio_mean", "ratio_max", "gem_s")
    keys += ("gem_q_max", "unlikelihood", "suppressed_prob")
    return [{**line, **dict.fromkeys(keys, 0.5)} for line in run(steps, curio=False, seed=9)]


def rl(steps: int, *, everything: bool = True, seed: int = 5) -> list[dict]:
    """Metrics of a GRPO run; without `everything` one whose extras are off and all but constant."""
    rng = np.random.default_rng(seed)
    lines = []
    for step in range(1, steps + 1):
        t = step / 60
        noise = rng.standard_normal(8)
        correct = min(0.95, max(0.0, 0.30 + 0.12 * (1 - math.exp(-t)) + 0.02 * noise[0]))
        kept = 0.93 if everything else 1.0
        entropy = (0.2 + 0.2 * math.exp(-t)) * (1 + 0.05 * noise[1])
        mismatch = 1.2e-2 if everything else 5e-7
        slow = 20.0 if step == 1 else 1.0
        line = {
            "step": step,
            "loss": 1e-4 * noise[2],
            "reward": correct * kept,
            "accuracy": correct,
            "format_rate": kept,
            "groups_all_0": 0.42 + 0.04 * noise[3],
            "groups_all_1": 0.05 + 0.01 * noise[4],
            "entropy": entropy,
            "entropy_top20": 3.9 * entropy,
            "entropy_rest": 0.27 * entropy,
            "response_tokens": 12.6 + 0.1 * noise[5],
            "response_tokens_max": 13,
            "truncated_share": 0.01 * abs(noise[6]),
            "clipped_high": 0.002 * (1 + 0.3 * noise[7]),
            "clipped_low": 0.0011,
            "dual_clipped": 3e-4 if everything else 0.0,
            "ratio_mean": 1 + 1e-3 * noise[2],
            "ratio_max": 1.3 + 0.2 * abs(noise[3]),
            "mismatch_abs": mismatch * (1 + 0.1 * noise[1]),
            "mismatch_max": 30 * mismatch,
            "mismatch_k3": mismatch**2,
            "tis_weight": 1 + (2e-3 * noise[4] if everything else 0.0),
            "ess_share": 0.99 if everything else 1.0,
            "tis_capped": 1e-3 * abs(noise[5]) if everything else 0.0,
            "learning_rate": 3e-4,
            "grad_norm": 0.4 * (1 + 0.2 * noise[6]),
            "tokens": 3250,
            "padding_share": 0.06,
            "generate_seconds": 0.08 * slow,
            "grade_seconds": 0.02 * slow,
            "log_probs_seconds": 0.03,
            "update_seconds": 0.12 * (1 + 0.1 * noise[7]),
            "sync_seconds": 0.002,
            "step_seconds": 0.26 * slow,
            "generated_tokens_per_second": 41e3 / slow,
            "sync_gigabytes_per_second": 0.3,
        }
        if everything:
            line |= {"kl_k1": 0.02 * t + 0.01 * noise[0], "kl_k3": 0.02 * t}
        lines.append(line)
    return lines


def guided(steps: int) -> list[dict]:
    """A run of which one completion per prompt continues a demonstration."""
    lines = rl(steps)
    for line in lines:
        low = 0.05 + 0.45 * (1 + math.cos(math.pi * line["step"] / steps))
        line |= {"prefix_ratio_low": low, "prefix_ratio_high": 0.95}
        line |= {"prefix_ratio": (low + 0.95) / 2, "guided_accuracy": line["accuracy"] + 0.3 * low}
        line |= {"given_advantage": 0.3 * low, "given_kept": 0.2, "given_clipped": 0.01}
        line |= {"given_loss": -0.3 * low, "policy_loss": -0.01}
    return lines


def hybrid(steps: int) -> list[dict]:
    """A run that learns from demonstrations beside its own completions."""
    lines = rl(steps)
    for line in lines:
        done = line["step"] / steps
        line |= {"demonstration_share": 1.0, "given_share": 0.3, "switched_share": 0.4 - 0.3 * done}
        line |= {"given_loss": 1.5 - done, "policy_loss": -0.01, "given_prob": 0.5 + 0.3 * done}
        line |= {"given_entropy": 0.6, "sft_weight": 0.28, "positive_weight": 0.18}
    return lines


def comparison(steps: int = 252) -> dict[str, list[dict]]:
    return {
        "SFT": run(steps, curio=False, seed=0),
        "CurioSFT": run(steps, curio=True, seed=1),
        "CurioSFT, tau 1.5": run(steps, curio=True, fixed_tau=1.5, seed=2),
    }


TABLE = {
    "columns": [
        "run",
        "accuracy",
        "pass@16, hard",
        "entropy (nats)",
        "mean w",
        "w < 0.9",
        "at floor",
    ],
    "rows": [
        ["SFT", 0.492, 0.175, 0.271, None, None, None],
        ["CurioSFT", 0.447, 0.214, 0.322, 0.986, 0.061, 0.83],
        ["CurioSFT, tau 1.5", 0.403, 0.242, 0.369, 0.921, 0.241, None],
    ],
    "caption": "One seed; differences below 0.02 are noise.",
}

HOSTILE = [
    "<script>document.title='owned'</script>",
    "</script><img src=x onerror=\"document.title='owned'\">",
    "<!--<script>",
    "a & b &amp; \"c\" 'd'",
    "\x00\x1b[31m\r",
    "\u202eevil\u202c",
    "\u05e9\u05dc\u05d5\u05dd",
    " \u0645\u0631\u062d\u0628\u0627",
    "\ud800",
    "\u2028",
    "",
    "\n",
    "\t",
    "   ",
]

TEXT = (
    "Okay, so we need 24 from the numbers 3, 5, 7 and 8 , using each of them once .\n\n"
    "Let me try multiplication first : 3 * 8 = 24 , so the other two would have to cancel , "
    "and 7 - 5 = 2 , which is not 0 or 1 . Wait , alternatively 5 * 7 = 35 , then 35 - 8 = 27 , "
    "and 27 - 3 = 24 . Let me check that again : 5 * 7 = 35 , 35 - 8 = 27 , 27 - 3 = 24 . Yes .\n\n"
    "So the answer is \\boxed{5 * 7 - 8 - 3} .<|im_end|>"
)


def token_view(repeat: int = 1, hostile: bool = False) -> dict[str, Any]:
    rng = np.random.default_rng(7)
    pieces: list[str] = []
    for line in (TEXT * repeat).split(" "):
        word, *breaks = line.replace("\n\n", "\x01\n\n\x01").split("\x01")
        pieces += [(" " if pieces else "") + word, *breaks]
    pieces = [p for p in pieces if p] + (HOSTILE if hostile else [])
    tokens = []
    for piece in pieces:
        fork = piece.strip() in {
            "Let",
            "Wait",
            "try",
            "multiplication",
            "so",
            "alternatively",
            "5",
            "7",
        }
        entropy = float(rng.exponential(1.4 if fork else 0.15))
        tau = float(np.clip(1.1 + (entropy > 1.0) * rng.exponential(0.12), 1.1, 1.5))
        log_prob = -float(rng.exponential(entropy + 0.02))
        teacher = log_prob / tau - 0.05 * entropy
        tokens.append(
            {
                "text": piece,
                "entropy": entropy,
                "tau": tau,
                "weight": 1 + teacher - log_prob,
                "log_prob": log_prob,
                "teacher_log_prob": teacher,
                "teacher_entropy": entropy * 1.05,
            }
        )
    return {
        "title": "A made-up response.",
        "prompt": "Make 24 from 3, 5, 7, 8.\n",
        "tokens": tokens,
    }
