"""Verifiers: pure functions from a response's text and a ground truth to a verdict."""
