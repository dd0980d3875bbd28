"""Generating completions: token ids in, token ids and log-probabilities out."""

from curiojax.rollout.sampler import Completion, sample

__all__ = ["Completion", "sample"]
