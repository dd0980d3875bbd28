"""The mod-chain world, against an evaluator and a search that share nothing with it."""

import itertools
import re

import numpy as np
import pytest

from curiojax.data.worlds import modchain
from curiojax.data.worlds.modchain import Node, Problem
from curiojax.data.worlds.modchain_demonstrations import (
    canonical_lines,
    demonstrations,
    evaluation_problems,
    parallel_lines,
    training_problems,
)
from curiojax.data.worlds.modchain_trajectories import random_lines
from curiojax.errors import ConfigError
from curiojax.rewards.modchain import check_lines

KINDS = ("id", "hard", "longer")


def worth(text):
    """Works out a fully bracketed text by replacing its innermost brackets, with plain integers."""
    text = f"({text})"
    while "(" in text:
        text = re.sub(r"\(([^()]*)\)", lambda match: _plain(match[1]), text)
    return int(text) % 10


def _plain(text):
    """A number, or two joined by an operator; a minus in front of a number belongs to it."""
    match = re.fullmatch(r"(-?\d+)(?:([-+*])(-?\d+))?", text)
    left, operator, right = match.groups()
    if operator is None:
        return left
    a, b = int(left), int(right)
    return str({"+": a + b, "-": a - b, "*": a * b}[operator])


def lines_of(response):
    head, _, _ = response.partition("</think>")
    return head.split("=")[1:]


@pytest.mark.parametrize("kind", KINDS)
def test_the_right_answer_is_what_plain_integers_make(kind):
    for problem in evaluation_problems(kind, 200, seed=3):
        start, text = problem.prompt.split(":")
        assert start == "mod10"
        assert problem.ground_truth == str(worth(text))


@pytest.mark.parametrize(("expert", "q"), [("canon", 0.0), ("two", 0.5), ("mix", 1.0)])
def test_every_line_of_a_demonstration_has_the_same_worth(expert, q):
    for item in demonstrations(expert, q=q, count=300, seed=1):
        truth = int(item.problem.ground_truth)
        lines = lines_of(item.response)
        assert [worth(line) for line in lines] == [truth] * len(lines)
        assert item.response.endswith(rf"={truth}</think>\boxed{{{truth}}}")
        assert check_lines(item.response, item.problem.prompt) == (True, None)


def test_worked_examples():
    expression = Node("*", Node("+", 3, 4), Node("*", Node("-", 2, 9), 5))
    assert modchain.render(expression) == "(3+4)*((2-9)*5)"
    text = modchain.response_text(canonical_lines(expression))
    assert text == (
        "=7*((2-9)*5)=7*(3*5)=7*5=5</think>\\boxed{5}"
    )  # fmt: skip
    text = modchain.response_text(parallel_lines(expression), with_answer=False)
    assert text == "=7*(3*5)=7*5=5"
    # A zero takes the whole bracket along, whatever is in it, and the outermost comes first.
    zero = Node("+", Node("*", Node("-", 1, Node("*", 2, 3)), 0), Node("+", 7, 5))
    assert modchain.render(parallel_lines(zero)[0]) == "0+2"
    assert modchain.render(canonical_lines(zero)[0]) == "((1-6)*0)+(7+5)"


def test_reductions_are_all_those_that_a_reader_finds():
    """Reductions are found in the text: a pair of plain numbers, or a 0 times a bracket."""
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        expression = modchain.draw_expression(rng, int(rng.integers(1, 7)))
        moves = list(modchain.moves(expression))
        found = sorted(modchain.render(modchain.apply(expression, [move])) for move in moves)
        assert found == sorted(_one_step(modchain.render(expression)))
        seen |= {move.is_shortcut for move in moves}
    assert seen == {True, False}


def _one_step(text):
    whole = f"({text})"
    for start, end in _brackets(whole):
        inside = whole[start + 1 : end]
        operands = _operands(inside)
        if operands is None:
            continue
        left, operator, right = operands
        plain = left.isdigit() and right.isdigit()
        if plain or (operator == "*" and "0" in (left, right)):
            result = worth(inside) if plain else 0
            yield (
                (whole[:start] + str(result) + whole[end + 1 :]).removeprefix("(").removesuffix(")")
                if start
                else str(result)
            )


def _brackets(text):
    stack = []
    for place, letter in enumerate(text):
        if letter == "(":
            stack.append(place)
        elif letter == ")":
            yield stack.pop(), place


def _operands(text):
    """The two sides of the operator that stands outside all brackets."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0 and letter in "+-*":
            return text[:place], letter, text[place + 1 :]
    return None


def test_hard_problems_fit_though_one_reduction_per_line_does_not():
    for problem in evaluation_problems("hard", 40, seed=1):
        canonical = modchain.response_tokens(canonical_lines(problem.expression))
        assert modchain.limit("hard") == 19
        assert canonical == 35
        shortest = min(_lengths(problem.expression))
        assert shortest == modchain.shortest_tokens(problem.expression) <= 19
    for kind, tokens, limit in (("id", 17, 19), ("longer", 47, 47)):
        assert modchain.limit(kind) == limit
        for problem in evaluation_problems(kind, 40, seed=1):
            assert modchain.response_tokens(canonical_lines(problem.expression)) == tokens


def _lengths(expression, tokens=5):
    """Lengths of all chains, by brute force over all sets of separate reductions, to 19 tokens."""
    if isinstance(expression, int):
        yield tokens
        return
    moves = list(modchain.moves(expression))
    for size in range(len(moves), 0, -1):
        for chosen in itertools.combinations(moves, size):
            paths = [move.path for move in chosen]
            if any(a != b and b[: len(a)] == a for a in paths for b in paths):
                continue
            after = modchain.apply(expression, chosen)
            words = 2 * modchain.count_operations(after) + 2
            if tokens + words <= 19:
                yield from _lengths(after, tokens + words)


def test_the_split_is_by_expression_and_never_changes():
    rng = np.random.default_rng(0)
    drawn = [modchain.draw_expression(rng, 3) for _ in range(3000)]
    share = np.mean([modchain.is_held_out(expression) for expression in drawn])
    assert share == pytest.approx(0.18, abs=0.03)  # four standard deviations
    fixed = [Node(op, 3, Node("+", a, 7)) for op in "+-*" for a in range(10)]
    # The shipped base model has not seen exactly these.
    held_out = [modchain.render(e) for e in fixed if modchain.is_held_out(e)]
    assert held_out == ["3+(5+7)", "3-(2+7)", "3-(5+7)", "3-(9+7)", "3*(1+7)"]
    for kind in KINDS:
        problems = evaluation_problems(kind, 40, seed=2)
        assert all(modchain.is_held_out(p.expression) for p in problems)
        assert len(set(problems)) == 40
        assert {modchain.count_operations(p.expression) for p in problems} == {
            modchain.OPERATIONS[kind]
        }
        assert problems == evaluation_problems(kind, 40, seed=2)
        assert problems != evaluation_problems(kind, 40, seed=4)
        others = training_problems(kind, 40, seed=2)
        assert not any(modchain.is_held_out(p.expression) for p in others)
    items = demonstrations("two", q=0.3, count=500)
    assert not any(modchain.is_held_out(item.problem.expression) for item in items)


def test_two_strategies_come_in_the_asked_proportion():
    items = demonstrations("two", q=0.2, count=1000, seed=5)
    assert items == demonstrations("two", q=0.2, count=1000, seed=5)
    assert len({item.problem for item in items}) == 1000
    share = np.mean([item.strategy == "second" for item in items])
    assert share == pytest.approx(0.2, abs=0.05)  # four standard deviations
    solver = {"canonical": canonical_lines, "second": parallel_lines}
    for item in items:
        assert list(item.lines) == solver[item.strategy](item.problem.expression)
    assert all(item.strategy == "canonical" for item in demonstrations("canon", count=50))


def test_random_chains_take_every_way():
    expression = Node("+", Node("*", 2, 3), Node("-", Node("+", 4, 5), 6))
    rng = np.random.default_rng(0)
    first = {modchain.render(random_lines(rng, expression)[0]) for _ in range(200)}
    assert first == {
        "6+((4+5)-6)",
        "(2*3)+(9-6)",
        "6+(9-6)",
    }


def test_wrong_arguments_are_named():
    with pytest.raises(ConfigError, match="expert"):
        demonstrations("noise")
    with pytest.raises(ConfigError, match="q"):
        demonstrations("two", q=-0.1)


def test_no_place_has_more_brackets_than_the_vocabulary():
    rng = np.random.default_rng(2)
    for _ in range(300):
        expression = modchain.draw_expression(rng, 7)
        for line in (expression, *random_lines(rng, expression)):
            assert not re.search(r"\({4}|\){4}", modchain.render(line))


def test_the_prompt_of_a_problem_counts_its_tokens():
    problem = Problem(Node("*", Node("+", 3, 4), 5))
    assert problem.prompt == "mod10:(3+4)*5"
    assert (problem.prompt_tokens, problem.ground_truth, problem.world) == (6, "5", "modchain")
