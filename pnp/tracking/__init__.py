"""Weights & Biases: a logger for training, the results after it, a workspace to read them in."""
