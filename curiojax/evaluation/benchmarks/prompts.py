r"""What the user's message says: questions with options, and prompts of the user's own.

ARC and MMLU-Pro ask without an instruction, as LUFFY's file of ARC does: how to answer is the
business of the system prompt, which asks for a box. GPQA has an instruction of the kind that it
has had since OpenAI's simple-evals, which LUFFY's file has too, in words of ours.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from curiojax.errors import ConfigError

LETTERS = "ABCDEFGHIJ"

GPQA_INSTRUCTION = (
    "The question below comes with four options, of which one is correct. Think step by step, and "
    "end your response with a line that reads 'ANSWER: $LETTER' (without the quotes), where "
    "LETTER is A, B, C or D."
)

# Not after a LaTeX command: in `\boxed{answer}` the braces are LaTeX's.
_PLACEHOLDER = re.compile(r"(\\[A-Za-z]+\s*)?\{([^{}\n]+)\}")


def with_options(question: str, options: Sequence[str]) -> str:
    """`question`, an empty line, and a line `A) option` for each."""
    lines = [f"{letter}) {text}" for letter, text in zip(LETTERS, options, strict=False)]
    return f"{question}\n\n" + "\n".join(lines)


def check_prompt(prompt: str, columns: Sequence[str], telling: Collection[str], where: str) -> None:
    """Refuses a prompt that shows no question, or one of the columns that tell the answer.

    Raises:
      ConfigError: naming `where`.
    """
    names = {name for command, name in _PLACEHOLDER.findall(prompt) if not command}
    for name in sorted(names & {*telling} & {*columns}):
        raise ConfigError(f"{where}: {{{name}}} would tell the answer; take it out")
    if not names & {"question", *columns}:
        raise ConfigError(
            f"{where}: shows nothing of the question; write {{question}} or one of the columns "
            f"{', '.join(columns)} in braces"
        )


def fill(prompt: str, values: Mapping[str, str]) -> str:
    """Replaces `{name}` where there is such a value; all other braces stay, and values as well."""

    def value_of(match: re.Match[str]) -> str:
        command, name = match.groups()
        return match[0] if command or name not in values else values[name]

    return _PLACEHOLDER.sub(value_of, prompt)
