import random

import pytest

from curiojax.data.overlap import OverlapIndex, words

LONG = (
    "A farmer has seven brown hens and each hen lays two eggs per day; how many eggs does he "
    "sell in a week if he keeps three of them?"
)


def test_words_do_not_depend_on_how_latex_is_laid_out():
    plain = words(r"Let $f(x) = \frac{1}{2}x_1$, for X.")
    assert plain == ["let", "f", "x", "frac", "1", "2", "x", "1", "for", "x"]
    assert plain == words(r"LET \( f\left(x\right)\,=\dfrac{1}{2} x_1 \)  for \text{x}")
    assert words("Ⅸ ² é") == ["ix", "2", "é"] and words(" $ \\, ") == []


def found(index, texts):
    return [(hit.row, hit.question) for hit in index.search(texts)]


def test_thirteen_words_are_enough_and_twelve_are_not():
    index = OverlapIndex()
    index.add("b", "hens", LONG)
    run = words(LONG)[5:18]
    assert len(run) == 13
    other = "Something else entirely is asked here, and then: "
    assert found(index, [other + " ".join(run) + " ok?"]) == [(0, "hens")]
    assert found(index, [other + " ".join(run[:-1]) + " ok?"]) == []
    (hit,) = index.search([other + " ".join(run)])
    assert hit.ngram == " ".join(run) and hit.benchmark == "b"


def test_a_short_question_is_found_only_as_a_whole():
    index = OverlapIndex()
    index.add("b", "short", "What is $2 + 2$?")
    assert found(index, ["what is 2 + 2", "Tell me what is 2 + 2 now", "What is 2 + 3?"]) == [
        (0, "short")
    ]


def test_a_run_in_many_training_questions_shows_nothing():
    index = OverlapIndex(ngram=4, common=3)
    index.add("b", "q", "x y find the number m plus n")
    turns = [f"{i} find the number m" for i in range(4)]
    assert found(index, turns[:3]) == [(0, "q"), (1, "q"), (2, "q")]
    assert found(index, turns) == []
    assert found(index, [*turns, "the number m plus"]) == [(4, "q")]
    # But equal questions are equal however many there are.
    assert len(found(index, ["x y find the number m plus n"] * 5)) == 5


@pytest.mark.parametrize("seed", range(3))
def test_it_finds_what_comparing_all_pairs_finds(seed):
    rng = random.Random(seed)

    def text(length):
        return " ".join(rng.choice("abc") for _ in range(length))

    asked = {str(i): text(rng.randint(2, 12)) for i in range(12)}
    texts = [text(rng.randint(2, 12)) for _ in range(40)]
    index = OverlapIndex(ngram=5, common=100)
    for name, question in asked.items():
        index.add("b", name, question)
    expected = {
        (row, name)
        for row, said in enumerate(texts)
        for name, question in asked.items()
        if said == question
        or any(f" {' '.join(question.split()[i : i + 5])} " in f" {said} "
               for i in range(len(question.split()) - 4))
    }  # fmt: skip
    got = found(index, texts)
    assert expected and len(got) == len(set(got)) and set(got) == expected
