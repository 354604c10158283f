#!/usr/bin/env bash
# A real SLURM on this machine: munge, slurmctld and a slurmd for each of two nodes, all in FOLDER.
#
#     bash tests/slurm/start.sh FOLDER        then: export SLURM_CONF=FOLDER/slurm.conf
#     bash tests/slurm/stop.sh FOLDER
#
# Needs root and Debian's packages slurm-wlm and munge; exits with 3 and the reason where it cannot.
# Nothing outside FOLDER is written, and only addresses of this machine are used.
set -euo pipefail
cannot() { echo "no SLURM here: $*" >&2; exit 3; }
folder=$(realpath -m "$1")
[ "$(id -u)" = 0 ] || cannot "its daemons run as root"
for program in munged slurmctld slurmd srun sbatch scontrol; do
    PATH=$PATH:/usr/sbin command -v $program >/dev/null || cannot "$program is missing (apt-get install slurm-wlm munge)"
done
PATH=$PATH:/usr/sbin
mkdir -p "$folder"/{state,spool1,spool2}
chmod 755 "$folder"
port=$((20000 + $$ % 20000))
host=$(hostname -s)

head -c 1024 /dev/urandom > "$folder/munge.key"
chmod 400 "$folder/munge.key"
munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
    --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"

cat > "$folder/slurm.conf" <<CONF
ClusterName=pnp
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
KillWait=5
SlurmdParameters=config_overrides
NodeName=node[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + 2))] CPUs=4 RealMemory=1000
PartitionName=main Nodes=ALL Default=YES State=UP OverSubscribe=FORCE:4
CONF
export SLURM_CONF=$folder/slurm.conf
slurmctld
for node in node1 node2; do
    slurmd -N $node || cannot "slurmd for several nodes of one machine does not start"
done
for _ in $(seq 100); do
    [ "$(sinfo -h -o %T 2>/dev/null)" = idle ] && { echo "$SLURM_CONF"; exit 0; }
    sleep 0.3
done
sinfo >&2; tail -n 5 "$folder"/*.log >&2
cannot "the nodes do not come up"
