"""Checkpoints: the whole train state, saved by Orbax in the background and published atomically.

Besides the state nothing needs saving: the batch of a step is a pure function of the data, the seed
and the step. A checkpoint can be restored onto another mesh or number of processes.
"""

from __future__ import annotations

import io
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as preservation

from curiojax.config import Checkpoint
from curiojax.errors import ConfigError
from curiojax.training.state import TrainState

FORMAT = "curiojax-train-state-1"


class Checkpoints:
    """The checkpoints of one run directory.

    Args:
      directory: created when missing.
      policy: how many are kept.
      identity: JSON-able description of what the state belongs to; a checkpoint with another one is
        foreign.
    """

    def __init__(self, directory: Path, policy: Checkpoint, identity: dict[str, Any]):
        self._directory = directory.absolute()
        self._directory.mkdir(parents=True, exist_ok=True)
        self._meta = {"format": FORMAT, "identity": identity}
        self._policy = policy
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=_preservation(self._policy),
                cleanup_tmp_directories=True,
            ),
        )

    def latest(self) -> int | None:
        """The step of the newest checkpoint."""
        return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Starts saving; returns once the state has been copied out of the devices' memory."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(self._meta)
        )
        self._manager.save(step, args=args)

    def wait(self) -> None:
        """Blocks until the last save is on disk; raises what went wrong in the background."""
        self._manager.wait_until_finished()
        self._manager.check_for_errors()

    def close(self) -> None:
        self._manager.close()

    def restore(self, like: TrainState, report: Callable[[str], None]) -> TrainState | None:
        """The newest good checkpoint, laid out like the abstract state `like`; None: there is none.

        A checkpoint that cannot be read is named and the next older one tried; once one is read,
        the bad ones are set aside under `damaged/`.

        Raises:
          ConfigError: the newest readable checkpoint belongs to another run, or none is readable;
            nothing is moved then.
        """
        bad: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                with _without_abandoned_reads():
                    restored = self._read(step, like)
            except (ConfigError, MemoryError):
                raise
            except Exception as error:  # whatever a torn file makes of the reader
                if "RESOURCE_EXHAUSTED" in str(error):
                    raise
                bad[step] = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
                continue
            self._set_aside(bad, report)
            return restored
        if bad:
            step, reason = next(iter(bad.items()))
            raise ConfigError(
                f"{self._directory}: none of the checkpoints {sorted(bad)} can be read ({step}: "
                f"{reason}); repair the storage, or start again with another output_dir"
            )
        return None

    def _read(self, step: int, like: TrainState) -> TrainState:
        meta = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))
        self._check_identity(step, meta["meta"])
        arguments = ocp.args.Composite(state=ocp.args.StandardRestore(like))
        return _owned(self._manager.restore(step, args=arguments)["state"])

    def _check_identity(self, step: int, meta: Any) -> None:
        where = f"{self._directory / str(step)}"
        if not isinstance(meta, dict) or meta.get("format") != FORMAT:
            raise ConfigError(f"{where}: not a checkpoint of this program; use another output_dir")
        saved, ours = _flat(meta["identity"]), _flat(self._meta["identity"])
        for key in sorted(saved.keys() | ours.keys()):
            if saved.get(key) != ours.get(key):
                raise ConfigError(
                    f"{where}: was made with {key} = {saved.get(key)!r}, this run has "
                    f"{ours.get(key)!r}; restore the old value or use another output_dir"
                )

    def _set_aside(self, bad: dict[int, str], report: Callable[[str], None]) -> None:
        for step, reason in bad.items():
            target = self._directory / "damaged" / str(step)
            report(f"checkpoint {step} cannot be read ({reason}); moved to {target}")
            if jax.process_index() == 0:
                if target.exists():
                    shutil.rmtree(target)
                target.parent.mkdir(exist_ok=True)
                (self._directory / str(step)).rename(target)
        if bad:
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("damaged checkpoints are set aside")
            self._manager.close()
            self._manager = self._open()


def _step_folders(directory: Path) -> Iterator[int]:
    if directory.is_dir():
        for path in directory.iterdir():
            if path.name.isdigit():
                yield int(path.name)


def _owned(state: TrainState) -> TrainState:
    """Copies restored arrays that may alias the reader's memory, since the first step donates them.

    Only host memory can be aliased; on a GPU a second copy could be too much.
    """
    if jax.default_backend() != "cpu":
        return state
    return jax.tree.map(lambda x: x.copy(), state)


@contextmanager
def _without_abandoned_reads() -> Iterator[None]:
    """Swallows what Orbax prints when a read fails; the failure itself is raised, and reported.

    The reads it leaves behind end in threads of TensorStore, after the event loop that waited for
    them has gone, and each of them prints a traceback.
    """
    stream, sys.stderr = sys.stderr, io.StringIO()
    try:
        yield
    except Exception:
        time.sleep(0.5)  # until they have all said so
        raise
    else:
        stream.write(sys.stderr.getvalue())
    finally:
        sys.stderr = stream


def _preservation(policy: Checkpoint) -> Any:
    policies: list[Any] = [preservation.LatestN(policy.keep_last)]
    if policy.keep_every is not None:
        policies.append(preservation.EveryNSteps(policy.keep_every))
    return preservation.AnyPreservationPolicy(policies)


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, dict):
        flat: dict[str, Any] = {}
        for key, value in tree.items():
            flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
        return flat
    return {prefix: tree}


# ---- parameters alone: what the conversion tool reads and writes -----------------------------


def restore_params(directory: Path, like: Any, step: int | None = None) -> tuple[Any, int]:
    """The student's weights of one checkpoint of a run, without its optimiser and teacher.

    Args:
      directory: the run's `checkpoints` folder.
      like: abstract parameters with shardings.
      step: which checkpoint; None: the newest.

    Returns:
      (parameters, step)

    Raises:
      ConfigError: there is no such checkpoint, or it cannot be read.
    """
    steps = sorted(_step_folders(directory))
    if step is None and steps:
        step = steps[-1]
    if step not in steps:
        found = f"it has {', '.join(map(str, steps))}" if steps else "there are no checkpoints"
        raise ConfigError(f"{directory}: no checkpoint {step if step is not None else ''}; {found}")
    folder = directory.absolute() / str(step) / "state"
    return _read_tree(folder, {"params": like})["params"], step


def save_params(directory: Path, params: Any) -> None:
    """Writes a tree of weights as an Orbax checkpoint of its own."""
    with ocp.StandardCheckpointer() as writer:
        writer.save(directory.absolute(), params)


def load_params(directory: Path, like: Any) -> Any:
    """Reads what `save_params` wrote, laid out like the abstract parameters `like`."""
    return _read_tree(directory.absolute(), like)


def _read_tree(folder: Path, like: Any) -> Any:
    arguments = ocp.args.PyTreeRestore(
        item=like,
        restore_args=ocp.checkpoint_utils.construct_restore_args(like),
        partial_restore=True,
    )
    try:
        return ocp.PyTreeCheckpointer().restore(folder, args=arguments)
    except Exception as error:  # whatever a torn or foreign folder makes of the reader
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ConfigError(
            f"{folder}: cannot be read as weights of this model ({first_line})"
        ) from None
