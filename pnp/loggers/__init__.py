"""Loggers of a run: metrics.csv always, Weights & Biases beside it."""
