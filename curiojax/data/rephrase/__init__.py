"""Rewriting the questions of a data set with a language model; gold answers stay as they are.

Nothing here starts JAX. `tools/rephrase_questions.py` is the command line.
"""
