"""Where the question is in rows of every schema, and what else a new one changes: nothing."""

import copy
import json

import pytest

from curiojax.data import schemas
from curiojax.data.rephrase import questions
from curiojax.data.rephrase.template import TABLE_8, Request, Template, read_template
from curiojax.errors import ConfigError

USER = {"role": "user", "content": "OLD"}
ROWS = {
    "verl": {
        "prompt": [{"content": "Think.", "role": "system"}, {"content": "OLD", "role": "user"}],
        "target": [{"content": "so", "role": "assistant"}],
        "reward_model": {"ground_truth": "4", "style": "rule"},
    },
    "openr1": {
        "problem": "OLD",
        "generations": ["so"],
        "correctness_math_verify": [True],
        "is_reasoning_complete": [True],
        "answer": "4",
    },
    "messages": {"messages": [USER, {"role": "assistant", "content": "so"}]},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "OLD"}, {"from": "gpt", "value": "so"}]
    },
    "prompt_completion": {"prompt": "OLD", "completion": "so"},
    "alpaca": {"instruction": "OLD", "input": "", "output": "so"},
    "question_answer": {"question": "OLD", "answer": "4"},
}


@pytest.mark.parametrize("format", schemas.FORMATS)
def test_every_schema(format):
    row = ROWS[format]
    before = copy.deepcopy(row)
    assert questions.find(format, row) == "OLD"
    changed = questions.replace(format, row, "NEW {question}")
    assert row == before
    assert set(changed) <= set(questions.columns_changed(format, list(row)))
    text = json.dumps({**row, **changed})
    assert text == json.dumps(row).replace("OLD", "NEW {question}")
    # Training sees the new question and all else as before.
    need = "ground_truth" if format == "question_answer" else "response"
    seen = schemas.canonical(format, {**row, **changed}, 0, need)
    assert seen["prompt"][-1]["content"] == "NEW {question}"


@pytest.mark.parametrize(
    ("format", "row", "new"),
    [
        ("verl", {"prompt": json.dumps([USER])}, {"prompt": '[{"role": "user", "content": "é"}]'}),
        ("verl", {"prompt": "OLD"}, {"prompt": "é"}),
        ("prompt_completion", {"prompt": [USER]}, {"prompt": [{**USER, "content": "é"}]}),
        ("question_answer", {"problem": None, "question": "OLD"}, {"question": "é"}),
        ("alpaca", {"instruction": "Do it.", "input": "OLD"}, {"instruction": "é", "input": ""}),
        (
            "messages",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "OLD"}]}]},
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "é"}]}]},
        ),
        ("verl", {"prompt": "[1, 2] is OLD"}, {"prompt": "é"}),
    ],
)
def test_other_shapes(format, row, new):
    assert "OLD" in questions.find(format, row)
    assert questions.replace(format, row, "é") == new


@pytest.mark.parametrize(
    ("content", "question", "rest"),
    [
        ("Here is the question: What?", "What?", "Here is the question: {}"),
        ("  What?\n", "What?", "{}"),
        (
            "What? Please reason step by step, and put your final answer within \\boxed{}.",
            "What?",
            "{} Please reason step by step, and put your final answer within \\boxed{}.",
        ),
        (
            "What?\n\nLet's think step by step and output the final answer within \\boxed{}.\n",
            "What?",
            "{}\n\nLet's think step by step and output the final answer within \\boxed{}.\n",
        ),
        ("Please reason step by step: what is 2?", "Please reason step by step: what is 2?", "{}"),
    ],
)
def test_what_surrounds_the_question_stays(content, question, rest):
    row = {"prompt": [{"role": "user", "content": content}]}
    assert questions.find("verl", row) == question
    new = questions.replace("verl", row, "NEW")["prompt"][0]["content"]
    assert new == rest.replace("{}", "NEW", 1)


@pytest.mark.parametrize(
    ("format", "row", "why"),
    [
        ("messages", {"messages": [USER, {"role": "assistant", "content": "x"}, USER]}, "several"),
        ("messages", {"messages": [{"role": "system", "content": "x"}]}, "no question"),
        ("messages", {"messages": [{"role": "user", "content": " "}]}, "no question"),
        ("messages", {"messages": None}, "no question"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "not plain"),
        ("openr1", {"problem": 7}, "not plain"),
        ("verl", {"prompt": 7}, "not plain"),
        ("question_answer", {"question": None}, "no question"),
        ("alpaca", {"instruction": "a", "history": [["x", "y"]]}, "several"),
    ],
)
def test_rows_that_are_left_alone(format, row, why):
    with pytest.raises(questions.Skipped, match=why):
        questions.find(format, row)


def test_table_8():
    assert TABLE_8.startswith("I will provide a post from a math-related forum")
    assert TABLE_8.endswith("Input:\n\n{question}\n\nOutput:")
    assert "\\cos \\frac{\\pi}{5}}{x \\cos \\frac{\\pi}{5} - y" in TABLE_8
    prompt = Template().render("a {question} b {x}")
    assert prompt.endswith("Input:\n\na {question} b {x}\n\nOutput:")


def test_templates_of_ones_own(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("Clean \\frac{1}{2}: {question}\n")
    template = read_template(path)
    assert template.render("x") == "Clean \\frac{1}{2}: x"
    assert template.digest != Template().digest and len(template.digest) == 16
    for wrong in ("no place", "{question} {question}"):
        path.write_text(wrong)
        with pytest.raises(ConfigError, match="--template"):
            read_template(path)
    with pytest.raises(ConfigError, match="--template: cannot read"):
        read_template(tmp_path / "absent")


def test_the_key_of_a_reply_depends_on_all_that_the_reply_does():
    request = Request("m", Template(), {"temperature": 0.0, "max_tokens": 9})
    keys = {
        request.key("q"),
        request.key("r"),
        Request("n", Template(), request.sampling).key("q"),
        Request("m", Template("{question}"), request.sampling).key("q"),
        Request("m", Template(), {"temperature": 0.1, "max_tokens": 9}).key("q"),
    }
    assert len(keys) == 5
    again = Request("m", Template(), {"max_tokens": 9, "temperature": 0.0})
    assert again.key("q") == request.key("q") and len(request.key("\ud800")) == 64
