"""A small benchmark whose every statistic was worked out by hand, and results made of it."""

from curiojax.evaluation.questions import Benchmark, Question, Sample, Verdict
from curiojax.evaluation.summary import means, overall_entropy, summarise

ENTROPY = 0.5


def sample(answer, tokens, *, correct=False, status="ok", strict=False, **kwargs):
    """A completion with a boxed answer after its reasoning."""
    verdicts = {
        "math": Verdict(correct, status, answer),
        "released": Verdict(strict, status, answer),
    }
    fields = {
        "text": rf"So.</think>\boxed{{{answer}}}",
        "finish": "stop",
        "entropies": [ENTROPY] * len(tokens),
    }
    return Sample(tokens=tokens, verdicts=verdicts, **{**fields, **kwargs})


def too_long():
    """What there is instead of a completion where the prompt does not fit."""
    return Sample("", [], "prompt_too_long", None, {})


def benchmark(count=4, **kwargs):
    fields = {"name": "tiny", "title": "Tiny", "verifier": "math", "source": "somewhere"}
    items = [Question(f"q{i}", [{"role": "user", "content": "?"}], "5") for i in range(count)]
    fields |= {"strict_verifier": "released", "group": "math", "questions": items}
    return Benchmark(**{**fields, **kwargs})


def tiny_samples():
    """Four questions of four samples: solved half the time, unverifiable, too long, faulty."""
    solved = [
        sample("5", [1, 2, 3, 4, 9], correct=True, strict=True),
        sample(" 5.", [1, 2, 3, 4, 9], correct=True),
        sample("7", [1, 2, 9], entropies=[1.0, 1.0, 1.0]),
        sample("8", [5, 6, 7, 8, 9]),
    ]
    unverifiable = [sample(None, [1, 9], status="unverifiable") for _ in range(4)]
    faulty = [
        sample(None, [1] * 10, status="no_answer", finish="length", text="I think"),
        sample(None, [2] * 10, status="timeout", entropies=None),
        sample("5", [3, 9], correct=True, text=r"Is it \boxed{5}?</think> five"),
        sample("6", [4, 9], text=r"\boxed{6}"),
    ]
    return [solved, unverifiable, [too_long() for _ in range(4)], faulty]


def results(name, parts, **settings):
    """A whole `results.json` of some benchmarks' parts."""
    return {
        "version": 1,
        "name": name,
        "model": {"path": name, "fingerprint": "0"},
        "settings": {"temperature": 0.6, **settings},
        "software": {"curiojax": "0.1.0", "math-verify": "0.9.0", "vllm": None},
        "benchmarks": parts,
        "means": means(parts),
        "entropy": overall_entropy(parts),
        "expert_tokens": None,
    }


def graded(rows, *, name="tiny", ids=None, **kwargs):
    """A benchmark's part of results from 0s and 1s; None: the question is unverifiable."""
    questions = [Question(i, [], "5") for i in ids or [f"q{i}" for i in range(len(rows))]]
    fields = {"title": name.title(), "strict_verifier": None, "questions": questions}
    samples = [
        [
            sample(None, [1], status="unverifiable")
            if right is None
            else sample("5" if right else "6", [1, 2, 3, 4], correct=bool(right))
            for right in row
        ]
        for row in rows
    ]
    available = kwargs.pop("available", len(rows))
    named = benchmark(name=name, **{**fields, **kwargs})
    return summarise(named, samples, available=available)
