"""What a rollout engine is: prompts in, completions with their log-probabilities out.

The trainer knows engines only through `Rollout`; `curiojax.rollout.sampler` is the embedded one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from curiojax.errors import ConfigError

OnGroup = Callable[[int, "list[Completion]"], None]


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    Attributes:
      max_tokens: new tokens per completion, at most.
      temperature: divides the logits; 0 takes the most likely token.
      top_p: draws from the smallest set of tokens whose probability reaches this share, at
        `temperature` and after `top_k`; tokens as likely as the least likely of them are in it too.
      top_k: draws from this many most likely tokens, and those as likely as the last; 0: from all.
      min_tokens: stop ids cannot be drawn before this many tokens.
      stop_ids: ids that end a completion.
      n: completions per prompt.
      log_probs: whether those of the tokens are needed; an engine that does not have them leaves
        them out where they are not, and refuses where they are.

    Raises:
      ConfigError: for a value out of its range.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_tokens: int = 0
    stop_ids: tuple[int, ...] = ()
    n: int = 1
    log_probs: bool = True

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ConfigError(f"max_tokens: {self.max_tokens} is below 1; ask for at least one")
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(
                f"temperature: {self.temperature} is not in [0, inf); 0 takes the most likely token"
            )
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p: {self.top_p} is outside (0, 1]; 1 draws from all tokens")
        if self.top_k < 0:
            raise ConfigError(f"top_k: {self.top_k} is negative; 0 draws from all tokens")
        if not 0 <= self.min_tokens <= self.max_tokens:
            raise ConfigError(
                f"min_tokens: {self.min_tokens} is not between 0 and max_tokens = "
                f"{self.max_tokens}; choose a value between"
            )
        if self.n < 1:
            raise ConfigError(f"n: {self.n} is below 1; ask for at least one completion")


class Completion(NamedTuple):
    """One sampled continuation.

    Attributes:
      tokens: the new ids; the stop id, if one was drawn, is the last of them.
      log_probs: log-probability, in nats, of each token under the softmax over the whole vocabulary
        at the sampling temperature (at temperature 1 when greedy), before `top_p`, `top_k` and
        `min_tokens` remove any token.
      finish_reason: `stop` when a stop id ended it, `length` when `max_tokens` did.
      version: of the weights that every one of its tokens was drawn with.
      entropies: entropy, in nats, of the temperature-1 distribution over the whole vocabulary at
        each token; None from an engine that does not compute it.
    """

    tokens: list[int]
    log_probs: list[float]
    finish_reason: Literal["stop", "length"]
    version: int = 0
    entropies: list[float] | None = None


class RolloutError(RuntimeError):
    """The rollout engine cannot go on; the message says which server and why."""


class SyncReport(NamedTuple):
    """What one transfer of weights took.

    Attributes:
      version: of the weights that are now in use.
      seconds: wall clock.
      num_bytes: size of the weights in the engine's dtype.
    """

    version: int
    seconds: float
    num_bytes: int

    @property
    def gigabytes_per_second(self) -> float:
        return self.num_bytes / max(self.seconds, 1e-9) / 1e9


class Orders(NamedTuple):
    """What is asked for, prompt by prompt; see `Rollout.generate`."""

    counts: list[int]
    limits: list[int]


def orders_of(
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    counts: Sequence[int] | None,
    limits: Sequence[int] | None,
) -> Orders:
    """The counts and limits of a call, with the defaults of `sampling` where there are none.

    Raises:
      ConfigError: one is out of its range, or they are not one per prompt; a prompt is empty.
    """
    for index, prompt in enumerate(prompts):
        if not len(prompt):
            raise ConfigError(f"prompts: prompt {index} is empty; start it with a token")
    found = []
    for name, values, default, most in (
        ("counts", counts, sampling.n, None),
        ("limits", limits, sampling.max_tokens, sampling.max_tokens),
    ):
        values = [default] * len(prompts) if values is None else [int(x) for x in values]
        if len(values) != len(prompts):
            raise ConfigError(f"{name}: {len(values)} for {len(prompts)} prompts; give one each")
        for index, value in enumerate(values):
            if value < 1 or (most is not None and value > most):
                bounds = "below 1" if most is None else f"not from 1 to max_tokens = {most}"
                raise ConfigError(f"{name}: {value}, that of prompt {index}, is {bounds}")
        found.append(values)
    return Orders(*found)


class Rollout(Protocol):
    """An engine that samples from the policy."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seed: int,
        *,
        on_group: OnGroup | None = None,
        keys: Sequence[int] | None = None,
        counts: Sequence[int] | None = None,
        limits: Sequence[int] | None = None,
    ) -> list[list[Completion]]:
        """Samples `sampling.n` completions of every prompt, all with one version of the weights.

        Args:
          prompts: token ids, at least one each.
          seed: of all draws of the call.
          on_group: called as `on_group(i, completions)`, from one thread at a time, as soon as all
            completions of prompt i are there; the others may still be under way.
          keys: whole numbers below 2^31 that stand for the prompts in the seeds of their draws;
            None: their positions. With them, a prompt has the same draws in any company.
          counts: completions of each prompt, at least 1; None: `sampling.n` of all.
          limits: new tokens of each prompt's completions, at most: from 1 to `sampling.max_tokens`,
            which is what None means. A completion that reaches its limit ends with `length`, also
            where `min_tokens` is more.

        Returns:
          For every prompt, its completions by sample index.

        Raises:
          ConfigError: for an empty prompt, or one that does not fit the context with its limit;
            for counts or limits out of their ranges, or not one per prompt.
        """
        ...

    def sync(self, params: Any, version: int) -> SyncReport:
        """Takes over new weights; later calls of `generate` use them.

        Args:
          params: the trainer's; they may be changed or donated once this returns.
        """
        ...

    def sleep(self) -> None:
        """Leaves the devices to the trainer until the next `sync` or `generate`.

        An engine that has devices of its own, or that holds nothing it could do without, does
        nothing.
        """
        ...

    def close(self) -> None:
        """Releases memory and processes; the engine is of no use afterwards."""
        ...
