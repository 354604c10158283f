#!/usr/bin/env bash
# The same tuning budget for every method: 4 runs, learning rate × the value its paper tunes, at the length of the
# final runs, judged by the student's kNN on validation (the one network every method has). Test images are not read.
#   bash experiments/003_rivals/tune.sh DATA [overrides…]     DATA: fashion_mnist, cifar10
# Into runs/rivals_tune/DATA/METHOD; a finished run is skipped, a stopped one goes on. CIFAR-10 from a folder:
# data=image_folder data.root=FOLDER …; two runs at a time: hydra/launcher=joblib hydra.launcher.n_jobs=2
set -euo pipefail
cd "$(dirname "$0")/../.."
data=$1; shift
[[ " $* " == *" data="* ]] || set -- "data=$data" "$@"
tune() {
  local method=$1; shift
  .venv/bin/pnp-train -m method="$method" optim.lr=0.002,0.005 "$@" "${common[@]}" \
    hydra.sweep.dir="runs/rivals_tune/$data/$method"
}
common=(trainer.max_epochs=2 optim.warmup_epochs=0.2 callbacks.monitor.every_n_epochs=2 logger=csv
  evaluation.test=false 'data.pretrain_on=[train]' evaluation.references=[] evaluation.band=null
  evaluation.fractions=[] 'evaluation.l2=[0.001]' "$@")
tune pnp method.momentum=0.96,0.99
tune dino method.momentum=0.96,0.99
tune byol method.momentum=0.96,0.99
tune simsiam optim.weight_decay=0.05,0.0005
tune simclr objective.temperature=0.2,0.5
tune vicreg objective.covariance=1,4
tune barlow objective.redundancy=0.005,0.02
tune lejepa objective.weight=0.05,0.2
