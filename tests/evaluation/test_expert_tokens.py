import json

import numpy as np
import pytest

from curiojax.errors import ConfigError
from curiojax.evaluation.expert_tokens import expert_tokens

ENTROPIES = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 2.0]
PROBS = [1.0, 0.9, 0.9, 0.8, 0.8, 0.7, 0.7, 0.6, 0.5, 0.1]


def test_moving_groups_by_hand():
    # The 80th percentile of ten values lies between the eighth and the ninth: 0.7 + 0.2 * 0.1.
    assert expert_tokens(ENTROPIES, PROBS) == {
        "groups": "moving",
        "tokens": 10,
        "entropy": 0.56,
        "entropy_top20": 1.4,
        "entropy_rest": 0.35,
        "threshold": 0.72,
        "probability": 0.7,
    }


def test_fixed_groups_are_the_base_models():
    got = expert_tokens(ENTROPIES, PROBS, groups="fixed", reference_entropies=ENTROPIES[::-1])
    assert got["entropy_top20"] == 0.05 and got["entropy_rest"] == 0.6875
    assert got["entropy"] == 0.56 and got["threshold"] == 0.72
    base = expert_tokens(ENTROPIES, PROBS, groups="fixed", reference_entropies=ENTROPIES)
    assert base == expert_tokens(ENTROPIES, PROBS) | {"groups": "fixed"}


def test_equal_entropies_are_all_in_the_top_group():
    got = expert_tokens([0.3, 0.3], np.asarray([0.5, 0.7], np.float32))
    assert got["entropy_top20"] == 0.3 and got["entropy_rest"] is None
    json.dumps(got, allow_nan=False)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (([], []), "entropies"),
        (([0.1, 0.2], [0.5]), "probs"),
        (([[0.1]], [[0.5]]), "entropies"),
        (([0.1, np.nan], [0.5, 0.5]), "entropies"),
        (([0.1], [np.inf]), "probs"),
        (([0.1], [0.5], "fixed"), "reference_entropies"),
        (([0.1], [0.5], "moving", [0.1]), "reference_entropies"),
        (([0.1], [0.5], "fixed", [0.1, 0.2]), "reference_entropies"),
        (([0.1], [0.5], "other"), "groups"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, field):
    entropies, probs, *rest = arguments
    named = dict(zip(("groups", "reference_entropies"), rest, strict=False))
    with pytest.raises(ConfigError, match=f"^{field}"):
        expert_tokens(entropies, probs, **named)
