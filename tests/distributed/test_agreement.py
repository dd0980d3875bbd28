"""What the processes compare before they compute."""

import json

import numpy as np

from tests.distributed import processes


def test_the_process_that_differs_is_named():
    work = """
facts = {"config": {"seed": 0 if group.index != 2 else 1, "steps": 10}}
agree("first", {"same": [1, 2]}, "no")
agree("second", facts, "give all the same")
"""
    for code, errors in processes.together(work, 3):
        assert code == 2
        told = "config.seed: 1 on process 2 ("
        assert told in errors and "but 0 on process 0 (" in errors
        assert errors.splitlines()[-1].endswith("; give all the same")


def test_process_0_can_be_the_odd_one():
    work = "agree('a', {'data.path': str(group.index > 0)}, 'copy it')"
    for _, errors in processes.together(work, 3):
        assert 'data.path: "False" on process 0 (' in errors


def test_the_first_goes_first(tmp_path):
    work = """
mark = Path(arguments[0])
with first_then_others("reading"):
    if group.index == 0:
        time.sleep(1.5)
        mark.write_text("there")
    assert mark.read_text() == "there"
"""
    results = processes.together(work, 2, str(tmp_path / "mark"))
    assert [code for code, _ in results] == [0, 0], results


def test_a_folder_of_ones_own_is_found_out(tmp_path):
    work = """
from curiojax.distributed import agreement
agreement.SHARED_SECONDS = 1
folder = Path(arguments[0])
assert is_shared("one", folder) and not is_shared("two", folder / str(group.index))
if len(arguments) > 1:
    folder = folder / str(group.index)
check_shared(folder)
"""
    for name in ("0", "1"):
        (tmp_path / name).mkdir()
    assert [code for code, _ in processes.together(work, 2, str(tmp_path))] == [0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]
    for code, errors in processes.together(work, 2, str(tmp_path), "own"):
        assert code == 2
        assert "output_dir: process 1 (" in errors and "does not see what process 0 (" in errors


def test_each_process_takes_its_rows_of_the_same_batch(tmp_path):
    """The batch of a step does not depend on how many processes there are (design, contract 6)."""
    work = """
import numpy as np
import jax
from curiojax.data.batches import SupervisedData
from curiojax.data.encoding import COUNTS
from curiojax.data.store import Store
from curiojax.sharding import make_mesh
from curiojax.training.recipe import place

rng = np.random.default_rng(0)
lengths = rng.integers(4, 30, 40)
offsets = np.concatenate([[0], np.cumsum(lengths)])
tokens = rng.integers(1, 1000, offsets[-1]).astype(np.int32)
meta = {"drops": {}, "format": "x", "num_rows": 40, "fingerprint": "",
        "counts": dict.fromkeys(COUNTS, 0)}
store = Store(tokens, offsets, lengths // 2, np.arange(40), meta)
data = SupervisedData(store, seed=3, sequences_per_step=16, rows_per_microbatch=4, row_length=64)
mesh = make_mesh(data=2, fsdp=2)
found = {}
for number, arrays in data.iterate(5, 8):
    for micro, batch in enumerate(place(arrays, mesh)):
        for name, array in batch.items():
            for shard in array.addressable_shards:
                rows = shard.index[0]
                found[f"{number}/{micro}/{name}/{rows.start}/{rows.stop}"] = np.asarray(shard.data)
who = 0 if group is None else group.index
np.savez(f"{arguments[0]}/{len(jax.local_devices())}-{who}.npz", **found)
"""
    port, command = processes.free_port(), processes.program(work)
    pair = [[*command, *processes.keys(i, 2, port), str(tmp_path)] for i in range(2)]
    results = processes.ends(
        [processes.start([*command, str(tmp_path)], devices=4)]
        + [processes.start(one, devices=2) for one in pair]
    )
    assert [code for code, _ in results] == [0, 0, 0], results
    single = dict(np.load(tmp_path / "4-0.npz"))
    parts = [dict(np.load(tmp_path / f"2-{index}.npz")) for index in range(2)]
    assert not parts[0].keys() & parts[1].keys()
    assert parts[0].keys() | parts[1].keys() == single.keys()
    for name, rows in {**parts[0], **parts[1]}.items():
        np.testing.assert_array_equal(rows, single[name], err_msg=name)
    assert len({json.dumps(rows.tolist()) for rows in single.values()}) > 3  # not all alike
