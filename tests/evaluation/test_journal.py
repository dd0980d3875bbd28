"""Files of JSON lines: a full disk, a cut line, and headers that are looked at beforehand."""

import json
from pathlib import Path

import pytest

from curiojax.errors import ConfigError
from curiojax.evaluation.journal import REMAKE, Journal, check_header

HEADER = {"version": 1, "model": "a"}


def test_a_full_disk_is_one_line(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with Journal(tmp_path / "j.jsonl", HEADER, lambda line: None) as journal:
        journal.append([{"n": 1}])
        journal._stream.close()
        journal._stream = open("/dev/full", "ab")
        with pytest.raises(ConfigError, match=r"No space left on device.*same command") as error:
            journal.append([{"n": 2}])
    # Closing, which tries once more, does not hide what happened.
    assert "\n" not in str(error.value)
    seen = []
    Journal(tmp_path / "j.jsonl", HEADER, seen.append).close()
    assert seen == [{"n": 1}]


def test_the_header_is_looked_at_without_touching_the_file(tmp_path):
    path = tmp_path / "deep" / "j.jsonl"
    check_header(path, HEADER)
    assert not path.parent.exists()
    Journal(path, HEADER, lambda line: None).close()
    path.write_text(path.read_text() + '{"n": 1}\n{"n"')
    before = path.read_bytes()
    check_header(path, HEADER)
    with pytest.raises(ConfigError, match=r"model = 'a', this is 'b'; go back.*another folder"):
        check_header(path, HEADER | {"model": "b"})
    with pytest.raises(ConfigError, match=r"this is 'b'; go back.*or remove the file"):
        Journal(path, HEADER | {"model": "b"}, lambda line: None, remedy=REMAKE)
    assert path.read_bytes() == before
    # Cut while it was begun: there is nothing to compare with, and it is begun again.
    path.write_text(json.dumps(HEADER)[:9])
    check_header(path, HEADER | {"model": "b"})
    path.write_text("[]\n")
    with pytest.raises(ConfigError, match="line 1 is damaged"):
        check_header(path, HEADER)
