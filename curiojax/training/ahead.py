"""The rounds of a run in the order of its steps, one of them made beside the updates."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from curiojax.config import RunConfig
from curiojax.data.prompts import PromptData
from curiojax.training.round_files import read_round, round_path, write_round
from curiojax.training.rounds import Collector, Round
from curiojax.training.setup import say


def rounds_kept(config: RunConfig) -> int | None:
    """How many rounds stay on disk: stale ones at least until a checkpoint needs them no more."""
    keep = config.rollout.keep_steps
    return max(keep, config.checkpoint.every + 1) if keep and config.max_staleness else keep


class Ahead:
    """Rounds in the order of the steps, at most one of them under way beside the updates.

    Args:
      collector: makes them.
      prompts: what they are made from.
      directory: the run directory; a round is written there before anybody learns from it.
      concurrent: whether a round may be under way while the trainer's devices are busy. The sampler
        that shares these devices would gain nothing, and is run first.
    """

    def __init__(
        self, collector: Collector, prompts: PromptData, directory: Path, *, concurrent: bool
    ):
        self._collector, self._prompts, self._directory = collector, prompts, directory
        self._threads = ThreadPoolExecutor(1, "rollouts") if concurrent else None
        self._begun: tuple[int, Future[Round]] | None = None

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def begin(self, step: int, version: int) -> None:
        """Starts the round of a step with the weights that the engine holds now."""
        if self._threads is None:
            future: Future[Round] = Future()
            future.set_result(self._make(step, version))
        else:
            future = self._threads.submit(self._make, step, version)
        self._begun = step, future

    def wait(self) -> None:
        """Until the round that is under way is written down."""
        if self._begun is not None:
            self._begun[1].result()

    def take(
        self, step: int, *, stale: bool, progress: Callable[[str], None] | None = None
    ) -> Round:
        """The round of a step: the one begun for it, that of the run before, or a fresh one."""
        if self._begun is not None and self._begun[0] == step:
            found, self._begun = self._begun[1].result(), None
            return found
        if stale and step > 0:
            found = read_round(round_path(self._directory, step))
            if found is not None and found.version == step - 1:
                return found
            say(f"warning: step {step + 1}: its completions are lost; sampled again, less stale")
        return self._make(step, step, progress)

    def _make(
        self, step: int, version: int, progress: Callable[[str], None] | None = None
    ) -> Round:
        found = self._collector.collect(step, version, progress)
        texts = [self._collector.texts(group.completions) for group in found.groups]
        write_round(round_path(self._directory, step), found, self._prompts, texts)
        return found
