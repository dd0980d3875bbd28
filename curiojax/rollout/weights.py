"""Versions of the weights as directories of safetensors, for an engine in another process to read.

A version is written to a temporary directory, flushed, and renamed, so that what is there under its
name is complete. The version in use stays until the next one is; there is room for two at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import jax
import ml_dtypes  # noqa: F401  (teaches numpy, and through it safetensors, the name "bfloat16")
import numpy as np
from safetensors.numpy import save_file

from curiojax.errors import ConfigError
from curiojax.models import ModelConfig
from curiojax.models.config import config_to_hf
from curiojax.models.export import Block, export_blocks, export_shapes
from curiojax.models.files import INDEX_FILE

_WRITERS = 4  # copying into memory-backed files is bound by single threads
_PREFIX = "curiojax-weights-"


class NotFinite(ValueError):
    """Weights that an engine must not get."""


class WeightStore:
    """Writes versions below a private directory of `parent`.

    Args:
      parent: memory-backed for speed, `/dev/shm`.
      dtype: of the tensors written.

    Raises:
      ConfigError: when `parent` cannot be written to, or has no room for two versions.
    """

    def __init__(self, parent: str | Path, config: ModelConfig, dtype: str):
        self.config, self.dtype = config, dtype
        self._sizes = {
            name: math.prod(shape) * jax.numpy.dtype(dtype).itemsize
            for name, shape in export_shapes(config).items()
        }
        self.num_bytes = sum(self._sizes.values())
        parent = Path(parent)
        _sweep(parent)
        self._check_space(parent, 2)
        try:
            self.folder, self._lock = _make_folder(parent)
        except OSError as error:
            raise ConfigError(
                f"rollout.weights_dir: {parent} cannot be written to ({error.strerror}); name a "
                "memory-backed directory that can"
            ) from None
        self._versions: deque[Path] = deque()
        self._written = 0

    def write(self, params: Any, version: int) -> Path:
        """Writes a version, after removing all but the newest of the earlier ones.

        Args:
          params: the trainer's tree, on devices.

        Raises:
          ConfigError: when there is not enough room.
          NotFinite: when a value is infinite or not a number.
        """
        while len(self._versions) > 1:
            shutil.rmtree(self._versions.popleft(), ignore_errors=True)
        self._check_space(self.folder, 1)
        self._written += 1  # a version may come twice, after a run has gone back to a checkpoint
        final = self.folder / f"version-{version:08d}-{self._written}"
        partial = final.with_name(f".{final.name}.partial")
        partial.mkdir()
        try:
            files = _write_blocks(export_blocks(params, self.config, self.dtype), partial)
            index = {"metadata": {"total_size": self.num_bytes}, "weight_map": files}
            _write_text(partial / INDEX_FILE, json.dumps(index))
            hf = config_to_hf(self.config, self.dtype)
            _write_text(partial / "config.json", json.dumps(hf, indent=2))
            _flush(partial)
            partial.rename(final)
            _flush(self.folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self._versions.append(final)
        return final

    def discard(self, directory: Path) -> None:
        """Removes a version that is not to be used."""
        with contextlib.suppress(ValueError):
            self._versions.remove(directory)
        shutil.rmtree(directory, ignore_errors=True)

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def _check_space(self, directory: Path, versions: int) -> None:
        try:
            free = _free_bytes(directory)
        except OSError as error:
            raise ConfigError(
                f"rollout.weights_dir: {directory} is not there ({error.strerror}); name a "
                "memory-backed directory such as /dev/shm"
            ) from None
        needed = int(versions * self.num_bytes * 1.01) + (1 << 20)
        if free < needed:
            raise ConfigError(
                f"rollout.weights_dir: {directory} has {free / 1e9:.2f} GB free, {versions} "
                f"version(s) of the weights need {needed / 1e9:.2f} GB; make it larger (docker: "
                "--shm-size) or name another directory"
            )


def _free_bytes(directory: Path) -> int:
    """Room in a file system; of a memory-backed one, no more than there is memory."""
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    with contextlib.suppress(OSError, ValueError, StopIteration):
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
        above = [m for m in mounts if directory.resolve().is_relative_to(m[1])]
        if max(above, key=lambda mount: len(mount[1]))[2] == "tmpfs":
            lines = Path("/proc/meminfo").read_text().splitlines()
            available = next(line for line in lines if line.startswith("MemAvailable:"))
            free = min(free, int(available.split()[1]) * 1024)
    return free


def _write_blocks(blocks: Iterator[Block], folder: Path) -> dict[str, str]:
    """Writes one file per block; returns the file of every tensor."""
    where: dict[str, str] = {}
    pending: deque[Future] = deque()

    def flush(block: Block, number: int) -> None:
        file = f"model-{number:05d}.safetensors"
        if not bool(block.finite):
            raise NotFinite(f"not all values of {min(block.tensors)} and its neighbours are finite")
        # safetensors writes the buffer as it lies in memory, whatever the strides say.
        content = {name: np.ascontiguousarray(x) for name, x in block.tensors.items()}
        where.update(dict.fromkeys(content, file))
        while len(pending) >= _WRITERS:
            pending.popleft().result()
        pending.append(pool.submit(_save, content, folder / file))

    with ThreadPoolExecutor(_WRITERS) as pool:
        previous = None
        for number, block in enumerate(blocks):
            for array in block.tensors.values():
                array.copy_to_host_async()
            if previous is not None:
                flush(previous, number - 1)
            previous, last = block, number
        if previous is not None:
            flush(previous, last)
        for future in pending:
            future.result()
    return where


def _save(content: dict[str, np.ndarray], path: Path) -> None:
    save_file(content, path, metadata={"format": "pt", "producer": "curiojax"})
    _flush(path)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text + "\n", encoding="utf-8")
    _flush(path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(parent: Path) -> tuple[Path, IO[str]]:
    """A private directory, and the lock that says that its owner lives."""
    hidden = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=parent))
    lock = (hidden / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return hidden.rename(parent / hidden.name[1:]), lock


def _sweep(parent: Path) -> None:
    """Removes what owners that were killed left behind: the locks went with them."""
    with contextlib.suppress(OSError):
        for folder in parent.glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError), (folder / "lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
