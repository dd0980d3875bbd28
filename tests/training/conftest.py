import pytest

from tests.training import project


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder with `base`, a checkpoint, `train.parquet`, and `wrong.parquet` to unlearn."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("project")
    project.make_base(folder / "base")
    project.make_data(folder / "train.parquet")
    project.make_data(folder / "wrong.parquet", seed=1)
    return folder


@pytest.fixture(scope="session")
def straight(folder):
    """A run of ten steps that nothing disturbed."""
    output = folder / "straight"
    done = project.run(folder, output)
    assert done.returncode == 0, done.stderr
    return output
