"""The embedded comparison: what each run is made of, and the whole of it at its smallest."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.numpy import load

from curiojax import quickstart
from curiojax.config import load_config, to_yaml
from curiojax.data.worlds import BASE_MODEL, countdown
from curiojax.errors import ConfigError
from curiojax.evaluation.results import read_evaluations
from curiojax.rewards.countdown import parse_ground_truth
from curiojax.yaml_files import find_config

TINY = """
seed: 0
world: {name: countdown, num_demonstrations: 64, num_prompts: 20, hard_share: 0.25,
        id_prompts: 4, hard_prompts: 4, samples: 2}
steps: 2
sequences_per_step: 16
rows_per_microbatch: 16
model: {compute_dtype: float32, remat: none}
data: {template: plain, max_prompt_tokens: 6, max_response_tokens: 13, packing: false}
compare:
  vanilla SFT:
    objective: {name: sft}
  vanilla SFT + GRPO:
    after: vanilla SFT
    stage: grpo
    steps: 2
    prompts_per_step: 4
    rollouts_per_prompt: 4
    prompts_per_update: 2
    rollout: {top_p: 1.0, max_response_tokens: 13}
    reward: {verifier: countdown, format: none, workers: 1}
    objective: {entropy_coef: 0.1}  # two steps of SFT earn no reward, so nothing else would teach
    optimizer: {learning_rate: 1e-3}
"""


def shipped(*overrides):
    return load_config(find_config("configs/quickstart.yaml"), overrides)


def tiny(folder, *overrides):
    file = folder / "tiny.yaml"
    file.write_text(TINY)
    return load_config(file, [f"output_dir={folder / 'out'}", *overrides])


def test_grpo_starts_from_the_run_it_names_and_takes_what_holds_for_both_stages(tmp_path):
    config = shipped("seed=3", "model.remat=dots", "loss.normalizer=pair_token_mean")
    start = quickstart.member(config, "CurioSFT", tmp_path)
    run = quickstart.member(config, "CurioSFT + GRPO", tmp_path)
    assert start.model.path == str(BASE_MODEL) and start.loss.normalizer == "pair_token_mean"
    assert run.model.path == f"{start.output_dir}/hf"
    assert run.output_dir != start.output_dir
    assert (run.stage, run.objective.name, run.steps, run.seed) == ("grpo", "grpo", 100, 3)
    assert run.model.remat == "dots"
    assert run.optimizer.schedule == "constant" and run.optimizer.warmup_steps == 0
    assert (run.data.max_prompt_tokens, run.rollout.max_response_tokens) == (6, 13)
    # The others of that stage differ in their start alone.
    other = quickstart.member(config, "vanilla SFT + GRPO", tmp_path)
    same = {"model": run.model, "output_dir": run.output_dir}
    assert other.model != run.model and other.model_copy(update=same) == run


@pytest.mark.parametrize("name", ["vanilla SFT", "CurioSFT", "CurioSFT, tau 1.5"])
def test_the_released_preset_reaches_every_run(tmp_path, name):
    run = quickstart.member(shipped("preset=released"), name, tmp_path)
    assert run.loss.normalizer == "pair_token_mean" and run.data.overlong == "truncate"


def test_the_prompts_are_training_problems_with_the_share_that_is_asked_for(tmp_path):
    file = quickstart.prompts_file(tiny(tmp_path), tmp_path)
    prompts = [row["prompt"][0]["content"] for row in pq.read_table(file).to_pylist()]
    assert len(prompts) == 20

    def among(kind, held_out):
        """Problems by their numbers, whatever the order, and target."""
        return {
            (tuple(sorted(p.numbers)), p.target)
            for p in countdown.problems(kind, held_out=held_out)
        }

    parsed = [parse_ground_truth(prompt) for prompt in prompts]
    found = [(tuple(sorted(numbers)), target) for numbers, target in parsed]
    assert sum(p in among("hard", False) for p in found) == 5
    assert sum(p in among("id", False) for p in found) == 15
    assert "target" not in pq.read_table(file).column_names


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"a": {"after": "b"}, "b": {}}, ["compare.a.after", "'b'", "before it"]),
        ({"a": {}, "b": {"after": "c"}}, ["compare.b.after", "'c'", "one of 'a'"]),
        ({"a": {"after": "a"}}, ["compare.a.after", "'a'"]),
        ({"a": {"stage": "grpo", "epochs": 2}}, ["epochs"]),
        ({"a": {"stage": "grpo", "sequences_per_step": 3}}, ["sequences_per_step", "grpo"]),
    ],
)
def test_a_wrong_entry_is_one_line(tmp_path, entries, words):
    config = tiny(tmp_path).model_copy(update={"compare": entries})
    with pytest.raises(ConfigError) as error:
        quickstart.run_comparison(config)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("given", ["model.path=x", "data.path=x", "objective.alpha=2"])
def test_what_the_comparison_brings_itself_is_refused(tmp_path, given):
    with pytest.raises(ConfigError, match="brings its own"):
        quickstart.run_comparison(tiny(tmp_path, given))


def test_the_config_of_the_report_reads_back(tmp_path):
    config = shipped()
    assert "&" not in to_yaml(config)  # anchors would not survive a cut and paste of one entry
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    assert load_config(tmp_path / "c.yaml") == config


def test_an_interrupted_comparison_goes_on_and_a_finished_one_is_left_alone(
    tmp_path, monkeypatch, capsys
):
    config = tiny(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(quickstart, "run_grpo", interrupted)
        with pytest.raises(KeyboardInterrupt):
            quickstart.run_comparison(config)
    out = tmp_path / "out"
    assert not (out / "report.html").exists()
    weights = (out / "vanilla-sft" / "hf" / "model.safetensors").read_bytes()

    quickstart.run_comparison(config)
    said = capsys.readouterr()
    assert said.err.count("finished already") == 1
    rows = [line.split("  ")[0] for line in said.out.splitlines()]
    wanted = ["base model", "vanilla SFT", "vanilla SFT + GRPO"]
    assert [row.strip() for row in rows if row.strip() in wanted] == wanted
    assert "one seed" in said.out
    assert (out / "vanilla-sft" / "hf" / "model.safetensors").read_bytes() == weights
    after = out / "vanilla-sft-grpo" / "hf" / "model.safetensors"
    trained = after.read_bytes()
    start, end = load(weights), load(trained)
    assert any((end[key] != start[key]).any() for key in start)
    resolved = yaml.safe_load((out / "vanilla-sft-grpo" / "config.yaml").read_text())
    assert resolved["model"]["path"] == str(out / "vanilla-sft" / "hf")
    report = (out / "report.html").read_text()
    assert "vanilla SFT + GRPO" in report and "plot-reward" in report

    with monkeypatch.context() as patch:  # nor is anything measured again
        patch.setattr(quickstart, "evaluate", interrupted)
        quickstart.run_comparison(config)
    said = capsys.readouterr()
    assert said.err.count("finished already") == 2
    assert said.out.count("vanilla SFT") >= 2
    assert after.read_bytes() == trained


def test_a_checkpoint_is_evaluated_as_its_export_is(tmp_path, monkeypatch):
    run = {"objective": {"name": "sft"}, "checkpoint": {"every": 1, "keep_every": 1}}
    config = tiny(tmp_path).model_copy(update={"compare": {"a": run}})
    result = quickstart.train(quickstart.member(config, "a", tmp_path), name="a", details=False)
    exported = quickstart.scores_at(config, result.directory, 2, last=2)
    kept = result.directory / "evaluation.json"
    kept.unlink()
    for step in (1, 2):  # from `checkpoints`, not from `hf`
        quickstart.scores_at(config, result.directory, step, last=3)
    evaluations = read_evaluations(result.directory)
    assert evaluations[2] == exported and evaluations[1] != exported

    monkeypatch.setattr(quickstart, "score", interrupted)  # nor is it measured again
    assert quickstart.scores_at(config, result.directory, 2, last=3) == exported
    assert quickstart.scores_at(config, result.directory, 2, last=2) == exported


def interrupted(*arguments, **options):
    raise KeyboardInterrupt
