#!/usr/bin/env bash
# Eight methods × seeds 0, 1, 2 by their recipes conf/experiment/DATA_METHOD.yaml, into runs/rivals. The seed owns
# training; data.seed owns the splits (so also the calibration draw). A finished run is skipped, a stopped one goes on.
#   [JOBS=2] bash experiments/003_rivals/run.sh DATA [overrides…]      DATA: fashion_mnist, cifar10
# JOBS runs at a time, the cores divided among them.
set -euo pipefail
cd "$(dirname "$0")/../.."
data=$1; shift
jobs=${JOBS:-1}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(($(nproc) / jobs))}
for seed in 0 1 2; do
  for method in pnp dino byol simsiam simclr vicreg barlow lejepa; do
    while (($(jobs -rp | wc -l) >= jobs)); do wait -n; done
    .venv/bin/pnp-train experiment="${data}_$method" seed=$seed data.seed=$seed logger=csv resume=auto \
      evaluation.references=[] evaluation.fractions=[] run_dir="runs/rivals/${data}_${method}_s$seed" "$@" &
  done
done
for _ in $(jobs -p); do wait -n; done
.venv/bin/python experiments/003_rivals/summarise.py "$data" runs/rivals
