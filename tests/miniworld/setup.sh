# Sourced by the scripts beside it: `enter FOLDER` empties FOLDER below the kit, offers the embedded world on a local
# port, sets all that reproduce.sh needs to run on it, and changes to FOLDER; `enter FOLDER chinese` does so with the
# world's Chinese part. `preload` then lets a process that has everything loaded run the scripts. The servers end with
# the script.
kit=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

enter() {
    local world=$kit/.cache/miniworld run=$kit/$1 language=${2-english} base task
    if [[ $1 == /* ]]; then run=$1; fi
    cd "$kit"
    rm -rf "$run"
    mkdir -p "$run"

    if [[ $language == chinese ]]; then
        world+=_chinese
        echo "making the Chinese part of the embedded world (some seconds the first time) ..."
        python -m tests.miniworld chinese "$world"
    else
        echo "making the embedded world (a minute or two the first time, its BERT most of it) ..."
        python -m tests.miniworld build "$world"
    fi
    python -m tests.miniworld serve "$world" --port 0 --port_file "$run/port" 2>"$run/server.log" &
    server=$!
    servers=$server
    trap 'kill $servers 2>/dev/null' EXIT
    until [[ -s $run/port ]]; do
        kill -0 $server || { cat "$run/server.log" >&2; exit 1; }
        sleep 0.1
    done
    base=http://127.0.0.1:$(cat "$run/port")

    export HF_ENDPOINT=$base GLUE_BASE=$base/glue/data SENTEVAL_BASE=$base/senteval/senteval_data
    export SQUAD_BASE=$base/squad/dataset CLUE_BASE=$base/clue OCNLI_BASE=$base/ocnli
    export GLOVE_URL=$base/glove/glove.840B.300d.zip WIKI_URL=$base/wiki/wiki.xml.bz2
    export CONFIG_4L=$kit/tests/miniworld/tinybert_4l_config CONFIG_6L=$kit/tests/miniworld/tinybert_6l_config
    # models this small leave one thread idle: two steps side by side use two cores better than one with two threads
    export JOBS=2 OMP_NUM_THREADS=1
    "set_sizes_$language"
    cd "$run"
}

set_sizes_english() {
    local task
    export PREGENERATE_FLAGS="--max_seq_len 32"
    export GENERAL_FLAGS="--max_seq_length 32 --train_batch_size 32 --learning_rate 2e-3"
    export AUGMENT_FLAGS="--N 2"
    export TEACHER_FLAGS="--max_seq_length 32 --learning_rate 3e-4"
    export INTERMEDIATE_FLAGS="--max_seq_length 32 --num_train_epochs 2 --learning_rate 1.5e-3 --eval_step 1000"
    export PREDICTION_FLAGS="--max_seq_length 32 --num_train_epochs 3 --learning_rate 2e-4 --eval_step 50"
    export EVAL_FLAGS="--max_seq_length 32"
    local lengths="--max_seq_length 56 --max_query_length 20 --doc_stride 16"  # some passages need two windows
    for task in SQUAD1 SQUAD2; do
        export "TASK_FLAGS_$task=$lengths"
        export "TEACHER_FLAGS_$task=$lengths --learning_rate 7e-4 --num_train_epochs 4 --train_batch_size 32"
        export "INTERMEDIATE_FLAGS_$task=--num_train_epochs 8"
        export "PREDICTION_FLAGS_$task=--num_train_epochs 5 --learning_rate 5e-4"
    done
}

# OCNLI is learnt; the others, in an epoch, show that nothing breaks.
set_sizes_chinese() {
    local task
    export PREGENERATE_FLAGS= EVAL_FLAGS="--max_seq_length 64"
    export GENERAL_FLAGS="--train_batch_size 16 --learning_rate 2e-3"
    export AUGMENT_FLAGS="--N 2"
    export TEACHER_FLAGS="--max_seq_length 64 --num_train_epochs 1 --train_batch_size 16 --learning_rate 1e-3"
    export INTERMEDIATE_FLAGS="--max_seq_length 64 --num_train_epochs 1 --learning_rate 1.5e-3 --eval_step 1000"
    export PREDICTION_FLAGS="--max_seq_length 64 --num_train_epochs 1 --learning_rate 1e-3 --eval_step 1000"
    export TEACHER_FLAGS_OCNLI="--num_train_epochs 5" INTERMEDIATE_FLAGS_OCNLI="--num_train_epochs 2"
    export PREDICTION_FLAGS_OCNLI="--num_train_epochs 3"
    for task in TNEWS AFQMC CSL CLUEWSC2020; do
        export "INTERMEDIATE_FLAGS_$task=--skip_teacher_check" "PREDICTION_FLAGS_$task=--skip_teacher_check"
    done
}

preload() {
    local prefork=$kit/tests/miniworld/prefork.py python
    python=$(command -v python)
    mkdir bin
    printf '#!/bin/sh\ncase $1 in *.py) exec "%s" -S -E "%s" prefork.socket "$@" ;; esac\nexec "%s" "$@"\n' \
        "$python" "$prefork" "$python" >bin/python
    chmod +x bin/python
    PYTHONPATH=$kit python "$prefork" prefork.socket 2>prefork.log &
    servers+=" $!"
    until [[ -S prefork.socket ]]; do kill -0 $! || { cat prefork.log >&2; exit 1; }; sleep 0.1; done
    PATH=$PWD/bin:$PATH
}
