import hashlib

import pytest

from curiojax.data.templates import (
    CURIO_SYSTEM,
    LUFFY_SYSTEM,
    TEMPLATES,
    check_template,
    render,
    strip_opening,
)
from curiojax.errors import ConfigError

CURIO_DIGEST = "eb3e0fa45da9796a1b2c4daf4ff3b9b956014d62d3baa641db3074ad5b9893c0"
LUFFY_DIGEST = "a8747f1674d341836ab8fae3c29263fee4dd555f07259cdbc6dadf4104ea8926"
QUESTION = [{"role": "user", "content": "What is 1 + 1?"}]


def test_system_prompts_are_the_published_ones():
    """Digests of the texts as read from the paper's Table 7 and from LUFFY's data files."""
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in (CURIO_SYSTEM, LUFFY_SYSTEM)]
    assert digests == [CURIO_DIGEST, LUFFY_DIGEST]


def test_curio_prompt():
    assert render("curio", QUESTION) == (
        f"<|im_start|>system\n{CURIO_SYSTEM}<|im_end|>\n"
        "<|im_start|>user\nHere is the question: What is 1 + 1?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n"
    )


def test_luffy_and_qwen_prompts():
    assert render("luffy", QUESTION).endswith(
        "<|im_start|>user\nWhat is 1 + 1?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    )
    assert render("qwen", QUESTION) == (
        "<|im_start|>system\nPlease reason step by step, and put your final answer within "
        "\\boxed{}.<|im_end|>\n<|im_start|>user\nWhat is 1 + 1?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("template", ["curio", "luffy", "qwen"])
def test_named_templates_replace_the_records_system_prompt(template):
    own = [{"role": "system", "content": "SOMETHING ELSE"}, *QUESTION]
    assert render(template, own) == render(template, QUESTION)


def test_plain_keeps_every_message_as_it_is():
    own = [{"role": "system", "content": "Be brief."}, *QUESTION]
    assert render("plain", QUESTION) == "What is 1 + 1?"
    assert render("plain", own) == "Be brief.\nWhat is 1 + 1?"


def test_earlier_turns_are_kept_and_only_the_first_question_is_announced():
    turns = [
        *QUESTION,
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "And 2 + 2?"},
    ]
    text = render("curio", turns)
    assert text.count("Here is the question: ") == 1
    assert "<|im_start|>assistant\n2<|im_end|>\n<|im_start|>user\nAnd 2 + 2?<|im_end|>" in text


def test_a_question_that_is_announced_already_is_not_announced_twice():
    announced = [{"role": "user", "content": "Here is the question: What is 1 + 1?"}]
    assert render("curio", announced) == render("curio", QUESTION)


def test_model_is_the_tokenizers_own_template(llama_tokenizer):
    own = [{"role": "system", "content": "Be brief."}, *QUESTION]
    expected = "<|begin_of_text|>[system]Be brief.[user]What is 1 + 1?[assistant]"
    assert render("model", own, llama_tokenizer) == expected


def test_a_date_in_the_chat_template_does_not_change_from_day_to_day(tokenizer_with):
    template = (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
        "{% endif %}{{ date_string }}{{ messages[0].content }}"
    )
    text = render("model", QUESTION, tokenizer_with(chat_template=template))
    assert text == "26 Jul 2024What is 1 + 1?"


def test_model_without_a_chat_template_is_refused(tokenizer):
    with pytest.raises(ConfigError, match=r"data\.template: model needs .* choose curio"):
        check_template("model", tokenizer)


def test_a_chat_template_that_refuses_the_messages_is_named(tokenizer_with):
    template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(ConfigError, match=r"roles \[user\] \(System role not supported\)"):
        render("model", QUESTION, tokenizer_with(chat_template=template))


def test_chatml_is_refused_when_its_markup_would_be_split(llama_tokenizer, tokenizer):
    assert len(llama_tokenizer.tokenize("<|im_start|>")) > 1
    for template in ("curio", "luffy", "qwen"):
        with pytest.raises(ConfigError, match=r"<\|im_start\|> is not a token.*template=model"):
            check_template(template, llama_tokenizer)
        check_template(template, tokenizer)
    check_template("model", llama_tokenizer)
    check_template("plain", llama_tokenizer)


def test_unknown_template_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"unknown template 'curiosity'; .*" + TEMPLATES[0]):
        render("curiosity", QUESTION)


@pytest.mark.parametrize(
    ("prompt", "response", "expected"),
    [
        ("...<think>\n", "<think>\nOkay", "Okay"),
        ("...<think>\n", "<think>\n\nOkay", "\nOkay"),
        ("...<think>\n", "<think>Okay", "Okay"),
        ("...<think>\n", "\n<think>\nOkay", "Okay"),
        ("...<think>", "<think>\nOkay", "\nOkay"),
        ("...<think>\n", "Okay </think>", "Okay </think>"),
        ("...<think>\n", "12345678Okay", "12345678Okay"),
        ("...assistant\n", "<think>\nOkay", "<think>\nOkay"),
        ("<think>\n earlier", "<think>\nOkay", "<think>\nOkay"),
    ],
)
def test_an_opening_tag_is_dropped_only_if_the_prompt_ends_with_it(prompt, response, expected):
    assert strip_opening(prompt, response) == expected
