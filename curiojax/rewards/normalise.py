r"""One spelling for what can be written in many ways, before answers are compared.

`normalise` keeps the meaning and stays LaTeX; `canonical` goes further and is for comparing texts.
All of it is linear in the length of the text.
"""

# ruff: noqa: RUF001  (look-alikes of ASCII characters are what this module is about)

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

_MAX_EXPONENT = 10_000
_MAX_DIGITS = 1_000

_INVISIBLE = re.compile("[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ", "0123456789+-()n")
_SUBSCRIPT = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋", "0123456789+-")
_SUPERSCRIPTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ]+")
_SUBSCRIPTS = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋]+")
_VULGAR_FRACTION = re.compile("[¼-¾⅐-⅞↉]")
_SYMBOLS = {
    "−": "-",
    "–": "-",
    "‐": "-",
    "‑": "-",
    "×": r"\times ",
    "⋅": r"\cdot ",
    "·": r"\cdot ",
    "÷": "/",
    "∕": "/",
    "⁄": "/",
    "≤": r"\le ",
    "≥": r"\ge ",
    "≠": r"\ne ",
    "±": r"\pm ",
    "∞": r"\infty ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "∅": r"\emptyset ",
    "°": r"^\circ ",
    "º": r"^\circ ",
    "ℝ": r"\mathbb{R}",
    "ℤ": r"\mathbb{Z}",
    "ℕ": r"\mathbb{N}",
    "ℚ": r"\mathbb{Q}",
    "ℂ": r"\mathbb{C}",
    "α": r"\alpha ",
    "β": r"\beta ",
    "γ": r"\gamma ",
    "δ": r"\delta ",
    "θ": r"\theta ",
    "λ": r"\lambda ",
    "μ": r"\mu ",
    "π": r"\pi ",
    "ρ": r"\rho ",
    "σ": r"\sigma ",
    "φ": r"\varphi ",
    "ω": r"\omega ",
    "Δ": r"\Delta ",
    "Ω": r"\Omega ",
    "∆": r"\Delta ",
}
_SYMBOL = re.compile("[" + "".join(_SYMBOLS) + "]")
_ROOTS = {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}
_ROOT = re.compile(r"([√∛∜])\s*(\d+(?:\.\d+)?|[A-Za-z]|\\[A-Za-z]+|(?=[({]))")

_NUMPY = {
    **{
        name: rf"\{name}"
        for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "exp", "arcsin", "arccos")
    },
    "arctan": r"\arctan",
    "log": r"\ln",
    "log10": r"\log_{10}",
    "log2": r"\log_{2}",
    "sqrt": r"\sqrt",
    "pi": r"\pi ",
    "e": "e ",
    "inf": r"\infty ",
}
_NUMPY_NAME = re.compile(r"\b(?:np|numpy)\.(" + "|".join(sorted(_NUMPY, key=len)[::-1]) + r")\b")
_FUNCTION_OF_BRACKET = re.compile(r"(\\sqrt(?:\[\d\])?|\^)\s*\(")

_SCIENTIFIC = re.compile(r"(?<![A-Za-z\d.])(\d+(?:\.\d*)?|\.\d+)[eE]([+-]?\d{1,6})(?![A-Za-z\d.])")
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
# Counting words follow a number; these change it (ten, hundred, thousand, 10^4, 10^8, parts of).
_NUMBER_THEN_CJK = re.compile(
    rf"([-+]?\d[\d,.]*)\s*(?:\\text\s*\{{\s*)?((?![十百千万萬亿億兆分成半])[{_CJK}]+)\s*\}}?"
)

_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|mathrm|mathbf|mathit|mathsf|mbox|hbox|bf|rm"
    r"|operatorname|boldsymbol)\s*\{([^{}]*)\}"
)
_DELIMITERS = re.compile(r"\\?\$|(?<!\\)\\[()\[\]]")
_SPACES = re.compile(r"\\[,;:! >]|\\q?quad\b|~|\s+")
_COSMETIC = re.compile(r"\\(?:left|right|big|Big|bigl|bigr|displaystyle|limits|!)(?![A-Za-z])\.?")
_FRACTION = re.compile(r"\\[dtc]?frac(?:\{(\d+)\}|(\d))(?:\{(\d+)\}|(\d))|(\d+)/(\d+)")
_POWER_OF_TEN = re.compile(
    r"(?:(?:^|(?<=[\d.])(?:\\times|\\cdot|\*|x))10\^)(?:\{([+-]?\d{1,6})\}|([+-]?\d{1,6}))$"
)
_DECIMAL = re.compile(r"(?=\.?\d)(\d{1,3}(?:,\d{3})+|\d*)(\.\d*)?")


class Quantity(NamedTuple):
    """A number as written: its exact value, and the place value of its last digit.

    Attributes:
      value: exact.
      last_place: 10^-1 for `41.8`, 10^32 for `4.5e33`; None when written without a decimal point
        and without a power of ten, hence meant exactly.
      significant: digits given, leading zeros apart.
    """

    value: Fraction
    last_place: Fraction | None = None
    significant: int = 0


def normalise(text: str) -> str:
    r"""LaTeX with ASCII spellings: NFKC, Unicode mathematics, `np.` names, `4.5e33`, CJK units.

    Superscripts, subscripts and fractions such as `½` are rewritten before NFKC, which would turn
    x² into x2 and 3½ into 31/2.
    """
    text = _CONTROL.sub(" ", _INVISIBLE.sub("", text))
    text = _SUPERSCRIPTS.sub(lambda m: "^{" + m[0].translate(_SUPERSCRIPT) + "}", text)
    text = _SUBSCRIPTS.sub(lambda m: "_{" + m[0].translate(_SUBSCRIPT) + "}", text)
    text = _VULGAR_FRACTION.sub(_vulgar_fraction, text)
    text = _SYMBOL.sub(lambda m: _SYMBOLS[m[0]], text)
    text = unicodedata.normalize("NFKC", text)
    text = _SYMBOL.sub(lambda m: _SYMBOLS[m[0]], text)
    text = _ROOT.sub(lambda m: _ROOTS[m[1]] + (f"{{{m[2]}}}" if m[2] else ""), text)
    text = _DELIMITERS.sub(" ", text)
    text = text.replace(r"\varnothing", r"\emptyset").replace("{,}", ",")
    text = text.strip("*` ").replace("**", "^")
    text = _NUMPY_NAME.sub(lambda m: _NUMPY[m[1]], text)
    text = _braced_arguments(text)
    text = re.sub(r"(?<=\d)\.(?=\s*/)", "", text)  # 1./3 is Python for a third
    text = _SCIENTIFIC.sub(lambda m: rf"{m[1]}\times 10^{{{int(m[2])}}}", text)
    text = " ".join(text.split())
    counted = _NUMBER_THEN_CJK.fullmatch(text)
    text = counted[1] if counted else text
    return text[:-1].rstrip() if re.search(r"[^.\\]\.$", text) else text


def canonical(text: str) -> str:
    r"""A normalised text without spaces, sizes of brackets and `\text`: for comparing texts."""
    text = normalise(text)
    text = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text)
    text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
    text = _COSMETIC.sub("", unwrap_text(text))
    text = re.sub(r"([_^])\{(\w)\}", r"\1\2", text)
    text = _SPACES.sub(" ", text)
    text = re.sub(r"(?<!\d) | (?!\d)", "", text)
    return re.sub(r"(?<![\d.])0+(?=\d)", "", text) if re.fullmatch(r"-?[\d.]+", text) else text


def unwrap_text(text: str) -> str:
    r"""Removes `\text{}`, `\mathrm{}` and their like around a text."""
    for _ in range(4):
        text, count = _TEXT.subn(r"\1", text)
        if not count:
            break
    return text


def as_words(text: str) -> str | None:
    r"""The words that a normalised text consists of, in lower case; None when it is mathematics.

    Words are what stands in `\text{}`, or letters too many to be a product of variables: four, or
    one of the usual short answers. Math-verify reads bare words as products of letters, in which
    the order does not count.
    """
    plain = " ".join(unwrap_text(text).split()).strip(" .")
    if not re.fullmatch(r"[A-Za-z][A-Za-z'’\- ,]*", plain) or len(plain) < 2:
        return None
    marked = _TEXT.fullmatch(text.strip()) is not None
    long = any(len(word) >= 4 for word in re.findall(r"[A-Za-z]+", plain))
    short = plain.lower() in {"yes", "no", "odd", "red", "two", "one", "six", "ten"}
    return plain.lower() if marked or long or short else None


def as_quantity(text: str) -> Quantity | None:
    r"""The number that a normalised text is; None for anything else.

    Integers and decimals (`1,234.5`), with a power of ten (`4.5\times 10^{33}`, `10^{-3}`), and
    fractions of integers (`\frac{1}{3}`, `1/3`). Exact, and bounded in size.
    """
    text = unwrap_text(text)
    if re.search(r"\d\s+\d", text) and not re.fullmatch(r"[-+]?\d{1,3}(?: \d{3})+", text.strip()):
        return None
    text = _SPACES.sub("", _COSMETIC.sub("", text))
    sign = -1 if text.startswith("-") else 1
    text = text[1:] if text[:1] in {"-", "+"} else text
    fraction = _FRACTION.fullmatch(text)
    if fraction is not None:
        top, bottom = (int(group) for group in fraction.groups() if group is not None)
        return Quantity(Fraction(sign * top, bottom)) if bottom else None
    power = _POWER_OF_TEN.search(text)
    exponent = int(power[1] or power[2]) if power else 0
    mantissa = text[: power.start()] if power else text
    decimal = _DECIMAL.fullmatch(mantissa or "1")
    if not text or decimal is None or len(mantissa) > _MAX_DIGITS or abs(exponent) > _MAX_EXPONENT:
        return None
    places = len(decimal[2] or ".") - 1
    digits = (decimal[1] or "").replace(",", "") + (decimal[2] or ".")[1:]
    unit = Fraction(10) ** (exponent - places)
    measured = mantissa and (places or power)
    return Quantity(sign * int(digits) * unit, unit if measured else None, len(digits.lstrip("0")))


def _vulgar_fraction(match: re.Match[str]) -> str:
    top, _, bottom = unicodedata.normalize("NFKC", match[0]).partition("⁄")
    return rf"\frac{{{top}}}{{{bottom}}}"


def _braced_arguments(text: str) -> str:
    r"""Writes `\sqrt(x)` and `a^(b)` with the braces that LaTeX wants."""
    for _ in range(8):
        match = _FUNCTION_OF_BRACKET.search(text)
        if match is None:
            break
        depth = 0
        for at in range(match.end() - 1, len(text)):
            depth += {"(": 1, ")": -1}.get(text[at], 0)
            if depth == 0:
                inside = text[match.end() : at]
                text = text[: match.start()] + f"{match[1]}{{{inside}}}" + text[at + 1 :]
                break
        else:
            break
    return text
