"""Values as they stand in result files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_DIGITS = 10


def plain(value: Any) -> Any:
    """The same with floats rounded to 10 significant digits, so that files are stable.

    Raises:
      ValueError: for NaN and infinity, which JSON does not have.
    """
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a result is not a finite number")
        return float(f"{value:.{_DIGITS}g}")
    return value
