"""Runs inside vLLM's worker processes: takes new weights from files, all of them or none.

vLLM's own ways of reloading touch the model before they have seen the whole checkpoint: one tensor
missing leaves it half old and half new, a wrong shape leaves it beyond repair, and NaNs are served.
Here names, shapes and values are checked first, and a checkpoint that fails is refused with the old
weights untouched.

This file is copied to where vLLM's interpreter finds it (`--worker-extension-cls`), so it imports
nothing of this package, and nothing but torch, safetensors and vLLM.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from vllm.distributed.weight_transfer.base import (  # pyright: ignore[reportMissingImports]
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import (  # pyright: ignore[reportMissingImports]
    WeightTransferEngineFactory,
)
from vllm.model_executor.model_loader.reload import (  # pyright: ignore[reportMissingImports]
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)

BACKEND = "curiojax_files"
# The client looks for this in an error, to tell "refused, nothing touched" from "failed half-way".
REFUSED = "curiojax refused the weights:"
DTYPES = ("F32", "BF16", "F16")
CHUNK = 1 << 24  # elements looked at in one go, so that the check needs little memory


class Refused(ValueError):
    """The weights were not touched; the message says what is wrong with the new ones."""

    def __init__(self, problem: str):
        super().__init__(f"{REFUSED} {problem}")


@dataclass
class FileInitInfo(WeightTransferInitInfo):
    """Files need no rendezvous."""


@dataclass
class FileUpdateInfo(WeightTransferUpdateInfo):
    """Where the new weights lie: a directory with safetensors, laid out as a checkpoint's."""

    directory: str


class FileWeightTransferEngine(WeightTransferEngine[FileInitInfo, FileUpdateInfo]):
    """A backend of vLLM's weight-transfer routes that reads safetensors.

    The start checkpoint defines the names and shapes that an update must have.
    """

    init_info_cls = FileInitInfo
    update_info_cls = FileUpdateInfo
    supports_draft_weight_update = False

    def __init__(self, config: Any, vllm_config: Any, device: torch.device, model: Any):
        super().__init__(config, vllm_config, device, model)
        start = Path(self.model_config.model)
        if not start.is_dir():
            raise ValueError(f"--model {start}: give a local directory, not the id of a model")
        tied = bool(getattr(self.model_config.hf_config, "tie_word_embeddings", False))
        # Read now: the directory may be gone by the time of the first update.
        with Checkpoint(start) as files:
            self._expected = {
                name: files.shape(name) for name in files.names() if not _derived(name, tied)
            }

    def init_transfer_engine(self, init_info: FileInitInfo) -> None:
        pass

    # The model is not touched before the whole checkpoint has been seen, hence neither here nor in
    # `finish_weight_update`.
    def start_weight_update(self) -> None:
        pass

    def finish_weight_update(self) -> None:
        pass

    def receive_weights(self, update_info: FileUpdateInfo) -> None:
        try:
            files = Checkpoint(Path(update_info.directory))
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise Refused(f"{update_info.directory} is unreadable: {error}") from error
        with files:
            problem = find_problem(files, self._expected, self.device)
            if problem is not None:
                raise Refused(problem)
            initialize_layerwise_reload(self.model)
            loaded = self.model.load_weights(files.tensors())
            finalize_layerwise_reload(self.model, self.model_config)
            repack_shared(self.model)
        parameters = {name for name, _ in self.model.named_parameters()}
        if loaded is not None and (missed := parameters - set(loaded)):
            raise RuntimeError(f"parameters {sorted(missed)[:5]} got no weights")

    def shutdown(self) -> None:
        pass


class Extension:
    """Named by `--worker-extension-cls`; importing its module registers the backend."""


class Checkpoint:
    """The tensors of a directory, over one safetensors file or several with an index."""

    def __init__(self, directory: Path):
        index = directory / "model.safetensors.index.json"
        if index.exists():
            listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            paths = [directory / name for name in sorted(set(listed.values()))]
        else:
            listed = None
            paths = [directory / "model.safetensors"]
        self._files: list[Any] = []
        self._where: dict[str, Any] = {}
        try:
            for path in paths:
                if not path.is_file():
                    raise ValueError(f"no {path.name}")
                file = safe_open(path, framework="pt", device="cpu").__enter__()
                self._files.append(file)
                self._where |= dict.fromkeys(file.keys(), file)
            if listed is not None and set(listed) != set(self._where):
                raise ValueError(f"{index.name} does not list the tensors that are there")
        except BaseException:
            self.close()
            raise

    def names(self) -> list[str]:
        return list(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._where[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        return str(self._where[name].get_slice(name).get_dtype())

    def tensor(self, name: str) -> torch.Tensor:
        return self._where[name].get_tensor(name)

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name in self._where:
            yield name, self.tensor(name)

    def close(self) -> None:
        for file in self._files:
            file.__exit__(None, None, None)
        self._files.clear()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def repack_shared(model: torch.nn.Module) -> None:
    """Brings the packed copies of shared weights up to date.

    On CPUs a layer multiplies with a copy of its weight in another layout. vLLM's reload rebuilds
    the copy of a layer that tensors were loaded into, but a head tied to the embedding gets none of
    its own: its weight is new, its copy would stay old, and nothing would say so.
    """
    seen: set[int] = set()
    module: Any
    for module in model.modules():
        weight = module._parameters.get("weight")
        if id(weight) in seen and hasattr(module, "cpu_linear"):
            module.quant_method.process_weights_after_loading(module)
        if weight is not None:
            seen.add(id(weight))


def find_problem(
    files: Checkpoint, expected: dict[str, tuple[int, ...]], device: torch.device
) -> str | None:
    """What is wrong with a checkpoint, in one line; None when it can be loaded."""
    names = files.names()
    if missing := sorted(set(expected) - set(names)):
        return f"{len(missing)} tensors are missing, {missing[0]} among them"
    if extra := sorted(set(names) - set(expected)):
        return f"{len(extra)} tensors too many, {extra[0]} among them"
    for name in names:
        if files.shape(name) != expected[name]:
            return f"{name} has shape {list(files.shape(name))}, not {list(expected[name])}"
        if files.dtype(name) not in DTYPES:
            return f"{name} has dtype {files.dtype(name)}"
    for name in names:
        for chunk in files.tensor(name).flatten().split(CHUNK):
            # Both infinities and NaN come through, at a fraction of the cost of looking at each.
            if not math.isfinite(chunk.to(device).abs().max().item()):
                return f"{name} has values that are not finite"
    return None


def _derived(name: str, tied: bool) -> bool:
    """Whether a tensor, if listed at all, follows from others or from config.json."""
    return name.endswith("rotary_emb.inv_freq") or (tied and name == "lm_head.weight")


WeightTransferEngineFactory.register_engine(BACKEND, FileWeightTransferEngine)
