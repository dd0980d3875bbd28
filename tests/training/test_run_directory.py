"""What is said of a run directory that holds another run."""

import json

import pytest

from curiojax.config import load_config
from curiojax.errors import ConfigError
from curiojax.training.run_directory import MARKER, check_claim, identity


def told(directory, *overrides, model="a"):
    """The message for a run with these overrides in the directory of one without any."""
    directory.mkdir()
    theirs = identity(load_config(None, []), "a", "b")
    (directory / MARKER).write_text(json.dumps(theirs))
    (directory / "metrics.jsonl").write_text('{"step": 1}\n')
    ours = identity(load_config(None, list(overrides)), model, "b")
    check_claim(directory, json.loads(json.dumps(ours)))


def test_one_difference_is_named(tmp_path):
    with pytest.raises(ConfigError) as caught:
        told(tmp_path / "run", "seed=3")
    assert "holds another run: seed was 0 and is 3 now; restore" in str(caught.value)


def test_three_are_named_and_the_rest_counted(tmp_path):
    changes = ("seed=3", "sequences_per_step=8", "optimizer.eps=1", "optimizer.weight_decay=0")
    with pytest.raises(ConfigError) as caught:
        told(tmp_path / "run", *changes, model="c")
    said = str(caught.value)
    assert "\n" not in said and said.count(" was ") == 3 and said.count(", and 2 more;") == 1
    assert "seed was 0 and is 3 now, sequences_per_step was 256 and is 8 now, " in said


def test_what_may_change_is_no_difference(tmp_path):
    told(tmp_path / "run", "rollout.layout=separate", "logging.tensorboard=true")
