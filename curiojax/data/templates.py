r"""Prompt templates by name: how the messages of a prompt become text.

`curio`  the training prompt of CurioSFT (arXiv 2602.02244, Table 7): its system prompt, the
         question after "Here is the question: ", and an assistant turn that opens with `<think>\n`.
         The paper prints the opening tag; the released code cuts `<think>\n` off the targets, so
         the newline belongs to the prompt.
`luffy`  the system prompt that the records of LUFFY's data carry (Elliott/Openr1-Math-46k-8192;
         github.com/ElliottYan/LUFFY, data/valid.parquet), the bare question, and the same opening.
`qwen`   Qwen2.5-Math's chain-of-thought prompt: a one-line system prompt, the bare question, and an
         assistant turn without an opening tag.
`model`  the tokenizer's own chat template with its generation prompt, and nothing else.
`plain`  the contents of the messages as they are, one per line.

The first three are ChatML written out as text. Their system prompt replaces one that the record
brings along (LUFFY's data does), so that one name always means one prompt; earlier turns of a
conversation are kept. `model` and `plain` keep every message.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from curiojax.errors import ConfigError

CURIO_SYSTEM = r"""You are an exceptional mathematician. Your task is to solve mathematical \
questions through a systematic and thorough reasoning process. This involves careful analysis, \
exploration of possible approaches, verification of intermediate steps, critical reassessment, and \
iterative refinement of your reasoning process.

Structure your response in two distinct sections: "Thought" and "Solution". In the "Thought" \
section, present your detailed reasoning process in the following format:
<think>
Your detailed reasoning, including brainstorming, logical deductions, verification, and refinement \
of ideas.
</think>
This section must conclude with "</think>", and should reflect deep, reflective, and \
self-correcting thinking process.
In the "Solution" section, following the "</think>", concisely draw the final, logical, and \
accurate answer from your reasoning.

Please output your final answer within \boxed{ }.""".replace("\\\n", "")

LUFFY_SYSTEM = r"""Your task is to follow a systematic, thorough reasoning process before \
providing the final solution. This involves analyzing, summarizing, exploring, reassessing, and \
refining your thought process through multiple iterations. Structure your response into two \
sections: Thought and Solution. In the Thought section, present your reasoning using the format: \
"<think>
 {thoughts} </think>
". Each thought should include detailed analysis, brainstorming, verification, and refinement of \
ideas. After "</think>
," in the Solution section, provide the final, logical, and accurate answer, clearly derived from \
the exploration in the Thought section. If applicable, include the answer in \boxed{} for \
closed-form results like multiple choices or mathematical solutions.""".replace("\\\n", "")

QWEN_SYSTEM = r"Please reason step by step, and put your final answer within \boxed{}."

CURIO_QUESTION = "Here is the question: "

# name -> (system prompt, text before the question, text that opens the assistant's turn)
_CHATML = {
    "curio": (CURIO_SYSTEM, CURIO_QUESTION, "<think>\n"),
    "luffy": (LUFFY_SYSTEM, "", "<think>\n"),
    "qwen": (QWEN_SYSTEM, "", ""),
}
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
TEMPLATES = (*_CHATML, "model", "plain")

Message = dict[str, str]


def render(template: str, prompt_messages: Sequence[Message], tokenizer: Any = None) -> str:
    """The prompt as text, up to where the response starts.

    Args:
      template: one of `TEMPLATES`.
      prompt_messages: `{role, content}` with roles system, user and assistant.
      tokenizer: a Hugging Face tokenizer; only `model` reads it.

    Raises:
      ConfigError: unknown template, or `model` with a tokenizer that has no chat template or whose
        template refuses the messages.
    """
    if template == "plain":
        return "\n".join(message["content"] for message in prompt_messages)
    if template == "model":
        return _render_model(prompt_messages, tokenizer)
    if template not in _CHATML:
        raise ConfigError(
            f"data.template: unknown template {template!r}; choose one of {', '.join(TEMPLATES)}"
        )
    system, before_question, opening = _CHATML[template]
    turns = [{"role": "system", "content": system}]
    for message in prompt_messages:
        if message["role"] == "system":
            continue
        content = message["content"]
        # Only the first question is announced, and never twice: the authors' own data may carry
        # the announcement already.
        if len(turns) == 1 and not content.startswith(before_question):
            content = before_question + content
        turns.append({"role": message["role"], "content": content})
    text = "".join(f"<|im_start|>{t['role']}\n{t['content']}<|im_end|>\n" for t in turns)
    return f"{text}<|im_start|>assistant\n{opening}"


def check_template(template: str, tokenizer: Any) -> None:
    """Refuses a template that the tokenizer cannot express.

    Raises:
      ConfigError: unknown template; `model` without a chat template; or a ChatML template whose
        markup is not single tokens of this tokenizer (Llama 3), which would train on its pieces.
    """
    if template not in TEMPLATES:
        render(template, (), tokenizer)
    if template == "model":
        render(template, [{"role": "user", "content": "question"}], tokenizer)
    if template not in _CHATML:
        return
    for text in CHATML_TOKENS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
            raise ConfigError(
                f"data.template: {template} is ChatML, but {text} is not a token of this "
                "tokenizer; set data.template=model to use its own chat template, or plain"
            )


def strip_opening(prompt: str, response: str) -> str:
    r"""The response without an opening `<think>` that the prompt already ends with.

    A prompt that ends in `<think>\n` takes `<think>\n` (or a bare `<think>`) off the response; one
    that ends in `<think>` takes the tag only. If the prompt does not end with the tag, or the
    response does not start with it, the response is returned whole.
    """
    opened = re.search(r"<think>(\s*)\Z", prompt)
    if opened is None or not response.lstrip().startswith("<think>"):
        return response
    return response.lstrip().removeprefix("<think>").removeprefix(opened.group(1))


def _render_model(messages: Sequence[Message], tokenizer: Any) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            "data.template: model needs a tokenizer with a chat template and this one has none; "
            "choose curio, luffy, qwen or plain"
        )
    try:
        # Llama 3.2's template prints today's date unless it is given one; the prompt of a run must
        # not depend on the day. This is the date that Llama 3.1's template has built in.
        return tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True, date_string="26 Jul 2024"
        )
    except Exception as error:  # whatever a Jinja template raises is about these messages
        reason = " ".join(str(error).split())
        roles = ", ".join(message["role"] for message in messages)
        raise ConfigError(
            f"data.template: the tokenizer's chat template refuses a prompt with roles [{roles}] "
            f"({reason}); choose curio, luffy, qwen or plain, or change the records"
        ) from error
