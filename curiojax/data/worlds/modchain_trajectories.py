"""Random reductions: what the base model of the mod-chain world learns from."""

from __future__ import annotations

import numpy as np

from curiojax.data.worlds import modchain
from curiojax.data.worlds.modchain import Expression, Move, Problem
from curiojax.data.worlds.modchain_vocabulary import encode, token_ids

OPERATIONS = (2, 3, 4, 5)
# How often a line reduces several places, and how many of the others it then takes along.
PARALLEL, ALONG = 0.5, 0.6
# One reduction per line needs this for up to four operations; of five, the end is cut off.
RESPONSE_TOKENS = 21
SHORTEST_PROMPT, PROMPT_TOKENS = 2 * OPERATIONS[0] + 2, 2 * OPERATIONS[-1] + 3


def random_lines(rng: np.random.Generator, expression: Expression) -> list[Expression]:
    """A random chain of reductions down to a number, shortcuts and parallel lines among them."""
    lines = []
    while not isinstance(expression, int):
        available = list(modchain.moves(expression))
        chosen: list[Move] = []
        several = rng.random() < PARALLEL
        for k in rng.permutation(len(available)):
            move = available[k]
            if all(modchain.are_separate(move.path, other.path) for other in chosen):
                if not chosen or rng.random() < ALONG:
                    chosen.append(move)
            if not several:
                break
        expression = modchain.apply(expression, chosen)
        lines.append(expression)
    return lines


def random_sequences(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws random reductions of expressions that are not held out.

    The answer is left out (`</think>` and the box never occur), so whoever learns from these
    sequences can calculate but has never seen the answer format.

    Args:
      rng: source of randomness.
      count: number of sequences.

    Returns:
      int32 [count, 34] token ids: prompt, lines, the end of the sequence, padding. The same shape
      bool: what is response.
    """
    tokens = np.full((count, PROMPT_TOKENS + RESPONSE_TOKENS), token_ids()[modchain.PAD], np.int32)
    is_response = np.zeros(tokens.shape, bool)
    for row, mask in zip(tokens, is_response, strict=True):
        expression = modchain.draw_expression(rng, int(rng.choice(OPERATIONS)))
        while modchain.is_held_out(expression):
            expression = modchain.draw_expression(rng, int(rng.choice(OPERATIONS)))
        prompt = encode(Problem(expression).prompt)
        text = modchain.response_text(random_lines(rng, expression), with_answer=False)
        response = [*encode(text), token_ids()[modchain.EOS]][:RESPONSE_TOKENS]
        row[: len(prompt) + len(response)] = prompt + response
        mask[len(prompt) : len(prompt) + len(response)] = True
    return tokens, is_response
