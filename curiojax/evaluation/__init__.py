"""Scoring of models: estimators and the loops that sample and grade."""
