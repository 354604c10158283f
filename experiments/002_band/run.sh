#!/usr/bin/env bash
# Two data sets × full, no_repulsion × seeds 0, 1, 2 into runs/band. The seed owns training; data.seed owns
# the images of `ambiguous` and, on Fashion-MNIST, the splits (so also the calibration draw).
# A finished run is skipped, a stopped one goes on.
set -euo pipefail
cd "$(dirname "$0")/../.."
concepts='evaluation.concepts={one_vs_rest: true, top_or_coin: {positive: [0, 2, 4], ambiguous: {6: 0.5}}}'
for seed in 0 1 2; do
  for objective in full no_repulsion; do
    common=(objective=$objective seed=$seed data.seed=$seed logger=csv resume=auto)
    .venv/bin/pnp-train "${common[@]}" run_dir=runs/band/ambiguous_${objective}_s$seed
    .venv/bin/pnp-train "${common[@]}" data=fashion_mnist "$concepts" run_dir=runs/band/fmnist_${objective}_s$seed
  done
done
.venv/bin/python experiments/002_band/summarise.py runs/band
