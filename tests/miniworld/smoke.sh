#!/usr/bin/env bash
# `make smoke`: reproduce.sh in the embedded world, from nothing, in .smoke/; then the table of results. TASKS, in any
# spelling and between spaces or commas, are other tasks than those of the default.
set -euo pipefail

tasks=${TASKS:-STS-B RTE MRPC CoLA SST-2}  # long ones first: both cores are busy to the end
tasks=${tasks//,/ }
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
echo "The whole chain in a small world of its own, in .smoke/: first scores, those of the teachers, in under two minutes,"
echo "the table of results in less than five on two quiet cores, in less than eight where one is busy."
enter .smoke
preload
bash "$kit/reproduce.sh" --tasks "${tasks// /,}"
# shellcheck disable=SC2086
PYTHONPATH=$kit python -m tests.miniworld.table $tasks
