#!/usr/bin/env bash
# `make teachers`: the chain in the embedded world, from nothing, in .teachers/, with an ELECTRA, a NEZHA and an ALBERT in
# BERT's place; then a table of the scores. reproduce.sh takes another teacher by its variables: so can anyone.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
enter .teachers
preload
echo "making the ELECTRA, the NEZHA and the ALBERT (some three minutes the first time) ..."
(cd "$kit" && python -m tests.miniworld teachers .cache/miniworld)

pregenerate=$PREGENERATE_FLAGS general=$GENERAL_FLAGS augment=$AUGMENT_FLAGS teacher=$TEACHER_FLAGS
names=(google/electra-base-discriminator sijunhe/nezha-cn-base voidful/albert_chinese_base)
for name in "${names[@]}"; do
    model=models/${name#*/}
    mkdir "${name#*/}"
    cd "${name#*/}"
    ln -s ../prefork.socket .
    {
        python "$kit/get_bert_models.py" --models "$name"
        python "$kit/fix_teacher_layers.py" "$model"
    } >get.log 2>&1 || { tail -n 5 get.log >&2; exit 1; }
    export PREGENERATE_FLAGS="$pregenerate --bert_model $model" GENERAL_FLAGS="$general --teacher_model $model"
    export TEACHER_FLAGS="$teacher --model $model" AUGMENT_FLAGS="$augment --pretrained_bert_model $model"
    if [[ $name == *electra* ]]; then export AUGMENT_FLAGS=$augment; fi  # no masked LM: BERT, of the same vocabulary
    echo "--- $name"
    bash "$kit/reproduce.sh" --tasks RTE,SST-2 --students 4l
    cd ..
done
PYTHONPATH=$kit python -m tests.miniworld.teachers_table "${names[@]#*/}"
