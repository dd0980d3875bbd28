"""The JSON of the reward server that the paper's released client talks to.

That client posts batches to `/process_batch` and puts `score` into its rewards. Scores follow its
server's rule: version 0 has no format rule and reads the whole text, every other version wants a
`</think>` and lets math-verify read what follows the last one; `oat_grader` adds the second grader.
Different here: an item that cannot be read, is too long or takes too long has its `error`, and the
rest of the batch is graded; `enable_timeout` is ignored, because everything has a deadline.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curiojax.rewards.pool import Grade, Item
from curiojax.rewards.transport import echoed

# By (version 0, oat_grader).
_VERIFIERS = {
    (False, True): "released",
    (False, False): "math_verify",
    (True, True): "released_whole_text",
    (True, False): "math_verify_whole_text",
}
_ERRORS = {
    "unverifiable": "the ground truth cannot be compared with",
    "error": "the verifier failed",
    "timeout": "Task timeout",
    "memory": "the comparison took too much memory",
    "crash": "the comparison ended the worker",
    "too_long": "the response is too long",
}


def read_item(data: Any) -> Item:
    """The item of an entry of `items`.

    Raises:
      ValueError: says what is wrong with it.
    """
    if not isinstance(data, Mapping):
        raise ValueError("an item is an object")
    for name in ("sequences_str", "ground_truth"):
        if not isinstance(data.get(name), str):
            raise ValueError(f"{name} is missing or no text")
    whole_text = not data.get("reward_impl_version", 1)
    source = data.get("data_source")
    is_code = isinstance(source, str) and source.startswith("codegen")
    return Item(
        data["sequences_str"],
        data["ground_truth"],
        verifier=_VERIFIERS[whole_text, bool(data.get("oat_grader")) and not is_code],
        format="none" if whole_text else "released",
    )


def write_result(data: Any, outcome: Grade | str) -> dict[str, Any]:
    """The entry of `results` for an entry of `items`; `outcome` is its grade or what is wrong."""
    data = data if isinstance(data, Mapping) else {}
    if isinstance(outcome, str):
        score, error, extracted = 0.0, outcome, ""
    else:
        score, error = outcome.reward, _ERRORS.get(outcome.status)
        extracted = (outcome.format_ok and outcome.extracted) or ""
    return {
        "i": echoed(data.get("i", -1)),
        "score": score,
        "valid_response_length": echoed(data.get("valid_response_length", 0)),
        "error": error,
        "extracted_answers": extracted,
    }
