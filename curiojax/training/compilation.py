"""What is compiled once: for several runs in one process, and for the next start of a run."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from stat import S_ISREG
from tempfile import TemporaryDirectory

import jax
from jax.experimental.compilation_cache import compilation_cache as cache

# What a folder of programs may take on disk; the step of a large model is some tens of megabytes.
LIMIT = 5_000_000_000


@contextmanager
def compilation_cache(folder: Path | None = None) -> Iterator[None]:
    """Keeps what is compiled meanwhile, unless a cache is set already.

    Args:
      folder: where, for later processes too; a folder that cannot be made is done without. What was
        not used for longest goes when it holds more than `LIMIT`. None: only until the end, for
        runs that differ in their data alone.
    """
    if getattr(jax.config, "jax_compilation_cache_dir", None) or not _made(folder):
        yield
        return
    names = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    )
    before = {name: getattr(jax.config, name) for name in names}
    place = TemporaryDirectory(prefix="curiojax-") if folder is None else nullcontext(str(folder))
    with place as path:
        cache.reset_cache()  # whoever compiled before without a cache has switched it off
        for name, value in zip(names, (path, 0.0, -1), strict=True):
            jax.config.update(name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            cache.reset_cache()  # or JAX would go on writing to the folder
            if folder is not None:
                trim(folder, LIMIT)


def trim(folder: Path, limit: int) -> None:
    """Deletes files, least recently used first, until the others are no larger than `limit` bytes.

    JAX's own limit takes a lock for every program that is read, and fails on a folder that it began
    without one. Other processes may use the folder meanwhile: a program that is gone is compiled.
    """
    files = []
    for path in folder.iterdir():
        with suppress(OSError):
            found = path.stat()
            if S_ISREG(found.st_mode):
                # File systems that note no reading leave the time of writing.
                files.append((max(found.st_atime, found.st_mtime), found.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= limit:
            break
        with suppress(OSError):
            path.unlink()
        total -= size


def programs_folder() -> Path:
    """`$CURIOJAX_CACHE/programs/MACHINE`, or the same in `~/.cache/curiojax`.

    JAX's keys name the kind of GPU, but not the kind of CPU: on a shared file system, machines
    whose processors differ must not run each other's programs.
    """
    root = os.environ.get("CURIOJAX_CACHE")
    base = Path(root) if root else Path.home() / ".cache" / "curiojax"
    return base / "programs" / _machine()


def _machine() -> str:
    """A name for all machines with the same processor."""
    features = [platform.machine(), platform.processor()]
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        features += sorted({x for x in lines if x.startswith(("model name", "flags", "Features"))})
    digest = hashlib.sha256("\n".join(features).encode()).hexdigest()
    return f"{platform.machine()}-{digest[:8]}"


def _made(folder: Path | None) -> bool:
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return folder is None or os.access(folder, os.W_OK)
