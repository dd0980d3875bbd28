from __future__ import annotations

import json
import math
import re

import pytest

from curiojax.reports import charts, timing
from curiojax.reports.training import GROUPS, write_training_report

from . import samples
from .test_page import Document


def figures(path) -> dict:
    text = path.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', text)
    return json.loads(found.group(1))


def write(tmp_path, runs, **options):
    return write_training_report(
        tmp_path / "r" / "report.html", title="Title", runs=runs, **options
    )


def test_a_full_report_has_every_chart(tmp_path):
    runs = {
        **samples.comparison(40),
        "other methods": samples.other_methods(40),
        "RL": samples.rl(40),
        "guided": samples.guided(40),
        "hybrid": samples.hybrid(40),
    }
    path = write(
        tmp_path,
        runs,
        table=samples.TABLE,
        token_view=samples.token_view(),
        notes=["A note."],
        config_text="seed: 0",
    )
    wanted = {f"plot-{chart.identifier}" for group in GROUPS for chart in group.charts}
    by_run = {"plot-tau-distribution-1", *(f"plot-time-{number}" for number in (4, 5, 6))}
    assert set(figures(path)) == wanted | by_run
    text = path.read_text(encoding="utf-8")
    for part in ("Title", "A note.", "seed: 0", samples.TABLE["caption"], "token by token"):
        assert part in text
    assert path.stat().st_size < 6e6
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_every_chart_has_a_place_on_the_page(tmp_path):
    path = write(tmp_path, samples.comparison(5))
    text = path.read_text(encoding="utf-8")
    for identifier in figures(path):
        assert text.count(f'id="{identifier}"') == 1


def test_plotted_numbers_are_the_metrics(tmp_path):
    rows = samples.run(30, curio=True)
    figure = figures(write(tmp_path, {"a": rows}))["plot-entropy_top20"]
    student, teacher = figure["data"]
    assert student["x"] == list(range(1, 31))
    assert student["y"] == pytest.approx([row["entropy_top20"] for row in rows], rel=1e-4)
    assert teacher["y"] == pytest.approx([row["teacher_entropy_top20"] for row in rows], rel=1e-4)


def test_sft_runs_have_no_charts_of_the_teacher(tmp_path):
    drawn = figures(write(tmp_path, {"sft": samples.run(20, curio=False)}))
    assert "plot-entropy_top20" in drawn and "plot-sft_nll" in drawn
    assert not {"plot-tau", "plot-sed_k2", "plot-weight_mean", "plot-gated"} & set(drawn)


def test_a_run_keeps_its_colour_in_every_chart(tmp_path):
    drawn = figures(write(tmp_path, samples.comparison(20)))
    for figure in drawn.values():
        for trace in figure["data"]:
            if trace["type"] == "scatter":
                assert trace["line"]["color"] == charts.RUN_COLOURS[trace["meta"]["run"]]


def test_each_stage_has_its_own_charts(tmp_path):
    """An entropy over the model's own completions is no curve beside one over the expert's."""
    drawn = figures(write(tmp_path, {"sft": samples.run(20, curio=False), "rl": samples.rl(30)}))
    runs = {name: {trace["meta"]["run"] for trace in f["data"]} for name, f in drawn.items()}
    assert runs["plot-entropy_all"] == runs["plot-sft_nll"] == {0}
    assert runs["plot-policy_entropy"] == runs["plot-reward"] == runs["plot-time-1"] == {1}
    assert runs["plot-grad_norm"] == {0, 1}
    for figure in drawn.values():
        for trace in figure["data"]:
            assert trace["line"]["color"] == charts.RUN_COLOURS[trace["meta"]["run"]]


def test_what_says_nothing_is_not_drawn(tmp_path):
    """No reference, no cap, no dual clip, no format, and a sampler that computes the same."""
    rows = samples.rl(30, everything=False)
    drawn = figures(write(tmp_path, {"grpo": rows}))
    gone = {"policy_kl", "mismatch_k3", "tis_weight", "tis_capped"}
    assert not {f"plot-{name}" for name in gone} & set(drawn)
    text = (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
    for series in ("right answer", "format kept", "dual clip"):
        assert series not in text
    assert [len(drawn[f"plot-{name}"]["data"]) for name in ("reward", "clip_shares")] == [1, 2]
    # A share of nothing cut off is news, and so is one run with an extra among others without.
    assert "plot-truncated_share" in drawn and "plot-mismatch" in drawn
    both = figures(write(tmp_path, {"grpo": rows, "more": samples.rl(30)}))
    assert len(both["plot-tis_capped"]["data"]) == 2


def test_guided_rollouts_have_charts_of_their_own(tmp_path):
    drawn = figures(write(tmp_path, {"grpo": samples.rl(30), "guided": samples.guided(30)}))
    runs = {name: {trace["meta"]["run"] for trace in f["data"]} for name, f in drawn.items()}
    for name in ("prefix_ratio", "guided_accuracy", "given_advantage", "given_kept", "given_loss"):
        assert runs[f"plot-{name}"] == {1}
    assert len(drawn["plot-guided_accuracy"]["data"]) == 2
    assert runs["plot-reward"] == {0, 1}


def test_the_parts_of_a_step_are_stacked_and_a_slow_first_step_does_not_flatten_them(tmp_path):
    rows = samples.rl(40)
    figure = figures(write(tmp_path, {"grpo": rows}))["plot-time-0"]
    assert [t["y"][5] for t in figure["data"]] == pytest.approx(
        [rows[5][key] for key, *_ in timing.PARTS], rel=1e-4
    )
    assert {trace["stackgroup"] for trace in figure["data"]} == {"parts"}
    whole = sum(rows[5][key] for key, *_ in timing.PARTS)
    assert whole < figure["layout"]["yaxis"]["range"][1] < 2 * whole


def test_the_table_of_runs_says_whose_tokens_it_measures(tmp_path):
    def text(name, runs):
        return write(tmp_path / name, runs).read_text(encoding="utf-8")

    sft, rl = {"a": samples.run(5, curio=False)}, {"b": samples.rl(5)}
    assert "measured on the expert&#x27;s tokens." in text("sft", sft)
    assert "measured on its own completions." in text("rl", rl)
    assert "tokens, in RL on its own." in text("both", sft | rl)
    assert "cross-entropy</th>" not in text("rl", rl)


@pytest.mark.parametrize("runs", [{}, {"a": []}, {"a": [{"event": "start"}]}])
def test_without_steps_the_report_says_so(tmp_path, runs):
    path = write(tmp_path, runs)
    assert "No training steps were recorded." in path.read_text(encoding="utf-8")
    assert figures(path) == {}
    assert path.stat().st_size < 1e5  # no plotly.js without charts


def test_one_step_is_drawn_as_points(tmp_path):
    drawn = figures(write(tmp_path, {"a": samples.run(1, curio=True)}))
    assert drawn["plot-loss"]["data"][0]["mode"] == "markers"
    assert "plot-tau" in drawn


def test_values_that_are_not_finite_leave_gaps_and_are_counted(tmp_path):
    rows = samples.run(10, curio=False)
    rows[3] |= {"loss": math.nan, "grad_norm": math.inf, "skipped": 1}
    rows[4] |= {"entropy": None}
    path = write(tmp_path, {"a": rows})
    drawn = figures(path)
    assert drawn["plot-loss"]["data"][0]["y"][3] is None
    assert drawn["plot-grad_norm"]["data"][0]["y"][3] is None
    assert drawn["plot-entropy_all"]["data"][0]["y"][4] is None
    text = path.read_text(encoding="utf-8")
    assert "a: steps without a finite loss: 1." in text
    assert "gradient that is not finite: 1." in text


def test_a_metric_that_is_never_finite_has_no_chart(tmp_path):
    rows = [{"step": s, "loss": math.nan} for s in (1, 2)]
    assert figures(write(tmp_path, {"a": rows})) == {}


def test_rows_are_ordered_and_the_last_record_of_a_step_counts():
    rows = [
        {"step": 2, "loss": 1.0},
        {"step": 1, "loss": 3.0},
        {"event": "x"},
        {"step": 2, "loss": 2.0},
    ]
    assert charts.clean(rows) == [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}]


def test_long_runs_are_joined_and_nothing_is_lost():
    rows = [{"step": s, "x": float(s), "m": -float(s)} for s in range(1, 2501)]
    run = charts.curves({"a": rows})["a"]
    assert run.stride == 5 and len(run.steps) == 500
    assert run.steps[0] == 3.0 and run.values("x")[0] == 3.0
    assert min(run.values("m", "min")) == -2500.0
    assert max(run.values("x", "max")) == 2500.0


def test_the_temperature_histogram_becomes_shares():
    rows = samples.run(10, curio=True)
    heat = charts.tau_figure("a", rows, 0).to_plotly_json()["data"][0]
    columns = list(zip(*heat["z"], strict=True))
    assert len(columns) == 10
    for column in columns:
        assert sum(z * z for z in column) == pytest.approx(1.0, abs=1e-2)
    assert heat["y"][0] > 1.0


@pytest.mark.parametrize(
    "histogram",
    [None, {}, {"edges": [1, 2], "counts": [1, 2]}, {"edges": [1, math.nan], "counts": [1]}],
)
def test_broken_histograms_are_left_out(histogram):
    assert charts.tau_figure("a", [{"step": 1, "tau_histogram": histogram}], 0) is None


def test_hostile_text_everywhere_adds_no_element(tmp_path):
    bad = "".join(samples.HOSTILE)
    clean = write(tmp_path / "clean", {"x": samples.run(3, curio=True)}, **extras("x"))
    dirty = write(tmp_path / "dirty", {bad: samples.run(3, curio=True)}, **extras(bad))
    tags = [Document(p.read_text(encoding="utf-8")).tags for p in (clean, dirty)]
    assert tags[0] == tags[1]


def extras(text: str) -> dict:
    return {
        "table": {"columns": ["a", text], "rows": [[text, text]], "caption": text},
        "token_view": {"title": text, "prompt": text, "tokens": [{"text": "x", "entropy": 1.0}]},
        "notes": [text],
        "config_text": text,
    }


def answered(rows, every, *, start=0.2, names=("aime24",)):
    """The rows with what an evaluation of every n-th step adds, and a line of step 0."""
    for row in [{"step": 0}, *rows]:
        if row["step"] % every == 0:
            score = start + 0.001 * row["step"]
            scores = {f"eval/{name}/avg": score + i / 100 for i, name in enumerate(names)}
            row |= scores | {"eval/avg": score, "eval/entropy": 1.0 - score}
            row |= {"eval/response_tokens": 50.0, "eval/truncated": 0.1}
        yield row


def test_held_out_questions_are_drawn_where_they_were_asked(tmp_path):
    runs = {
        "sft": list(answered(samples.run(20, curio=False), 5, names=("aime24", "mine"))),
        "plain": samples.run(20, curio=False),
        "grpo": list(answered(samples.rl(900), 300, start=0.5)),  # more points than are drawn
    }
    path = write(tmp_path, runs)
    drawn = figures(path)
    for name, start in (("eval_avg", 0.2), ("eval_aime24_avg", 0.2), ("eval_entropy", 0.8)):
        sft, rl = drawn[f"plot-{name}"]["data"]
        assert (sft["meta"]["run"], rl["meta"]["run"]) == (0, 2)
        assert sft["x"] == [0, 5, 10, 15, 20] and rl["x"] == [0, 300, 600, 900]
        assert sft["y"][0] == pytest.approx(start) and sft["mode"] == "lines+markers"
    assert [trace["meta"]["run"] for trace in drawn["plot-eval_mine_avg"]["data"]] == [0]
    assert min(drawn["plot-sft_nll"]["data"][0]["x"]) >= 1
    text = path.read_text(encoding="utf-8")
    assert text.index("curves-held-out") < text.index("curves-entropy")
    assert ">20</td>" in text  # steps of the run, without the line before the first


def test_one_benchmark_needs_no_chart_of_its_own(tmp_path):
    drawn = figures(write(tmp_path, {"a": list(answered(samples.rl(4), 2))}))
    assert "plot-eval_avg" in drawn and "plot-eval_aime24_avg" not in drawn
