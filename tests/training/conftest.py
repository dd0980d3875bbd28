import pytest

from tests.training import project


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder with `base`, a checkpoint, and `train.parquet`."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("project")
    project.make_base(folder / "base")
    project.make_data(folder / "train.parquet")
    return folder


@pytest.fixture(scope="session")
def straight(folder):
    """A run of ten steps that nothing disturbed."""
    output = folder / "straight"
    done = project.run(folder, output)
    assert done.returncode == 0, done.stderr
    return output
