#!/usr/bin/env bash
# End the daemons that start.sh started in FOLDER, by their own ids.
for file in "$1"/slurmd-*.pid "$1"/slurmctld.pid "$1"/munged.pid; do
    [ -s "$file" ] && kill "$(cat "$file")"
done
exit 0
