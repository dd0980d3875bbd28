"""Generating completions: token ids in, token ids and log-probabilities out."""

from typing import TYPE_CHECKING, Any

from curiojax.rollout.base import Completion, Rollout, RolloutError, Sampling, SyncReport
from curiojax.rollout.sampler import JaxSampler, sample

if TYPE_CHECKING:
    from curiojax.rollout.vllm import VllmRollout, VllmSettings

__all__ = [
    "Completion",
    "JaxSampler",
    "Rollout",
    "RolloutError",
    "Sampling",
    "SyncReport",
    "VllmRollout",
    "VllmSettings",
    "sample",
]


def __getattr__(name: str) -> Any:
    # Only when asked for: servers and their locks need Linux, the sampler does not.
    if name in ("VllmRollout", "VllmSettings"):
        from curiojax.rollout import vllm

        return getattr(vllm, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
