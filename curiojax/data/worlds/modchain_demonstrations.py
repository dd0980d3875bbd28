"""Expert demonstrations for the mod-chain world, and problems to train and to evaluate on.

All demonstrations solve ID problems that are not held out. The recipes:

- `canon`: one reduction per line, always the leftmost of the innermost; a deterministic expert.
- `two`: with probability q a second, equally consistent expert, who reduces all there is to reduce
  in every line, from the outermost zero inwards. Only such lines are short enough for HARD.
- `mix`: with probability q a random chain, as the base model's data have them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np

from curiojax.data.worlds import modchain
from curiojax.data.worlds.interface import EmbeddedWorld, EvaluationKind, check_recipe
from curiojax.data.worlds.modchain import OPERATIONS, Expression, Kind, Move, Node, Problem
from curiojax.data.worlds.modchain_trajectories import random_lines

Expert = Literal["canon", "two", "mix"]
BASE_MODEL = Path(__file__).parent / "modchain_base"


class Demonstration(NamedTuple):
    """One expert response: the problem, its lines and which strategy wrote them."""

    problem: Problem
    lines: tuple[Expression, ...]
    strategy: str  # canonical | second | any

    @property
    def response(self) -> str:
        """The text of the response, with the answer and without the end of the sequence."""
        return modchain.response_text(self.lines)


def canonical_lines(expression: Expression) -> list[Expression]:
    """One reduction of two numbers per line, the leftmost first."""
    lines = []
    while isinstance(expression, Node):
        first = next(m for m in modchain.moves(expression) if not m.is_shortcut)
        expression = modchain.apply(expression, [first])
        lines.append(expression)
    return lines


def parallel_lines(expression: Expression) -> list[Expression]:
    """All separate reductions in every line, and of nested ones the outermost."""
    lines = []
    while isinstance(expression, Node):
        chosen: list[Move] = []
        for move in sorted(modchain.moves(expression), key=lambda move: len(move.path)):
            if all(modchain.are_separate(move.path, other.path) for other in chosen):
                chosen.append(move)
        expression = modchain.apply(expression, chosen)
        lines.append(expression)
    return lines


def demonstrations(
    expert: Expert = "two", *, q: float = 0.05, count: int = 4000, seed: int = 0
) -> list[Demonstration]:
    """Draws the demonstrations of one expert, each of another problem.

    Args:
      expert: `canon`, `two` or `mix`.
      q: chance of the expert's other behaviour; `canon` ignores it.
      count: number of demonstrations.
      seed: of the draw.

    Raises:
      ConfigError: for an unknown expert or a q outside [0, 1].
    """
    check_recipe(expert, q, get_args(Expert))
    rng = np.random.default_rng([seed, 1])
    return [
        _demonstrate(problem, expert, q, rng) for problem in _draw("id", count, rng, held_out=False)
    ]


def evaluation_problems(kind: Kind, count: int, *, seed: int = 0) -> list[Problem]:
    """Different held-out problems of a kind."""
    return _draw(kind, count, np.random.default_rng([seed, 2]), held_out=True)


def training_problems(kind: Kind, count: int, *, seed: int = 0) -> list[Problem]:
    """Different problems of a kind that are not held out."""
    return _draw(kind, count, np.random.default_rng([seed, 3]), held_out=False)


def _draw(kind: Kind, count: int, rng: np.random.Generator, *, held_out: bool) -> list[Problem]:
    found: dict[Problem, None] = {}
    while len(found) < count:
        found[modchain.draw_problem(rng, kind, held_out=held_out)] = None
    return list(found)


def _demonstrate(
    problem: Problem, expert: Expert, q: float, rng: np.random.Generator
) -> Demonstration:
    if expert == "canon" or rng.random() >= q:
        return Demonstration(problem, tuple(canonical_lines(problem.expression)), "canonical")
    if expert == "two":
        return Demonstration(problem, tuple(parallel_lines(problem.expression)), "second")
    return Demonstration(problem, tuple(random_lines(rng, problem.expression)), "any")


def _kind(name: Kind, title: str, meaning: str) -> EvaluationKind:
    return EvaluationKind(name, title, meaning, modchain.limit(name))


MODCHAIN = EmbeddedWorld(
    name="modchain",
    title="mod-chain",
    base_model=BASE_MODEL,
    prompt_tokens=2 * OPERATIONS["hard"] + 3,
    response_tokens=modchain.RESPONSE_TOKENS,
    verifier="math",
    format="strict",
    kinds=(
        _kind("id", "ID", f"of {OPERATIONS['id']} operations"),
        _kind("hard", "hard", f"of {OPERATIONS['hard']}, in the same length"),
        _kind("longer", "longer", f"of {OPERATIONS['longer']}, more than any training data have"),
    ),
    demonstrations=demonstrations,
    training_problems=training_problems,
    evaluation_problems=evaluation_problems,
)
