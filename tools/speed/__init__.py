"""The measurements behind `tools/bench.py`; torch is imported by `torch_worker` only."""
