import pytest

from curiojax.evaluation.answers_stats import NO_ANSWER, answer_key, read_answers
from curiojax.evaluation.questions import Sample, Verdict
from tests.evaluation.evaluated import benchmark, sample, too_long


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (r"\dfrac{1}{2}", r"\frac12", True),
        ("½", r"\frac{1}{2}", True),
        (" 42. ", "$42$", True),
        ("042", "42", True),
        (r"\text{(C)}", "(C)", True),
        (r"\left(1, 2\right)", "(1,2)", True),
        ("1/2", "0.5", False),  # equal numbers, but no algebra is done here
        ("3", "-3", False),
        ("ab", "ba", False),
    ],
)
def test_which_texts_are_one_answer(one, other, same):
    assert (answer_key(one) == answer_key(other)) is same


def test_nothing_is_no_answer_and_long_answers_are_cut():
    assert answer_key(None) is answer_key("") is answer_key("  ") is None
    assert answer_key("$") == "$"  # what normalises to nothing is told apart as it is written
    assert answer_key("1" * 5000 + "2") == answer_key("1" * 5000 + "3")


def given(rows, verifier="math", **kwargs):
    return read_answers(benchmark(len(rows), verifier=verifier, **kwargs), rows, verifier)


def test_answers_are_numbered_within_a_question():
    answers = given(
        [
            [sample("5", [1]), sample("6", [1]), sample("5.", [1])],
            [sample("6", [1]), sample(None, [1], status="no_answer"), too_long()],
        ]
    )
    assert answers.given.tolist() == [[0, 1, 0], [0, NO_ANSWER, NO_ANSWER]]
    assert answers.distinct().tolist() == [2, 1]


def test_one_answer_has_one_verdict_the_first_that_was_reached():
    # `memory` with an answer: such a verdict says nothing about it.
    row = [
        sample("5", [1], status="memory"),
        sample("5", [1], correct=True),
        sample("5", [1], correct=False),
        sample("6", [1], correct=False),
        sample("6", [1], correct=True),
    ]
    answers = given([row])
    assert answers.given_correct.tolist() == [[True, True, True, False, False]]
    assert answers.correct.tolist() == [[False, True, False, False, True]]
    assert answers.distinct(correct_only=True).tolist() == [1]


def test_a_question_is_left_out_when_its_ground_truth_cannot_be_compared_with():
    rows = [
        [sample("5", [1]), sample("5", [1])],
        [sample(None, [1], status="timeout"), sample(None, [1], status="unverifiable")],
        [too_long(), too_long()],
    ]
    assert given(rows).scored.tolist() == [True, False, True]


def test_the_answer_of_countdown_is_the_whole_response():
    # Its `extracted` is the first fault, None when there is none.
    def steps(text, fault):
        return Sample(text, [1], "stop", None, {"countdown": Verdict(fault is None, "ok", fault)})

    row = [steps("1 + 2", None), steps("2 + 1", None), steps("1 + 2", None), steps("3", "target")]
    answers = given([row], "countdown")
    assert answers.given.tolist() == [[0, 1, 0, 2]]
    assert answers.distinct(correct_only=True).tolist() == [2]


def test_a_verifier_that_does_not_say_what_it_compared_has_no_answers():
    answers = given([[sample(None, [1], correct=True), sample("5", [1])]])
    assert answers.given is None and answers.distinct() is None
    assert answers.correct.tolist() == [[True, False]]
