"""Programs that one run of a comparison leaves to the next."""

import os

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache as cache

from curiojax.training import compilation
from curiojax.training.compilation import compilation_cache, programs_folder, trim


@pytest.fixture
def hits():
    """How often a program was found in the cache."""
    seen = []

    def listen(event, **_):
        if event == "/jax/compilation_cache/cache_hits":
            seen.append(event)

    jax.monitoring.register_event_listener(listen)
    yield seen
    jax.monitoring.unregister_event_listener(listen)


def build(size):
    """A program that no test compiled before; lowered anew each time, as every run does."""
    return jax.jit(lambda x: jnp.tanh(x) * 3.25 + x).lower(jnp.zeros(size)).compile()


def test_what_one_run_compiled_the_next_one_finds(hits):
    before = jax.config.jax_compilation_cache_dir
    with compilation_cache():
        build(77)
        assert not hits
        build(77)
        assert len(hits) == 1
    assert jax.config.jax_compilation_cache_dir == before
    build(77)
    assert len(hits) == 1


def test_a_cache_that_is_set_stays(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        with compilation_cache():
            assert jax.config.jax_compilation_cache_dir == str(tmp_path)
        assert jax.config.jax_compilation_cache_dir == str(tmp_path)
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
        cache.reset_cache()


def test_a_later_process_finds_what_an_earlier_one_compiled(hits, tmp_path):
    folder = tmp_path / "programs"
    with compilation_cache(folder):
        build(79)
    assert list(folder.iterdir()) and not hits
    with compilation_cache(folder):
        build(79)
    assert len(hits) == 1
    with compilation_cache(tmp_path / "other"):
        build(79)
    assert len(hits) == 1


def test_it_lies_in_the_cache_by_processor(tmp_path, monkeypatch):
    monkeypatch.setenv("CURIOJAX_CACHE", str(tmp_path))
    here = programs_folder()
    assert here.parent == tmp_path / "programs" and programs_folder() == here
    monkeypatch.setattr("platform.processor", lambda: "another")
    assert programs_folder() != here


def test_without_a_folder_it_goes_on_without(hits, tmp_path):
    (tmp_path / "file").write_text("in the way")
    before = jax.config.jax_compilation_cache_dir
    with compilation_cache(tmp_path / "file" / "programs"):
        assert jax.config.jax_compilation_cache_dir == before
        build(81)
        build(81)
    assert not hits


def test_a_folder_too_large_loses_what_was_not_used_for_longest(tmp_path):
    for name, day in (("new", 30), ("old", 10), ("older", 5), ("read since", 2)):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (day * 86400, day * 86400))
    os.utime(tmp_path / "read since", (40 * 86400, 2 * 86400))
    (tmp_path / "folder").mkdir()
    trim(tmp_path, 400)
    assert len(list(tmp_path.iterdir())) == 5
    trim(tmp_path, 250)
    assert {path.name for path in tmp_path.iterdir()} == {"new", "read since", "folder"}


def test_the_cache_is_trimmed_when_it_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(compilation, "LIMIT", 0)
    with compilation_cache(tmp_path):
        build(83)
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())
