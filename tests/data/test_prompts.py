import json

import numpy as np
import pytest

from curiojax.config import Data
from curiojax.data.encoding import Encoder, encode_prompt
from curiojax.data.prompts import MISSING, TOO_LONG, UNVERIFIABLE, build_prompts
from curiojax.errors import ConfigError
from tests.data.conftest import make_tokenizer


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def build(path, gradable=lambda truth: True, seed=0, **data):
    section = Data(path=path, template="curio", **data)

    def all_gradable(truths):
        return [gradable(truth) for truth in truths]

    return build_prompts(section, make_tokenizer(), seed=seed, gradable=all_gradable)


@pytest.fixture
def questions(tmp_path):
    rows = [{"problem": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(10)]
    return write(tmp_path / "questions.jsonl", rows)


def test_questions_with_answers_need_no_response(questions):
    data = build(questions)
    assert len(data) == 10 and data.drops == {}
    assert data.ground_truths[3] == "4"
    message = [{"role": "user", "content": "What is 3 + 1?"}]
    assert data.ids[3] == encode_prompt("curio", message, make_tokenizer())


@pytest.mark.parametrize(
    "row",
    [
        {
            "prompt": [{"role": "user", "content": "1 + 1?"}],
            "reward_model": {"ground_truth": "2"},
            "target": None,
        },
        {"messages": [{"role": "user", "content": "1 + 1?"}], "ground_truth": "2"},
        {"prompt": "1 + 1?", "answer": "2"},
        {
            "problem": "1 + 1?",
            "answer": "2",
            "generations": ["?"],
            "correctness_math_verify": [False],
            "is_reasoning_complete": [True],
        },
    ],
)
def test_every_schema_gives_prompts(tmp_path, row):
    data = build(write(tmp_path / "rows.jsonl", [row]))
    want = encode_prompt("curio", [{"role": "user", "content": "1 + 1?"}], make_tokenizer())
    assert (data.ids, data.ground_truths) == ([want], ["2"])


def test_what_is_left_out_is_counted(tmp_path):
    rows = [
        {"problem": "fine?", "answer": "1"},
        {"problem": "no answer?", "answer": None},
        {"problem": "odd answer?", "answer": "see figure"},
        {"problem": "long? " * 200, "answer": "1"},
    ]
    data = build(write(tmp_path / "rows.jsonl", rows), str.isdigit, max_prompt_tokens=900)
    assert len(data) == 1
    assert data.drops == {"no ground truth": 1, UNVERIFIABLE: 1, "prompt too long": 1}


def test_every_prompt_comes_once_per_epoch_whatever_the_step_size(questions):
    data = build(questions)
    for count in (2, 3, 7, 10, 25):
        stream = np.concatenate([data.indices(step, count) for step in range(60 // count)])
        whole = len(stream) // 10 * 10
        for epoch in stream[:whole].reshape(-1, 10):
            assert sorted(epoch) == list(range(10))
    assert not np.array_equal(data.indices(0, 10), data.indices(1, 10))
    assert not np.array_equal(data.indices(0, 10), build(questions, seed=1).indices(0, 10))


def test_extra_draws_are_reproducible_and_differ(questions):
    data = build(questions)
    draws = [data.extra_indices(step, draw, 64) for step in range(3) for draw in range(3)]
    assert len({tuple(draw) for draw in draws}) == 9
    np.testing.assert_array_equal(draws[4], data.extra_indices(1, 1, 64))
    assert set(np.concatenate(draws)) == set(range(10))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"problem": "1 + 1?", "answer": None}], "ground_truth or answer"),
        ([{"problem": "1 + 1?", "answer": "two"}], "reward.verifier"),
        ([{"question_text": "1 + 1?"}], "no known format"),
    ],
)
def test_nothing_to_sample_from_is_one_line(tmp_path, rows, message):
    with pytest.raises(ConfigError, match=r"data\.path") as error:
        build(write(tmp_path / "rows.jsonl", rows), str.isdigit)
    assert message in str(error.value) and "\n" not in str(error.value)


# ---- demonstrations ------------------------------------------------------------------------------


def shown(path, longest=64, **data):
    section = Data(path=path, template="curio", **data)
    return build_prompts(
        section,
        make_tokenizer(),
        seed=0,
        gradable=lambda truths: [True] * len(truths),
        demonstration_tokens=longest,
    )


@pytest.fixture
def responses(tmp_path):
    rows = [
        {"prompt": f"What is {i} + 1?", "response": text, "ground_truth": str(i + 1)}
        for i, text in enumerate(["<think>\n1</think>2", "", "3 " * 100, "4"])
    ]
    return write(tmp_path / "responses.jsonl", rows)


def test_demonstrations_are_what_the_supervised_stage_learns(responses):
    data, tokenizer = shown(responses), make_tokenizer()
    encoder = Encoder(tokenizer, "curio", 1024, 64, "drop")
    records = [
        {"id": str(i), "prompt": messages, "response": text}
        for i, (messages, text) in enumerate(
            zip(data.messages, ["<think>\n1</think>2", "", "3 " * 100, "4"], strict=True)
        )
    ]
    chunk = encoder(records)
    starts = np.concatenate([[0], np.cumsum(chunk.lengths)])
    want = {
        int(row): chunk.tokens[start:stop].tolist()
        for row, start, stop in zip(chunk.rows, starts[:-1], starts[1:], strict=True)
    }
    assert set(want) == {0, 3}
    for row in range(4):
        found = data.demonstration(row)
        assert (None if found is None else data.ids[row] + found) == want.get(row)
    assert data.demonstration(0)[-1] == tokenizer.eos_token_id
    assert data.num_demonstrations == 2 and len(data) == 4
    assert data.drops == {MISSING: 1, TOO_LONG: 1}


def test_long_demonstrations_are_cut_or_refused_as_the_config_says(responses):
    data = shown(responses, overlong="truncate")
    assert len(data.demonstration(2)) == 64
    assert data.demonstration(2)[-1] != make_tokenizer().eos_token_id
    with pytest.raises(ConfigError, match=r"more than rollout\.max_response_tokens; raise it"):
        shown(responses, overlong="error")


def test_demonstrations_are_part_of_what_a_run_is(responses):
    plain = build(responses)
    assert plain.demonstrations == [] and plain.demonstration(0) is None
    assert (
        len({plain.fingerprint, shown(responses).fingerprint, shown(responses, 3).fingerprint}) == 3
    )


def test_without_any_demonstration_is_one_line(questions):
    with pytest.raises(ConfigError, match=r"none of the 10 prompts .* has a demo") as error:
        shown(questions)
    assert "objective.name=grpo" in str(error.value) and "\n" not in str(error.value)
