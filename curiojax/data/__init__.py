"""Records to tokens to packed batches. Nothing here starts JAX."""

from curiojax.data.packing import pack
from curiojax.data.pipeline import SupervisedData, build_dataset
from curiojax.data.records import Records, load_records
from curiojax.data.templates import TEMPLATES, render

__all__ = [
    "TEMPLATES",
    "Records",
    "SupervisedData",
    "build_dataset",
    "load_records",
    "pack",
    "render",
]
