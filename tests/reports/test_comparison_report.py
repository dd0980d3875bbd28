from __future__ import annotations

import math
import statistics

import pytest

from curiojax.errors import ConfigError
from curiojax.reports.comparison import Plane, Point, over_seeds, write_comparison_report

from . import samples
from .test_training import figures

NAMES = ["SFT", "SFT, low lr", *(f"method {i}" for i in range(9))]


def methods(seeds=3, steps=30):
    return {
        name: [samples.run(steps, curio=i == 2, seed=10 * i + s) for s in range(seeds)]
        for i, name in enumerate(NAMES)
    }


def write(path, **options):
    paths = {name: [Point(0.3 + i / 50, 0.2, 0.01, 0.02)] for i, name in enumerate(NAMES)}
    paths["SFT"] = [Point(0.1, 0.3), Point(0.2, 0.25), Point(0.3, 0.2, 0.01, 0.02)]
    given = {
        "title": "Methods",
        "runs": methods(),
        "tables": {"Accuracy": {"columns": ["run", "x"], "rows": [["SFT", "0.4 ± 0.1 (2)"]]}},
        "planes": [Plane("ID", "hard", paths, "Large marks are ends.")],
        "notes": ["3 seeds."],
    }
    return write_comparison_report(path, **(given | options))


def test_seeds_become_means_and_standard_errors():
    seeds = methods()["method 1"]
    rows = over_seeds([*seeds[:2], seeds[2][:20]])  # the third is unfinished
    assert [row["step"] for row in rows] == list(range(1, 31))
    for step, count in ((4, 3), (25, 2)):
        values = [run[step]["entropy"] for run in seeds[:count]]
        error = statistics.stdev(values) / math.sqrt(count)
        mean = statistics.fmean(values)
        row = rows[step]
        assert row["entropy"] == pytest.approx(mean, rel=1e-6)
        assert row["entropy_low"] == pytest.approx(mean - error, rel=1e-5)
        assert row["entropy_high"] == pytest.approx(mean + error, rel=1e-5)
    (alone,) = over_seeds([[{"step": 1, "entropy": 2.0, "loss": None}]])
    assert alone == {"step": 1, "entropy": 2.0}
    assert over_seeds([]) == [] and over_seeds([[], []]) == []


def test_the_figures_show_every_method_with_its_error(tmp_path):
    path = write(tmp_path / "c.html")
    drawn = figures(path)
    wanted = ("entropy_top20", "entropy_rest", "entropy_all", "plane-0")
    assert {f"plot-{name}" for name in wanted} <= set(drawn)
    traces = drawn["plot-entropy_all"]["data"]
    assert len(traces) == 3 * len(NAMES)  # both edges of the band, and the mean
    low, high, mean = ([t["y"] for t in traces[i::3]] for i in range(3))
    for method in zip(low, high, mean, strict=True):
        assert all(a <= c <= b for a, b, c in zip(*method, strict=True))
    # The ninth has the first one's colour, but a dashed line.
    first, ninth = traces[2]["line"], traces[3 * 8 + 2]["line"]
    assert first["color"] == ninth["color"] and "dash" in ninth and "dash" not in first
    plane = drawn["plot-plane-0"]["data"]
    assert [t["meta"]["run"] for t in plane] == [0, *range(1, len(NAMES))]
    assert plane[0]["mode"] == "lines+markers" and plane[1]["mode"] == "markers"
    assert plane[0]["x"] == [0.1, 0.2, 0.3]


def test_one_seed_has_no_band(tmp_path):
    path = write(tmp_path / "c.html", runs={"a": [samples.run(5, curio=False)]}, planes=[])
    (trace,) = figures(path)["plot-entropy_all"]["data"]
    assert trace["meta"]["run"] == 0
    assert "standard error" not in path.read_text().partition("figures")[0]


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
    path = write(tmp_path / "c.html", runs={name: [[]] for name in NAMES})
    assert "Accuracy" in path.read_text() and figures(path) == {}
