r"""What the model is asked: the prompt around a question, and the key a reply is kept under."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curiojax.errors import ConfigError

PLACEHOLDER = "{question}"

# The rephrase prompt of CurioSFT (arXiv 2602.02244, Table 8).
TABLE_8 = r"""I will provide a post from a math-related forum that contains a math problem. Your \
task is to extract only the math problem statement and remove any irrelevant or noisy content \
(e.g., commentary, solutions, chat, metadata). Keep the original wording and question type intact, \
and present the extracted problem clearly and concisely. Remove any redundant context, personal \
commentary, anecdotes, or unrelated information. But make sure not to change the meaning of the \
problem and keep all necessary mathematical or technical details.

Here are a few examples.

Example 1:

Input:

What is the remainder of $8^6 + 7^7 + 6^8$ is divided by 5?

no calculator, of course, paper isn't needed either, but sure.

Output:

What is the remainder of $8^6 + 7^7 + 6^8$ when divided by 5?

Example 2:

Input:

(20 points) Let x, y be non-zero real numbers, and satisfy $\frac{x \sin \frac{\pi}{5} + y \cos \
\frac{\pi}{5}}{x \cos \frac{\pi}{5} - y \sin \frac{\pi}{5}} = \tan \frac{9\pi}{20}$. (1) Find the \
value of $\frac{y}{x}$;

Output:

Let x, y be non-zero real numbers, and satisfy $\frac{x \sin \frac{\pi}{5} + y \cos \
\frac{\pi}{5}}{x \cos \frac{\pi}{5} - y \sin \frac{\pi}{5}} = \tan \frac{9\pi}{20}$. Find the \
value of $\frac{y}{x}$.

Now, here is the text you need to extract the problem.

Input:

{question}

Output:""".replace("\\\n", "")


@dataclass(frozen=True)
class Template:
    """A prompt with one `{question}` in it; other braces are text.

    Attributes:
      text: the prompt.
      digest: what it is known by: the first 16 hex digits of its SHA-256.

    Raises:
      ConfigError: not exactly one `{question}`.
    """

    text: str = TABLE_8
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        found = self.text.count(PLACEHOLDER)
        if found != 1:
            raise ConfigError(
                f"--template: it holds {PLACEHOLDER} {found} times; write it once, where the "
                "question goes"
            )
        digest = hashlib.sha256(self.text.encode()).hexdigest()[:16]
        object.__setattr__(self, "digest", digest)

    def render(self, question: str) -> str:
        """The prompt for a question, which is not searched for placeholders."""
        before, _, after = self.text.partition(PLACEHOLDER)
        return before + question + after


def read_template(path: str | Path | None) -> Template:
    """The template in a text file (one final newline is not part of it), or Table 8 for None.

    Raises:
      ConfigError: no such file, not UTF-8, or not exactly one `{question}` in it.
    """
    if path is None:
        return Template()
    try:
        return Template(Path(path).read_text(encoding="utf-8").removesuffix("\n"))
    except OSError as error:
        raise ConfigError(f"--template: cannot read {path} ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"--template: {path} is no UTF-8 text") from None


def sampling_fields(temperature: float, max_tokens: int, extra: str) -> dict[str, Any]:
    """The fields of a request's body but `model` and `messages`.

    Args:
      temperature, max_tokens: two of them.
      extra: more of them as a JSON object; null takes one away.

    Raises:
      ConfigError: no JSON object, or with fields that are not the user's to set.
    """
    try:
        more = json.loads(extra)
    except ValueError:
        more = None
    if not isinstance(more, dict):
        raise ConfigError("--extra: not a JSON object; write it as '{\"top_p\": 0.9}'")
    for name in ("model", "messages", "stream", "n"):
        if name in more:
            raise ConfigError(f"--extra: {name} is not for it; leave it out")
    fields = {"temperature": temperature, "max_tokens": max_tokens, **more}
    return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True)
class Request:
    """A chat completion as it is asked for, but for the question.

    Attributes:
      model: its name at the endpoint.
      template: the prompt.
      sampling: all fields of the body but `model` and `messages`.
    """

    model: str
    template: Template
    sampling: dict[str, Any]

    def prompt(self, question: str) -> str:
        return self.template.render(question)

    def body(self, question: str) -> dict[str, Any]:
        """The JSON body of the request: one message of the user."""
        messages = [{"role": "user", "content": self.prompt(question)}]
        return {"model": self.model, "messages": messages, **self.sampling}

    def key(self, question: str) -> str:
        """SHA-256 over everything that the reply depends on, 64 hex digits."""
        parts = [self.model, self.sampling, self.template.digest, question]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("ascii")).hexdigest()

    @property
    def max_reply_tokens(self) -> int | None:
        """The limit on a reply's tokens, or None if the body sets none."""
        names = ("max_completion_tokens", "max_tokens")
        limits = [self.sampling[n] for n in names if isinstance(self.sampling.get(n), int)]
        return max(limits) if limits else None
