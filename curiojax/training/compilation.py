"""What is compiled once for several runs in one process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

import jax
from jax.experimental.compilation_cache import compilation_cache as cache


@contextmanager
def compilation_cache() -> Iterator[None]:
    """Lets runs that differ in their data alone share what was compiled, unless a cache is set."""
    if getattr(jax.config, "jax_compilation_cache_dir", None):
        yield
        return
    names = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    )
    before = {name: getattr(jax.config, name) for name in names}
    with TemporaryDirectory(prefix="curiojax-") as folder:
        for name, value in zip(names, (folder, 0.0, -1), strict=True):
            jax.config.update(name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            cache.reset_cache()  # or JAX would go on writing to the folder
