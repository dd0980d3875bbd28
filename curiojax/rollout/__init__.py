"""Generating completions: token ids in, token ids and log-probabilities out."""

from curiojax.rollout.base import Completion, Rollout, Sampling, SyncReport
from curiojax.rollout.sampler import JaxSampler, sample

__all__ = ["Completion", "JaxSampler", "Rollout", "Sampling", "SyncReport", "sample"]
