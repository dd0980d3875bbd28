"""How a program of ours ends."""

import os
import subprocess
import sys

import pytest

END = "from curiojax.errors import ConfigError, exit_on_config_error; exit_on_config_error(main)"


def ended(body, *, closed=(), env=None):
    """The exit code and stderr of a `main` with this body; `closed`: streams that nobody reads."""
    reads, writes = os.pipe()
    os.close(reads)
    streams = {name: writes if name in closed else subprocess.PIPE for name in ("stdout", "stderr")}
    code = f"def main():\n    import sys\n    {body}\n{END}"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            check=False,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **(env or {})},
            **streams,
        )
    finally:
        os.close(writes)
    return done.returncode, done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("body", ["print('x')", "print('x' * 100_000)"])
def test_a_reader_that_left_is_no_error(body, unbuffered):
    env = {"PYTHONUNBUFFERED": unbuffered}
    assert ended(body, closed=["stdout"], env=env) == (141, "")
    assert ended(body, closed=["stdout", "stderr"], env=env)[0] == 141


def test_a_program_that_says_nothing_does_not_mind():
    assert ended("pass", closed=["stdout"]) == (0, "")


def test_another_pipe_that_breaks_is_an_error():
    code, said = ended("raise BrokenPipeError('a socket')")
    assert code == 1 and "Traceback" in said and "a socket" in said


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("raise ConfigError('lr: is\\n  wrong')", 2, "error: lr: is wrong\n"),
        ("raise KeyboardInterrupt", 130, "interrupted; the same command goes on"),
    ],
)
def test_what_users_can_mend_is_one_line(body, code, said):
    found, err = ended(body)
    assert found == code and err.startswith(said) and "Traceback" not in err


@pytest.mark.parametrize("module", ["train", "evaluate", "rewards.server"])
def test_help_can_be_cut_short(module):
    command = f"set -o pipefail; {sys.executable} -m curiojax.{module} --help | head -1"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=env, check=False
    )
    assert done.stderr == "" and done.stdout.startswith("usage:")
    assert done.returncode in (0, 141)
