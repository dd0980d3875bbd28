import io

import pytest

from curiojax import progress
from curiojax.errors import ConfigError
from curiojax.evaluation.expert_tokens import expert_tokens
from curiojax.evaluation.results_table import results_tables
from curiojax.evaluation.summary import summarise
from curiojax.evaluation.table import percent
from curiojax.reports import page
from tests.evaluation.evaluated import benchmark, graded, results, tiny_samples

SOLVED, HALF, NEVER = [1, 1], [1, 0], [0, 0]


def models():
    one = {
        "aime": graded([SOLVED, HALF], name="aime"),
        "amc": graded([HALF, HALF], name="amc"),
        "gpqa": graded([[1], [0]], name="gpqa", group="general", available=20),
    }
    other = {"amc": graded([NEVER, HALF], name="amc")}
    return [results("base", one), results("base", other)]


def by_title(tables):
    assert len({t.title for t in tables}) == len(tables)
    return {t.title: t for t in tables}


def test_averages_by_group_with_their_mean():
    tables = by_title(results_tables(models()))
    table = tables["Mathematics (in distribution)"]
    assert table.columns == ("model", "Aime", "Amc", "mean")
    base, second = table.rows
    # aime: 1 and 1/2, whose bootstrap has three values: 0.75 with an error of 0.25 / sqrt(2).
    assert base[0] == "base" and base[1].startswith("75.0 \u00b1 17.")
    assert base[2] == "50.0 \u00b1 0.0" and base[3].startswith("62.5 \u00b1 8.")
    assert second[:2] == ("base (2)", None) and second[2].startswith("25.0 ")
    assert second[3].startswith("(25.0 ") and "fewer benchmarks" in table.caption
    assert "k = 2)" in table.caption

    table = tables["General reasoning (out of distribution)"]
    assert table.columns == ("model", "Gpqa") and table.rows[1] == ("base (2)", None)
    assert "k = 1)" in table.caption and "Gpqa: 2 of 20 questions." in table.caption


def test_means_over_groups():
    table = by_title(results_tables(models()))["Means"]
    assert table.columns == ("model", "Mathematics", "General reasoning", "all", "entropy")
    # All three benchmarks: (0.75 + 0.5 + 0.5) / 3.
    assert table.rows[0][3].startswith("58.3 \u00b1") and table.rows[0][4] == 0.5
    assert table.rows[1][2] is None and table.rows[1][3].startswith("(25.0 ")


def test_one_group_needs_no_table_of_means():
    titles = [t.title for t in results_tables(models()[1:])]
    assert titles[0] == "Mathematics (in distribution)" and "Means" not in titles


def test_pass_and_majority_only_of_several_samples():
    table = by_title(results_tables(models()))["pass@k and maj@k"]
    assert table.columns == ("model", "benchmark", "pass@2", "maj@2")
    assert [row[:3] for row in table.rows] == [
        ("base", "Aime", "100.0 \u00b1 0.0"),
        ("base", "Amc", "100.0 \u00b1 0.0"),
        ("base (2)", "Amc", table.rows[2][2]),
    ]
    assert table.rows[1][3] == "50.0 \u00b1 0.0"


def test_many_ks_are_thinned():
    table = by_title(results_tables([results("m", {"a": graded([[1, 0] * 16], name="a")})]))
    columns = table["pass@k and maj@k"].columns
    assert columns[:4] == ("benchmark", "pass@2", "pass@8", "pass@32")  # one model, no name


def test_the_number_of_samples_where_benchmarks_differ():
    parts = {k: graded([[1] * n], name=k) for k, n in (("a", 2), ("b", 2), ("c", 1))}
    caption = results_tables([results("m", parts)])[0].caption
    assert "k = 2; C 1)" in caption


def test_faults_writing_and_the_second_verifier():
    part = summarise(benchmark(), tiny_samples(), available=4)
    tables = by_title(results_tables([results("m", {"tiny": part})]))
    assert tables["What was amiss"].rows == (("Tiny", "8.3", "16.7", "16.7", "8.3", 1, 1),)
    row = tables["Length, entropy and diversity"].rows[0]
    assert row[1] == 4 and row[2] == part["entropy"]["token_mean"]
    assert row[3] == part["diversity"]["ngram"]["4"]
    assert row[5] == pytest.approx(5 / 3) and row[6] == pytest.approx(2 / 3)
    strict = tables["By the second verifier"]
    assert strict.rows[0][1].startswith("8.3 ") and "released" in strict.caption


def test_what_is_not_defined_is_a_gap():
    parts = {"a": graded([[None, None]], name="a"), "b": graded([SOLVED], name="b")}
    tables = by_title(results_tables([results("m", parts)]))
    row = tables["Mathematics (in distribution)"].rows[0]
    assert row == ("m", None, "100.0 \u00b1 0.0", "(100.0 \u00b1 0.0)")
    assert percent({"value": None, "se": None}) is None


def test_terminal_and_page_take_every_table():
    part = summarise(benchmark(), tiny_samples(), available=4)
    for table in results_tables([*models(), results("<m>", {"tiny": part})]):
        stream = io.StringIO()
        columns, rows, caption = table.columns, table.rows, table.caption
        progress.print_table(columns, rows, title=table.title, caption=caption, file=stream)
        assert "base" in stream.getvalue() or "<m>" in stream.getvalue()
        assert "<m>" not in page.table(columns, rows, caption)


def test_no_results_are_refused():
    with pytest.raises(ConfigError, match="results"):
        results_tables([])


def test_entropies_along_demonstrations():
    found = expert_tokens([1.0, 2.0, 3.0, 4.0, 5.0], [0.5] * 5)
    with_them = {**results("m", {"a": graded([SOLVED], name="a")}), "expert_tokens": found}
    without = results("n", {"a": graded([SOLVED], name="a")})
    row, empty = by_title(results_tables([with_them, without]))["Expert tokens"].rows
    assert row == ("m", 3.0, 5.0, 2.5, 0.5, 5, "moving")
    assert empty == ("n", None, None, None, None, None, None)
    assert "Expert tokens" not in by_title(results_tables([without]))
