import numpy as np
import pytest

from curiojax.data import encoding, templates
from curiojax.data.encoding import Encoder, encode_prompt
from curiojax.errors import ConfigError


def record(response, question="What is 1 + 1?", identity="r0"):
    prompt = [{"role": "user", "content": question}]
    return {"id": identity, "prompt": prompt, "response": response}


def encode(tokenizer, *records, template="curio", prompt=1024, response=8192, overlong="drop"):
    chunk = Encoder(tokenizer, template, prompt, response, overlong)(records)
    ends = np.cumsum(chunk.lengths).tolist()
    ids = [chunk.tokens[e - n : e].tolist() for e, n in zip(ends, chunk.lengths, strict=True)]
    pairs = [(i[:p], i[p:]) for i, p in zip(ids, chunk.prompt_lengths.tolist(), strict=True)]
    reasons = dict(zip(encoding.REASONS, chunk.reasons.tolist(), strict=True))
    counts = dict(zip(encoding.COUNTS, chunk.counts.tolist(), strict=True))
    return pairs, reasons, counts, chunk


def ids(tokenizer, text):
    """What the Rust tokenizer says, by another way than the code under test."""
    return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


def test_prompt_and_response_are_tokenised_apart(tokenizer):
    r"""The seam: joined, the newlines of "<think>\n" and "\nOkay" would be one token."""
    prompt = templates.render("curio", record("")["prompt"])
    response = "<think>\n\nOkay, let me think.\n</think>"
    [(prompt_ids, response_ids)], _, _, _ = encode(tokenizer, record(response))
    rest = "\nOkay, let me think.\n</think>"
    assert prompt_ids == ids(tokenizer, prompt)
    assert response_ids == [*ids(tokenizer, rest), tokenizer.eos_token_id]
    assert ids(tokenizer, prompt + rest) != ids(tokenizer, prompt) + ids(tokenizer, rest)
    assert tokenizer.decode(prompt_ids + response_ids) == prompt + rest + tokenizer.eos_token


@pytest.mark.parametrize("name", ["tokenizer", "think_tokenizer"])
@pytest.mark.parametrize("template", ["curio", "luffy", "qwen", "plain"])
def test_the_opening_tag_is_there_once(request, name, template):
    tokenizer = request.getfixturevalue(name)
    [pair], _, counts, _ = encode(
        tokenizer, record("<think>\nOkay\n</think>\n2"), template=template
    )
    # LUFFY's and the paper's system prompts speak of the tag, too.
    text = tokenizer.decode(pair[0] + pair[1]).rsplit("1 + 1?", 1)[1]
    assert text.count("<think>\nOkay") == text.count("<think>") == 1
    assert (tokenizer.decode(pair[1])[:7] == "<think>") == (template in ("qwen", "plain"))
    assert counts["duplicated_think"] == 0


def test_encode_prompt_is_what_training_sees(tokenizer, llama_tokenizer):
    for tok, template in [
        (tokenizer, "curio"),
        (llama_tokenizer, "plain"),
        (llama_tokenizer, "model"),
    ]:
        [(prompt, _)], *_ = encode(tok, record("2"), template=template)
        assert encode_prompt(template, record("")["prompt"], tok) == prompt


def test_a_text_is_opened_as_the_tokenizer_would(llama_tokenizer, tokenizer_with):
    """Llama 3 opens each text with a token; its chat template writes it out itself."""
    bos = llama_tokenizer.bos_token_id
    for template in ("plain", "model"):
        prompt = encode_prompt(template, record("")["prompt"], llama_tokenizer)
        assert (prompt[0], prompt.count(bos)) == (bos, 1)
    written = [{"role": "user", "content": "<|begin_of_text|>What is 1 + 1?"}]
    assert encode_prompt("plain", written, llama_tokenizer).count(bos) == 1
    silent = tokenizer_with(bos=True, chat_template="{{ messages[0].content }}")
    assert encode_prompt("model", record("")["prompt"], silent) == ids(silent, "What is 1 + 1?")
    both = tokenizer_with(bos=True)
    prompt = encode_prompt("curio", record("")["prompt"], both)
    assert both.decode(prompt).startswith("<|begin_of_text|><|im_start|>system\n")


def test_a_token_for_the_beginning_that_the_tokenizer_does_not_add_is_not_added(tokenizer_with):
    tok = tokenizer_with()
    tok.bos_token = "<|endoftext|>"
    assert not encoding.adds_bos(tok)
    assert tok.bos_token_id not in encode_prompt("plain", record("")["prompt"], tok)


def test_a_response_that_writes_its_end_out_ends_once(tokenizer):
    [(_, response)], *_ = encode(tokenizer, record("2<|endoftext|>"))
    assert response == [*ids(tokenizer, "2"), tokenizer.eos_token_id]


def test_limits_count_the_end_token(tokenizer):
    answer = "so " * 20
    size = len(ids(tokenizer, answer)) + 1
    eos = tokenizer.eos_token_id
    for overlong in ("drop", "truncate", "error"):
        [(_, response)], reasons, counts, _ = encode(
            tokenizer, record(answer), response=size, overlong=overlong
        )
        assert response == [*ids(tokenizer, answer), eos]
        assert counts["truncated"] == 0

    pairs, reasons, _, _ = encode(tokenizer, record(answer), response=size - 1)
    assert (pairs, reasons[encoding.RESPONSE_TOO_LONG]) == ([], 1)

    for limit in (size - 1, size - 5):
        [(_, response)], reasons, counts, _ = encode(
            tokenizer, record(answer), response=limit, overlong="truncate"
        )
        assert response == ids(tokenizer, answer)[:limit]
        assert (counts["truncated"], reasons[encoding.RESPONSE_TOO_LONG]) == (1, 0)


@pytest.mark.parametrize("overlong", ["drop", "truncate"])
def test_long_prompts_are_always_dropped(tokenizer, overlong):
    size = len(encode_prompt("qwen", record("")["prompt"], tokenizer))
    options = {"template": "qwen", "overlong": overlong}
    assert len(encode(tokenizer, record("2"), prompt=size, **options)[0]) == 1
    pairs, reasons, _, _ = encode(tokenizer, record("2"), prompt=size - 1, **options)
    assert (pairs, reasons[encoding.PROMPT_TOO_LONG]) == ([], 1)


@pytest.mark.parametrize("part", ["prompt", "response"])
def test_overlong_error_names_the_record(tokenizer, part):
    chunk = encode(tokenizer, record("so so so so"), overlong="error", **{part: 2})[3]
    assert chunk.error.startswith("data.overlong: record r0 has ")
    assert f"{part} tokens, more than data.max_{part}_tokens" in chunk.error


def test_records_that_are_nothing_but_the_opening_tag_are_dropped(tokenizer):
    pairs, reasons, _, _ = encode(tokenizer, record("<think>\n"), record("2"), record("<think> \n"))
    assert (len(pairs), reasons[encoding.NO_RESPONSE]) == (1, 2)


def test_rows_tell_which_records_were_kept(tokenizer):
    records = [record("2"), record("<think>\n"), record("so")]
    chunk = Encoder(tokenizer, "curio", 1024, 8192, "drop")(records, first=32)
    assert chunk.rows.tolist() == [32, 34]


def test_suspicious_beginnings_are_counted(tokenizer):
    records = [record("<think>\n<think>\nOkay</think>2"), record("2"), record("so</think>2")]
    *_, counts, _ = encode(tokenizer, *records)
    assert (counts["duplicated_think"], counts["unclosed_think"]) == (1, 1)
    texts = encoding.warnings(counts, 3, 8192)
    assert len(texts) == 2
    assert texts[0].startswith("1 of 3 records open <think> twice")
    assert encoding.warnings(dict.fromkeys(encoding.COUNTS, 0), 3, 8192) == []


def test_a_closed_think_block_of_the_chat_template_is_noticed(tokenizer_with):
    """Qwen3 without thinking writes an empty block at the end of the prompt."""
    tok = tokenizer_with(chat_template="{{ messages[0].content }}<think>\n\n</think>\n\n")
    *_, counts, _ = encode(tok, record("<think>\nOkay</think>2"), template="model")
    assert counts["duplicated_think"] == 1


def test_unknown_words_are_counted():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {"[UNK]": 0, "[EOS]": 1, "1": 2, "+": 3}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tok = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="[EOS]", unk_token="[UNK]")
    [pair], _, counts, _ = encode(tok, record("1 = 1", question="1 + 1"), template="plain")
    assert pair == ([2, 3, 2], [2, 0, 2, 1])
    assert counts["unknown_tokens"] == 1
    with pytest.raises(ConfigError, match="is not a token of this tokenizer"):
        templates.check_template("curio", tok)


def test_a_tokenizer_without_an_end_token_is_refused(tokenizer_with):
    tok = tokenizer_with()
    tok.eos_token = None
    with pytest.raises(ConfigError, match="no end-of-sequence token"):
        Encoder(tok, "curio", 8, 8, "drop").check()


def test_settings_left_in_a_tokenizer_do_not_cut_or_pad(tokenizer_with):
    tok = tokenizer_with(pad="<|endoftext|>")
    expected = encode(tok, record("so " * 30), record("2"))[0]
    before = encoding.tokenizer_fingerprint(tok)
    tok.backend_tokenizer.enable_truncation(5)
    tok.backend_tokenizer.enable_padding(length=40)
    assert encode(tok, record("so " * 30), record("2"))[0] == expected
    assert encoding.tokenizer_fingerprint(tok) == before


def test_the_fingerprint_knows_what_matters(tokenizer_with):
    fingerprint = encoding.tokenizer_fingerprint
    base = fingerprint(tokenizer_with())
    assert fingerprint(tokenizer_with()) == base
    other_eos = tokenizer_with()
    other_eos.eos_token = "<|im_end|>"
    others = [
        tokenizer_with(think=True),
        tokenizer_with(bos=True),
        tokenizer_with(chat_template="x"),
        other_eos,
    ]
    assert len({base, *map(fingerprint, others)}) == 5
