import json

import pytest

from curiojax.errors import ConfigError
from curiojax.evaluation.results_file import read_results
from tests.evaluation.evaluated import graded, results


def test_a_file_or_its_folder(tmp_path):
    written = results("m", {"tiny": graded([[1, 0], [None, None]])})
    (tmp_path / "results.json").write_text(json.dumps(written, allow_nan=False))
    assert read_results(tmp_path) == read_results(str(tmp_path / "results.json")) == written


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        ("[]", "no result of an evaluation"),
        ('{"steps": {}}', "no result of an evaluation"),
        ('{"version": 2}', "version 2, and 1"),
        ('{"version": 1}', "incomplete"),
        ('{"version": 1, "name": "m", "settings": {}, "means": {}, "benchmarks": []}', "incomplet"),
        (
            '{"version": 1, "name": "m", "settings": {}, "means": {}, "benchmarks": {"a": {}}}',
            "incomplete",
        ),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, content, message):
    if content is not None:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "results.json").write_bytes(data)
    with pytest.raises(ConfigError, match=f"^results: .*{message}") as error:
        read_results(tmp_path)
    assert "\n" not in str(error.value)
