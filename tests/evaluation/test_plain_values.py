import numpy as np
import pytest

from curiojax.evaluation.plain_values import plain


def test_floats_are_rounded_wherever_they_are():
    value = {"a": [0.1 + 0.2, (1 / 3, 2)], "b": {"c": None, "d": np.float64(2e-20 / 3)}}
    assert plain(value) == {"a": [0.3, [0.3333333333, 2]], "b": {"c": None, "d": 6.666666667e-21}}


@pytest.mark.parametrize("value", [np.nan, np.inf, {"a": [-np.inf]}])
def test_what_json_does_not_have_is_refused(value):
    with pytest.raises(ValueError, match="finite"):
        plain(value)
