from __future__ import annotations

import pytest

from curiojax.errors import ConfigError
from curiojax.reports.comparison import write_comparison_report

from . import samples
from .test_training import figures

NAMES = ["SFT", "SFT, low lr", *(f"method {i}" for i in range(9))]


def methods(steps=30):
    return {name: samples.run(steps, curio=i == 2, seed=i) for i, name in enumerate(NAMES)}


def write(path, **options):
    given = {
        "title": "Methods",
        "runs": methods(),
        "tables": {
            "Accuracy": {"columns": ["run", "x"], "rows": [["SFT", 0.4]], "caption": "One seed."}
        },
    }
    return write_comparison_report(path, **(given | options))


def test_the_figures_show_every_method(tmp_path):
    runs = methods()
    rows = runs["method 1"]
    runs["method 1"] = [*rows[:20], {**rows[19], "entropy": 0.5}]  # unfinished, its end twice
    drawn = figures(write(tmp_path / "c.html", runs=runs))
    wanted = ("entropy_top20", "entropy_rest", "entropy_all", "sft_nll", "weight_shares")
    assert {f"plot-{name}" for name in wanted} <= set(drawn)
    traces = drawn["plot-entropy_all"]["data"]
    assert [trace["meta"]["run"] for trace in traces] == list(range(len(NAMES)))  # no teacher's
    assert traces[0]["x"] == list(range(1, 31)) and traces[3]["x"] == list(range(1, 21))
    assert traces[0]["y"] == pytest.approx([row["entropy"] for row in runs["SFT"]], rel=1e-4)
    assert traces[3]["y"][-1] == 0.5
    # The ninth has the first one's colour, but a dashed line.
    first, ninth = traces[0]["line"], traces[8]["line"]
    assert first["color"] == ninth["color"] and "dash" in ninth and "dash" not in first
    # Weights are CurioSFT's alone.
    assert {trace["meta"]["run"] for trace in drawn["plot-weight_shares"]["data"]} == {2}


def test_each_stage_has_charts_of_its_own(tmp_path):
    """Entropies of own completions and of the expert's tokens are not drawn into one."""
    runs = {"SFT": samples.run(5, curio=False), "GRPO": samples.rl(5)}
    drawn = figures(write(tmp_path / "c.html", runs=runs))

    def shown(name):
        return {trace["meta"]["run"] for trace in drawn[f"plot-{name}"]["data"]}

    assert shown("entropy_all") == shown("sft_nll") == {0}
    assert shown("policy_entropy") == shown("reward") == {1}


def test_one_run_is_enough(tmp_path):
    path = write(tmp_path / "c.html", runs={"a": samples.run(5, curio=False)})
    (trace,) = figures(path)["plot-entropy_all"]["data"]
    assert trace["meta"]["run"] == 0
    assert "One seed." in path.read_text()


def test_nothing_but_a_comparison_is_replaced(tmp_path):
    path = write(tmp_path / "c.html")
    again = write(path, title="Again")
    assert "<title>Again" in again.read_text()
    path.write_text("<html>mine</html>")
    with pytest.raises(ConfigError, match=r"c\.html exists and is no comparison"):
        write(path)
    assert path.read_text() == "<html>mine</html>"
    with pytest.raises(ConfigError, match="is a folder"):
        write(tmp_path)


def test_runs_without_a_step_leave_the_tables(tmp_path):
    path = write(tmp_path / "c.html", runs={name: [] for name in NAMES})
    assert "Accuracy" in path.read_text() and figures(path) == {}
