"""The training sets by name, and fetching data sets from the hub to local files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# Media are left out of what is fetched: nothing reads them, and decoding needs further packages.
_MEDIA = {"Image", "Audio", "Video", "Pdf"}


@dataclass(frozen=True)
class Source:
    """A data set on the hub, or one of the user's own.

    Attributes:
      name: of the file, without suffix.
      folder: where it belongs, under the output folder.
      hub, config, split, data_file: what is fetched; no hub: a file of the user's.
      rows: how many are expected, from and to.
      columns: that it must have.
      gated: the hub asks for consent to terms first.
    """

    name: str
    folder: Literal["train", "benchmarks"]
    hub: str | None = None
    config: str | None = None
    split: str = "train"
    data_file: str | None = None
    rows: tuple[int, int] | None = None
    columns: tuple[str, ...] = ()
    gated: bool = False

    @property
    def file(self) -> str:
        """Where its file is written, relative to the output folder."""
        return f"{self.folder}/{self.name}.parquet"

    def describe(self) -> str:
        """What has to be fetched, for a user who fetches it by hand."""
        parts = [f"{self.hub}", f"config {self.config}" if self.config else None]
        parts += [f"file {self.data_file}" if self.data_file else f"split {self.split}"]
        return ", ".join(part for part in parts if part)


_EXPERT_COLUMNS = ("prompt", "target", "reward_model")
# The released code calls 178 steps of 256 records an epoch, which makes 45,568 to 45,823 of them.
# Both sets come from the same problems; the papers call them 45.7k and 46k.
_EXPERT_ROWS = (45_000, 46_500)
TRAINING = {
    source.name: source
    for source in (
        Source(
            name="openr1_46k",
            folder="train",
            hub="Elliott/Openr1-Math-46k-8192",
            rows=_EXPERT_ROWS,
            columns=_EXPERT_COLUMNS,
        ),
        Source(
            name="curiosft",
            folder="train",
            hub="Hao0oWang/CurioSFT_Data",
            data_file="train.parquet",
            rows=_EXPERT_ROWS,
            columns=_EXPERT_COLUMNS,
        ),
    )
}


class FetchError(Exception):
    """A data set cannot be had; the argument says why, in one line."""


class Unreachable(FetchError):
    """The hub cannot be reached at all, so there is no use in asking it for the next one."""


def fetch_from_hub(source: Source, target: Path) -> str:
    """Writes all rows of a data set as parquet, and returns its revision, which was pinned.

    Raises:
      FetchError: it is not there, or not for this user.
      Unreachable: no network.
    """
    import datasets
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    assert source.hub is not None
    try:
        revision = HfApi().dataset_info(source.hub, timeout=30).sha
    except HfHubHTTPError as error:
        raise FetchError(one_line(error)) from error
    except Exception as error:  # of the HTTP library, which is huggingface_hub's choice
        raise Unreachable(one_line(error)) from error
    try:
        table = datasets.load_dataset(
            source.hub,
            source.config,
            split=source.split,
            revision=revision,
            data_files=source.data_file and {source.split: source.data_file},
        )
        kinds = {name: type(feature).__name__ for name, feature in table.features.items()}
        plain = [name for name, kind in kinds.items() if kind not in _MEDIA]
        table.select_columns(plain).to_parquet(str(target))
    except Exception as error:  # datasets wraps errors of Arrow, pandas, fsspec and the hub
        raise FetchError(one_line(error.__cause__ or error)) from error
    return str(revision)


def one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
