"""Ordinary and hostile responses together: no hang, no lost item, bounded memory."""

import random
import threading
import time

import psutil
import pytest

from curiojax.rewards.pool import Item, RewardPool

BARE = "tests.rewards.fake_verifiers:bare_math_verify"
MEMORY_MB = 512

# In the bare library each of these takes for ever or all memory.
BOTTOMLESS = [
    r"\boxed{9^{9^{9^9}}}",
    r"\boxed{2^{10^{10}}}",
    r"\boxed{((9!)!)!}",
    r"\boxed{\binom{10^9}{5 \cdot 10^8}}",
    r"\boxed{\sum_{k=1}^{10^8} k^k}",
    r"\boxed{\prod_{k=1}^{10^8} (k^2+1)}",
    r"\boxed{" + r"\frac{1}{" * 30 + "2" + "}" * 31,
    r"\(" * 75_000,
    r"\[" * 75_000,
    "the answer is 9^9^9^9",
]
ODD = [
    "",
    "\\boxed{\0}",
    "\\boxed{\ud800}",
    "\\boxed{\U0001f600\u202e\u200b}",
    r"\boxed{" * 20_000,
    r"\boxed{1}" * 20_000,
    "{" * 100_000,
    "</think>" * 20_000,
    r"\boxed{" + "(" * 5_000 + "1" + ")" * 5_000 + "}",
    r"\boxed{" + r"\frac{1}{" * 1_000 + "2" + "}" * 1_001,
    r"\boxed{" + "7" * 200_000 + "}",
    r"\boxed{\dfrac{5^{(5^{(5^{(5^5)})}-4)}-5}{16}}",
    r"\boxed{__import__('os').abort()}",
    "x" * 300_000,
]


def ordinary(k):
    """An item and whether it is right."""
    right = k % 3 > 0
    answer = [f"{k}", rf"\frac{{{2 * k}}}{{2}}", f"{k}.0", f"{k} + 0"][k % 4]
    wrong = f"{k + 1}"
    return Item(rf"so</think>\boxed{{{answer if right else wrong}}}", f"{k}"), right


@pytest.mark.parametrize(
    ("count", "bottomless"),
    [(800, 4), pytest.param(10_000, 50, marks=pytest.mark.slow)],
)
def test_mixed_items_all_come_back(count, bottomless):
    generator = random.Random(count)
    expected: list[tuple[Item, bool | None]] = [ordinary(k) for k in range(count)]
    for k in range(bottomless):
        text = BOTTOMLESS[k % len(BOTTOMLESS)]
        expected.append((Item(f"{k}</think>{text}", "7", verifier=BARE), None))
    for verifier in ("math", "number", "exact", "choice"):
        expected += [(Item(f"</think>{text}", "7", verifier=verifier), False) for text in ODD]
        expected += [(Item(f"</think>{t}", "7", verifier=verifier), False) for t in BOTTOMLESS]
    generator.shuffle(expected)

    largest = 0
    done = threading.Event()

    def watch():
        nonlocal largest
        while not done.wait(0.02):
            for pid in pool.pids:
                try:
                    largest = max(largest, psutil.Process(pid).memory_info().rss)
                except psutil.NoSuchProcess:
                    pass

    own = psutil.Process().memory_info().rss
    with RewardPool(
        "math",
        "strict",
        workers=2,
        timeout_seconds=4.0,
        memory_limit_mb=MEMORY_MB,
        preload=[BARE],
    ) as pool:
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            began = time.monotonic()
            grades = pool.grade([item for item, _ in expected])
            seconds = time.monotonic() - began
        finally:
            done.set()
            watcher.join()
        stats = pool.stats

    assert len(grades) == len(expected)
    for (item, right), grade in zip(expected, grades, strict=True):
        if right is None:
            assert grade.status in {"timeout", "memory", "crash"}, item.response[:80]
            assert grade.reward == 0.0
        else:
            assert grade.correct == right, (item, grade)
    assert sum(stats.statuses.values()) == stats.submitted == len(expected)
    assert stats.queued == 0
    # Each hangs once for 4 seconds, and its worker needs some more to come back, many more where
    # other processes want the machine, too.
    assert seconds < 300 + 30 * bottomless
    # The limit is looked at every 50 ms; twice of it cannot be had at all.
    assert largest < 2.2 * MEMORY_MB * 2**20
    assert psutil.Process().memory_info().rss - own < 200 * 2**20
