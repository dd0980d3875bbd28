"""The driver's bookkeeping: what is next, and how long it will take."""

import json

from reproduction.crew import GUESSES, Estimates, _State
from reproduction.plan import Run
from reproduction.records import DONE


def run(name, seed=0, stage="sft", after=None):
    settings = {} if name == "base" else {"run": {"stage": stage}}
    return Run("countdown", "" if name == "base" else "canon", seed, name, after, settings)


def write_done(item, output, seconds, settings=None):
    folder = output / item.directory
    folder.mkdir(parents=True)
    record = {"settings": item.settings if settings is None else settings, "seconds": seconds}
    (folder / DONE).write_text(json.dumps(record))


def test_a_run_takes_as_long_as_those_like_it(tmp_path):
    runs = [run("vanilla", seed) for seed in range(3)] + [run("curio"), run("grpo", stage="grpo")]
    write_done(runs[0], tmp_path, 10.0)
    write_done(runs[1], tmp_path, 20.0)
    write_done(runs[2], tmp_path, 99.0, settings={"other": 1})  # of another plan
    write_done(runs[3], tmp_path, 60.0)
    estimates = Estimates(runs, tmp_path)
    assert estimates.seconds(run("vanilla", 7)) == 15.0
    assert estimates.seconds(run("gem")) == 30.0  # of its stage: 10, 20 and 60
    assert estimates.seconds(runs[4]) == GUESSES["grpo"]
    assert estimates.seconds(run("base")) == GUESSES["base"]


def test_a_run_waits_for_the_one_it_starts_from(tmp_path):
    first, other = run("vanilla"), run("curio")
    after = run("vanilla+grpo", stage="grpo", after="vanilla")
    state = _State([first, after, other], Estimates([], tmp_path))
    assert state.next() is first
    state.began[first.key] = 0.0
    assert state.next() is other  # not the one that waits
    state.began[other.key] = 0.0
    assert state.next() is None and not state.finished
    state.note(first, {})
    assert state.next() is after
    state.began[after.key] = 0.0
    state.note(other, {"error": "broken"})
    state.note(after, {})
    assert state.finished and state.errors == {other.key: "broken"}


def test_what_starts_from_a_failed_run_fails_with_it(tmp_path):
    first, after = run("vanilla"), run("vanilla+grpo", stage="grpo", after="vanilla")
    state = _State([first, after], Estimates([], tmp_path))
    assert state.next() is first
    state.began[first.key] = 0.0
    state.note(first, {"error": "broken"})
    assert state.next() is None and state.finished
    assert state.errors[after.key] == f"{first.key} failed"


def test_work_is_counted_in_seconds_that_are_expected(tmp_path, monkeypatch):
    monkeypatch.setattr("reproduction.crew.time.monotonic", lambda: 100.0)
    runs = [run("vanilla"), run("curio"), run("gem")]
    state = _State(runs, Estimates([], tmp_path))
    assert state.work() == (0.0, 3 * GUESSES["sft"])
    state.began[runs[0].key] = 100.0 - 8.0
    assert state.work() == (8.0, 3 * GUESSES["sft"])
    state.note(runs[0], {})  # took 8 seconds, so the others will
    assert state.work() == (8.0, 24.0)
    state.began[runs[1].key] = 0.0  # for much longer than expected: not done before it is
    assert state.work() == (8.0 + 0.95 * 8.0, 24.0)
