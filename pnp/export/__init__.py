"""Export: the backbone of a run as a folder that loads without Lightning and Hydra."""
