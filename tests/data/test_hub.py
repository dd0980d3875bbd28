"""Fetching, with the hub's two functions replaced."""

from types import SimpleNamespace

import datasets
import huggingface_hub
import pyarrow.parquet as pq
import pytest
from huggingface_hub.errors import HfHubHTTPError

from curiojax.data.hub import TRAINING, FetchError, Source, Unreachable, fetch_from_hub


@pytest.fixture
def hub(monkeypatch):
    asked = []
    answers = SimpleNamespace(info=None, error=None, asked=asked)

    def info(self, name, timeout):
        if answers.info is not None:
            raise answers.info
        return SimpleNamespace(sha="abc123")

    def load(name, config, *, split, revision, data_files):
        if answers.error is not None:
            raise answers.error
        asked.append((name, config, split, revision, data_files))
        table = datasets.Dataset.from_dict({"question": ["1?", "2?"], "image": [None, None]})
        return table.cast_column("image", datasets.Image())

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)
    monkeypatch.setattr(datasets, "load_dataset", load)
    return answers


def test_the_revision_is_pinned_and_media_are_left_out(hub, tmp_path):
    source = Source(name="x", folder="benchmarks", hub="a/x", config="c", split="test")
    assert fetch_from_hub(source, tmp_path / "x.parquet") == "abc123"
    assert hub.asked == [("a/x", "c", "test", "abc123", None)]
    assert pq.read_table(tmp_path / "x.parquet").to_pylist() == [
        {"question": "1?"},
        {"question": "2?"},
    ]


def test_a_file_of_a_data_set_can_be_named(hub, tmp_path):
    fetch_from_hub(TRAINING["curiosft"], tmp_path / "x.parquet")
    name, revision = "Hao0oWang/CurioSFT_Data", "abc123"
    assert hub.asked == [(name, None, "train", revision, {"train": "train.parquet"})]


def test_no_network_is_told_from_no_access(hub, tmp_path):
    source = Source(name="x", folder="benchmarks", hub="a/x")
    hub.error = ValueError("Dataset 'a/x' is gated\nask for it")
    with pytest.raises(FetchError, match="ValueError: Dataset 'a/x' is gated ask for it") as error:
        fetch_from_hub(source, tmp_path / "x.parquet")
    assert not isinstance(error.value, Unreachable)
    hub.info = ConnectionError("no route")
    with pytest.raises(Unreachable, match="no route"):
        fetch_from_hub(source, tmp_path / "x.parquet")
    hub.info = HfHubHTTPError("404 not found", response=SimpleNamespace(headers={}, request=None))
    with pytest.raises(FetchError, match="404") as error:
        fetch_from_hub(source, tmp_path / "x.parquet")
    assert not isinstance(error.value, Unreachable)
