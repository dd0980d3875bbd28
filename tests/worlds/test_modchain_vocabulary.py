"""The mod-chain tokenizer, and what the base model is trained on."""

import hashlib
import json

import numpy as np
import pytest
from transformers import AutoTokenizer

from curiojax.data.worlds import modchain
from curiojax.data.worlds import modchain_trajectories as trajectories
from curiojax.data.worlds import modchain_vocabulary as vocabulary
from curiojax.data.worlds.modchain_demonstrations import demonstrations, evaluation_problems
from curiojax.rewards.modchain import check_lines


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    vocabulary.save_tokenizer(path)
    # transformers chooses the class of the tokenizer by the model it lies beside.
    config = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
    (path / "config.json").write_text(json.dumps(config))
    return AutoTokenizer.from_pretrained(path)


@pytest.mark.parametrize("kind", ["id", "hard", "longer"])
def test_prompts_survive_and_take_the_promised_number_of_tokens(tokenizer, kind):
    for problem in evaluation_problems(kind, 100, seed=1):
        ids = tokenizer(problem.prompt).input_ids
        assert len(ids) == problem.prompt_tokens
        assert len(ids) - problem.prompt.endswith(")") == 2 * modchain.OPERATIONS[kind] + 2
        assert ids == vocabulary.encode(problem.prompt)
        assert tokenizer.decode(ids) == vocabulary.decode(ids) == problem.prompt


def test_responses_survive_and_take_the_promised_number_of_tokens(tokenizer):
    for item in demonstrations("two", q=0.5, count=100, seed=3):
        ids = tokenizer(item.response).input_ids
        assert len(ids) + 1 == modchain.response_tokens(item.lines) <= modchain.limit("id") == 19
        assert ids == vocabulary.encode(item.response)
        # The end of the reasoning is part of the text, also where special tokens are left out.
        ids.append(tokenizer.eos_token_id)
        assert tokenizer.decode(ids, skip_special_tokens=True) == item.response


def test_every_word_is_one_token(tokenizer):
    words = vocabulary.vocabulary()
    assert len(words) == len(set(words)) == len(tokenizer) == 96
    for index, word in enumerate(words):
        assert tokenizer(word).input_ids == [index]


def test_the_base_models_data_are_right_lines_without_an_answer():
    tokens, is_response = trajectories.random_sequences(np.random.default_rng(0), 600)
    assert tokens.shape == is_response.shape == (600, 34) and tokens.dtype == np.int32
    ids, operations, several = vocabulary.token_ids(), set(), 0
    for row, mask in zip(tokens, is_response, strict=True):
        first, last = np.flatnonzero(mask)[[0, -1]]
        assert first >= trajectories.SHORTEST_PROMPT and mask[first : last + 1].all()
        assert (row[last + 1 :] == ids["<pad>"]).all()
        prompt, response = vocabulary.decode(row[:first]), vocabulary.decode(row[first : last + 1])
        finished = response.endswith("<eos>")
        assert finished or mask.sum() == trajectories.RESPONSE_TOKENS
        assert response.count("<eos>") == finished
        assert "</think>" not in response and "boxed" not in response
        judged = check_lines(response.removesuffix("<eos>"), prompt, finished=finished)
        assert judged.failure == (None if finished else "unfinished")
        operations.add((first - 2) // 2)
        several += finished and response.count("=") < (first - 2) // 2
    assert operations == set(trajectories.OPERATIONS)
    assert 100 < several < 400


def test_held_out_expressions_are_not_drawn():
    tokens, is_response = trajectories.random_sequences(np.random.default_rng(1), 400)
    for row, mask in zip(tokens, is_response, strict=True):
        text = vocabulary.decode(row[: mask.argmax()]).removeprefix("mod10:")
        digest = hashlib.sha256(f"curiojax modchain {text}".encode()).digest()
        assert int.from_bytes(digest[:4], "big") >= 0.18 * 2**32
    again = trajectories.random_sequences(np.random.default_rng(1), 400)
    assert np.array_equal(tokens, again[0]) and np.array_equal(is_response, again[1])
