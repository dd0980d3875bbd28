"""Programs that one run of a comparison leaves to the next."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache as cache

from curiojax.training.compilation import compilation_cache


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
