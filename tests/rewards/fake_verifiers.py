"""Verifiers that misbehave on request: `tests.rewards.fake_verifiers:act` and others."""

import collections
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from curiojax.rewards.answers import extract_answer
from curiojax.rewards.verifiers import Verdict


def equal(response, ground_truth):
    return Verdict(response == ground_truth, "ok", response)


def count_calls(response, ground_truth):
    """Appends a line to the file that the ground truth names."""
    with Path(ground_truth).open("a") as file:
        file.write(f"{response}\n")
    return act(response, ground_truth)


def act(response, ground_truth):
    """Does what the response says."""
    deed, _, argument = response.partition(":")
    if deed == "hang":  # for ever in C, holding the interpreter's lock
        collections.deque(itertools.repeat(0), maxlen=0)
    elif deed == "sleep":
        time.sleep(float(argument))
    elif deed == "wait":  # until the test makes that file
        while not Path(argument).exists():
            time.sleep(0.01)
    elif deed == "grow":  # little by little, and never more than the machine can take
        kept = []
        while len(kept) < 4000:
            kept.append(bytearray(b"x") * 2**20)
            time.sleep(0.001)
    elif deed == "allocate":
        bytearray(2**40)
    elif deed == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif deed == "die_once":
        marker = Path(argument)
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    elif deed == "exit":
        sys.exit(0)
    elif deed == "raise":
        raise RuntimeError("of the verifier")
    elif deed == "alarm":
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
    elif deed == "print":
        print("noise of a verifier", flush=True)
        print("noise of a verifier", file=sys.stderr, flush=True)
    elif deed == "child":
        child = subprocess.Popen(["sleep", "300"])
        Path(argument).write_text(str(child.pid))
        time.sleep(300)
    elif deed == "jax":
        return Verdict("jax" in sys.modules, "ok", " ".join(sorted(sys.modules))[:0])
    elif deed == "main":
        return Verdict(True, "ok", str(getattr(sys.modules["__main__"], "__file__", None)))
    elif deed == "object":
        return Verdict(True, "ok", Untold())
    return Verdict(response == ground_truth, "ok", response)


def act_on_the_answer(response, ground_truth):
    """As `act`, with what the box holds."""
    return act(extract_answer(response), ground_truth)


act_on_the_answer.answer_decides = True


class Untold:
    """Must never be turned into a text."""

    def __str__(self):
        raise AssertionError

    __repr__ = __str__


_HOARD = []


def hoard(response, ground_truth):
    """Keeps 60 MB more with every item, for a tenth of a second each."""
    _HOARD.append(bytearray(b"x") * (60 * 2**20))
    time.sleep(0.1)
    return equal(response, ground_truth)


def bare_math_verify(response, ground_truth):
    """The library without any protection: no time limits, no look at the text first."""
    from math_verify import parse, verify

    answer = parse(response, parsing_timeout=None)
    gold = parse(f"${ground_truth}$", parsing_timeout=None)
    return Verdict(bool(verify(gold, answer, timeout_seconds=None)), "ok", None)
