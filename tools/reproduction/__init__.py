"""The library under tools/reproduce.py: what is run, how it is driven, and what comes of it."""
