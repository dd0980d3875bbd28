"""The parts of `tools/select_oxa_data.py`."""
