"""Callbacks: they watch what `training_step` returns and never change its gradients."""
