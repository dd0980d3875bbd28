"""The comparison in either world: what is shipped fits it, and the whole of mod-chain's."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from curiojax import quickstart
from curiojax.config import load_config
from curiojax.data.pipeline import build_dataset
from curiojax.data.tokenizer import load_tokenizer
from curiojax.data.worlds import WORLDS, embedded_world
from curiojax.data.worlds.interface import parse_recipe
from curiojax.errors import ConfigError
from curiojax.evaluation.results import read_evaluations
from curiojax.rewards.modchain import check_lines
from curiojax.yaml_files import find_config

CONFIGS = {
    "countdown": "configs/quickstart.yaml",
    "modchain": "configs/quickstart_modchain.yaml",
}
TINY = (
    *("world.num_prompts=12", "world.samples=2"),
    *("world.id_prompts=3", "world.hard_prompts=3", "world.longer_prompts=0"),
)


FOLDER = Path(__file__).parents[1] / "configs"
WITH_A_WORLD = sorted(p for p in FOLDER.rglob("*.yaml") if "\nworld:" in p.read_text())


def test_every_world_has_its_config():
    assert set(CONFIGS) == set(WORLDS)
    for name, path in CONFIGS.items():
        world = load_config(find_config(path), []).world
        assert world is not None and world.name == name


@pytest.mark.parametrize("path", WITH_A_WORLD, ids=lambda path: str(path.relative_to(FOLDER)))
def test_the_shipped_config_fits_its_world(tmp_path, path):
    config = load_config(path, ["world.num_demonstrations=8", "world.num_prompts=8"])
    assert config.world is not None
    world = embedded_world(config.world.name)
    assert {kind for kind, count in config.world.prompts.items() if count} <= {
        kind.name for kind in world.kinds
    }
    for run in (quickstart.member(config, each, tmp_path) for each in config.compare or {}):
        assert run.data.max_prompt_tokens == world.prompt_tokens
        if run.stage == "grpo":
            assert run.rollout.max_response_tokens == world.response_tokens
            assert (run.reward.verifier, run.reward.format) == (world.verifier, world.format)
        else:
            assert run.data.max_response_tokens == world.response_tokens
    first = next(iter(config.compare or {}))
    assert quickstart.member(config, first, tmp_path).model.path == str(world.base_model)


def test_what_a_world_lacks_is_refused_before_anything_is_written(tmp_path):
    config = load_config(
        find_config(CONFIGS["countdown"]),
        ["world.longer_prompts=4", f"output_dir={tmp_path / 'o'}"],
    )
    with pytest.raises(ConfigError, match=r"world\.longer_prompts: countdown has no longer"):
        quickstart.run_comparison(config)
    assert not (tmp_path / "o").exists()
    with pytest.raises(ConfigError, match=r"world\.name"):
        embedded_world("chess")
    assert parse_recipe("two 0.2") == ("two", 0.2) and parse_recipe("canon") == ("canon", 0.0)
    with pytest.raises(ConfigError, match=r"world\.demonstrations.*share"):
        parse_recipe("two often")


def test_modchain_is_rewarded_and_evaluated_by_math_verify(tmp_path, capsys):
    """Two steps of GRPO from the base; the reward is math-verify's and the strict format's."""
    out = tmp_path / "out"
    config = load_config(find_config(CONFIGS["modchain"]), [*TINY, f"output_dir={out}"])
    runs = dict(config.compare or {})
    small = {"prompts_per_step": 4, "rollouts_per_prompt": 4, "prompts_per_update": 4, "steps": 2}
    grpo = {key: value for key, value in runs["CurioSFT + GRPO"].items() if key != "after"}
    quickstart.run_comparison(config.model_copy(update={"compare": {"GRPO": grpo | small}}))

    said = capsys.readouterr().out
    assert "Held-out mod-chain problems" in said and "lines right" in said
    rows = pq.read_table(next(out.glob("prompts-modchain-*.parquet"))).to_pylist()
    assert len(rows) == 12 and {row["data_source"] for row in rows} == {"curiojax/modchain"}
    assert all(0 <= int(row["reward_model"]["ground_truth"]) < 10 for row in rows)
    for folder, steps in (("base", 0), ("grpo", 2)):
        scores = read_evaluations(out / folder)[steps]
        assert {"id_pass1", "hard_pass2", "search_hard_pass2", "entropy"} <= set(scores)
        assert (scores["prompts_id"], scores["id_pass1"]) == (3, 0.0)
    lines = [json.loads(line) for line in (out / "grpo" / "metrics.jsonl").open()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(line["reward"] == 0.0 for line in lines)  # the base has no answers


def test_modchain_demonstrations_come_through_the_pipeline_unchanged(tmp_path):
    config = load_config(find_config(CONFIGS["modchain"]), ["world.num_demonstrations=48"])
    run = quickstart.member(config, "CurioSFT", tmp_path)
    rows = pq.read_table(run.data.path).to_pylist()
    tokenizer = load_tokenizer(run.model.path)
    data = build_dataset(
        run.data,
        tokenizer,
        seed=0,
        sequences_per_step=16,
        rows_per_microbatch=16,
        cache_dir=tmp_path / "cache",
    )
    assert data.num_examples == 48 and not any(data.drops.values())
    for index, row in enumerate(rows):
        prompt, response = data.example(index)
        assert tokenizer.decode(prompt) == row["prompt"][0]["content"]
        assert tokenizer.decode(response[:-1]) == row["target"][0]["content"]
        assert response[-1] == tokenizer.eos_token_id
        assert check_lines(row["target"][0]["content"], row["prompt"][0]["content"]).correct
