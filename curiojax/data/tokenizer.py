"""Loading a tokenizer without loading a model."""

from __future__ import annotations

import os
from typing import Any

from curiojax.errors import ConfigError


def load_tokenizer(path: str | os.PathLike) -> Any:
    """The Hugging Face tokenizer of a folder or hub id.

    Raises:
      ConfigError: there is none, or it cannot be read; names the path.
    """
    # Its advice that models need torch is of no use to a program that brings its own.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(path))
    except Exception as error:  # transformers raises whatever the missing piece leads to
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise ConfigError(
            f"model.path: no tokenizer could be read from {path} ({reason}); name a folder with "
            "tokenizer.json, or a hub id reachable from here"
        ) from None
