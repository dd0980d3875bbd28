"""Made-up evaluations with the shape of real ones: what the report has to show well.

Nothing here was measured. Scores, texts and entropies are drawn from a random generator.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np

# Name, title, group, questions, samples, share of correct answers, tokens of a response.
BENCHMARKS = (
    ("aime24", "AIME 2024", "math", 30, 8, 0.25, 900),
    ("aime25", "AIME 2025", "math", 30, 8, 0.21, 950),
    ("amc23", "AMC 2023", "math", 40, 8, 0.60, 640),
    ("math500", "MATH-500", "math", 60, 1, 0.83, 420),
    ("minerva", "Minerva", "math", 50, 1, 0.38, 520),
    ("olympiad", "OlympiadBench", "math", 60, 1, 0.47, 700),
    ("arc_c", "ARC-C", "general", 50, 1, 0.81, 260),
    ("gpqa", "GPQA-Diamond", "general", 40, 1, 0.34, 640),
    ("mmlu_pro", "MMLU-Pro", "general", 60, 1, 0.46, 380),
)
LIMIT = 1200
MODELS = ("SFT (made up)", "CurioSFT (made up)")
WORDS = (
    "so we need the number of ways to choose three points such that the sum of the squares is even "
    "Let x = 2 k + 1 , then x ^ 2 = 4 k ( k + 1 ) + 1 . Hmm , wait , that does not use the second "
    "condition . Alternatively , by symmetry we count the complement and subtract it from the total"
).split()
FORKS = {"Hmm", "wait", "Alternatively", "Let", "so", "then"}


def evaluations(
    count: int = 2, *, seed: int = 0, questions: int | None = None, entropies: bool = True
) -> tuple[list[dict[str, Any]], dict[str, dict[str, list[dict[str, Any]]]]]:
    """`results.json` and rows of `count` models (one to three) on nine benchmarks.

    Args:
      count: models.
      seed: of the generator.
      questions: per benchmark, if fewer than usual.
      entropies: whether the tokens' entropies are known.
    """
    names = [*MODELS, "CurioSFT + RL (made up)"][:count]
    results, completions = [], {}
    for number, name in enumerate(names):
        rng = np.random.default_rng([seed, number])
        parts, rows = {}, {}
        for order, (bench, title, group, n, k, level, length) in enumerate(BENCHMARKS):
            n = min(n, questions or n)
            difficulty = np.random.default_rng([seed, 99, order]).normal(0, 1.6, n)
            rows[bench] = [
                _row(rng, bench, i, s, level + 0.04 * number, length, number, difficulty[i])
                for i in range(n)
                for s in range(k)
            ]
            if not entropies:
                rows[bench] = [{**row, "pieces": None, "entropies": None} for row in rows[bench]]
            parts[bench] = _part(rng, title, group, n, k, rows[bench])
        results.append(
            {
                "version": 1,
                "name": name,
                "model": {"path": "runs/made-up", "fingerprint": "0" * 16},
                "settings": {"temperature": 0.6, "top_p": 1.0, "max_response_tokens": LIMIT},
                "software": {"curiojax": "0.1.0", "vllm": None},
                "benchmarks": parts,
            }
        )
        completions[name] = rows
    return results, completions


def tables(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ready-made tables, as the evaluation hands them over."""
    titles = [title for _, title, *_ in BENCHMARKS]
    scores = [
        [r["name"], *(_cell(part["avg"]) for part in r["benchmarks"].values())] for r in results
    ]
    details = [
        [
            f"{part['title']}, {r['name']}" if len(results) > 1 else part["title"],
            part["questions"],
            part["samples"],
            _cell(part["pass"][str(part["samples"])]),
            f"{100 * part['rates']['truncated']:.1f}",
            f"{part['length']['mean']:,.0f}",
            f"{part['entropy']['token_mean']:.3f}" if part["entropy"] else None,
        ]
        for bench in BENCHMARKS
        for r in results
        for part in [r["benchmarks"][bench[0]]]
    ]
    columns = ["benchmark", "questions", "samples", "pass@k (%)", "truncated (%)", "mean tokens"]
    return [
        {
            "title": "Scores",
            "columns": ["model", *titles],
            "rows": scores,
            "caption": "avg@k in percent \u00b1 one standard error. All numbers are made up.",
        },
        {
            "title": "In detail",
            "columns": [*columns, "entropy (nats)"],
            "rows": details,
            "caption": "k is the number of samples.",
        },
    ]


def _cell(score: dict[str, float]) -> str:
    return f"{100 * score['value']:.1f} \u00b1 {100 * score['se']:.1f}"


def _row(rng, bench, question, sample, level, length, model, difficulty) -> dict[str, Any]:
    lean = math.log(level / (1 - level)) + difficulty
    correct = bool(rng.random() < 1 / (1 + math.exp(-lean)))
    tokens = int(length * (0.8 if correct else 1.15) * rng.lognormal(0, 0.35))
    finish = "length" if tokens >= LIMIT else "stop"
    tokens, correct = min(tokens, LIMIT), correct and finish == "stop"
    status = "ok"
    if finish == "length" or rng.random() < 0.02:
        status, correct = "no_answer", False
    elif rng.random() < 0.01:
        status, correct = "timeout", False
    truth = str(17 + 3 * question)
    answer = truth if correct else str(rng.integers(1, 99))
    end = [" So", " the", " answer", " is", f" \\boxed{{{answer}}}", ".", "<|im_end|>"]
    begin = ["<think>", "\n", "Okay", ","] + [f" {word}" for word in WORDS]
    body = list(itertools.islice(itertools.cycle([*begin, "\n\n"]), max(tokens - 9, 1)))
    pieces = [*body, "</think>", "\n\n", *end] if status == "ok" else body
    scale = (0.9, 1.25, 1.1)[model] * rng.lognormal(0, 0.1)
    entropies = [
        round(float(rng.exponential((1.1 if p.strip() in FORKS else 0.13) * scale)), 4)
        for p in pieces
    ]
    private = bench == "gpqa"
    return {
        "question": f"{bench}/{question}",
        "prompt": None if private else _prompt(bench, question),
        "ground_truth": None if private else truth,
        "sample": sample,
        "text": "".join(pieces).removesuffix("<|im_end|>"),
        "pieces": pieces,
        "entropies": entropies,
        "extracted": answer if status == "ok" else None,
        "correct": correct,
        "status": status,
        "finish": finish,
        "tokens": len(pieces),
    }


def _prompt(bench: str, question: int) -> str:
    return (
        f"A made-up question, number {question + 1} of {bench}: let $a_n$ be the number of "
        f"sequences of length $n$ over $\\{{0, 1, 2\\}}$ in which no two neighbours differ by more "
        f"than one. Find the remainder of $a_{{{question + 5}}}$ when it is divided by 97.\n\n"
        "Please reason step by step, and put your final answer within \\boxed{}."
    )


def _part(rng, title, group, n, k, rows) -> dict[str, Any]:
    correct = np.array([row["correct"] for row in rows]).reshape(n, k)
    ks = sorted({2**i for i in range(k.bit_length())} | {k})
    ks = [i for i in ks if i <= k]
    lengths = np.array([row["tokens"] for row in rows])
    counts, edges = np.histogram(lengths, bins=np.linspace(0, LIMIT + 1, 25))
    statuses = Counter(row["status"] for row in rows)
    cut = sum(row["finish"] == "length" for row in rows)
    flat = [e for row in rows for e in row["entropies"] or ()]
    return {
        "title": title,
        "group": group,
        "source": "made up",
        "verifier": "math",
        "strict_verifier": None,
        "questions": n,
        "available": n,
        "samples": k,
        "avg": _score(correct.mean(1)),
        "pass": {str(i): _score(_pass_at(correct.sum(1), k, i)) for i in ks},
        "maj": {str(i): _score(correct.mean(1) ** (1 / (1 + 0.2 * math.log2(i)))) for i in ks},
        "counts": {"truncated": cut, "completions": len(rows), **statuses},
        "rates": {"truncated": cut / len(rows)},
        "length": {
            "mean": float(lengths.mean()),
            "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
        },
        "entropy": {"token_mean": float(np.mean(flat)), "token_mean_se": 0.006} if flat else None,
        "diversity": {"ngram": {"4": 0.7 + 0.2 * float(rng.random())}} if k > 1 else None,
    }


def _score(values: np.ndarray) -> dict[str, float]:
    return {"value": float(values.mean()), "se": float(values.std(ddof=1) / math.sqrt(len(values)))}


def _pass_at(correct: np.ndarray, n: int, k: int) -> np.ndarray:
    return np.array([1 - math.comb(n - int(c), k) / math.comb(n, k) for c in correct])
