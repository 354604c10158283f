"""The commands: thin; each is `def run(cfg) -> metrics` plus a Hydra main."""
