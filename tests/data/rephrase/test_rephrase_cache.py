"""Replies on disk through kills, full disks and other people's files."""

import json

import pytest

from curiojax.data.rephrase.cache import Cache
from curiojax.data.rephrase.replies import Reply
from curiojax.errors import ConfigError

ONE, TWO = Reply("one\n\u2028é", "stop", 5, 6), Reply("", "length")


@pytest.fixture
def path(tmp_path):
    with Cache(tmp_path / "sub" / "replies") as cache:
        cache.add("a", ONE)
        cache.add("b", TWO)
    return cache.path


def test_what_was_added_is_read_back(path):
    with Cache(path) as cache:
        assert cache.get("a") == ONE and cache.get("b") == TWO and cache.get("c") is None
        assert "a" in cache and "c" not in cache and len(cache) == 2
        cache.add("c", ONE)
    assert len(Cache(path, write=False)) == 3
    assert all(json.loads(line) for line in path.read_text().splitlines())


@pytest.mark.parametrize("kept", range(1, 60, 7))
def test_a_line_cut_short_is_taken_off(path, kept):
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    path.write_bytes(whole[: last + kept])
    assert len(Cache(path, write=False)) == 1
    assert path.read_bytes() == whole[: last + kept]  # reading changes nothing
    with Cache(path) as cache:
        assert len(cache) == 1
        cache.add("b", TWO)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("content", [b"", b'{"rephrase_r'])
def test_killed_while_it_was_begun(tmp_path, content):
    path = tmp_path / "replies"
    path.write_bytes(content)
    with Cache(path) as cache:
        cache.add("a", ONE)
    assert Cache(path, write=False).get("a") == ONE


@pytest.mark.parametrize("content", [b'{"question": "mine"}\n{"torn', b"no json", b"\n"])
def test_files_of_others_are_left_alone(tmp_path, content):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="holds no replies of this tool"):
        Cache(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("line", [b"{}", b'{"key": "x", "more": 1}', b"[]", b"nonsense"])
def test_a_damaged_line_is_named(path, line):
    path.write_bytes(path.read_bytes() + line + b"\n" + b'{"key": "c", "text": "x"}\n')
    with pytest.raises(ConfigError, match="line 4 is damaged"):
        Cache(path)


def test_a_full_disk_leaves_no_half_line(path, monkeypatch):
    before = path.read_bytes()
    cache = Cache(path)
    stream = cache._stream

    class Full:
        def write(self, data):
            return stream.write(data[:10])

        def __getattr__(self, name):
            return getattr(stream, name)

    cache._stream = Full()
    with pytest.raises(ConfigError, match="No space left"):
        cache.add("c", ONE)
    assert path.read_bytes() == before and "c" not in cache
    cache._stream = stream
    cache.add("c", ONE)
    cache.close()
    assert len(Cache(path, write=False)) == 3


def test_only_one_process_writes(path):
    with Cache(path), pytest.raises(ConfigError, match="another process"):
        Cache(path)
    Cache(path).close()


def test_reading_makes_nothing(tmp_path):
    assert len(Cache(tmp_path / "x" / "replies", write=False)) == 0
    assert not (tmp_path / "x").exists()
