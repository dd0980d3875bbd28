from collections import Counter

import numpy as np
import pytest

from curiojax.data.worlds import countdown, trajectories, vocabulary
from curiojax.rewards.countdown import verify


@pytest.fixture(scope="module")
def tokens():
    return trajectories.random_trajectories(np.random.default_rng(0), 4000)


def _texts(tokens):
    words = vocabulary.vocabulary()
    for row in tokens.tolist():
        assert words[row[-1]] == "<eos>"
        yield "".join(words[k] for k in row[:6]), "".join(words[k] for k in row[6:-1])


def test_every_walk_is_legal_hits_its_target_and_lacks_the_answer(tokens):
    assert tokens.shape == (4000, 16)
    assert tokens.dtype == np.int32
    for prompt, response in _texts(tokens):
        verdict = verify(response, prompt)
        assert verdict.search_correct
        assert verdict.failure == "format"
        assert "END" not in response
        assert "BOX" not in response


def test_held_out_multisets_never_occur(tokens):
    seen = set()
    for prompt, _ in _texts(tokens):
        numbers, target = prompt.split(" : ")
        assert 1 <= int(target) <= 50
        seen.add(tuple(sorted(map(int, numbers.split()))))
    assert not seen & countdown.held_out_multisets()
    assert len(seen) > 390  # of 406


def test_first_moves_have_their_exact_odds():
    numbers = min(set(countdown.multisets()) - countdown.held_out_multisets(), key=_spread)
    tokens = trajectories.random_trajectories(np.random.default_rng(1), 100_000)
    tokens = tokens[(np.sort(_numbers(tokens), axis=1) == numbers).all(axis=1)]
    words = vocabulary.vocabulary()
    seen = Counter()
    for row in tokens.tolist():
        action = words[row[6]]
        left, right = (int(words[row["abcd".index(action[k])]]) for k in (0, 2))
        seen[left, action[1], right] += 1
    expected = Counter()
    for step in countdown.legal_steps(numbers):
        move = numbers[step.first], step.operator, numbers[step.second]
        expected[move] += WEIGHTS[step.operator] * _chance(step.pool)
    assert set(seen) <= set(expected)
    total = sum(expected.values())
    squares = 0.0
    for move, weight in expected.items():
        mean = weight / total * len(tokens)
        squares += (seen[move] - mean) ** 2 / mean
    # Chi-square: mean len - 1, variance twice that; far more than chance allows is an error.
    freedom = len(expected) - 1
    assert squares < freedom + 5 * (2 * freedom) ** 0.5


WEIGHTS = {"+": 3, "-": 3, "*": 2, "/": 1}


def _spread(numbers):
    """Prefers multisets of four different numbers, so that moves can be told apart."""
    return (-len(set(numbers)), numbers)


def _chance(pool):
    """The chance that a walk from this pool ends in 1..50."""
    if len(pool) == 1:
        return float(1 <= pool[0] <= 50)
    steps = list(countdown.legal_steps(pool))
    weights = [WEIGHTS[step.operator] for step in steps]
    chances = [_chance(step.pool) for step in steps]
    return float(np.dot(weights, chances) / sum(weights))


def _numbers(tokens):
    words = vocabulary.vocabulary()
    return np.asarray([[int(words[k]) for k in row] for row in tokens[:, :4].tolist()])


def test_a_seed_fixes_the_draw():
    draw = [trajectories.random_trajectories(np.random.default_rng(k), 500) for k in (5, 5, 6)]
    assert np.array_equal(draw[0], draw[1])
    assert not np.array_equal(draw[0], draw[2])
