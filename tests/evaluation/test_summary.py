import json

import numpy as np
import pytest

from curiojax.errors import ConfigError
from curiojax.evaluation.questions import Sample, Verdict
from curiojax.evaluation.summary import means, overall_entropy, summarise
from tests.evaluation.evaluated import benchmark, sample, tiny_samples, too_long

NUMBER = (int, float)
ESTIMATE = {"value": NUMBER, "se": NUMBER}
BY_K = {str(k): ESTIMATE for k in (1, 2, 4)}
COUNTS = (
    "prompt_too_long unverifiable truncated no_think_close no_box no_answer timeout memory crash"
    " error too_long completions"
)
SCHEMA = {
    "title": str,
    "group": str,
    "source": str,
    "verifier": str,
    "strict_verifier": str,
    "questions": int,
    "available": int,
    "samples": int,
    "avg": ESTIMATE,
    "pass": BY_K,
    "maj": BY_K,
    "strict": {"avg": ESTIMATE, "pass": BY_K},
    "counts": dict.fromkeys(COUNTS.split(), int),
    "rates": dict.fromkeys(("truncated", "no_think_close", "no_box", "timeout"), float),
    "length": {
        **dict.fromkeys(("mean", "median", "p95"), float),
        "max": int,
        "histogram": {"edges": [int], "counts": [int]},
    },
    "entropy": {
        **dict.fromkeys(("token_mean", "token_mean_se", "sequence_mean"), float),
        "tokens": int,
        "sequences": int,
    },
    "diversity": {
        "ngram": dict.fromkeys("1234", float),
        "ngram_first_512": {"4": float},
        "distinct": dict.fromkeys("123", float),
        "compression_ratio": float,
        "distinct_answers": float,
        "distinct_correct": float,
    },
    "per_question": [
        {
            "id": str,
            "correct": ([int], None),
            "strict": ([int], None),
            "lengths": [int],
            "distinct_answers": int,
            "majority": (float, None),
            "entropy": (float, None),
        }
    ],
}


def assert_fits(value, schema, where="part"):
    if isinstance(schema, dict):
        assert isinstance(value, dict) and set(value) == set(schema), where
        for key, inner in schema.items():
            assert_fits(value[key], inner, f"{where}.{key}")
    elif isinstance(schema, list):
        assert isinstance(value, list), where
        for item in value:
            assert_fits(item, schema[0], f"{where}[]")
    elif isinstance(schema, tuple) and None in schema:
        if value is not None:
            assert_fits(value, schema[0], where)
    else:
        assert isinstance(value, schema) and not isinstance(value, bool), where


@pytest.fixture(scope="module")
def part():
    return summarise(benchmark(), tiny_samples(), available=10, seed=3)


def test_it_has_exactly_the_agreed_fields_and_is_json(part):
    assert_fits(part, SCHEMA)
    assert json.loads(json.dumps(part, allow_nan=False)) == part
    assert (part["title"], part["group"], part["source"]) == ("Tiny", "math", "somewhere")
    assert (part["verifier"], part["strict_verifier"]) == ("math", "released")
    assert (part["questions"], part["available"], part["samples"]) == (4, 10, 4)


def test_scores_by_hand(part):
    # Three questions are scored: 2 of 4, 0 of 4 (too long), 1 of 4.
    assert part["avg"]["value"] == pytest.approx((2 / 4 + 0 + 1 / 4) / 3)
    # Pairs: 1 - C(2,2)/C(4,2) = 5/6 for two right, 1 - C(3,2)/C(4,2) = 1/2 for one.
    assert part["pass"]["1"] == part["avg"]
    assert part["pass"]["2"]["value"] == pytest.approx((5 / 6 + 0 + 1 / 2) / 3)
    assert part["pass"]["4"]["value"] == pytest.approx(2 / 3)
    # Of four: two votes for 5 against one each for 7 and 8; and 5 ties with 6.
    assert part["maj"]["4"]["value"] == pytest.approx((1 + 0 + 1 / 2) / 3)
    assert part["maj"]["1"] == part["avg"]
    # Pairs: 1 of 6 is (5, 5), 4 tie; and beside two blanks 2 pairs vote for 5 alone, 1 ties.
    assert part["maj"]["2"]["value"] == pytest.approx(((1 + 4 / 2) / 6 + 0 + (2 + 1 / 2) / 6) / 3)
    assert part["strict"]["avg"]["value"] == pytest.approx((1 / 4 + 0 + 0) / 3)
    assert part["strict"]["pass"]["4"]["value"] == pytest.approx(1 / 3)
    # The bootstrap over three values: sigma / sqrt(3), to its own noise.
    values = np.asarray([1 / 2, 0, 1 / 4])
    assert part["avg"]["se"] == pytest.approx(values.std() / np.sqrt(3), rel=0.1)


def test_counts_by_hand(part):
    assert part["counts"] == {
        "prompt_too_long": 1,
        "unverifiable": 1,
        "truncated": 1,
        "no_think_close": 2,  # "I think" and the bare box
        "no_box": 2,  # "I think" and "five"
        "no_answer": 1,
        "timeout": 1,
        "memory": 0,
        "crash": 0,
        "error": 0,
        "too_long": 0,
        "completions": 12,
    }
    assert part["rates"] == {
        "truncated": round(1 / 12, 11),
        "no_think_close": round(2 / 12, 10),
        "no_box": round(2 / 12, 10),
        "timeout": round(1 / 12, 11),
    }


def test_lengths_and_entropies_by_hand(part):
    # 5 5 3 5, 2 2 2 2, 10 10 2 2: the prompts that are too long have none.
    assert part["length"]["mean"] == pytest.approx(50 / 12)
    assert part["length"]["median"] == 2.5 and part["length"]["max"] == 10
    assert part["length"]["histogram"]["edges"] == list(range(12))
    assert part["length"]["histogram"]["counts"] == [0, 0, 6, 1, 0, 3, 0, 0, 0, 0, 2]
    # 40 tokens have known entropies: three of 1.0, the others of 0.5; in 11 completions.
    entropy = part["entropy"]
    assert (entropy["tokens"], entropy["sequences"]) == (40, 11)
    assert entropy["token_mean"] == pytest.approx((3 * 1.0 + 37 * 0.5) / 40)
    assert entropy["sequence_mean"] == pytest.approx((1.0 + 10 * 0.5) / 11)
    assert entropy["token_mean_se"] > 0


def test_diversity_by_hand(part):
    assert part["diversity"]["distinct_answers"] == pytest.approx((3 + 0 + 2) / 3)
    assert part["diversity"]["distinct_correct"] == pytest.approx((1 + 0 + 1) / 3)
    # 4-grams, a question without a comparable pair apart. Solved: 1234 2349 twice, none in 1 2 9,
    # 5678 6789: pairs 1, 0, 0, 0, 0, 0. Faulty: 1111 and 2222 are the only ones: five pairs of 0.
    assert part["diversity"]["ngram"]["4"] == pytest.approx(((1 - 1 / 6) + 1) / 2)
    assert part["diversity"]["ngram_first_512"]["4"] == part["diversity"]["ngram"]["4"]


def test_questions_by_hand(part):
    solved, unverifiable, long, faulty = part["per_question"]
    assert solved == {
        "id": "q0",
        "correct": [1, 1, 0, 0],
        "strict": [1, 0, 0, 0],
        "lengths": [5, 5, 3, 5],
        "distinct_answers": 3,
        "majority": 1.0,
        "entropy": round((15 * 0.5 + 3) / 18, 10),
    }
    assert unverifiable["correct"] is unverifiable["majority"] is unverifiable["strict"] is None
    assert long["correct"] == long["lengths"] == [0, 0, 0, 0]
    assert long["majority"] == 0.0 and long["entropy"] is None
    assert faulty["correct"] == [0, 0, 1, 0] and faulty["majority"] == 0.5


def test_the_same_samples_give_the_same_bytes(part):
    again = summarise(benchmark(), tiny_samples(), available=10, seed=3)
    assert json.dumps(again) == json.dumps(part)
    assert summarise(benchmark(), tiny_samples(), available=10, seed=4)["avg"] != part["avg"]


def test_a_single_sample_has_no_diversity_and_no_second_verifier_no_strict_scores():
    tiny = benchmark(strict_verifier=None)
    part = summarise(tiny, [row[:1] for row in tiny_samples()], available=4)
    assert part["diversity"] is None and part["strict"] is None
    assert list(part["pass"]) == list(part["maj"]) == ["1"]
    assert all(row["strict"] is None for row in part["per_question"])


def test_powers_of_two_and_the_number_of_samples():
    rows = [[sample("5", [1], correct=True)] * 6]
    part = summarise(benchmark(1), rows, available=1)
    assert list(part["pass"]) == list(part["maj"]) == ["1", "2", "4", "6"]


def test_without_entropies_and_without_a_verifiable_question():
    rows = [[sample(None, [1, 2], status="unverifiable", entropies=None)] * 2]
    part = summarise(benchmark(1), rows, available=1)
    assert part["entropy"] is None and overall_entropy({"tiny": part}) is None
    assert part["avg"] == part["maj"]["2"] == {"value": None, "se": None}
    assert part["diversity"]["distinct_answers"] is None
    assert means({"tiny": part}) == {}


def test_when_no_prompt_fits():
    part = summarise(benchmark(2), [[too_long()], [too_long()]], available=2)
    assert part["avg"] == {"value": 0.0, "se": 0.0}
    assert part["counts"]["prompt_too_long"] == 2 and part["counts"]["completions"] == 0
    assert part["rates"]["truncated"] == 0 and part["length"]["mean"] == 0
    assert sum(part["length"]["histogram"]["counts"]) == 0
    json.dumps(part, allow_nan=False)


@pytest.mark.parametrize(
    ("rows", "available", "message"),
    [
        ([], 1, "samples: tiny has 2 questions"),
        ([[too_long()]], 2, "samples of 1"),
        ([[too_long()], []], 2, "between 0 and 1 samples"),
        ([[], []], 2, "between 0 and 0 samples"),
        ([[too_long()], [too_long()]], 1, "available"),
        ([[sample("5", [1, 2], entropies=[0.1])], [too_long()]], 2, "2 tokens and 1 entropies"),
        ([[sample("5", [1], entropies=[np.nan])], [too_long()]], 2, "entropies"),
        ([[Sample("5", [1], "stop", None, {})], [too_long()]], 2, "tiny/q0 .* 'math'"),
    ],
)
def test_samples_that_do_not_fit_are_refused(rows, available, message):
    with pytest.raises(ConfigError, match=message):
        summarise(benchmark(2), rows, available=available)


def test_a_missing_strict_verdict_is_refused():
    rows = [[Sample("5", [1], "stop", None, {"math": Verdict(True, "ok", "5")})]]
    with pytest.raises(ConfigError, match="'released'"):
        summarise(benchmark(1), rows, available=1)


def test_means_and_overall_entropy_by_hand():
    def scores(group, value, se, entropy=None):
        return {"group": group, "avg": {"value": value, "se": se}, "entropy": entropy}

    parts = {
        "a": scores("math", 0.2, 0.03, {"token_mean": 0.1, "tokens": 300} | {"sequence_mean": 0.4}),
        "b": scores("math", 0.4, 0.04, {"token_mean": 0.5, "tokens": 100} | {"sequence_mean": 0.1}),
        "c": scores("general", 0.9, 0.0),
        "d": scores("own", None, None),
    }
    parts["a"]["entropy"]["sequences"], parts["b"]["entropy"]["sequences"] = 1, 3
    got = means(parts)
    assert list(got) == ["math", "general", "all"]
    assert got["math"] == {"avg": {"value": 0.3, "se": 0.025}, "benchmarks": ["a", "b"]}
    assert got["all"]["avg"] == {"value": 0.5, "se": round(0.05 / 3, 11)}
    assert got["all"]["benchmarks"] == ["a", "b", "c"]
    assert overall_entropy(parts) == {"token_mean": 0.2, "sequence_mean": 0.175}
