#!/usr/bin/env bash
# `make smoke`: reproduce.sh in the embedded world, from nothing, in .smoke/; then the table of results.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
echo "The whole chain in a small world of its own, in .smoke/: first scores, those of the teachers, in about a minute,"
echo "the table of results in three to five minutes on two quiet cores, in up to eight where one is busy."
enter .smoke
bash "$kit/reproduce.sh" --tasks RTE,SST-2,CoLA,MRPC,STS-B
PYTHONPATH=$kit python -m tests.miniworld.table
