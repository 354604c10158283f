#!/usr/bin/env bash
# P¬P's own recipe: one key at a time away from its tuned recipe on Fashion-MNIST, 20,000 images, 2 epochs, judged on
# validation (test images are not read). Learning rate and momentum are tune.sh's. The recipe itself runs with 3 seeds:
# their spread is the noise to beat.
#   bash experiments/003_rivals/own.sh [overrides…]    into runs/rivals_own, then own.svg, own.csv and the table
set -euo pipefail
cd "$(dirname "$0")/../.."
common=(experiment=fashion_mnist_pnp data.max_images=20000 'data.pretrain_on=[train]' logger=csv
  callbacks.monitor.every_n_epochs=2 evaluation.test=false evaluation.references=[] evaluation.band=null
  evaluation.fractions=[] 'evaluation.l2=[0.001]' "$@")
sweep() { .venv/bin/pnp-train -m "$1" "${common[@]}" "${@:2}" hydra.sweep.dir="runs/rivals_own/${1%%=*}"; }
sweep seed=0,1,2
sweep objective.weights.variance=0,0.25,4
sweep objective.weights.covariance=0,0.01,0.16
sweep objective.weights.repulsion=0,0.25,4
sweep objective.floor=0.5,0.75
sweep objective.margin=0,0.1,0.5
sweep objective.kernel=softplus,gaussian
sweep model.projector.out=32,512
sweep data.batch_size=64,128,512
.venv/bin/python experiments/003_rivals/own.py runs/rivals_own
