"""Completions of a benchmark's questions, written down as they are sampled.

`completions/<benchmark>.jsonl` holds a header and one line per completion; the completions of one
question are appended together. A run that is continued samples only the questions that are missing.
The draws of a question depend on the seed, the benchmark's name and the question's id, so that they
are the same whatever else is sampled beside it.
"""

from __future__ import annotations

import hashlib
import sys
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curiojax.data.encoding import encode_prompts
from curiojax.errors import ConfigError
from curiojax.evaluation.journal import Journal, check_header
from curiojax.evaluation.questions import Benchmark, Finish
from curiojax.rollout.base import Completion, Rollout, Sampling

VERSION = 1
# Questions of one call of the engine: bounds what is held in memory, and costs one tail per call.
QUESTIONS_PER_CALL = 2048


@dataclass(frozen=True)
class Answer:
    """One completion as it was sampled.

    Attributes:
      text: without special tokens.
      tokens: ids, the stop id included; an array, for a benchmark has millions of them.
      finish: as in `curiojax.evaluation.questions.Sample`.
    """

    text: str
    tokens: array[int]
    finish: Finish


class CompletionFile:
    """The completions of one benchmark, on disk and in memory.

    Attributes:
      prompts: token ids by question id.
      answers: for every question id that is through, its completions by sample index.
    """

    def __init__(
        self,
        path: Path,
        identity: Mapping[str, Any],
        prompts: Mapping[str, Sequence[int]],
        samples: int,
    ):
        """Opens the file, or begins it.

        Args:
          identity: what the completions depend on: model, sampling, template; plain JSON values.
          prompts: token ids by question id; completions of other questions stay unread.
          samples: completions per question.

        Raises:
          ConfigError: the file holds something else.
        """
        self.answers: dict[str, list[Answer]] = {}
        self._partial: dict[str, list[Answer]] = {}
        self.path = path
        self.prompts, self._samples = prompts, samples
        self._journal = Journal(path, _header(identity, samples), self._take)
        # A kill may have cut a question's completions short; they are sampled again, and the last
        # ones in the file count.
        self._partial.clear()

    def append(self, question: str, answers: Sequence[Answer]) -> None:
        """Adds the completions of a question; they are on disk when this returns."""
        self.answers[question] = list(answers)
        self._journal.append(
            {
                "question": question,
                "prompt": _digest(self.prompts[question]),
                "sample": sample,
                "text": answer.text,
                "finish": answer.finish,
                "tokens": answer.tokens.tolist(),
            }
            for sample, answer in enumerate(answers)
        )

    def close(self) -> None:
        self._journal.close()

    def __enter__(self) -> CompletionFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _take(self, line: dict[str, Any]) -> None:
        question = line["question"]
        if question not in self.prompts:  # of a run with a larger limit
            return
        if line["prompt"] != _digest(self.prompts[question]):
            raise ConfigError(
                f"output_dir: question {question} of {self.path} had another prompt; was the "
                "benchmark's file changed? choose another folder"
            )
        if line["sample"] == 0:
            self._partial[question] = []
        group = self._partial[question]
        if line["sample"] != len(group):
            raise ValueError("out of order")
        group.append(Answer(line["text"], array("i", line["tokens"]), line["finish"]))
        if len(group) == self._samples:
            self.answers[question] = self._partial.pop(question)


def check_completions(path: Path, identity: Mapping[str, Any], samples: int) -> None:
    """Raises a `ConfigError` when the file is there and holds something else; writes nothing."""
    check_header(path, _header(identity, samples))


def _header(identity: Mapping[str, Any], samples: int) -> dict[str, Any]:
    return {"version": VERSION, **identity, "samples": samples}


def encode_questions(benchmark: Benchmark, template: str, tokenizer: Any) -> dict[str, list[int]]:
    """The rendered prompt of every question, by id."""
    messages = [question.messages for question in benchmark.questions]
    encoded = encode_prompts(template, messages, tokenizer)
    for question, ids in zip(benchmark.questions, encoded, strict=True):
        if not ids:
            raise ConfigError(
                f"benchmarks: question {question.id} of {benchmark.name} has an empty prompt; "
                "remove it, or choose another template"
            )
    return {q.id: ids for q, ids in zip(benchmark.questions, encoded, strict=True)}


def fits(prompt: Sequence[int], max_response_tokens: int, context: int) -> bool:
    """Whether a prompt leaves room for a whole response."""
    return len(prompt) + max_response_tokens <= context


def check_room(
    benchmark: Benchmark,
    prompts: Mapping[str, Sequence[int]],
    max_response_tokens: int,
    context: int,
) -> None:
    """Refuses a benchmark of which no question could be answered, and warns of single ones.

    Raises:
      ConfigError: no prompt leaves room for a whole response in the model's context.
    """
    long = [len(ids) for ids in prompts.values() if not fits(ids, max_response_tokens, context)]
    shortest = min(map(len, prompts.values()))
    if len(long) == len(prompts):
        remedy = (
            f"lower it to {context - shortest} or less, or "
            if context > shortest
            else "choose another model, or "
        )
        raise ConfigError(
            f"max_response_tokens: {max_response_tokens} after the shortest prompt of "
            f"{benchmark.name}, {shortest} tokens, exceed the model's context of {context}; "
            f"{remedy}extend the context with model.max_position_embeddings (and model.rope_theta)"
        )
    if long:
        print(
            f"warning: {len(long)} of {len(prompts)} questions of {benchmark.name} count as wrong, "
            f"since prompt and max_response_tokens exceed the model's context of {context}",
            file=sys.stderr,
        )


def missing(benchmark: Benchmark, file: CompletionFile) -> list[str]:
    """Ids of the questions without completions."""
    return [q.id for q in benchmark.questions if q.id not in file.answers]


def generate(
    benchmark: Benchmark,
    file: CompletionFile,
    engine: Rollout | None,
    sampling: Sampling,
    *,
    seed: int,
    context: int,
    decode: Callable[[list[list[int]]], list[str]],
    progress: Callable[..., None] | None = None,
) -> None:
    """Samples what `file` lacks.

    Args:
      engine: None is enough where nothing fits the context.
      context: the model's positions. A question whose prompt leaves no room for a whole response
        gets empty completions that finish as `prompt_too_long`: it counts as wrong, and is counted.
      decode: token ids to texts, without special tokens.
      progress: called with (completions done, in all, **statistics) after every question.
    """
    prompts = file.prompts
    total = len(benchmark.questions) * sampling.n
    for question in missing(benchmark, file):
        if not fits(prompts[question], sampling.max_tokens, context):
            file.append(question, [Answer("", array("i"), "prompt_too_long")] * sampling.n)
    todo = missing(benchmark, file)
    begun, drawn = time.monotonic(), 0
    if todo and progress is not None:  # until the first question is through may take minutes
        progress(len(file.answers) * sampling.n, total)

    def keep(question: str, completions: Sequence[Completion]) -> None:
        nonlocal drawn
        texts = decode([c.tokens for c in completions])
        rows = zip(texts, completions, strict=True)
        file.append(question, [Answer(t, array("i", c.tokens), c.finish_reason) for t, c in rows])
        drawn += sum(len(c.tokens) for c in completions)
        if progress is not None:
            rate = drawn / max(time.monotonic() - begun, 1e-9)
            progress(len(file.answers) * sampling.n, total, tokens_per_second=rate)

    for start in range(0, len(todo), QUESTIONS_PER_CALL):
        part = todo[start : start + QUESTIONS_PER_CALL]
        assert engine is not None
        engine.generate(
            [prompts[question] for question in part],
            sampling,
            number(f"{seed}/{benchmark.name}"),
            on_group=lambda i, group, part=part: keep(part[i], group),
            keys=[number(question) for question in part],
        )


def _digest(prompt: Sequence[int]) -> str:
    return f"{number(','.join(map(str, prompt))):08x}"


def number(text: str) -> int:
    """A whole number below 2^31 that stands for a text in the seeds of draws."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 33
