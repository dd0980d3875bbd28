r"""Which answers are too expensive to be given to a computer algebra system.

`9^{9^{9^9}}` takes eight characters and more memory than there is. Such an answer is recognised by
a bound on the numbers that would have to be formed, found without forming any. Whatever passes can
still be expensive, so grading runs in processes that can be killed.
"""

from __future__ import annotations

import math
import re

from curiojax.rewards.answers import MAX_ANSWER_CHARS

MAX_DIGIT_RUN = 500
MAX_NESTING = 12
MAX_DIGITS = 200_000  # of any number formed on the way
MAX_SUM_TERMS = 10_000

# Written down and left to the grader to work out, these are the question and not the answer.
UNEVALUATED = ("\\int", "\\iint", "\\iiint", "\\oint", "\\lim", "\\sum", "\\prod")

_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|\d+(?:\.\d+)?|\.\d+|\S")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_OPENING = {"{": "}", "(": ")", "[": "]"}
_CLOSING = set(_OPENING.values())
_SEPARATORS = {
    "+",
    "-",
    ",",
    ";",
    ":",
    "&",
    "=",
    "<",
    ">",
    "\\\\",
    "\\pm",
    "\\mp",
    "\\cup",
    "\\cap",
}
_SEPARATORS |= {"\\le", "\\ge", "\\leq", "\\geq", "\\ne", "\\neq", "\\in", "\\to", "\\mid"}
_FRACTIONS = {"\\frac", "\\dfrac", "\\tfrac", "\\cfrac"}
_BINOMIALS = {"\\binom", "\\dbinom", "\\tbinom"}
_PRODUCTS = {"\\cdot", "\\times", "*", "/", "\\div", "|"}
# They change how an operand looks and must not be taken for one.
_DECORATION = {"\\left", "\\right", "\\,", "\\;", "\\!", "\\:", "\\ ", "~", "\\displaystyle"}
_DECORATION |= {"\\text", "\\mathrm", "\\mathbf", "\\mathit", "\\operatorname", "\\big", "\\Big"}


class _TooLarge(Exception):
    pass


def too_expensive(answer: str, gold: str = "") -> str | None:
    """Why an answer should be compared as text only; None when it may be evaluated.

    Args:
      answer: a normalised answer.
      gold: the right answer: an integral, a limit, a sum or a product is evaluated in an answer
        only when the right answer has one as well.
    """
    if len(answer) > MAX_ANSWER_CHARS:
        return f"longer than {MAX_ANSWER_CHARS} characters"
    if re.search(rf"\d{{{MAX_DIGIT_RUN + 1}}}", answer):
        return f"a number of more than {MAX_DIGIT_RUN} digits"
    if _nesting(answer) > MAX_NESTING:
        return f"nested more than {MAX_NESTING} deep"
    written = set(_COMMAND.findall(answer)) & set(UNEVALUATED)
    if written - set(_COMMAND.findall(gold)):
        return "an integral, limit, sum or product that is not worked out"
    try:
        _Bound(_TOKEN.findall(answer)).sequence(None)
    except (_TooLarge, RecursionError):
        return f"numbers of more than {MAX_DIGITS} digits on the way"
    return None


def _nesting(text: str) -> int:
    depth = deepest = 0
    for character in text:
        if character in _OPENING:
            depth += 1
            deepest = max(deepest, depth)
        elif character in _CLOSING:
            depth = max(depth - 1, 0)
    return deepest


class _Bound:
    """Bounds log10 of the largest number in an expression, reading it once from left to right.

    A symbol counts as 1: powers of symbols are not multiplied out. Where the notation is unclear
    the bound is the larger reading. Every method returns such a bound or raises `_TooLarge`.
    """

    def __init__(self, tokens: list[str]):
        self.tokens = [token for token in tokens if token not in _DECORATION]
        self.at = 0

    def peek(self) -> str | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def sequence(self, closing: str | None) -> float:
        """Terms up to a closing bracket or the end; the largest of them and a little more."""
        largest = term = 0.0
        terms = 0
        while (token := self.peek()) is not None and token != closing:
            if token in _SEPARATORS:
                self.at += 1
                largest, term, terms = max(largest, term), 0.0, terms + 1
            elif token in _CLOSING or token in _PRODUCTS:
                self.at += 1
            else:
                term = self.checked(term + self.power())
        self.at += 1
        return self.checked(max(largest, term) + math.log10(terms + 1))

    def power(self) -> float:
        """An atom with its exponents, factorials and subscripts."""
        size, symbolic = self.atom()
        while (token := self.peek()) in {"^", "!", "_"}:
            self.at += 1
            if token == "_":
                self.atom()
            elif token == "!":
                number = _value(size)
                size = self.checked(number * math.log10(number) if number > 1 else 0.0)
            else:
                while self.peek() in {"+", "-"}:
                    self.at += 1
                exponent = _value(self.power())
                size = 0.0 if symbolic else self.checked(size * exponent)
        return size

    def atom(self) -> tuple[float, bool]:
        """One token, group or command with its arguments; whether it stands for a symbol."""
        token = self.peek()
        if token is None:
            return 0.0, True
        self.at += 1
        if token in _OPENING:
            return self.sequence(_OPENING[token]), False
        if token[0].isdigit() or token[0] == ".":
            whole = token.partition(".")[0]
            return math.log10(max(float(whole[:15] or 0), 1.0)) + len(whole[15:]), False
        if token in {"e", "\\pi"}:
            return 0.5, False
        if token in _FRACTIONS:
            return self.checked(self.argument() + self.argument()), False
        if token in _BINOMIALS:
            above, below = self.argument(), self.argument()
            return self.checked(min(0.302 * _value(above), _value(below) * max(above, 1.0))), False
        if token == "\\exp":
            return self.checked(0.435 * _value(self.argument())), False
        if token in {"\\sum", "\\prod"}:
            self.limits_of_sum()
        if token == "\\sqrt" and self.peek() == "[":
            self.atom()
        return 0.0, True

    def argument(self) -> float:
        if (token := self.peek()) is not None and len(token) > 1 and token.isdigit():
            # \frac12 is a half: an argument without braces is a single digit.
            self.tokens[self.at : self.at + 1] = [token[0], token[1:]]
        return self.atom()[0]

    def limits_of_sum(self) -> None:
        while self.peek() in {"_", "^"}:
            self.at += 1
            if _value(self.atom()[0]) > MAX_SUM_TERMS:
                raise _TooLarge

    def checked(self, size: float) -> float:
        if not size <= MAX_DIGITS:
            raise _TooLarge
        return size


def _value(size: float) -> float:
    return 10.0**size if size < 300 else math.inf
