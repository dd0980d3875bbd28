import math

import numpy as np
import pytest

from curiojax.evaluation.comparison import (
    difference_at_equal,
    estimate,
    final_mean,
    interpolate,
    seconds_per_step,
)
from curiojax.evaluation.results import read_evaluations, write_evaluation


def test_mean_and_standard_error():
    # Sample variance of 1, 2, 4 is 7/3.
    mean, error, count = estimate([1.0, 2.0, 4.0])
    assert (mean, count) == (pytest.approx(7 / 3), 3)
    assert error == pytest.approx(math.sqrt(7 / 3 / 3))
    assert estimate([2.0]) == (2.0, None, 1)
    assert estimate([3.0] * 5) == (3.0, 0.0, 5)
    assert estimate([]) is None and estimate([None, math.nan]) is None
    assert estimate([None, 1.0, math.inf, 3.0]) == (2.0, 1.0, 2)


def test_the_standard_error_is_the_spread_of_means():
    rng = np.random.default_rng(0)
    draws = rng.normal(5.0, 2.0, (4000, 4))
    squares = [estimate(row).error ** 2 for row in draws]  # unbiased before the root is taken
    assert np.mean(squares) == pytest.approx(draws.mean(axis=1).var(), rel=0.05)
    assert np.mean(squares) == pytest.approx(2.0**2 / 4, rel=0.05)


def test_interpolation_is_exact_on_lines_and_never_extrapolates():
    points = [(0.1, 0.5), (0.3, 0.1), (0.2, 0.3)]  # in no order: 0.7 - 2 x
    for at in (0.1, 0.13, 0.2, 0.27, 0.3):
        assert interpolate(points, at) == pytest.approx(0.7 - 2 * at)
    assert interpolate(points, 0.0999) is None and interpolate(points, 0.3001) is None
    assert interpolate([], 0.2) is None
    # A corner, two checkpoints of equal accuracy, and a curve of one point.
    assert interpolate([(0, 0), (1, 2), (3, 0)], 2) == pytest.approx(1)
    assert interpolate([(0, 0), (1, 1), (1, 3), (2, 2)], 1) == pytest.approx(2)
    assert interpolate([(0.5, 0.7)], 0.5) == 0.7


def test_the_difference_at_equal_accuracy():
    path = [{"id": 0.2, "hard": 0.3}, {"id": 0.4, "hard": 0.2}, {"id": 0.5, "other": 1}]
    compare = {"equal": "id", "key": "hard"}
    # Half way between the checkpoints the control has 0.25.
    assert difference_at_equal(path, {"id": 0.3, "hard": 0.4}, **compare) == pytest.approx(0.15)
    # A checkpoint of the control lies on the control's path.
    assert difference_at_equal(path, path[1], **compare) == pytest.approx(0.0)
    # Where only one of the two scores is known the path has no point: 0.45 is beyond its end.
    assert difference_at_equal(path, {"id": 0.45, "hard": 0.4}, **compare) is None
    assert difference_at_equal(path, {"id": 0.3}, **compare) is None


def test_numbers_of_a_run():
    rows = [{"step": s, "loss": float(s), "step_seconds": 1.0 + s % 3} for s in range(1, 31)]
    rows[0]["step_seconds"] = 60.0
    assert final_mean(rows, "loss") == pytest.approx(29.0)  # steps 28, 29, 30
    assert final_mean(rows[:4], "loss") == 4.0
    assert final_mean(rows, "loss", share=1.0) == pytest.approx(15.5)
    assert final_mean(rows, "weight_mean") is None and final_mean([], "loss") is None
    rows[-1]["loss"] = None  # as metrics.jsonl writes what is not finite
    assert final_mean(rows, "loss") == pytest.approx(28.5)
    # Without the first: 2, 3, 1, 2, 3, 1, ..., so the middle one is 2.
    assert seconds_per_step(rows) == 2.0
    assert seconds_per_step(rows[:1]) is None and seconds_per_step([]) is None


def test_evaluations_are_kept_by_step(tmp_path):
    assert read_evaluations(tmp_path) == {}
    write_evaluation(tmp_path, 252, {"id_pass1": 0.4})
    write_evaluation(tmp_path, 42, {"id_pass1": 0.1})
    write_evaluation(tmp_path, 252, {"id_pass1": 0.5})
    kept = read_evaluations(tmp_path)
    assert list(kept.items()) == [(42, {"id_pass1": 0.1}), (252, {"id_pass1": 0.5})]
    (tmp_path / "evaluation.json").write_text('{"steps": {"42": {')
    assert read_evaluations(tmp_path) == {}
