import pytest

from curiojax.errors import ConfigError
from curiojax.evaluation.results_comparison import (
    comparison_tables,
    differing_settings,
    paired_scores,
)
from tests.evaluation.evaluated import graded, results


def pair():
    a = {
        "tiny": graded([[1, 1], [1, 0], [0, 0], [1, 1]]),
        "more": graded([[1, 0]], name="more"),
        "hard": graded([[0, 0]], name="hard"),
    }
    # The same questions in another order, one missing, one new; q0 unverifiable.
    b = {
        "tiny": graded([[0, 0], [0, 1], [None, None], [1, 1]], ids=["q1", "q2", "q0", "q9"]),
        "more": graded([[0, 0]], name="more"),
    }
    return results("one", a), results("two", b, temperature=1.0)


def test_questions_are_matched_by_id():
    tiny, more = paired_scores(*pair())
    assert tiny.first.tolist() == [0.5, 0.0] and tiny.second.tolist() == [0.0, 0.5]
    assert tiny.largest == 4 and (tiny.title, tiny.group) == ("Tiny", "math")
    assert more.first.tolist() == [0.5] and more.second.tolist() == [0.0]


def test_differences_by_hand():
    table, settings = comparison_tables(*pair())
    assert table.columns[2:] == ("A", "B", "A - B", "95 % interval", "only A", "only B")
    tiny, more, mean = table.rows
    # Two questions with differences of +50 and -50: the mean of a resample is -50, 0 or 50.
    assert tiny == ("Tiny", "2 of 4", "25.0", "25.0", "+0.0", "(-50.0, +50.0)", 1, 1)
    assert more == ("More", "1", "50.0", "0.0", "+50.0", "(+50.0, +50.0)", 1, 0)
    assert mean[:5] == ("Mean: Mathematics", "3 of 5", "37.5", "12.5", "+25.0")
    assert mean[5:] == ("(+0.0, +50.0)", 2, 1)
    assert "A: one; B: two." in table.caption and "Not compared" in table.caption
    assert "Hard" in table.caption
    assert "Settings differ: temperature." in table.caption
    assert settings.rows == (("temperature", "0.6", "1.0"),)


def test_only_those_are_solved_by_one_model_that_the_other_never_solves():
    a = results("a", {"tiny": graded([[1, 1], [1, 0], [0, 0]])})
    b = results("b", {"tiny": graded([[1, 0], [0, 0], [0, 0], [1, 1]])})
    assert comparison_tables(a, b)[0].rows[0][1] == "3 of 4"
    assert comparison_tables(a, b)[0].rows[0][-2:] == (1, 0)
    assert comparison_tables(b, a)[0].rows[0][-2:] == (0, 1)


def test_equal_settings_need_no_second_table():
    part = {"tiny": graded([[1, 0]])}
    tables = comparison_tables(results("m", part), results("m", part))
    assert len(tables) == 1 and "differ:" not in tables[0].caption
    assert tables[0].rows == (("Tiny", "1", "50.0", "50.0", "+0.0", "(+0.0, +0.0)", 0, 0),)
    assert "B: m (2)." in tables[0].caption


def test_what_was_set_differently_is_found_wherever_it_is():
    a = results("a", {"tiny": graded([[1, 0]])}, engine={"name": "vllm", "limit": 3})
    b = results("b", {"tiny": graded([[1]], verifier="released")}, engine={"name": "jax"})
    b["software"] = {**b["software"], "math-verify": "0.8.0"}
    assert differing_settings(a, b) == [
        ("engine.name", "vllm", "jax"),
        ("engine.limit", "3", "none"),
        ("math-verify", "0.9.0", "0.8.0"),
        ("tiny.samples", "2", "1"),
        ("tiny.verifier", "math", "released"),
    ]


def test_means_of_several_groups():
    def parts(right):
        return {
            "a": graded([[right]], name="a"),
            "b": graded([[1]], name="b"),
            "c": graded([[0]], name="c", group="general"),
        }

    rows = comparison_tables(results("a", parts(1)), results("b", parts(0)))[0].rows
    assert [row[0] for row in rows] == ["A", "B", "C", "Mean: Mathematics", "Mean: All"]
    assert rows[3][4] == "+50.0" and rows[4][4] == "+33.3"


def test_models_without_a_common_question_are_refused():
    one = results("one", {"tiny": graded([[1]])})
    for parts in (
        {},
        {"other": graded([[1]], name="other")},
        {"tiny": graded([[1]], ids=["elsewhere"])},
        {"tiny": graded([[None]])},
    ):
        with pytest.raises(ConfigError, match="one and two have no scored questions"):
            comparison_tables(one, results("two", parts))
