"""What an embedded world offers, whichever it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from curiojax.errors import ConfigError


class Problem(Protocol):
    """A question with a right answer.

    Attributes:
      prompt: its text.
      ground_truth: what the world's verifier compares a response with.
      world: the name of the world it belongs to.
    """

    @property
    def prompt(self) -> str: ...
    @property
    def ground_truth(self) -> str: ...
    @property
    def world(self) -> str: ...


class Demonstration(Protocol):
    """An expert's response: its text without the end of the sequence, and whose strategy it is."""

    @property
    def problem(self) -> Problem: ...
    @property
    def response(self) -> str: ...
    @property
    def strategy(self) -> str: ...


class Demonstrations(Protocol):
    """Draws demonstrations of an expert set, e.g. `two` with q 0.2; a function of its arguments."""

    def __call__(
        self, expert: Any, *, q: float, count: int, seed: int
    ) -> Sequence[Demonstration]: ...


class TrainingProblems(Protocol):
    """Draws problems of a kind that no evaluation contains."""

    def __call__(self, kind: Any, count: int, *, seed: int) -> Sequence[Problem]: ...


class EvaluationProblems(Protocol):
    """Draws held-out problems of a kind, each at most once; too many are a ConfigError."""

    def __call__(self, kind: Any, count: int, *, seed: int) -> Sequence[Problem]: ...


@dataclass(frozen=True)
class EvaluationKind:
    """Problems that are evaluated together.

    Attributes:
      name: `id` (like those of the demonstrations), `hard` or `longer`; scores are named after it.
      title: what a table calls them.
      meaning: what they are, for a caption: `targets from 51 to 99`.
      response_tokens: limit of a response, which includes the end-of-sequence token.
    """

    name: str
    title: str
    meaning: str
    response_tokens: int


@dataclass(frozen=True)
class EmbeddedWorld:
    """A generated task with its own tokenizer, base model, experts and evaluation.

    Attributes:
      name: as in `world.name`.
      title: what a report calls it.
      base_model: a Hugging Face checkpoint with the world's tokenizer.
      prompt_tokens, response_tokens: upper limits in training; a response's includes the
        end-of-sequence token.
      verifier, format: the settings of `reward` that grade a response as the evaluation does.
      kinds: what there is to evaluate; `id` and `hard` are also there to train on.
      demonstrations, training_problems, evaluation_problems: the data. Those of an evaluation
        occur in no training data of any stage, the base model's included.
    """

    name: str
    title: str
    base_model: Path
    prompt_tokens: int
    response_tokens: int
    verifier: str
    format: str
    kinds: tuple[EvaluationKind, ...]
    demonstrations: Demonstrations
    training_problems: TrainingProblems
    evaluation_problems: EvaluationProblems

    def kind(self, name: str) -> EvaluationKind:
        """The kind of problems of a name.

        Raises:
          ConfigError: the world has none such.
        """
        for kind in self.kinds:
            if kind.name == name:
                return kind
        raise ConfigError(
            f"world.{name}_prompts: {self.name} has no {name} problems, only "
            f"{' and '.join(kind.name for kind in self.kinds)}; set it to 0"
        )


def parse_recipe(recipe: str) -> tuple[str, float]:
    """The expert and the q of `world.demonstrations`: `two 0.2` is `two` and 0.2.

    Raises:
      ConfigError: what follows the expert is no number.
    """
    expert, _, share = recipe.partition(" ")
    try:
        return expert, float(share or 0)
    except ValueError:
        raise ConfigError(
            f"world.demonstrations: {share!r} is no share; write e.g. `two 0.2`"
        ) from None


def check_recipe(expert: str, q: float, experts: Sequence[str]) -> None:
    """Raises a ConfigError unless the expert is one of them and q a probability."""
    if expert not in experts:
        raise ConfigError(f"expert: {expert!r} is unknown; choose one of {', '.join(experts)}")
    if not 0 <= q <= 1:
        raise ConfigError(f"q: {q} is no probability; give a number from 0 to 1")
