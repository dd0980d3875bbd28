"""The reward pool: no hang, no lost item, nothing left behind."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest

from curiojax.errors import ConfigError
from curiojax.rewards.pool import STATUSES, Item, RewardPool
from tests.waiting import wait_until

FAKES = "tests.rewards.fake_verifiers"
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pool():
    """A pool for tests that leave it usable.

    Its time limit is one that a busy machine keeps, and that few enough tests wait for.
    """
    with RewardPool(
        f"{FAKES}:act", "none", workers=2, timeout_seconds=5.0, memory_limit_mb=256
    ) as pool:
        yield pool


def is_gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_grades_come_in_the_order_of_the_items(pool):
    items = [Item(f"sleep:{0.02 * (k % 3)}", f"sleep:{0.02 * (k % 2)}") for k in range(40)]
    seen = []
    grades = pool.grade(items, progress=lambda done, total: seen.append((done, total)))
    assert [grade.correct for grade in grades] == [i.response == i.ground_truth for i in items]
    assert [grade.extracted for grade in grades] == [item.response for item in items]
    assert seen == [(k, 40) for k in range(1, 41)]


@pytest.mark.parametrize(
    ("deed", "status"),
    [
        ("hang", "timeout"),
        ("grow", "memory"),
        ("allocate", "memory"),
        ("die", "crash"),
        ("exit", "error"),
        ("raise", "error"),
    ],
)
def test_a_failure_has_a_status_of_its_own_and_the_next_item_is_graded(pool, deed, status):
    began = time.monotonic()
    bad, good = pool.grade([Item(deed, "x"), Item(f"fine after {deed}", f"fine after {deed}")])
    assert bad == (0.0, False, bad.format_ok, status, None)
    assert good == (1.0, True, True, "ok", f"fine after {deed}")
    assert time.monotonic() - began < 60


def test_a_worker_that_dies_of_something_else_costs_the_item_nothing(pool, tmp_path):
    response = f"die_once:{tmp_path / 'died'}"
    assert pool.grade([Item(response, response)])[0].status == "ok"
    assert (tmp_path / "died").exists()


def test_an_alarm_left_running_does_not_strike_in_the_next_item(pool):
    alarms = [Item(f"alarm:{k}", "x") for k in range(4)]
    sleeps = [Item(f"sleep:0.{20 + k}", f"sleep:0.{20 + k}") for k in range(4)]
    assert [grade.status for grade in pool.grade(alarms + sleeps)] == ["ok"] * 8


def test_what_a_verifier_returns_is_never_turned_into_a_text(pool):
    assert pool.grade([Item("object", "x")])[0] == (1.0, True, True, "ok", None)


def test_what_a_verifier_prints_is_dropped(capfd):
    with RewardPool(f"{FAKES}:act", "none", workers=1) as pool:
        assert pool.grade([Item("print:now", "x")])[0].status == "ok"
    assert "noise" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("text", ["", "\0", "\ud800", "\U0001f600" * 1000, "x" * 200_000])
def test_any_text_can_be_sent(pool, text):
    grade = pool.grade([Item(text, text)])[0]
    assert grade == (1.0, True, True, "ok", text[:256])


def test_equal_items_are_graded_once(tmp_path):
    calls, all_are_in = tmp_path / "calls", tmp_path / "all"
    with RewardPool(f"{FAKES}:count_calls", "none", workers=2, timeout_seconds=5.0) as pool:
        same = [Item(f"wait:{all_are_in}", str(calls))] * 50
        futures = [pool.submit(item) for item in same]
        all_are_in.touch()
        assert {future.result().status for future in futures} == {"ok"}
        pool.grade(same)
        hang = [Item("hang", str(calls))] * 50
        assert {grade.status for grade in pool.grade(hang)} == {"timeout"}
        began = time.monotonic()
        assert {grade.status for grade in pool.grade(hang)} == {"timeout"}
        assert time.monotonic() - began < pool.timeout_seconds
        stats = pool.stats
    assert calls.read_text().split() == [f"wait:{all_are_in}", "hang"]
    assert (stats.shared, stats.cached, stats.graded) == (98, 100, 2)
    assert stats.statuses["ok"] == 100 and stats.statuses["timeout"] == 100


def test_equal_answers_of_different_responses_are_compared_once():
    """The answer decides the verdict, so that a costly one is paid for once per ground truth."""
    right = [Item(rf"{k}</think> \boxed{{\frac{{6}}{{2}}}}", "3") for k in range(40)]
    with RewardPool("math", "strict", workers=1) as pool:
        assert {grade.reward for grade in pool.grade(right)} == {1.0}
        stats = pool.stats
        assert (stats.graded, stats.compared, stats.cached) == (40, 39, 0)
        # Neither another ground truth, nor another verifier, nor another format rule is the same.
        text = right[0].response
        others = [
            Item(text, "4"),
            Item(text, "3", verifier="exact"),
            Item(text, "3", finished=False),
        ]
        assert [grade.reward for grade in pool.grade(others)] == [0.0, 0.0, 0.0]
        assert pool.stats.compared == 40


def test_a_known_timeout_costs_neither_time_nor_a_worker():
    name = f"{FAKES}:act_on_the_answer"
    with RewardPool(name, "strict", workers=1, timeout_seconds=3.0) as pool:
        began = time.monotonic()
        grades = pool.grade([Item(rf"{k}</think> \boxed{{hang}}", "x") for k in range(20)])
        assert set(grades) == {(0.0, False, True, "timeout", "hang")}
        assert time.monotonic() - began < 40  # 20 of them would take 60
        assert pool.stats.replaced == 1 and pool.stats.compared == 19


def test_without_a_cache_every_item_is_graded(tmp_path):
    calls = tmp_path / "calls"
    with RewardPool(f"{FAKES}:count_calls", "none", workers=1, cache_size=0) as pool:
        for _ in range(3):
            pool.grade([Item("again", str(calls))])
    assert calls.read_text().split() == ["again"] * 3


def test_the_cache_forgets_what_was_used_longest_ago(tmp_path):
    calls = tmp_path / "calls"
    with RewardPool(f"{FAKES}:count_calls", "none", workers=1, cache_size=2) as pool:
        for response in "abacab":
            pool.grade([Item(response, str(calls))])
    assert calls.read_text().split() == ["a", "b", "c", "b"]


def test_an_over_long_response_is_a_status(pool):
    with RewardPool(f"{FAKES}:equal", "none", workers=1, max_response_chars=10) as small:
        grades = small.grade([Item("x" * 11, "x" * 11), Item("x" * 10, "x" * 10)])
    assert [grade.status for grade in grades] == ["too_long", "ok"]
    assert [grade.reward for grade in grades] == [0.0, 1.0]


def test_closing_does_not_wait_for_what_hangs(tmp_path):
    calls = tmp_path / "calls"
    pool = RewardPool(f"{FAKES}:count_calls", "none", workers=2, timeout_seconds=300.0)
    futures = [pool.submit(Item("hang", f"{calls}{k}")) for k in range(5)]
    wait_until(lambda: list(tmp_path.iterdir()), 60)  # one of them is being worked on
    pids = pool.pids
    began = time.monotonic()
    pool.close()
    pool.close()
    assert time.monotonic() - began < 60
    for future in futures:
        with pytest.raises(RuntimeError, match="closed"):
            future.result(timeout=0)
    assert len(pids) >= 1 and all(is_gone(pid) for pid in pids)
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(Item("x", "x"))


def test_an_interrupted_batch_leaves_no_work_behind(tmp_path):
    calls, interrupted = tmp_path / "calls", tmp_path / "interrupted"

    def interrupt(done, total):
        raise KeyboardInterrupt

    with RewardPool(f"{FAKES}:count_calls", "none", workers=1, timeout_seconds=60.0) as pool:
        # The worker is at the second one, if at any, while the others are taken back.
        rest = [Item(f"rest:{k}", str(calls)) for k in range(98)]
        items = [Item("first", str(calls)), Item(f"wait:{interrupted}", str(calls)), *rest]
        with pytest.raises(KeyboardInterrupt):
            pool.grade(items, progress=interrupt)
        interrupted.touch()
        assert pool.grade([Item("next", str(calls))])[0].status == "ok"
    done = calls.read_text().split()
    assert done in (["first", "next"], ["first", f"wait:{interrupted}", "next"])


def test_workers_killed_at_random_lose_no_item():
    random_state = random.Random(0)
    with RewardPool(f"{FAKES}:act", "none", workers=2, timeout_seconds=60.0) as pool:
        stop = threading.Event()

        def kill_now_and_then():
            while not stop.wait(random_state.uniform(0.05, 0.5)):
                for pid in random_state.sample(pool.pids, min(1, len(pool.pids))):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

        killer = threading.Thread(target=kill_now_and_then)
        killer.start()
        try:
            grades = pool.grade([Item(f"sleep:0.0{k:04d}", "") for k in range(1, 600)])
            deadline = time.monotonic() + 300
            while pool.stats.replaced <= 3 and time.monotonic() < deadline:  # a fast machine
                time.sleep(0.1)
        finally:
            stop.set()
            killer.join()
        assert len(grades) == 599
        assert all(grade.status in {"ok", "crash"} for grade in grades)
        # A crash takes two kills in a row on one item.
        assert sum(grade.status == "crash" for grade in grades) < 20
        assert pool.stats.replaced > 3


def test_a_stopped_worker_is_replaced(pool):
    """Not dead and not reading: a response that does not fit into the socket cannot be sent."""
    with RewardPool(f"{FAKES}:equal", "none", workers=1, timeout_seconds=3.0) as pool:
        os.kill(pool.pids[0], signal.SIGSTOP)
        bad, good = pool.grade([Item("x" * 250_000, "x"), Item("y", "y")])
    assert (bad.status, good.status) == ("timeout", "ok")


def test_memory_left_by_earlier_items_is_not_held_against_the_next():
    with RewardPool(
        f"{FAKES}:hoard", "none", workers=1, timeout_seconds=30.0, memory_limit_mb=300
    ) as pool:
        grades = pool.grade([Item(f"{k}", f"{k}") for k in range(12)])
        assert [grade.status for grade in grades] == ["ok"] * 12
        assert pool.stats.replaced >= 2


def test_what_a_verifier_started_dies_with_it(pool, tmp_path):
    note = tmp_path / "pid"
    assert pool.grade([Item(f"child:{note}", "x")])[0].status == "timeout"
    wait_until(lambda: is_gone(int(note.read_text())), 60)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"verifier": "maths"}, "did you mean 'math'"),
        ({"verifier": f"{FAKES}:nothing"}, "has no function 'nothing'"),
        ({"verifier": "no_such_module:f"}, "no module 'no_such_module'"),
        ({"format": "loose"}, "loose"),
        ({"workers": 0}, "reward.workers"),
        ({"timeout_seconds": 0.0}, "reward.timeout_seconds"),
        ({"memory_limit_mb": 1}, "reward.memory_limit_mb"),
    ],
)
def test_a_wrong_argument_is_one_clear_error(arguments, message):
    with pytest.raises(ConfigError, match=message):
        RewardPool(**{"verifier": "exact", "workers": 1, **arguments})
    names = [thread.name for thread in threading.enumerate()]
    assert sum(name.startswith("reward-worker") for name in names) <= 2  # the shared pool's


def test_an_item_may_name_its_verifier_and_format(pool):
    text = r"</think> \boxed{7}"
    items = [
        Item(text, "7", verifier="exact", format="strict"),
        Item(text, "7", verifier="exact", format="strict", finished=False),
        Item(text, "8", verifier="exact", format="strict"),
        Item("7", "7", verifier="exact", format="released"),
    ]
    assert [(g.reward, g.correct, g.format_ok) for g in pool.grade(items)] == [
        (1.0, True, True),
        (0.0, True, False),
        (0.0, False, True),
        (0.0, True, False),
    ]
    with pytest.raises(ConfigError, match="unknown verifier"):
        pool.submit(Item("x", "x", verifier="maths"))


SCRIPT = """
    import os, signal, sys, time
    print("main runs", flush=True)
    from curiojax.rewards.pool import Item, RewardPool
    assert "jax" not in sys.modules and "sympy" not in sys.modules
    if sys.argv[1] == "jax":
        import jax
        jax.numpy.zeros(3).block_until_ready()
    pool = RewardPool("tests.rewards.fake_verifiers:act", "none", workers=2, timeout_seconds=600,
                      preload=["math", "released"])
    print([pool.grade([Item("jax", "x")])[0].correct, pool.grade([Item("main", "x")])[0].extracted])
    while len(pool.pids) < 2:
        time.sleep(0.02)
    print(*pool.pids, flush=True)
    for k in range(4):
        future = pool.submit(Item("hang", str(k)))
    if sys.argv[1] == "kill":
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    if sys.argv[1] == "exit":
        os._exit(1)
    if sys.argv[1] == "raise":
        raise RuntimeError
"""


@pytest.mark.parametrize(
    ("ending", "as_module"),
    [("kill", False), ("exit", True), ("raise", False), ("jax", True)],
)
def test_workers_end_with_their_parent_and_never_run_its_main_module(tmp_path, ending, as_module):
    """The script has no `__main__` guard; the workers hang in C while it ends."""
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    how = ["-m", "script"] if as_module else ["script.py"]
    done = subprocess.run(
        [sys.executable, *how, ending],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert lines[:2] == ["main runs", "[False, 'None']"], done.stderr
    pids = [int(word) for word in lines[2].split()]
    assert len(pids) == 2
    wait_until(lambda: all(map(is_gone, pids)), 60)
    assert done.returncode == {"kill": -9, "exit": 1, "raise": 1, "jax": 0}[ending]


def test_a_pool_without_workers_says_so_instead_of_waiting(monkeypatch):
    monkeypatch.setattr("curiojax.rewards.pool._START_PAUSES", (0.1,))
    with RewardPool(f"{FAKES}:act", "none", workers=2, timeout_seconds=60.0) as pool:
        monkeypatch.setattr(sys, "executable", "/bin/false")
        futures = [pool.submit(Item("die", str(k))) for k in range(6)]
        for future in futures[:3]:
            with pytest.raises(RuntimeError, match="cannot be started"):
                future.result(timeout=300)
        with pytest.raises(RuntimeError, match="cannot be started"):
            pool.submit(Item("x", "x"))
    with pytest.raises(RuntimeError, match="cannot be started"):
        RewardPool(f"{FAKES}:act", "none", workers=2)


def test_a_forked_copy_of_the_process_has_no_pool(pool):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # nothing but this may happen in it
        try:
            pool.submit(Item("x", "x"))
        except RuntimeError as error:
            os.write(write, str(error).encode())
        finally:
            pool.close()
            os._exit(0)
    os.waitpid(child, 0)
    assert b"forked" in os.read(read, 1000)
    assert pool.grade([Item("still here", "still here")])[0].reward == 1.0


def test_statuses_are_all_counted(pool):
    assert set(pool.stats.statuses) == set(STATUSES)
