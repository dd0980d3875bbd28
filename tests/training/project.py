"""A small Qwen2.5-shaped checkpoint and a parquet file in the verl/LUFFY schema, made here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.data.conftest import make_tokenizer

RECORDS, PER_STEP = 60, 8  # 7 steps an epoch, 4 records left over


def make_base(folder: Path) -> Path:
    """A bfloat16 checkpoint with its tokenizer, as transformers writes it."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=-(-len(tokenizer) // 8) * 8,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        initializer_range=0.2,
    )
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def make_data(path: Path, seed: int = 0) -> Path:
    """Records with ragged responses; the system prompt is replaced by the template's."""
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(RECORDS):
        a, b = (int(x) for x in rng.integers(1, 99, 2))
        thought = " ".join(str(x) for x in rng.integers(0, 99, rng.integers(2, 20)))
        rows.append(
            {
                "data_source": "",
                "prompt": [
                    {"role": "system", "content": "Reason."},
                    {"role": "user", "content": f"What is {a} + {b}?"},
                ],
                "target": [
                    {
                        "role": "assistant",
                        "content": f"<think>\n{thought}\n</think>\n\\boxed{{{a + b}}}",
                    }
                ],
                "ability": "math",
                "reward_model": {"ground_truth": str(a + b), "style": "rule"},
                "extra_info": {"index": index, "split": "default"},
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def arguments(folder: Path, output: Path, *more: str) -> list[str]:
    """Command-line arguments of a ten-step run."""
    return [
        "steps=10",
        f"sequences_per_step={PER_STEP}",
        "rows_per_microbatch=8",
        f"model.path={folder / 'base'}",
        "model.compute_dtype=float32",
        f"data.path={folder / 'train.parquet'}",
        "data.template=qwen",
        "data.max_prompt_tokens=160",
        "data.max_response_tokens=96",
        "optimizer.learning_rate=1e-3",
        "optimizer.warmup_steps=3",
        "checkpoint.every=5",
        "mesh.fsdp=1",
        "mesh.data=-1",
        f"output_dir={output}",
        *more,
    ]


def config_file(folder: Path) -> Path:
    """An (all but) empty config, so that the command line does not run the embedded default."""
    path = folder / "config.yaml"
    path.write_text("stage: sft\n")
    return path


def run(folder: Path, output: Path, *more: str, script: str | None = None, devices: int = 1):
    """`python -m curiojax.train` in a process of its own, or `script` with the same arguments."""
    environment = {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        # The processes of these tests run the same programs over and over.
        "JAX_COMPILATION_CACHE_DIR": str(folder / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    program = ["-m", "curiojax.train"] if script is None else ["-c", script]
    command = [sys.executable, *program, str(config_file(folder))]
    return subprocess.run(
        [*command, *arguments(folder, output, *more)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )


def metrics(output: Path, drop=("step_seconds", "tokens_per_second")) -> list[dict]:
    """The run's metrics without the times."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in drop} for line in lines]
