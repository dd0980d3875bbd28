import itertools
from fractions import Fraction

import pytest

from curiojax.data.worlds import countdown
from curiojax.data.worlds.countdown import Problem
from curiojax.rewards.countdown import verify


def _brute_force(numbers, operators):
    """All last values, over ordered pairs in rational arithmetic, written without the module."""
    if len(numbers) == 1:
        return {int(numbers[0])}
    found = set()
    for left, right in itertools.permutations(range(len(numbers)), 2):
        a, b = numbers[left], numbers[right]
        rest = [numbers[k] for k in range(len(numbers)) if k not in (left, right)]
        results = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else Fraction(-1)}
        for operator in operators:
            value = results[operator]
            if value.denominator == 1 and 0 <= value <= 99:
                found |= _brute_force([*rest, value], operators)
    return found


@pytest.mark.parametrize("numbers", [(1, 1, 1, 1), (2, 3, 5, 7), (4, 6, 8, 9), (1, 9, 9, 9)])
@pytest.mark.parametrize("operators", ["+-", "+-*/"])
def test_reachable_values_match_brute_force(numbers, operators):
    expected = _brute_force([Fraction(n) for n in numbers], operators)
    assert countdown.reachable(numbers, operators) == expected


def test_there_are_495_multisets_and_18_percent_of_them_are_held_out():
    assert len(countdown.multisets()) == 495
    assert len(countdown.held_out_multisets()) == 89
    assert countdown.held_out_multisets() < set(countdown.multisets())


def test_the_held_out_multisets_never_change():
    # The shipped base model has not seen exactly these.
    assert sorted(countdown.held_out_multisets())[:4] == [
        (1, 1, 1, 2),
        (1, 1, 1, 3),
        (1, 1, 1, 7),
        (1, 1, 1, 8),
    ]


def test_problems_are_split_by_multiset_and_by_difficulty():
    kinds = {}
    for kind, held_out in itertools.product(("id", "hard"), (False, True)):
        found = countdown.problems(kind, held_out=held_out)
        kinds[kind, held_out] = found
        assert all((p.numbers in countdown.held_out_multisets()) == held_out for p in found)
        easy = [p.target in countdown.reachable(p.numbers, "+-") for p in found]
        assert all(easy) if kind == "id" else not any(easy)
    every = [problem for found in kinds.values() for problem in found]
    assert len(every) == len(set(every)) == 16371
    with pytest.raises(ValueError, match="kind"):
        countdown.problems("easy", held_out=True)


def test_all_solutions_are_found_once_each():
    problem = Problem((7, 3, 9, 2), 13)
    found = [countdown.response_text(steps) for steps in countdown.solutions(problem)]
    assert len(found) == len(set(found))
    assert all(verify(text, problem.prompt).correct for text in found)
    moves = list(itertools.product("abcd", "+-*/", "abcd"))
    assert len(found) == sum(
        verify(text, problem.prompt).correct for text in _all_texts(problem.numbers, moves)
    )
    assert not list(countdown.solutions(Problem((1, 1, 1, 1), 50)))


def _all_texts(numbers, moves):
    """Every response made of three well-formed actions, legal or not, with `eval`-free sums."""

    def extend(pool, words):
        if len(pool) == 1:
            yield " ".join([*words, "END", "BOX", str(pool[0])])
            return
        for left, operator, right in moves:
            i, j = "abcd".index(left), "abcd".index(right)
            if i == j or max(i, j) >= len(pool):
                continue
            a, b = pool[i], pool[j]
            value = {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else -1}[operator]
            if value < 0 or value > 99 or (operator == "/" and value * b != a):
                continue
            rest = [pool[k] for k in range(len(pool)) if k not in (i, j)]
            after = [*rest, value]
            yield from extend(after, [*words, f"{left}{operator}{right}", *map(str, after)])

    return extend(list(numbers), [])


def test_canonical_solutions_prefer_plus_and_large_numbers():
    problem = Problem((2, 9, 5, 1), 17)
    steps = countdown.canonical_solution(problem)
    assert countdown.response_text(steps) == "b+c 2 1 14 c+a 1 16 b+a 17 END BOX 17"
    # 9 + 5, then 14 + 2, then 16 + 1: sums of the largest numbers first.
    second = countdown.second_solution(problem)
    assert countdown.response_text(second) == "c-d 2 9 4 a*c 9 8 b+a 17 END BOX 17"
    assert {step.operator for step in steps} <= set("+-")


def test_the_numbers_order_does_not_change_the_canonical_arithmetic():
    values = set()
    for numbers in itertools.permutations((2, 9, 5, 1)):
        pool, trace = numbers, []
        for step in countdown.canonical_solution(Problem(numbers, 17)):
            trace.append((pool[step.first], step.operator, pool[step.second]))
            pool = step.pool
        values.add(tuple(trace))
    assert len(values) == 1


def test_an_unsolvable_problem_has_no_canonical_solution():
    with pytest.raises(ValueError, match="no solution"):
        countdown.canonical_solution(Problem((1, 1, 1, 1), 50))
