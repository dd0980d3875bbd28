"""Entropies along demonstrations, in groups that are the model's own or the base model's."""

import json

import numpy as np
import pytest

from curiojax.errors import ConfigError
from curiojax.evaluation.runner import run_evaluation
from tests.evaluation.test_evaluate import settings


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    path = tmp_path_factory.mktemp("demonstrations") / "train.jsonl"
    rows = [
        {"prompt": "How many minutes?", "completion": "Let me think.\n</think>\n\\boxed{60}"},
        {"prompt": "What is 1 + 1?", "completion": "Wait.\n</think>\nThe answer is \\boxed{2}"},
        {"prompt": "And 2 + 2?", "completion": "Okay.\n</think>\nThe answer is \\boxed{4}"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_moving_and_fixed_groups(trained, demonstrations, tmp_path):
    small = ("benchmarks=[aime24]", "limit=1", "samples=1", f"expert_data.path={demonstrations}")
    moving = run_evaluation(settings(trained, tmp_path / "base", *small))["expert_tokens"]
    lines = (tmp_path / "base/entropies/expert.jsonl").read_text().splitlines()[1:]
    read = [json.loads(line) for line in lines]
    entropies = np.concatenate(
        [line["entropies"] for line in sorted(read, key=lambda x: x["text"])]
    )
    assert moving["entropy"] == pytest.approx(entropies.mean())
    top = entropies >= np.quantile(entropies, 0.8)
    assert moving["entropy_top20"] == pytest.approx(entropies[top].mean())
    assert moving["entropy_rest"] == pytest.approx(entropies[~top].mean())

    # The same model as its own base: the groups are the same.
    fixed = ("expert_data.groups=fixed", f"expert_data.base={tmp_path / 'base'}")
    again = run_evaluation(settings(trained, tmp_path / "again", *small, *fixed))["expert_tokens"]
    assert again["entropy_top20"] == moving["entropy_top20"] and again["groups"] == "fixed"

    with pytest.raises(ConfigError, match="other demonstrations"):
        run_evaluation(settings(trained, tmp_path / "other", *small, *fixed, "expert_data.limit=2"))
