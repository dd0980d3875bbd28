import pytest

from tests.evaluation import reasoner


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with a small model that answers some made-up questions, and their files."""
    folder = tmp_path_factory.mktemp("reasoner")
    reasoner.write(folder)
    return folder
