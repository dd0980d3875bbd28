"""Our side: `python -m speed.jax_worker JOB`."""

from __future__ import annotations

from speed import heads, probe, sampling, steps
from speed.worker import main

MEASUREMENTS = {
    "probe": probe.probe,
    "matmul": probe.matmul,
    "steps": steps.steps,
    "memory": steps.memory,
    "start": steps.start,
    "search": heads.search,
    "head": heads.head,
    "decode": sampling.decode,
    "export": sampling.export,
}

if __name__ == "__main__":
    main(MEASUREMENTS)
