import numpy as np
import pytest

from curiojax.data.packing import fill, pack


@pytest.mark.parametrize("seed", range(30))
def test_nothing_is_lost_or_duplicated_and_no_row_overflows(seed):
    rng = np.random.default_rng(seed)
    row_length = int(rng.integers(1, 200))
    lengths = rng.integers(1, row_length + 1, size=int(rng.integers(1, 300))).tolist()
    rows = pack(lengths, row_length)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in row) <= row_length for row in rows)


@pytest.mark.parametrize("seed", range(10))
def test_agrees_with_a_direct_search_for_the_tightest_row(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 50, size=120).tolist()
    rows, free = [], []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fits = [(room, row) for row, room in enumerate(free) if room >= lengths[index]]
        if fits:
            row = min(fits)[1]
        else:
            rows.append([])
            free.append(60)
            row = len(rows) - 1
        rows[row].append(index)
        free[row] -= lengths[index]
    assert pack(lengths, 60) == rows


@pytest.mark.parametrize("seed", range(5))
def test_fill_of_a_step_on_lengths_like_the_papers(seed):
    """256 responses, lognormal with a median of 3.6k tokens, cut to the row."""
    rng = np.random.default_rng(seed)
    lengths = np.minimum(np.exp(rng.normal(np.log(3600), 0.6, 256)), 9216).astype(int)
    assert fill(lengths, 9216) >= 0.90


def test_the_usual_cases():
    assert pack([], 8) == []
    assert pack([8, 8], 8) == [[0], [1]]
    assert pack([3, 5, 4, 4], 8) == [[1, 0], [2, 3]]


@pytest.mark.parametrize("length", [0, 9])
def test_a_record_that_no_row_can_hold_is_an_error(length):
    with pytest.raises(ValueError, match=f"record 1 takes {length} tokens"):
        pack([4, length], 8)
