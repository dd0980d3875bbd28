"""Rounds on disk: every completion that was learnt from, readable without this package."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

from curiojax.data.prompts import PromptData
from curiojax.rewards.pool import Grade
from curiojax.rollout.base import Completion
from curiojax.training.rounds import Group, Round


def round_path(directory: Path, step: int) -> Path:
    """Where the round of a step (from 0) is kept; numbered from 1, as in metrics.jsonl."""
    return directory / "rollouts" / f"step_{step + 1:06d}.jsonl.zst"


def write_round(
    path: Path, found: Round, prompts: PromptData, texts: Sequence[Sequence[str]]
) -> None:
    """Writes one JSON object per completion, compressed; appears under its name when whole.

    Each holds `id` (the record's), `messages` (the prompt), `sample`, `text`, `tokens`,
    `log_probs`, `given` (how many of the tokens were not drawn but given; they have log-prob 0),
    `finish_reason`, `version`, the parts of the reward and `ground_truth`.
    """
    import zstandard

    buffer = io.StringIO()
    for group, group_texts in zip(found.groups, texts, strict=True):
        rows = zip(group.completions, group.grades, group.given, group_texts, strict=True)
        for sample, (completion, grade, given, text) in enumerate(rows):
            line = {
                "id": prompts.names[group.prompt],
                "prompt_index": group.prompt,
                "messages": prompts.messages[group.prompt],
                "sample": sample,
                "text": text,
                **grade._asdict(),
                "finish_reason": completion.finish_reason,
                "ground_truth": prompts.ground_truths[group.prompt],
                "version": completion.version,
                "tokens": completion.tokens,
                "log_probs": completion.log_probs,
                "given": given,
            }
            buffer.write(json.dumps(line, ensure_ascii=False) + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    data = buffer.getvalue().encode("utf-8", "surrogatepass")
    temporary.write_bytes(zstandard.ZstdCompressor().compress(data))
    temporary.replace(path)


def read_round(path: Path, *, sampled: int | None = None) -> Round | None:
    """What `write_round` wrote; None if there is no such file, or it is not whole."""
    import zstandard

    try:
        data = zstandard.ZstdDecompressor().decompress(path.read_bytes())
        text = data.decode("utf-8", "surrogatepass")
        lines = [json.loads(line) for line in text.split("\n") if line]
    except (OSError, ValueError, zstandard.ZstdError):
        return None
    groups: list[Group] = []
    for line in lines:
        if line["sample"] == 0:
            groups.append(Group(line["prompt_index"], [], [], []))
        group = groups[-1]
        keys = ("tokens", "log_probs", "finish_reason", "version")
        group.completions.append(Completion(**{key: line[key] for key in keys}))
        group.grades.append(Grade(**{key: line[key] for key in Grade._fields}))
        group.given.append(line.get("given", 0))
    if not groups:
        return None
    return Round(groups, groups[0].completions[0].version, sampled or len(groups))


def forget_rounds(directory: Path, keep: int | None, step: int) -> None:
    """Deletes the rounds that are older than the last `keep` steps; None keeps all."""
    if keep is None:
        return
    for path in (directory / "rollouts").glob("step_*.jsonl.zst"):
        number = path.name.removeprefix("step_").split(".")[0]
        if number.isdigit() and int(number) <= step + 1 - keep:
            path.unlink(missing_ok=True)
