r"""Format rules: what a response has to look like for its answer to count."""

from __future__ import annotations

from typing import Literal, get_args

from curiojax.errors import ConfigError
from curiojax.rewards.answers import MAX_RESPONSE_CHARS, THINK_CLOSE, THINK_OPEN, boxes, unbox

FormatRule = Literal["strict", "released", "none"]
FORMAT_RULES: tuple[FormatRule, ...] = get_args(FormatRule)


def check_format(rule: FormatRule, response: str, *, finished: bool = True) -> bool:
    r"""Whether a response satisfies a format rule.

    `strict`, for training with the prompt's own `<think>` already open:
      1. exactly one `</think>`;
      2. no `<think>`, except one at the very start for models that open the block themselves;
      3. after `</think>` a balanced, non-empty `\boxed{}` (an `\fbox{}` does not do);
      4. the response ended by itself: `finished`;
      5. at most `MAX_RESPONSE_CHARS` characters.
      What stands between the tags is free, and may be empty.
    `released`: the text contains `</think>`, as the released training code asks.
    `none`: everything goes, as in the released evaluation.

    Args:
      rule: the rule's name.
      response: the response's text, without the prompt.
      finished: whether the response ended with an end-of-sequence token rather than at the limit
        of its length.

    Raises:
      ConfigError: for an unknown rule.
    """
    if rule == "none":
        return True
    if rule == "released":
        return THINK_CLOSE in response
    if rule != "strict":
        raise ConfigError(
            f"reward.format: unknown rule {rule!r}; it is one of {', '.join(FORMAT_RULES)}"
        )
    if not finished or len(response) > MAX_RESPONSE_CHARS or response.count(THINK_CLOSE) != 1:
        return False
    reasoning, _, section = response.partition(THINK_CLOSE)
    if THINK_OPEN in reasoning.lstrip().removeprefix(THINK_OPEN) or THINK_OPEN in section:
        return False
    found = [box for box in boxes(section) if "\\boxed" in section[box.start : box.start + 12]]
    return any(unbox(box.content).strip(" $") for box in found)
