#!/usr/bin/env bash
# `make ablations`: the paper's ablations in the embedded world, from nothing, in .ablations/: all with two seeds, the
# full method with three; the report of all runs, and a table of the ablations.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
enter .ablations
bash "$kit/reproduce.sh" --tasks CoLA,MRPC --students 4l --ablation all --seeds 1,2
bash "$kit/reproduce.sh" --tasks CoLA,MRPC --students 4l --seeds 1,2,3 | grep -v skipped
PYTHONPATH=$kit python -m tests.miniworld.ablation_table
