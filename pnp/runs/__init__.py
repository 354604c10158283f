"""Runs: directory, identity, lock, processes, launch, and the objects that a config describes."""
