"""The PyTorch side: `python -m speed.torch_worker JOB`; needs torch, transformers and numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

from speed.inputs import teacher_logits
from speed.worker import SETUP_UNITS, Channel, Skipped, main, take_turns

try:
    import torch
except ImportError:
    torch = None

Job = dict[str, Any]


def _check() -> None:
    if torch is None:
        raise Skipped("no torch")


def _software() -> dict[str, str]:
    import transformers

    return {"torch": torch.__version__, "transformers": transformers.__version__}


def _peak() -> int | None:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def search(channel: Channel, job: Job) -> dict[str, Any]:
    """Figure 6 alone."""
    _check()
    from speed.figure6 import figure6

    device = "cuda" if torch.cuda.is_available() else "cpu"
    logits = torch.from_numpy(teacher_logits(job["tokens"], job["vocab_size"])).to(device)

    def run() -> Any:
        tau = figure6(logits, **job["search"])
        if device == "cuda":
            torch.cuda.synchronize()
        return tau

    for _ in range(2):
        tau = run()
    channel.unit(SETUP_UNITS)
    seconds = take_turns(channel, {"figure6": run}, job["repeats"])
    values = {"seconds": seconds["figure6"], "tau_mean": float(tau.mean()), "peak_bytes": _peak()}
    return {"variants": {"figure6": values}, "software": _software()}


def step(channel: Channel, job: Job) -> dict[str, Any]:
    """The whole step; `job["half"]` keeps everything in bfloat16."""
    _check()
    from speed.reference import Reference

    arrays = dict(np.load(job["arrays"]))
    reference = Reference(job, arrays, half=job["half"])
    losses = [reference.step() for _ in range(job["first_steps"])]
    channel.unit(SETUP_UNITS)
    name = job["variant"]
    seconds = take_turns(channel, {name: reference.step}, job["repeats"])
    values = {"seconds": seconds[name], "losses": losses, "peak_bytes": _peak()}
    return {"variants": {name: values}, "software": _software()}


if __name__ == "__main__":
    main({"figure6": search, "reference": step})
