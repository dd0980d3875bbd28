"""Versions of the packages that decide about verdicts and logits."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed(name: str) -> str | None:
    """The version of a package; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def software() -> dict[str, str | None]:
    """Versions by package, for `results.json`."""
    return {name: installed(name) for name in ("curiojax", "math-verify", "jax", "transformers")}
