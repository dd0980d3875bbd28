"""Records to token ids.

The prompt and the response are tokenised separately and joined. Tokenised as one text, the last
characters of the prompt and the first of the response could merge into a token that a model which
is only given the prompt never sees; the same `encode_prompt` serves training and generation.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from curiojax.data import templates
from curiojax.errors import ConfigError

PROMPT_TOO_LONG = "prompt too long"
RESPONSE_TOO_LONG = "response too long"
NO_RESPONSE = "no response"
EMPTY_PROMPT = "empty prompt"
_KEPT = ""
REASONS = (_KEPT, PROMPT_TOO_LONG, RESPONSE_TOO_LONG, NO_RESPONSE, EMPTY_PROMPT)

# What is counted about the records that are kept.
COUNTS = ("truncated", "duplicated_think", "unclosed_think", "unknown_tokens")


def encode_text(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts, without special tokens around them and never cut."""
    if not texts:
        return []
    return tokenizer(
        list(texts), add_special_tokens=False, truncation=False, padding=False, verbose=False
    )["input_ids"]


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts a beginning-of-sequence token before a text by itself."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a")["input_ids"][:1] == [bos]


def encode_prompt(
    template: str, prompt_messages: Sequence[templates.Message], tokenizer: Any
) -> list[int]:
    """`encode_prompts` of one prompt."""
    return encode_prompts(template, [prompt_messages], tokenizer)[0]


def encode_prompts(
    template: str, prompts: Sequence[Sequence[templates.Message]], tokenizer: Any
) -> list[list[int]]:
    """Token ids that responses continue, as trained on.

    A model whose tokenizer opens every text with a beginning-of-sequence token (Llama 3) has never
    seen a text without it, so the prompt of a template written out here gets it. With `model` the
    chat template says what is opened with, and nothing is added.

    Raises:
      ConfigError: see `templates.render`.
    """
    texts = [templates.render(template, messages, tokenizer) for messages in prompts]
    return _with_bos(template, tokenizer, encode_text(tokenizer, texts))


def _with_bos(template: str, tokenizer: Any, prompts: list[list[int]]) -> list[list[int]]:
    if template == "model" or not adds_bos(tokenizer):
        return prompts
    bos = tokenizer.bos_token_id
    return [ids if not ids or ids[0] == bos else [bos, *ids] for ids in prompts]


@dataclass(frozen=True)
class Chunk:
    """Some records as token ids.

    Attributes:
      tokens: int32, prompt then response of each kept record, one after the other.
      prompt_lengths, lengths: int64 [kept].
      rows: int64 [kept], the record each came from.
      reasons: int64 [len(REASONS)], how many records met which fate.
      counts: int64 [len(COUNTS)].
      error: why the whole data set is refused, or "".
    """

    tokens: np.ndarray
    prompt_lengths: np.ndarray
    lengths: np.ndarray
    rows: np.ndarray
    reasons: np.ndarray
    counts: np.ndarray
    error: str = ""


@dataclass(frozen=True)
class Encoder:
    """Turns records into token ids; a pure function that worker processes can be sent.

    Attributes:
      tokenizer: a Hugging Face tokenizer with an end-of-sequence token.
      template: see `curiojax.data.templates`.
      max_prompt_tokens: longer prompts are dropped.
      max_response_tokens: the end-of-sequence token counts.
      overlong: `drop`; `truncate`, which cuts responses (and the end-of-sequence token with them,
        as released: a cut text must not teach the model to stop) but still drops prompts; or
        `error`.
      limit_field: what the config calls the limit of responses, for the message of `error`.
    """

    tokenizer: Any
    template: str
    max_prompt_tokens: int
    max_response_tokens: int
    overlong: Literal["drop", "truncate", "error"]
    limit_field: str = "data.max_response_tokens"

    def check(self) -> None:
        """Raises a ConfigError if the tokenizer cannot do what the template needs."""
        if self.tokenizer.eos_token_id is None:
            raise ConfigError(
                "model.path: the tokenizer has no end-of-sequence token, which every response ends "
                "with; set eos_token in its tokenizer_config.json"
            )
        templates.check_template(self.template, self.tokenizer)

    def __call__(self, records: Sequence[dict[str, Any]], first: int = 0) -> Chunk:
        """Token ids of records; `first` is the number of the first of them."""
        try:
            return self._encode(records, first)
        except ConfigError as error:
            # Threads and worker processes would wrap the exception beyond recognition.
            empty = np.zeros(0, np.int64)
            reasons, counts = np.zeros(len(REASONS), np.int64), np.zeros(len(COUNTS), np.int64)
            tokens = empty.astype(np.int32)
            return Chunk(tokens, empty, empty, empty, reasons, counts, str(error))

    def _encode(self, records: Sequence[dict[str, Any]], first: int) -> Chunk:
        tokenizer, eos = self.tokenizer, self.tokenizer.eos_token_id
        texts = [templates.render(self.template, r["prompt"], tokenizer) for r in records]
        answers = [
            templates.strip_opening(text, record["response"])
            for text, record in zip(texts, records, strict=True)
        ]
        prompts = _with_bos(self.template, tokenizer, encode_text(tokenizer, texts))
        responses = encode_text(tokenizer, answers)
        pieces, prompt_lengths, rows = [], [], []
        reasons, counts = np.zeros(len(REASONS), np.int64), np.zeros(len(COUNTS), np.int64)
        for index, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            # Some data sets write the token out at the end of the text.
            if response and response[-1] != eos:
                response.append(eos)
            reason = self._reason(prompt, response, answers[index])
            if self.overlong == "error" and reason in (PROMPT_TOO_LONG, RESPONSE_TOO_LONG):
                part = "prompt" if reason == PROMPT_TOO_LONG else "response"
                size = len(prompt) if part == "prompt" else len(response)
                field = "data.max_prompt_tokens" if part == "prompt" else self.limit_field
                raise ConfigError(
                    f"data.overlong: record {records[index]['id']} has {size} {part} tokens, more "
                    f"than {field}; raise it, or set data.overlong=drop"
                )
            reasons[REASONS.index(reason)] += 1
            if reason != _KEPT:
                continue
            ids = prompt + response[: self.max_response_tokens]
            counts += self._count(texts[index], answers[index], ids, len(response))
            pieces.append(np.asarray(ids, np.int32))
            prompt_lengths.append(len(prompt))
            rows.append(first + index)
        return Chunk(
            np.concatenate([np.zeros(0, np.int32), *pieces]),
            np.asarray(prompt_lengths, np.int64),
            np.asarray([len(piece) for piece in pieces], np.int64),
            np.asarray(rows, np.int64),
            reasons,
            counts,
        )

    def _reason(self, prompt: list[int], response: list[int], answer: str) -> str:
        if not prompt:
            return EMPTY_PROMPT
        if not answer.strip():
            return NO_RESPONSE
        if len(prompt) > self.max_prompt_tokens:
            return PROMPT_TOO_LONG
        if len(response) > self.max_response_tokens and self.overlong != "truncate":
            return RESPONSE_TOO_LONG
        return _KEPT

    def _count(self, text: str, answer: str, ids: list[int], length: int) -> np.ndarray:
        opened = re.search(r"<think>\s*(</think>\s*)?\Z", text)
        unknown = self.tokenizer.unk_token_id
        # GPT-2 and its kin name the end-of-sequence token as the unknown one, and never use it so.
        unknown = -1 if unknown is None or unknown == self.tokenizer.eos_token_id else unknown
        return np.asarray(
            [
                length > self.max_response_tokens,
                opened is not None and answer.lstrip().startswith("<think>"),
                opened is not None and opened[1] is None and "</think>" not in answer,
                ids.count(unknown),
            ],
            np.int64,
        )


def warnings(counts: dict[str, int], num_records: int, max_response_tokens: int) -> list[str]:
    """What a user should look at, one sentence each."""
    of = f"of {num_records} records"
    texts = {
        "truncated": f"{{n}} {of} were cut at {max_response_tokens} response tokens; they end "
        "without an end-of-sequence token, so the model is not taught to stop there",
        "duplicated_think": f"{{n}} {of} open <think> twice: at the end of the prompt and again in "
        "the response; check data.template",
        "unclosed_think": f"{{n}} {of} never close the <think> that the prompt opens; the data may "
        "hold answers without reasoning: check data.template",
        "unknown_tokens": "{n} tokens are unknown to the tokenizer; it may not be the one this "
        "data is for",
    }
    return [texts[name].format(n=counts[name]) for name in COUNTS if counts.get(name)]


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A hash of everything that decides how texts and prompts become ids."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = json.loads(backend.to_str())
        # A call that pads or cuts leaves its settings behind; the calls here override both.
        rules.update(truncation=None, padding=None)
    else:
        rules = {"class": type(tokenizer).__name__, "vocab": tokenizer.get_vocab()}
    described = {
        "rules": rules,
        "chat_template": tokenizer.chat_template,
        "special": [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id],
        "adds_bos": adds_bos(tokenizer),
    }
    text = json.dumps(described, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
