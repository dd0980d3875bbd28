from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping

import pytest

from curiojax.errors import ConfigError
from curiojax.reports import (
    completion_rows,
    completions,
    evaluation_curves,
    evaluation_planes,
    page,
)
from curiojax.reports.evaluation import write_evaluation_report

from . import evaluation_samples
from .samples import HOSTILE
from .test_page import Document


def write(tmp_path, results=(), rows=None, **options):
    return write_evaluation_report(
        tmp_path / "report.html",
        title=options.pop("title", "Title"),
        results=list(results),
        tables=options.pop("tables", []),
        completions=rows or {},
        **options,
    )


def blocks(text: str) -> dict:
    """What the page's `json_block`s hold, by id."""
    found = re.findall(r'<script type="application/json" id="([^"]+)">(.*?)</script>', text)
    return {name: json.loads(block) for name, block in found}


def row(question="q", sample=0, *, pieces=("a", " b"), **changes):
    """A row of a completion; without `pieces` the text is "a b"."""
    pieces = None if pieces is None else list(pieces)
    return {
        "question": question,
        "prompt": "What is 1 + 1?",
        "ground_truth": "2",
        "sample": sample,
        "text": "".join(pieces or ("a b",)),
        "pieces": pieces,
        "entropies": [0.25] * len(pieces or ()),
        "extracted": "2",
        "correct": True,
        "status": "ok",
        "finish": "stop",
        "tokens": len(pieces or ()),
    } | changes


def listing(rows, cap_bytes=10**6):
    names = list(rows)
    titles = {name: name.upper() for model in rows.values() for name in model}
    return completions.listing(rows, names, titles, cap_bytes=cap_bytes)


def data_of(found) -> dict:
    return blocks("".join(found.blocks))


def test_a_full_report_has_everything_once_and_asks_for_nothing(tmp_path):
    results, rows = evaluation_samples.evaluations(2, questions=4)
    tables = evaluation_samples.tables(results)
    path = write(tmp_path, results, rows, tables=tables, notes=["A note."])
    text = path.read_text(encoding="utf-8")
    for part in ("A note.", "Scores", "In detail", tables[0]["caption"], "max_response_tokens"):
        assert part in text
    named = evaluation_samples.BENCHMARKS
    several = [i for i, bench in enumerate(named) if bench[4] > 1]
    wanted = {"plot-entropy-accuracy", "plot-accuracy-diversity"}
    wanted |= {f"plot-pass-{i}" for i in several} | {f"plot-length-{i}" for i in range(len(named))}
    data = blocks(text)
    assert set(data["figures"]) == wanted
    for identifier in wanted:
        assert text.count(f'id="{identifier}"') == 1
    # 4 questions of each, and of the first three 8 samples: by two models
    assert "240 of 240 completions are in this file" in text
    assert len([name for name in data if name.startswith("question-")]) == 36
    ours = re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    assert not re.search(r"(src|href)=\"(?!data:,|#)", ours)
    assert "http://" not in ours and "https://" not in ours
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_report_of_nothing_is_a_report(tmp_path):
    text = write(tmp_path).read_text(encoding="utf-8")
    assert "There are no completions to show." in text
    assert len(text) < 50_000  # no plotly.js


def test_results_that_lack_parts_leave_them_out(tmp_path):
    results, rows = evaluation_samples.evaluations(1, questions=3, entropies=False)
    part = results[0]["benchmarks"]["aime24"]
    part |= {"length": None, "diversity": None, "pass": {}}
    part["avg"] = {"value": math.nan, "se": None}
    text = write(tmp_path, results, rows).read_text(encoding="utf-8")
    figures = blocks(text)["figures"]
    assert "plot-entropy-accuracy" not in figures
    assert "plot-length-0" not in figures and "plot-pass-0" not in figures
    assert "plot-length-1" in figures and "plot-pass-1" in figures


def test_two_models_of_one_name_are_refused(tmp_path):
    results, _ = evaluation_samples.evaluations(1, questions=2)
    with pytest.raises(ConfigError, match="two models are called"):
        write(tmp_path, results * 2)


def test_planes_show_the_numbers_and_their_errors():
    results, _ = evaluation_samples.evaluations(2, questions=5)
    named = {bench[0]: bench[1] for bench in evaluation_samples.BENCHMARKS}
    wanted = results[1]["benchmarks"]["gpqa"]
    wanted["avg"] = {"value": 0.35, "se": 0.07}
    figure = evaluation_planes.plane_figure(
        results, named, evaluation_planes.ACCURACY, evaluation_planes.ENTROPY
    )
    points = [trace for trace in figure.data if trace.mode == "markers"]
    assert len(points) == 18 and len(figure.data) == 27  # and 9 lines between the models
    found = next(p for p in points if p.meta["run"] == 1 and "GPQA" in p.name)
    assert found.x[0] == 0.35 and found.error_x.array[0] == 0.07
    assert found.y[0] == pytest.approx(wanted["entropy"]["token_mean"], rel=1e-4)
    assert found.error_y.array[0] == 0.006


def test_pass_curves_have_a_band_of_one_standard_error():
    scores = {"1": {"value": 0.2, "se": 0.05}, "2": {"value": 0.97, "se": 0.05}}
    figure = evaluation_curves.pass_figure(["m"], [{"pass": scores, "maj": {}}])
    low, high, line = figure.data
    assert list(low.y) == pytest.approx([0.15, 0.92]) and list(high.y) == pytest.approx([0.25, 1.0])
    assert list(line.x) == [1, 2] and list(line.y) == [0.2, 0.97]
    assert figure.layout.xaxis.type == "log" and list(figure.layout.xaxis.ticktext) == ["1", "2"]
    assert evaluation_curves.pass_figure(["m"], [{"pass": {"1": scores["1"]}}]) is None


def part(edges, counts, truncated=0):
    return {
        "length": {"histogram": {"edges": edges, "counts": counts}},
        "counts": {"truncated": truncated},
    }


def test_the_truncated_are_the_longest_of_a_histogram():
    figure = evaluation_curves.length_figure(["m"], [part([0, 10, 20, 30], [2, 5, 3], 4)])
    bars, cut = figure.data
    assert list(bars.y) == pytest.approx([0.2, 0.5, 0.3])
    assert list(cut.y) == pytest.approx([0, 0.1, 0.3])
    assert figure.layout.meta["unit"] == "share of responses"


def test_histograms_of_different_bins_are_compared_per_token():
    """4 of 8 in 100 tokens are 5 per 1,000 tokens; 4 of 8 in 400 are 1.25."""
    figure = evaluation_curves.length_figure(
        ["a", "b"], [part([0, 100, 500], [4, 4]), part([0, 200], [1])]
    )
    assert list(figure.data[0].y) == pytest.approx([5.0, 1.25])
    assert list(figure.data[1].y) == pytest.approx([5.0])
    assert "per 1,000 tokens" in figure.layout.meta["unit"]


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({}, "correct"),
        ({"correct": False}, "wrong"),
        ({"correct": False, "status": "no_answer"}, "no_answer"),
        ({"correct": False, "status": "no_answer", "finish": "length"}, "truncated"),
        ({"correct": False, "finish": "length"}, "truncated"),
        ({"correct": False, "status": "timeout", "finish": "length"}, "timeout"),
        ({"correct": False, "status": "crash"}, "failed"),
        ({"correct": False, "status": "unverifiable"}, "unverifiable"),
        ({"correct": False, "status": "no_answer", "finish": "prompt_too_long"}, "not_sampled"),
    ],
)
def test_verdicts(changes, want):
    assert completion_rows.verdict(row(**changes)) == want
    assert want in [code for code, _, _ in completion_rows.VERDICTS]


def test_the_list_holds_what_the_rows_say():
    rows = {
        "A": {"x": [row("p", 1, correct=False), row("p", 0), row("q", entropies=[0.1, 0.35])]},
        "B": {"x": [row("q", finish="length", correct=False)]},
    }
    data = data_of(listing(rows))
    index = data["completions"]
    assert index["models"] == ["A", "B"] and index["benchmarks"] == ["X"]
    p, q = index["questions"]
    assert p == {
        "b": 0,
        "id": "p",
        "head": "What is 1 + 1?",
        # in the order of the samples
        "s": [[["correct", 0, 2, 0.25], ["wrong", 0, 2, 0.25]], []],
    }
    assert q["s"] == [[["correct", 0, 2, 0.225]], [["truncated", 1, 2, 0.25]]]
    assert data["question-1"]["truth"] == "2"
    sample = data["question-1"]["s"][0][0]
    assert sample["pieces"] == ["a", " b"] and sample["entropies"] == [100, 350]
    assert sample["extracted"] == "2" and sample["finish"] == "stop"


def test_tokens_without_entropies_are_plain_text():
    for changes in ({"entropies": None}, {"pieces": None}, {"entropies": [0.1]}):
        data = data_of(listing({"A": {"x": [row(**changes)]}}))
        sample = data["question-0"]["s"][0][0]
        assert sample["text"] == "a b" and "pieces" not in sample


def test_entropies_that_are_not_finite_leave_a_token_uncoloured():
    entropies = [math.nan, None, math.inf, 0.5]
    data = data_of(listing({"A": {"x": [row(pieces="abcd", entropies=entropies)]}}))
    assert data["question-0"]["s"][0][0]["entropies"] == [None, None, None, 500]
    assert data["completions"]["questions"][0]["s"][0][0][3] == 0.5


def test_private_questions_keep_nothing_but_their_id():
    data = data_of(listing({"A": {"x": [row("secret", prompt=None, ground_truth=None)]}}))
    assert data["completions"]["questions"][0]["head"] is None
    assert data["question-0"]["prompt"] is None and data["question-0"]["truth"] is None


def test_hostile_text_stays_data(tmp_path):
    bad = "".join(HOSTILE)
    changes = {"prompt": bad, "ground_truth": bad, "extracted": bad, "status": bad}
    rows = [row(bad, pieces=HOSTILE, **changes), row("y" + bad, text=bad, pieces=None)]
    results = [{"name": bad, "benchmarks": {bad: {"title": bad}}, "settings": {bad: bad}}]
    path = write(
        tmp_path,
        results,
        {bad: {bad: rows}},
        title=bad,
        tables=[{"title": bad, "columns": [bad, "x"], "rows": [[bad, bad]], "caption": bad}],
        notes=[bad],
    )
    text = path.read_text(encoding="utf-8")
    document = Document(text)
    assert "img" not in document.tags and document.tags.count("script") == 5 + 3
    data = blocks(text)
    assert data["question-0"]["s"][0][0]["pieces"] == [page.visible(p) for p in HOSTILE]
    assert data["question-0"]["prompt"] == page.visible(bad)
    assert data["question-1"]["s"][0][0]["text"] == page.visible(bad)
    for character in ("\ud800", "\u202e", "\x1b"):
        assert character not in json.dumps(data, ensure_ascii=False)


def long_rows(questions, samples, tokens):
    return [
        row(f"q{i}", s, pieces=["word "] * tokens) for i in range(questions) for s in range(samples)
    ]


def test_the_cap_holds_and_questions_come_whole_and_spread():
    rows = {
        model: {
            "long": long_rows(40, 4, 500),
            "short": long_rows(300, 1, 100),
            "few": long_rows(3, 2, 50),
        }
        for model in ("A", "B")
    }
    cap = 400_000
    found = listing(rows, cap)
    assert found.total == 2 * (160 + 300 + 6)
    assert 0.8 * cap < sum(map(len, found.blocks)) < 1.01 * cap
    index = data_of(found)["completions"]
    counts = dict.fromkeys(index["benchmarks"], 0)
    for question in index["questions"]:
        name = index["benchmarks"][question["b"]]
        expected = {"LONG": 4, "SHORT": 1, "FEW": 2}[name]
        assert [len(s) for s in question["s"]] == [expected] * 2
        counts[name] += 2 * expected
    assert sum(counts.values()) == found.shown
    # The few are all there; the others have a like number of completions, until no long one fits.
    assert counts["FEW"] == 12 and 8 * 5 <= counts["LONG"] <= counts["SHORT"] <= 2 * counts["LONG"]
    places = [int(q["id"][1:]) for q in index["questions"] if index["benchmarks"][q["b"]] == "LONG"]
    assert places == sorted(places) and places[0] == 0
    steps = [b - a for a, b in zip(places, [*places[1:], 40], strict=True)]
    assert max(steps) <= 2 * 40 / len(places)
    assert f"{found.shown:,} of {found.total:,} completions are in this file" in found.html
    assert "spread evenly" in found.html


def test_rows_that_are_not_shown_are_not_read():
    class Lazy(Mapping):
        read = 0

        def __init__(self, line):
            self.line = line

        def __getitem__(self, key):
            Lazy.read += key == "pieces"
            return self.line[key]

        def __iter__(self):
            return iter(self.line)

        def __len__(self):
            return len(self.line)

    rows = [Lazy(line) for line in long_rows(50, 1, 100)]
    found = listing({"A": {"x": rows}}, cap_bytes=20_000)
    assert 5 < found.shown < 20
    assert Lazy.read <= found.shown + 1


def test_a_question_that_is_too_large_is_left_out_and_nothing_else():
    rows = [row("huge", pieces=["x" * 5000]), *(row(f"q{i}") for i in range(7))]
    found = listing({"A": {"x": rows}}, cap_bytes=5000)
    ids = [question["id"] for question in data_of(found)["completions"]["questions"]]
    assert ids == [f"q{i}" for i in range(7)]


@pytest.mark.parametrize("count", [1, 2, 3, 8, 13, 100])
def test_the_first_of_a_spread_are_apart(count):
    order = completions._spread(count)
    assert sorted(order) == list(range(count))
    if count >= 8:
        gaps = [
            b - a for a, b in zip(sorted(order[:4]), [*sorted(order[:4])[1:], count], strict=True)
        ]
        assert max(gaps) <= count / 2


def test_tables_of_many_wide_rows_come_stacked_for_a_phone():
    columns = ["benchmark", "avg@8", "pass@8", "maj@8"]
    rows = [[f"bench {i}", "29.4 \u00b1 3.1", "50.0 \u00b1 4.0", None] for i in range(6)]
    document = Document(page.table(columns, rows, "caption", stack=True))
    assert document.tags.count("table") == 1 and document.tags.count("dl") == 6
    assert document.tags.count("dd") == 18 and "\u2013" in document.text
    turned = page.table(columns, rows[:2], stack=True)
    assert turned.count("<table>") == 2 and "<dl>" not in turned
    assert "<dl>" not in page.table(columns, rows)


def test_tables_too_wide_for_paper_are_marked():
    columns = ["model", *(f"bench {i}" for i in range(9))]
    wide = [["m", *["29.4 \u00b1 3.1"] * 9]]
    assert page.table(columns, wide).count(" broad") == 2
    assert " broad" not in page.table(columns[:5], [wide[0][:5]])
