"""Output folders: one process at a time, whole files, and what a kill leaves."""

import subprocess
import sys

import pytest

from curiojax.errors import ConfigError
from curiojax.folders import holds_anything, lock, write_text


def test_a_second_process_is_kept_out(tmp_path):
    program = (
        "import sys; from pathlib import Path; from curiojax.folders import lock\n"
        "with lock(Path(sys.argv[1])): pass"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "out")]
    with lock(tmp_path / "out"):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode and "another process is running" in done.stderr
    assert subprocess.run(command).returncode == 0


def test_what_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="cannot be written"), lock(tmp_path / "file" / "out"):
        pass
    with pytest.raises(ConfigError, match=r"results.json cannot be written"):
        write_text(tmp_path / "file" / "results.json", "{}")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_was_begun_holds_nothing(tmp_path):
    assert not holds_anything(tmp_path / "missing", "config.yaml")
    (tmp_path / "lock").touch()
    (tmp_path / "config.yaml.tmp").touch()  # killed while it was written
    assert not holds_anything(tmp_path, "config.yaml")
    (tmp_path / "thesis.tex").touch()
    assert holds_anything(tmp_path, "config.yaml")
