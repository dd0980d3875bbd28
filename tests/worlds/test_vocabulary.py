import json

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from curiojax.data.worlds import countdown, demonstrations, vocabulary


@pytest.fixture(scope="module", params=["alone", "beside a qwen2 config"])
def tokenizer(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    vocabulary.save_tokenizer(path)
    if request.param != "alone":
        # transformers chooses the class of the tokenizer by the model it lies beside.
        config = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
        (path / "config.json").write_text(json.dumps(config))
    return AutoTokenizer.from_pretrained(path)


def test_texts_survive_and_take_the_promised_number_of_tokens(tokenizer):
    for item in demonstrations.demonstrations("mix", q=0.5, count=200, seed=3):
        prompt, response = item.problem.prompt, item.response
        for text, length in ((prompt, 6), (response, 12)):
            ids = tokenizer(text).input_ids
            assert len(ids) == length
            assert tokenizer.decode(ids) == text
            assert [vocabulary.vocabulary()[k] for k in ids] == tokenizer.convert_ids_to_tokens(ids)
    assert countdown.PROMPT_TOKENS == 6
    assert countdown.RESPONSE_TOKENS == 13  # with the end of the sequence


def test_every_word_is_one_token(tokenizer):
    words = vocabulary.vocabulary()
    assert len(words) == len(set(words)) == len(tokenizer) == 192
    for index, word in enumerate(words):
        assert tokenizer(word).input_ids == [index]


def test_special_tokens(tokenizer):
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<pad>", "<eos>")
    assert tokenizer.bos_token is None
    ids = [*tokenizer("END BOX 7").input_ids, tokenizer.eos_token_id]
    assert tokenizer.decode(ids, skip_special_tokens=True).split() == ["BOX", "7"]
    assert tokenizer.decode(tokenizer("7 3 END BOX 7").input_ids) == "7 3 END BOX 7"


def test_a_saved_copy_is_the_same_tokenizer(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    copy = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    text = "7 3 5 2 : 24"
    assert copy(text).input_ids == tokenizer(text).input_ids
    assert copy.decode(copy(text).input_ids) == text
