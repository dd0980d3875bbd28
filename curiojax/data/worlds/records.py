"""Demonstrations and problems of an embedded world as files in the schema of real data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from curiojax.data.worlds.interface import Demonstration, Problem


def write_parquet(path: str | Path, items: Sequence[Demonstration | Problem]) -> None:
    """Writes records in the verl / LUFFY schema; bare problems get no `target` column.

    Columns: `data_source`, `prompt` and `target` (lists of {role, content}), `ability`,
    `reward_model` {ground_truth, style}, `extra_info` {index, split, strategy}. The ground truth is
    what the world's verifier reads.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    records = [_record(index, item) for index, item in enumerate(items)]
    pq.write_table(pa.Table.from_pylist(records), path)


def _record(index: int, item: Demonstration | Problem) -> dict:
    problem = cast(Problem, getattr(item, "problem", item))
    record = {
        "data_source": f"curiojax/{problem.world}",
        "prompt": [{"role": "user", "content": problem.prompt}],
        "ability": problem.world,
        "reward_model": {"ground_truth": problem.ground_truth, "style": "rule"},
        "extra_info": {
            "index": index,
            "split": "default",
            "strategy": getattr(item, "strategy", "none"),
        },
    }
    response = getattr(item, "response", None)
    if response is not None:
        record["target"] = [{"role": "assistant", "content": response}]
    return record
