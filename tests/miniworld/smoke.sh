#!/usr/bin/env bash
# `make smoke`: reproduce.sh in the embedded world, from nothing, in .smoke/; then the table of results.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
enter .smoke
bash "$kit/reproduce.sh" --tasks RTE,SST-2,CoLA,MRPC,STS-B
PYTHONPATH=$kit python -m tests.miniworld.table
