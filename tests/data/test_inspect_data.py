import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from curiojax.errors import ConfigError

TOOL = Path(__file__).parents[2] / "tools" / "inspect_data.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("inspect_data", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def arguments(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [
        {"prompt": f"What is {i}?", "completion": "<think>\nOkay</think>" + " so" * i}
        for i in range(1, 21)
    ]
    rows.append({"prompt": "What?", "completion": ""})
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return [str(tmp_path / "a.jsonl"), "--tokenizer", str(tmp_path / "model")]


def test_shows_what_training_would_see(tool, arguments, capsys):
    limits = ["--max-response-tokens", "30", "--row-length", "3000"]
    tool.main([*arguments, *limits, "--record", "3"])
    shown = capsys.readouterr().out
    assert re.search(r"schema\s+prompt_completion", shown)
    assert re.search(r"rows\s+21\b", shown)
    assert re.search(r"no response\s+1\b", shown)
    kept = int(re.search(r"kept\s+(\d+)", shown)[1])
    assert kept + int(re.search(r"response too long\s+(\d+)", shown)[1]) == 20
    assert 0 < kept < 20
    assert "Here is the question: What is 4?<|im_end|>\n<|im_start|>assistant\n<think>\n" in shown
    assert "\nOkay</think> so so so so<|endoftext|>\n" in shown
    assert "together" in shown
    filled = [float(x) for x in re.findall(r"filled .*?([\d.]+)%", shown)]
    assert 0 < filled[1] < filled[0] <= 100


def test_says_what_was_cut(tool, arguments, capsys):
    tool.main(
        [*arguments, "--max-response-tokens", "20", "--overlong", "truncate", "--record", "19"]
    )
    shown = capsys.readouterr().out
    assert "[cut here, no end-of-sequence token]" in shown
    assert "warning: " in shown
    assert "of 20 records were cut at 20 response tokens" in shown


@pytest.mark.parametrize(
    ("extra", "message"),
    [(["--record", "20"], "--record: 20, but only 20"), (["--template", "model"], "chat template")],
)
def test_errors_name_what_is_wrong(tool, arguments, extra, message):
    with pytest.raises(ConfigError, match=message):
        tool.main([*arguments, *extra])


def test_a_user_error_is_one_line_and_exit_code_2(arguments):
    command = [sys.executable, str(TOOL), "absent.jsonl", *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: data.path: no such file or folder: absent.jsonl\n"
