"""Reports: one self-contained page per run, one table and page for any set of runs."""
