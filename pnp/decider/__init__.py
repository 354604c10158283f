"""Deciders: a frozen encoder, a head and certified thresholds that answer P, ¬P or uncertain."""
