"""Fields of a training config, by which shared modules call them, as an evaluation calls them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from curiojax.errors import ConfigError

_TRAINING = re.compile(r"(?<![\w./-])(data\.template|rollout\.\w+|reward\.\w+)")
_OTHER = {
    "reward.workers": "grading_workers",
    "reward.timeout_seconds": "grading_timeout_seconds",
    "reward.memory_limit_mb": "grading_memory_limit_mb",
    "rollout.dtype": "model.compute_dtype",
    "rollout.max_model_len": "max_response_tokens",
}


@contextmanager
def own_field_names() -> Iterator[None]:
    """Lets a `ConfigError` from within name keys of `curiojax.evaluation.settings`."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(_TRAINING.sub(_renamed, str(error))) from error


def _renamed(match: re.Match[str]) -> str:
    return _OTHER.get(match[1], match[1].partition(".")[2])
