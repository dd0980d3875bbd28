"""Ten steps are ten steps, however often the run was killed on the way."""

import fcntl
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.training import project

KILL_AFTER_METRICS_OF_STEP = """
import os, signal, time
from curiojax.errors import exit_on_config_error
from curiojax.training import metrics
from curiojax.train import main
write = metrics.MetricsWriter.write
def write_and_die(self, line):
    write(self, line)
    if line["step"] == {step}:
        while {step} > 5 and not (self.path.parent / "checkpoints" / "5").is_dir():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
metrics.MetricsWriter.write = write_and_die
exit_on_config_error(main)
"""
KILL_WHILE_SAVING_STEP = """
import os, signal
from curiojax.errors import exit_on_config_error
from curiojax.training import checkpoint
from curiojax.train import main
save = checkpoint.Checkpoints.save
def save_and_die(self, state):
    save(self, state)
    if int(state.step) == {step}:
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint.Checkpoints.save = save_and_die
exit_on_config_error(main)
"""

KILL_BEFORE_TRAINING = """
import os, signal
from curiojax.errors import exit_on_config_error
from curiojax.training import sft
from curiojax.train import main
sft.compile_step = lambda recipe: os.kill(os.getpid(), signal.SIGKILL)
exit_on_config_error(main)
"""


def assert_same_run(a, b):
    theirs = load_file(b / "hf" / "model.safetensors")
    for name, tensor in load_file(a / "hf" / "model.safetensors").items():
        np.testing.assert_array_equal(tensor, theirs[name], err_msg=name)
    assert project.metrics(a) == project.metrics(b)


@pytest.mark.parametrize(
    ("script", "step"),
    # Checkpoints are at 5 and 10, epochs end at 7.
    [(KILL_AFTER_METRICS_OF_STEP, 6), (KILL_WHILE_SAVING_STEP, 5), (KILL_WHILE_SAVING_STEP, 10)],
    ids=["killed in an epoch", "killed while saving", "killed while saving the end"],
)
def test_a_killed_run_continues_bitwise(folder, straight, tmp_path, script, step):
    output = tmp_path / "run"
    killed = project.run(folder, output, script=script.replace("{step}", str(step)))
    assert killed.returncode == -9, killed.stderr
    continued = project.run(folder, output)
    assert continued.returncode == 0, continued.stderr
    if step == 6:
        assert "continuing after step 5" in continued.stderr
    assert_same_run(straight, output)


def test_sigterm_saves_and_the_run_continues(folder, straight, tmp_path):
    output = tmp_path / "run"
    script = KILL_AFTER_METRICS_OF_STEP.replace("{step}", "3").replace("SIGKILL", "SIGTERM")
    stopped = project.run(folder, output, script=script)
    assert stopped.returncode == 130, stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert project.run(folder, output).returncode == 0
    assert_same_run(straight, output)


def test_a_torn_checkpoint_is_named_and_an_older_one_used(folder, straight, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(straight, output)
    torn = 0
    for file in (output / "checkpoints" / "10" / "state").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
            torn += 1
    assert torn
    shutil.rmtree(output / "hf")
    done = project.run(folder, output)
    assert done.returncode == 0, done.stderr
    assert "checkpoint 10 cannot be read" in done.stderr
    assert "continuing after step 5" in done.stderr
    assert "Traceback" not in done.stderr
    assert (output / "checkpoints" / "damaged" / "10").is_dir()
    assert_same_run(straight, output)


def test_when_no_checkpoint_can_be_read_nothing_is_lost(folder, straight, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(straight, output)
    shutil.rmtree(output / "hf")
    for step in ("5", "10"):
        for file in (output / "checkpoints" / step / "state").rglob("*"):
            if file.is_file() and file.parent.name == "d":
                file.write_bytes(b"")
    for _ in range(2):  # also when asked again
        refused = project.run(folder, output)
        assert refused.returncode == 2, refused.stderr
        assert "none of the checkpoints [5, 10] can be read" in refused.stderr
    assert (output / "checkpoints" / "10").is_dir()
    assert len(project.metrics(output)) == 10


def test_another_base_model_is_another_run(folder, straight, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(straight, output)
    shutil.copytree(folder / "base", tmp_path / "base")
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 2
    save_file(tensors, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    refused = project.run(folder, output, f"model.path={tmp_path / 'base'}")
    assert refused.returncode == 2
    assert "model.fingerprint" in refused.stderr


def test_a_run_that_never_took_a_step_claims_nothing(folder, tmp_path):
    output = tmp_path / "run"
    failed = project.run(folder, output, "logging.wandb=project")
    assert failed.returncode == 2 and not output.exists()
    # A run that dies between claiming its directory and its first step.
    script = KILL_BEFORE_TRAINING
    assert project.run(folder, output, "steps=2", script=script).returncode == -9
    assert (output / "identity.json").is_file()
    done = project.run(folder, output, "steps=1")
    assert done.returncode == 0, done.stderr


def test_two_runs_do_not_share_a_directory(folder, straight):
    with (straight / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused = project.run(folder, straight)
    assert refused.returncode == 2 and "another process" in refused.stderr


def test_another_runs_directory_is_refused(folder, straight, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(straight, output)
    before = (output / "config.yaml").read_text()
    refused = project.run(folder, output, "objective.alpha=0.5")
    assert refused.returncode == 2
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("error:")]
    assert "objective.alpha" in line and "1.0" in line and "0.5" in line
    assert "Traceback" not in refused.stderr
    assert (output / "config.yaml").read_text() == before


def test_a_checkpoint_of_another_run_is_refused(folder, straight, tmp_path):
    output = tmp_path / "run"
    other = project.run(folder, tmp_path / "other", "seed=3", "steps=5")
    assert other.returncode == 0, other.stderr
    shutil.copytree(straight, output)
    shutil.rmtree(output / "checkpoints")
    shutil.copytree(tmp_path / "other" / "checkpoints", output / "checkpoints")
    refused = project.run(folder, output)
    assert refused.returncode == 2
    assert "seed" in refused.stderr and "Traceback" not in refused.stderr


def test_a_checkpoint_continues_on_another_mesh(folder, straight, tmp_path):
    output = tmp_path / "run"
    script = KILL_AFTER_METRICS_OF_STEP.replace("{step}", "6")
    assert project.run(folder, output, script=script).returncode == -9
    mesh = ("mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2")
    continued = project.run(folder, output, *mesh, devices=8)
    assert continued.returncode == 0, continued.stderr
    assert "continuing after step 5" in continued.stderr
    for ours, theirs in zip(project.metrics(output), project.metrics(straight), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
