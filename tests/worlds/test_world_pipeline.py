import types

import numpy as np

from curiojax.data.pipeline import build_dataset
from curiojax.data.worlds import BASE_MODEL, demonstrations
from curiojax.evaluation.worlds import world_tokenizer


def test_demonstrations_come_through_the_pipeline_unchanged(tmp_path):
    items = demonstrations.demonstrations("two", count=64, seed=2)
    demonstrations.write_parquet(tmp_path / "train.parquet", items)
    config = types.SimpleNamespace(
        path=str(tmp_path / "train.parquet"),
        format=None,
        split="train",
        template="plain",
        max_prompt_tokens=8,
        max_response_tokens=16,
        overlong="error",
        packing=True,
        row_length=None,
        workers=0,
    )
    tokenizer = world_tokenizer(BASE_MODEL)
    data = build_dataset(
        config,
        tokenizer,
        seed=0,
        sequences_per_step=16,
        rows_per_microbatch=4,
        cache_dir=tmp_path / "cache",
    )
    assert data.num_examples == 64
    assert not any(data.drops.values())
    for index, item in enumerate(items):
        prompt, response = data.example(index)
        assert tokenizer.decode(prompt) == item.problem.prompt
        assert tokenizer.decode(response[:-1]) == item.response
        assert response[-1] == tokenizer.eos_token_id
        assert (len(prompt), len(response)) == (6, 13)
    assert int(np.sum(data.batch(0)["loss_mask"])) == 16 * 13
