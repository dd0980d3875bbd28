"""Benchmarks: the paper's by name, and files of one's own."""

from curiojax.evaluation.benchmarks.catalogue import KNOWN, NAMES, SETS
from curiojax.evaluation.benchmarks.entries import Entry, parse_entries
from curiojax.evaluation.benchmarks.load import load_benchmark

__all__ = ["KNOWN", "NAMES", "SETS", "Entry", "load_benchmark", "parse_entries"]
