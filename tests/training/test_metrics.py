"""metrics.jsonl survives kills and resumes; other loggers are fed from the same dict."""

import json
import sys
import types

import pytest

from curiojax.config import Logging
from curiojax.errors import ConfigError
from curiojax.training.metrics import MetricsWriter, check_loggers, read_metrics


def lines(path):
    return [json.loads(text) for text in path.read_text().splitlines()]


def test_a_resumed_run_continues_the_file_where_its_checkpoint_is(tmp_path):
    writer = MetricsWriter(tmp_path, Logging(), 0, {})
    for step in range(1, 8):
        writer.write({"step": step, "loss": 1.0 / step})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')  # killed while writing
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == list(range(1, 8))
    writer = MetricsWriter(tmp_path, Logging(), 5, {})  # the checkpoint is of step 5
    writer.write({"step": 6, "loss": 0.5})
    writer.close()
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_what_is_no_number_is_null(tmp_path):
    writer = MetricsWriter(tmp_path, Logging(), 0, {})
    writer.write({"step": 1, "loss": float("nan"), "grad_norm": float("inf")})
    writer.close()
    assert lines(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": None, "grad_norm": None}]


def test_loggers_get_the_scalars(tmp_path, monkeypatch):
    """Stand-ins for the two optional packages record the calls that their documentation names."""
    tensorboard, wandb, calls = types.ModuleType("tensorboardX"), types.ModuleType("wandb"), []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            calls.append(("open", purge_step))

        def add_scalar(self, key, value, step):
            calls.append(("tensorboard", key, value, step))

        def close(self):
            calls.append(("close",))

    class Run:
        def log(self, scalars, step):
            calls.append(("wandb", dict(scalars), step))

        def finish(self):
            calls.append(("finish",))

    def init(**options):
        calls.append(("init", options["project"], options["id"], options["resume"]))
        return Run()

    tensorboard.SummaryWriter, wandb.init = SummaryWriter, init
    monkeypatch.setitem(sys.modules, "tensorboardX", tensorboard)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    logging = Logging(tensorboard=True, wandb="papers")
    check_loggers(logging)
    for start in (0, 1):
        writer = MetricsWriter(tmp_path, logging, start, {"seed": 0})
        writer.write({"step": start + 1, "loss": 0.5, "tau_histogram": {"edges": [], "counts": []}})
        writer.close()
    assert ("tensorboard", "loss", 0.5, 1) in calls and ("open", 2) in calls
    assert ("wandb", {"loss": 0.5}, 1) in calls and ("finish",) in calls
    opened = [call for call in calls if call[0] == "init"]
    assert len(opened) == 2 and opened[0] == opened[1]  # the same id: the same curves


def test_a_missing_logger_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"logging.wandb.*pip install"):
        check_loggers(Logging(wandb="papers"))
