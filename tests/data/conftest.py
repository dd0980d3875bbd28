"""Tokenizers trained on the spot, and the files people bring, written as they would write them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "You are an exceptional mathematician. Please reason step by step.",
    "Here is the question: What is 1 + 1?\n\nOkay, let me think.\n\n</think>\n\nThe answer is 2.",
    "<think>\n\nWait, let us verify.\n</think>\nso \\boxed{42}",
    "systematic and thorough reasoning process\n\n\n",
] * 20
# How Qwen2 cuts a text before merging: newlines stick to the punctuation before them.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def make_tokenizer(*, think=False, chatml=True, bos=False, chat_template=None, pad=None):
    """A byte-level BPE tokenizer, as Qwen's (or with `bos`, as Llama 3's)."""
    specials = list(CHATML) if chatml else ["<|end_of_text|>"]
    specials += ["<think>", "</think>"] if think else []
    specials += ["<|begin_of_text|>"] if bos else []
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|begin_of_text|> $A",
            special_tokens=[("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=specials[0],
        pad_token=pad,
        bos_token="<|begin_of_text|>" if bos else None,
        chat_template=chat_template,
    )


@pytest.fixture(scope="session")
def tokenizer():
    """Qwen2.5's kind: `<think>` is ordinary text. The padding token is the final token."""
    return make_tokenizer(pad="<|endoftext|>")


@pytest.fixture(scope="session")
def think_tokenizer():
    """Qwen3's kind: `<think>` is one token."""
    return make_tokenizer(think=True)


@pytest.fixture(scope="session")
def llama_tokenizer():
    """Llama 3's kind: no ChatML tokens; a text is opened with a token of its own."""
    return make_tokenizer(
        chatml=False,
        bos=True,
        chat_template="{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}"
        "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}",
    )


@pytest.fixture
def data_config(tmp_path):
    """The `data` section of a config, with its defaults."""

    def make(path, **changes):
        values = dict(
            path=str(path),
            format=None,
            split="train",
            limit=None,
            template="curio",
            max_prompt_tokens=1024,
            max_response_tokens=8192,
            overlong="drop",
            packing=True,
            row_length=None,
            workers=0,
            cache_dir=str(tmp_path / "cache"),
            suppressed_path=None,
            suppressed_per_step=None,
        )
        assert set(changes) <= set(values)
        return SimpleNamespace(**{**values, **changes})

    return make


@pytest.fixture(scope="session")
def tokenizer_with():
    """`make_tokenizer` for the tests that need a special one."""
    return make_tokenizer
