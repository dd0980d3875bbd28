import json
import os
import subprocess
import sys

import numpy as np
import pytest

from curiojax.data import build_dataset
from curiojax.data.pipeline import epoch_order
from curiojax.errors import ConfigError

NUM = 83


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Records in LUFFY's schema with answers of very different lengths; two have no answer."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("source") / "train.jsonl"
    with open(path, "w") as stream:
        for i in range(NUM + 2):
            answer = f"<think>\nOkay {i}." + " so" * int(rng.integers(1, 120)) + "</think>\n2"
            row = {
                "prompt": [{"role": "user", "content": f"What is {i} + 1?"}],
                "target": None if i in (5, 60) else [{"role": "assistant", "content": answer}],
                "reward_model": {"ground_truth": str(i + 1), "style": "rule"},
            }
            stream.write(json.dumps(row) + "\n")
    return path


@pytest.fixture
def build(source, tokenizer, data_config):
    def make(
        seed=0,
        sequences=16,
        rows=4,
        tok=tokenizer,
        path=source,
        progress=None,
        normalizer="global_token_mean",
        **changes,
    ):
        changes = {
            "template": "qwen",
            "max_prompt_tokens": 256,
            "max_response_tokens": 256,
            **changes,
        }
        config = data_config(path, **changes)
        return build_dataset(
            config,
            tok,
            seed=seed,
            sequences_per_step=sequences,
            rows_per_microbatch=rows,
            progress=progress,
            normalizer=normalizer,
        )

    return make


def equal(first, second):
    assert first.keys() == second.keys()
    return all(np.array_equal(first[name], second[name]) for name in first)


def unpack(batch):
    """The records of a batch as (ids, trained ids), read off the arrays alone."""
    found = []
    flat = {name: array.reshape(-1, array.shape[-1]) for name, array in batch.items()}
    for row in range(len(flat["tokens"])):
        segments = flat["segment_ids"][row]
        for segment in range(1, segments.max() + 1):
            at = np.flatnonzero(segments == segment)
            assert np.array_equal(at, np.arange(at[0], at[-1] + 1))
            assert np.array_equal(flat["positions"][row, at], np.arange(len(at)))
            tokens, labels = flat["tokens"][row, at], flat["labels"][row, at]
            assert np.array_equal(tokens[1:], labels[:-1])
            trained = labels[flat["loss_mask"][row, at] == 1]
            found.append((tuple([*tokens.tolist(), labels[-1]]), tuple(trained.tolist())))
        padding = segments == 0
        for name in ("tokens", "labels", "positions", "loss_mask"):
            assert not flat[name][row, padding].any()
        assert np.array_equal(np.sort(padding), padding)  # at the end of the row only
    return found


def test_sizes_and_counts(build):
    data = build()
    assert (data.num_examples, data.steps_per_epoch, data.remainder) == (NUM, 5, 3)
    assert (data.num_rows, data.format, data.drops) == (NUM + 2, "verl", {"no response": 2})
    assert data.row_length == 512
    assert np.array_equal(data.lengths, data.prompt_lengths + data.response_lengths)
    prompt, response = data.example(7)
    assert (len(prompt), len(response)) == (data.prompt_lengths[7], data.response_lengths[7])
    assert data.warnings == []


@pytest.mark.parametrize("packing", [True, False])
def test_a_step_holds_exactly_its_records(build, packing, tokenizer):
    data = build(packing=packing)
    for step in (0, 4, 5):
        batch = data.batch(step)
        assert {name: array.dtype.name for name, array in batch.items()} == {
            "tokens": "int32",
            "labels": "int32",
            "positions": "int32",
            "segment_ids": "int32",
            "loss_mask": "float32",
        }
        shapes = {array.shape for array in batch.values()}
        assert len(shapes) == 1
        assert shapes.pop()[1:] == (4, 512)
        wanted = [data.example(i) for i in data.indices(step).tolist()]
        wanted = [(tuple(p + r), tuple(r)) for p, r in wanted]
        assert sorted(unpack(batch)) == sorted(wanted)
        assert len(wanted) == 16


def test_the_final_token_is_learnt_although_it_is_the_padding_token(build, tokenizer):
    """Masks come from lengths, never from token values."""
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    for _, trained in unpack(build().batch(0)):
        assert trained[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(trained).startswith("<think>\nOkay")


def test_no_empty_micro_batch_and_packing_saves_rows(build):
    data = build()
    packed, alone = data.batch(0), build(packing=False).batch(0)
    assert alone["tokens"].shape[0] == 4
    assert packed["tokens"].shape[0] < 4
    for batch in (packed, alone):
        assert (batch["segment_ids"].max((1, 2)) > 0).all()
    assert alone["segment_ids"].max() == 1


def test_layout_says_where_each_record_is(build):
    data = build()
    for step in (0, 3):
        batch, indices = data.batch(step), data.indices(step)
        rows = batch["tokens"].reshape(-1, 512)
        segments = batch["segment_ids"].reshape(-1, 512)
        for row, members in enumerate(data.layout(step)):
            for segment, member in enumerate(members, 1):
                prompt, response = data.example(int(indices[member]))
                found = rows[row, segments[row] == segment].tolist()
                assert found == (prompt + response)[:-1]


@pytest.mark.parametrize("sequences", [16, 15])
def test_the_mean_over_pairs_of_their_token_means(build, sequences):
    """The released code's normaliser, on losses that differ from token to token."""
    data = build(sequences=sequences, normalizer="pair_token_mean")
    step = 2
    losses = [np.sqrt(data.example(i)[1]) for i in data.indices(step).tolist()]
    pairs = [np.concatenate(losses[i : i + 2]) for i in range(0, sequences, 2)]
    wanted = np.mean([pair.mean() for pair in pairs])
    batch = data.batch(step)
    found = (batch["loss_mask"] * np.sqrt(batch["labels"])).sum() / batch["loss_mask"].sum()
    assert found == pytest.approx(wanted, rel=1e-5)
    assert batch["loss_mask"].sum() == pytest.approx(sum(map(len, losses)), rel=1e-5)
    plain = build(sequences=sequences).batch(step)
    assert np.array_equal(plain["loss_mask"], batch["loss_mask"] > 0)


def test_an_epoch_holds_every_record_once_but_the_remainder(build):
    data = build()
    for epoch in range(2):
        steps = range(epoch * 5, epoch * 5 + 5)
        seen = np.concatenate([data.indices(step) for step in steps])
        assert len(set(seen.tolist())) == len(seen) == NUM - 3
    left = [set(range(NUM)) - set(epoch_order(NUM, 0, e)[:80].tolist()) for e in range(2)]
    assert left[0] != left[1]


def test_iterate_is_batch_and_resumes_anywhere(build):
    data, again = build(), build()
    whole = list(data.iterate(0, 12))
    assert [step for step, _ in whole] == list(range(12))
    assert all(equal(batch, again.batch(step)) for step, batch in whole)
    for start in (1, 7):
        rest = list(again.iterate(start, 12))
        assert [step for step, _ in rest] == list(range(start, 12))
        assert all(equal(batch, whole[step][1]) for step, batch in rest)
    assert list(data.iterate(3, 3)) == []


def test_stopping_an_iteration_early_is_harmless(build):
    data = build()
    for step, batch in data.iterate(0, 10_000):
        assert equal(batch, data.batch(step))
        if step == 2:
            break
    assert next(data.iterate(5, 9))[0] == 5


def test_seed_and_epoch_decide_the_order(build):
    orders = [epoch_order(NUM, seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(NUM)) for order in orders)
    assert len(set(map(tuple, orders))) == 4
    assert not equal(build(seed=0).batch(0), build(seed=1).batch(0))
    # Written down: a new numpy must not change the order of an interrupted run.
    assert epoch_order(8, 3, 1).tolist() == [7, 3, 5, 6, 4, 0, 2, 1]


def test_order_looks_uniform():
    first = [int(epoch_order(4, seed, 0)[0]) for seed in range(400)]
    assert np.bincount(first).min() > 60


def test_worker_processes_and_row_shapes_do_not_change_the_records(build, tmp_path):
    data = build()
    workers = build(workers=2, cache_dir=str(tmp_path / "other"))
    assert workers.fingerprint == data.fingerprint
    assert all(equal(workers.batch(step), data.batch(step)) for step in (0, 6))
    other = build(rows=2, row_length=1000)
    for step in (0, 6):
        assert sorted(unpack(other.batch(step))) == sorted(unpack(data.batch(step)))


def test_the_cache_is_used_and_knows_when_not_to_be(build, source, tmp_path, tokenizer_with):
    calls = []

    def count(done, total):
        calls.append((done, total))

    first = build(progress=count)
    assert calls[-1] == (NUM, NUM)

    def tokenises(**changes):
        calls.clear()
        data = build(progress=count, **changes)
        return bool(calls), data

    again, data = tokenises()
    assert not again
    assert (data.fingerprint, data.drops) == (first.fingerprint, first.drops)
    assert equal(data.batch(2), first.batch(2))
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(source.read_bytes())
    for changes in (
        {"seed": 5},
        {"sequences": 8},
        {"rows": 1},
        {"packing": False},
        {"row_length": 600},
        {"path": copy},
    ):
        assert not tokenises(**changes)[0], changes
    for changes in (
        {"template": "plain"},
        {"max_prompt_tokens": 200},
        {"max_response_tokens": 250},
        {"overlong": "truncate"},
        {"limit": 80},
        {"format": "verl"},
        {"tok": tokenizer_with(think=True)},
    ):
        assert tokenises(**changes)[0], changes
    lines = source.read_text().replace("Okay 7.", "Okay 8.")
    copy.write_text(lines)
    again, data = tokenises(path=copy)
    assert again
    assert data.fingerprint != first.fingerprint
    folders = os.listdir(tmp_path / "cache")
    assert len(folders) == 9
    assert not [name for name in folders if name.startswith(".")]


@pytest.mark.parametrize("damage", ["meta.json", "tokens.npy", "offsets.npy"])
def test_a_damaged_cache_is_made_again(build, tmp_path, damage):
    wanted = build().batch(0)
    [folder] = (tmp_path / "cache").iterdir()
    (folder / damage).write_bytes((folder / damage).read_bytes()[:-40])
    assert equal(build().batch(0), wanted)
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [folder.name]


def test_two_processes_may_write_the_same_cache(build, tmp_path):
    others = []

    def overtake(done, total):
        if not others:
            others.append(None)
            others[0] = build()

    data = build(progress=overtake)
    assert equal(data.batch(0), others[0].batch(0))
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_failed_run_leaves_no_cache(build, tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(progress=interrupt)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(build, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"data\.cache_dir: cannot write to .*CURIOJAX_CACHE"):
        build(cache_dir=str(tmp_path / "file" / "cache"))


def test_drops_and_warnings_are_counted(build):
    data = build(max_response_tokens=128, sequences=4)
    short = NUM - data.drops["response too long"]
    assert data.num_examples == short < NUM
    assert data.drops["no response"] == 2
    assert data.response_lengths.max() <= 128
    cut = build(max_response_tokens=128, overlong="truncate")
    assert (cut.num_examples, cut.truncated) == (NUM, NUM - short)
    assert cut.warnings[0].startswith(f"{NUM - short} of {NUM} records were cut at 128")
    eos = [cut.example(i)[1][-1] == 0 for i in range(NUM)]
    assert eos.count(False) == NUM - short


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sequences": 84}, r"sequences_per_step: 84, but .* 83 usable records of 85 .*2 no resp"),
        ({"max_prompt_tokens": 3}, r"none of the 85 records .*prompt too long .83"),
        ({"row_length": 100}, r"data\.row_length: 100 is shorter than the longest record"),
        ({"overlong": "error", "max_response_tokens": 64}, r"record \d+ has \d+ response tokens"),
        ({"path": ""}, r"data\.path: not set"),
        ({"template": "nonsense"}, "unknown template"),
        ({"template": "model"}, "this one has none"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(build, changes, message):
    with pytest.raises(ConfigError, match=message) as error:
        build(**changes)
    assert "\n" not in str(error.value)


def test_reading_records_needs_neither_jax_nor_torch():
    code = (
        "import sys, curiojax.data, curiojax.data.encoding\n"
        "assert not {'jax', 'torch', 'flax', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def wrong(tmp_path_factory):
    """Seven records to unlearn, in a schema of their own choosing."""
    path = tmp_path_factory.mktemp("wrong") / "wrong.jsonl"
    lines = [
        json.dumps({"prompt": f"What is {i} + 1?", "completion": "Surely " + "7 " * (i + 1)})
        for i in range(7)
    ]
    path.write_text("\n".join(lines))
    return path


def test_suppressed_records_join_every_step(build, wrong):
    alone = build(normalizer="sequence_token_mean")
    data = build(normalizer="sequence_token_mean", suppressed_path=wrong, suppressed_per_step=3)
    assert (data.num_examples, data.steps_per_epoch) == (alone.num_examples, alone.steps_per_epoch)
    assert data.suppressed.num_examples == 7
    assert data.fingerprint not in (alone.fingerprint, data.suppressed.fingerprint)
    seen = set()
    for step in range(5):
        batch, plain = data.batch(step), alone.batch(step)
        assert {array.shape for array in batch.values()} == {batch["tokens"].shape}
        flag = batch.pop("suppressed")
        learnt = flag[:, 0, 0] == 0
        assert np.array_equal(flag, np.broadcast_to(~learnt[:, None, None], flag.shape))
        # What is learnt is what would be learnt without them.
        assert equal({name: array[learnt] for name, array in batch.items()}, plain)
        part = {name: array[~learnt] for name, array in batch.items()}
        masks = [m.sum(dtype=np.float64) for m in (plain["loss_mask"], part["loss_mask"])]
        assert masks[1] == pytest.approx(masks[0], rel=1e-6)
        part["loss_mask"] = (part["loss_mask"] > 0).astype(np.float32)
        records = unpack(part)
        assert len(records) == 3
        seen |= set(records)
    assert len(seen) > 4  # epochs of their own, of two steps each


def test_every_record_has_the_same_weight_in_a_sequence_mean(build):
    batch = build(normalizer="sequence_token_mean").batch(0)
    flat = {k: v.reshape(-1, v.shape[-1]) for k, v in batch.items()}
    totals = []
    for row in range(len(flat["tokens"])):
        for segment in range(1, flat["segment_ids"][row].max() + 1):
            at = flat["segment_ids"][row] == segment
            totals.append(flat["loss_mask"][row, at].sum())
    assert len(totals) == 16
    np.testing.assert_allclose(totals, (batch["loss_mask"] > 0).sum() / 16, rtol=1e-5)


def test_too_few_suppressed_records_are_named(build, wrong):
    with pytest.raises(ConfigError, match=r"data\.suppressed_per_step: 16, but data\.suppressed"):
        build(suppressed_path=wrong)
