#!/usr/bin/env bash
# The reproduction of README.md from first to last command, in the working directory (data/, models/, results/).
#
#   reproduce.sh [--tasks RTE,SST-2,CoLA,MRPC] [--students 4l,6l] [--apart] [--settings paper] [--published]
#                [--language english] [--articles N] [--augment_squad] [--seeds 1,2,3] [--search] [--ablation NAME]
#                [--from STEP] [--list] [--plan] [--rehearse]
#   reproduce.sh --size laptop [--teacher NAME] [--no_augmentation] [--students 2l,3l] [--tasks, --apart, --articles,
#                --seeds, --ablation, --from, --list, --plan, --rehearse as above]
#   reproduce.sh --task_dir data/mytask [--teacher FOLDER] [--no_augmentation] [all of the first but --tasks,
#                --settings, --articles]
#
# Tasks in any spelling. The settings are those that the scripts take from the paper; --settings earlier has lengths,
# epochs, rates and batches of an earlier public reproduction. --published fetches the general students of the paper's
# authors, in place of Wikipedia and general distillation. One folder holds steps of one choice.
#
# --articles N takes the first N articles of Wikipedia, in place of all: the dump is read until they are there.
#
# --size laptop does all of it in hours on two cores, with stand-ins: a small BERT of 6 layers as teacher, students of 2
# and 3 layers, 500 articles, shorter texts, less augmented data, fewer epochs, higher rates, see docs/results.md.
# --teacher NAME takes another BERT, whose layers are a multiple of the students', with its masked-LM
# head, as get_bert_models.py does: a repository on the hub or a folder. --no_augmentation does without that head.
#
# --language chinese does all of it in Chinese, see docs/chinese.md: the Chinese Wikipedia, bert-base-chinese, and the
# tasks of CLUE, of which AFQMC, TNEWS, IFLYTEK and CLUEWSC2020 take least; ChnSentiCorp and XNLI-zh are known, too.
#
# --task_dir names a folder that prepare_task.py has written: its task is done in place of known ones, with the general
# students that the paper's authors published. BERT becomes the teacher, or --teacher names a model that has learnt the
# task, and is taken as it is; it needs their vocabulary. --no_augmentation trains on the rows as they are; where the
# teacher is given, too, BERT is not fetched. Steps have the task's name without _ and -, and one folder takes several
# tasks of your own.
#
# Both students are trained together in general distillation and the intermediate stage, steps such as general_4l+6l:
# the teacher answers once for both, which saves a quarter. --apart trains each by itself, for JOBS on several GPUs or
# where memory is short. The students come out the same, and a folder may change from one to the other.
#
# --augment_squad augments the passages of SQuAD, too, for the intermediate stage. It is off: it takes days on one GPU,
# see docs/squad.md. AUGMENT_FLAGS_SQUAD1="--N 5" or INTERMEDIATE_FLAGS_SQUAD1="--num_train_epochs 5" make less of it.
# SQuAD's prediction stage always takes the original training set, as in the paper.
#
# A finished step is skipped when the script starts again; --from STEP does STEP and all that follow from it once more.
# Teachers, general students and augmented data do not follow from each other.
# It stops at the first failure with the step's name and log: results/steps/STEP.log; the logs of earlier tries are
# STEP.1.log, STEP.2.log, ... STEP.seconds tells what the tries of a finished step took together.
#
# --plan runs nothing and writes nothing: it prints what each step would do and take on this machine (estimated), and
# what is missing for it. Exit status 2 where the run would stop for that. --rehearse runs each step that remains for a
# few optimizer steps, with its own flags and sizes, on samples of its files and made-up ones where they are not there
# yet, throws the results away and prints what was measured: seconds a step, memory, and the hours and the disk that
# follow. results/rehearsal.json alone stays, for --plan. Exit status 2 where a step fails or does not fit.
#
# These three do task distillation in folders of their own, models/runs/VARIANT/seed_SEED, from the same corpus, general
# students, augmented data and teachers, and write the report of report.py at the end:
#   --seeds 1,2,3     once for each seed (variant full; the other two take 42 unless seeds are given)
#   --search          prediction stage with batches of 16 and 32 and rates of 1e-5, 2e-5 and 3e-5, each from the same
#                     intermediate student (variants search_b16_lr1e-5, ...); the report names the best on the dev set
#   --ablation NAME   several between commas, or all of them and full with `all` (paper, tables 2 to 4):
#                     no_gd (random weights in place of the general student), no_td (the general student fine-tuned on
#                     the labels), no_da (no augmented data), no_pred (labels in place of the teacher's logits); and in
#                     both general and intermediate distillation no_embd, no_attn, no_hidn, no_trm (neither attn nor
#                     hidn), map_top, map_bottom: these six need a general student of their own
#
# Environment, for other sizes and places than the README's (the last of two equal flags counts):
#   JOBS                       steps side by side, where they do not depend on each other (default 1); each sees one
#                              GPU, those of CUDA_VISIBLE_DEVICES or all in turn
#   WORKERS                    processes of the steps that make text and instances (default: one for each core)
#   CONFIG_4L, CONFIG_6L       folders with the students' config.json; of --size laptop CONFIG_2L, CONFIG_3L
#   GLOVE_URL, WIKI_URL        where the word vectors and the Wikipedia dump come from
#   GLOVE_FILE                 the text file in the word vectors' zip
#   PREGENERATE_FLAGS, GENERAL_FLAGS, AUGMENT_FLAGS, TEACHER_FLAGS, INTERMEDIATE_FLAGS, PREDICTION_FLAGS, EVAL_FLAGS
#                              added to the commands of these steps
#   TASK_FLAGS_RTE             added to those of intermediate, prediction and eval for one task (RTE SST2 COLA MRPC STSB
#                              QNLI QQP MNLI WNLI SQUAD1 SQUAD2, AFQMC TNEWS IFLYTEK CMNLI OCNLI CSL CLUEWSC2020
#                              CHNSENTICORP XNLIZH, OWN for that of --task_dir); eval refuses flags of training, such
#                              as --num_train_epochs
#   PREDICTION_FLAGS_RTE, TEACHER_FLAGS_RTE, ...
#                              added to those of one step for one task
#   OMP_NUM_THREADS            threads of a step (default: its share of the cores)
set -euo pipefail

kit=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH="$kit${PYTHONPATH:+:$PYTHONPATH}"
tasks=
task_dir=  # of a task of one's own
teacher=   # for it: a folder; nothing: a step makes it. With --size laptop: what --teacher says
origin=    # of BERT with --size laptop, as get_bert_models.py takes it
own_metric= own_test= unlabelled=0 own_digest=  # what its folder says
augmentation=true
size=full
students=
language=english
articles=  # of Wikipedia; nothing: all
apart=false
augment_squad=false
settings=paper
published=false
ablations=(no_gd no_td no_da no_embd no_pred no_trm no_attn no_hidn map_top map_bottom)
seeds=()
variants=()
from=
list=false
planning=  # in place of running: --plan or --rehearse
JOBS=${JOBS:-1}
cores=$(getconf _NPROCESSORS_ONLN)
WORKERS=${WORKERS:-$cores}
CONFIG_4L=${CONFIG_4L:-$kit/tinybert_4l_config}
CONFIG_6L=${CONFIG_6L:-$kit/tinybert_6l_config}
CONFIG_2L=${CONFIG_2L:-$kit/docs/laptop/tinybert_2l_config}
CONFIG_3L=${CONFIG_3L:-$kit/docs/laptop/tinybert_3l_config}

die() { echo "reproduce.sh: error: $1" >&2; exit 2; }

# A folder that is there, as seen from the working directory however it is spelled.
folder() {
    local path
    path=$(CDPATH='' cd -- "$1" 2>/dev/null && pwd) || die "$2 $1: no such folder"
    echo "${path#"$PWD/"}"
}

while (($#)); do
    valued=" --size --tasks --task_dir --teacher --students --settings --language --articles --seeds --ablation --from "
    if [[ $valued == *" $1 "* && -z ${2-} ]]; then
        die "$1 needs a value"
    fi
    case $1 in
        --size) size=$2; shift 2 ;;
        --articles) articles=$2; shift 2 ;;
        --tasks) tasks=$2; shift 2 ;;
        --task_dir) task_dir=$2; shift 2 ;;
        --teacher) teacher=$2; shift 2 ;;
        --no_augmentation) augmentation=false; shift ;;
        --students) students=$2; shift 2 ;;
        --apart) apart=true; shift ;;
        --augment_squad) augment_squad=true; shift ;;
        --settings) settings=$2; shift 2 ;;
        --published) published=true; shift ;;
        --language) language=$2; shift 2 ;;
        --seeds) IFS=, read -ra seeds <<<"$2"; shift 2 ;;
        --search) variants+=(search_b{16,32}_lr{1,2,3}e-5); shift ;;
        --ablation)
            for name in ${2//,/ }; do
                if [[ $name == all ]]; then
                    variants+=(full "${ablations[@]}")
                elif [[ " full ${ablations[*]} " == *" $name "* ]]; then
                    variants+=("$name")
                else
                    die "unknown ablation $name: ${ablations[*]} full all"
                fi
            done
            shift 2 ;;
        --from) from=$2; shift 2 ;;
        --list) list=true; shift ;;
        --plan | --rehearse) planning=$1; shift ;;
        -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"; exit ;;
        *) die "unknown argument $1 (see --help)" ;;
    esac
done
[[ $size == full || $size == laptop ]] || die "unknown size $size: full or laptop"
if [[ -z $task_dir ]]; then
    [[ -z $teacher || $size == laptop ]] ||
        die "--teacher is for a task of your own, or for --size laptop: add --task_dir or that, or drop it"
    $augmentation || [[ $size == laptop ]] ||
        die "--no_augmentation is for a task of your own or --size laptop, the ablation no_da for others: add one of \
these, or drop it"
elif [[ -n $tasks ]]; then
    die "--tasks and --task_dir: each run has known tasks or one of your own: drop one of them"
fi
if [[ $size == laptop ]]; then
    if $published || [[ -n $task_dir ]]; then
        die "${task_dir:+--task_dir }--published takes students whose teacher is BERT-base, and --size laptop has a \
smaller one: drop one of them"
    fi
    [[ " ${variants[*]-} " != *" search_"* ]] || die "--search tries the paper's rates, which are a tenth of those of \
--size laptop: drop one of them"
    [[ $language == english && $settings == paper ]] || die "--size laptop has settings of its own, for English: drop \
that, or --language and --settings"
fi
case $language in
    english)
        wiki=enwiki bert=models/bert-base-uncased zh= sizes="4l 6l" lower_case=--do_lower_case
        tasks=${tasks:-RTE,SST-2,CoLA,MRPC} ;;
    chinese)
        wiki=zhwiki bert=models/bert-base-chinese zh=_zh sizes="4l 6l" lower_case=  # as the model's own files say
        tasks=${tasks:-AFQMC,TNEWS,IFLYTEK,CLUEWSC2020} ;;
    *) die "unknown language $language: english or chinese" ;;
esac
glove=840B.300d
if [[ $size == laptop ]]; then
    origin=${teacher:-google/bert_uncased_L-6_H-256_A-4} teacher=  # the teachers are made here
    origin=${origin%/}
    if [[ -d $origin ]]; then origin=$(folder "$origin" --teacher); fi
    lower_case= sizes="2l 3l" articles=${articles:-500} glove=6B.50d
fi
GLOVE_URL=${GLOVE_URL:-https://nlp.stanford.edu/data/glove.${glove/.50d/}.zip}
GLOVE_FILE=${GLOVE_FILE:-glove.$glove.txt}
WIKI_URL=${WIKI_URL:-https://dumps.wikimedia.org/$wiki/latest/$wiki-latest-pages-articles.xml.bz2}
wiki=${WIKI_URL##*/}  # below data/
if [[ -n $articles ]]; then
    [[ $articles =~ ^[1-9][0-9]*$ ]] || die "--articles $articles is not a whole number above 0"
    ! $published && [[ -z $task_dir ]] || die "--articles is for Wikipedia, which --published and --task_dir leave \
out: drop one of them"
    wiki=${wiki%%.*}-first-$articles.xml
fi
IFS=, read -ra tasks <<<"$tasks"
students=${students:-${sizes/ /,}}
[[ $students == *[!,]* ]] || die "no student: ${sizes/ / or }"
for student in ${students//,/ }; do
    [[ " $sizes " == *" $student "* ]] || die "unknown student $student: ${sizes/ / or }"
done
# shellcheck disable=SC2207
students=($(tr , '\n' <<<"$students" | sort -u))
teams=("${students[@]}")  # those trained together
if ! $apart; then teams=("$(IFS=+; echo "${students[*]}")"); fi

[[ $settings == paper || $settings == earlier ]] || die "unknown settings $settings: paper or earlier"
[[ $settings == paper || -z $task_dir ]] || die "--settings earlier is not for a task of your own, whose folder has \
its settings: drop one of them"
[[ $settings == paper || $language == english ]] || die "--settings earlier is not for Chinese, which that \
reproduction did not train: drop one of them"

key() { tr '[:upper:]' '[:lower:]' <<<"${1//[_.-]/}"; }

capitals() { tr '[:lower:]' '[:upper:]' <<<"${1//[_.-]/}"; }  # of tasks, as variables name them

# Its words, each once. Like what follows, without a process for it: a run asks some thousand times.
unique() {
    local word seen=" "
    for word; do
        if [[ $seen != *" $word "* ]]; then echo "$word"; fi
        seen+="$word "
    done
}

english="RTE SST-2 CoLA MRPC STS-B QNLI QQP MNLI WNLI SQuAD1 SQuAD2"
chinese="AFQMC TNEWS IFLYTEK CMNLI OCNLI CSL CLUEWSC2020 ChnSentiCorp XNLI-zh"

# The official spelling of tasks.
official() {
    local task
    for task; do
        case $(key "${task// /}") in
            rte) echo RTE ;; sst2 | sst) echo SST-2 ;; cola) echo CoLA ;; mrpc) echo MRPC ;; stsb | sts) echo STS-B ;;
            qnli) echo QNLI ;; qqp) echo QQP ;; mnli | mnlim | mnlimm) echo MNLI ;; wnli) echo WNLI ;;
            squad | squad1 | squadv1 | squad11 | squadv11) echo SQuAD1 ;;
            squad2 | squadv2 | squad20 | squadv20) echo SQuAD2 ;;
            afqmc | tnews | iflytek | cmnli | ocnli | csl) capitals "$task" ;;
            cluewsc2020 | cluewsc | wsc) echo CLUEWSC2020 ;;
            chnsenticorp) echo ChnSentiCorp ;; xnlizh | xnli) echo XNLI-zh ;;
            *) die "unknown task $task: ${!language}" ;;
        esac
    done
}

# What the folder of a task of one's own says, in one line. Refused where it is none, or the teacher cannot be one, for
# it or for these of the students: that is not to come out after hours of augmentation.
describe() {
    local student folders=()
    for student; do folders+=("models/distilled_tinybert_$student$zh"); done
    python -m transformer.planning --task_dir "$task_dir" ${teacher:+--teacher "$teacher"} \
        ${folders[@]+--students "${folders[@]}"}
}

# The folder with a student's config.json; nothing for what is no student.
config_of() {
    case $1 in
        2l) echo "$CONFIG_2L" ;; 3l) echo "$CONFIG_3L" ;; 4l) echo "$CONFIG_4L" ;; 6l) echo "$CONFIG_6L" ;;
    esac
}

if [[ -n $origin ]]; then
    configs=()
    for student in "${students[@]}"; do configs+=("$(config_of "$student")"); done
    bert=$(python -m transformer.planning --bert "$origin" --students "${configs[@]}" \
        $($augmentation && echo --augments || true)) || exit 2
fi
if [[ -n $task_dir ]]; then
    task_dir=$(folder "$task_dir" --task_dir)
    if [[ -n $teacher ]]; then teacher=$(folder "$teacher" --teacher); fi
    fetched=()
    for student in ${teacher:+"${students[@]}"}; do
        if [[ -f results/steps/general_$student.seconds && -d models/distilled_tinybert_$student$zh ]]; then
            fetched+=("$student")
        fi
    done
    facts=$(describe ${fetched[@]+"${fetched[@]}"}) || exit 2
    read -r names own_metric own_test unlabelled own_digest <<<"$facts"
    published=true
    [[ $(key "$names")$zh != zh_zh ]] || die "the students of a task called $names would have the folder of the \
general ones: give $task_dir another name, and make it anew"
else
    names=$(official "${tasks[@]}")
fi
# shellcheck disable=SC2086,SC2207
tasks=($(unique $names))

laptop="RTE SST-2 CoLA MRPC"
for task in "${tasks[@]}"; do
    [[ -n $task_dir || " ${!language} " == *" $task "* ]] ||
        die "task $task is not for --language $language: ${!language}"
    [[ $size == full || " $laptop " == *" $task "* ]] || die "task $task has no settings for --size laptop: $laptop"
done

is_squad() { [[ $1 == SQuAD[12] ]]; }

# Neither is a task whose label hangs on single words.
is_augmented() {
    if ! $augmentation; then return 1; fi
    if is_squad "$1"; then $augment_squad; else [[ $1 != WNLI && $1 != CLUEWSC2020 ]]; fi
}

# Whether the answers to a task's test set go to the server of GLUE or CLUE. Those of the others are public, or secret.
has_server() { ! is_squad "$1" && [[ $1 != ChnSentiCorp && $1 != XNLI-zh ]]; }

# Whether a task has a test set to answer.
has_test() { if [[ -n $task_dir ]]; then ((own_test)); else has_server "$1"; fi; }

squads=
for task in "${tasks[@]}"; do if is_squad "$task"; then squads+=$task; fi; done
[[ $settings == paper || -z $squads ]] || die "--settings earlier is not for SQuAD, which that \
reproduction did not train: drop one of them"
[[ -n $squads ]] || ! $augment_squad || die "--augment_squad needs squad1 or squad2 among --tasks"
[[ -z $squads || " ${variants[*]-} " != *" no_da "* ]] || $augment_squad ||
    die "the ablation no_da leaves out augmented data, which SQuAD has with --augment_squad alone: add that, or drop it"
[[ " ${variants[*]-} " != *" no_da "* ]] || $augmentation ||
    die "the ablation no_da leaves out augmented data, as --no_augmentation does for all: drop one of them"
for name in no_td no_pred; do
    [[ " ${variants[*]-} " != *" $name "* || $unlabelled == 0 ]] ||
        die "the ablation $name learns labels, and $unlabelled rows of $task_dir have none: drop it"
done

for variable in "${!TASK_FLAGS_@}" "${!AUGMENT_FLAGS_@}" "${!TEACHER_FLAGS_@}" "${!INTERMEDIATE_FLAGS_@}" \
    "${!PREDICTION_FLAGS_@}" "${!EVAL_FLAGS_@}"; do
    known=$(capitals "$english $chinese OWN")
    [[ " $known " == *" ${variable##*_FLAGS_} "* ]] || die "$variable names no task: $known"
done
for seed in ${seeds[@]+"${seeds[@]}"}; do
    [[ $seed =~ ^(0|[1-9][0-9]*)$ ]] || die "seed $seed is not a whole number"
done
if ((${#seeds[@]} && ! ${#variants[@]})); then variants=(full); fi
if ((${#variants[@]} && ! ${#seeds[@]})); then seeds=(42); fi

# Whether a variant changes the losses of both general and intermediate distillation.
has_losses() { [[ " no_embd no_trm no_attn no_hidn map_top map_bottom " == *" $1 "* ]]; }

# The steps in order. Those of one stage are one string and do not depend on each other.
glue=() augment=() teachers=() keys=()
for task in "${tasks[@]}"; do
    name=$(key "$task")
    keys+=("$name")
    if [[ -z $task_dir ]]; then glue+=("glue_$name"); fi
    if [[ -z $teacher ]]; then teachers+=("teacher_$name"); fi
    if is_augmented "$task"; then augment+=("augment_$name"); fi
done
general=("${teams[@]/#/general_}")
if $published; then general=("${students[@]/#/general_}"); fi
runs=("")  # VARIANT/seed_SEED/ before a step's name: its folder below models/runs; nothing: models itself
for variant in ${variants[@]+"${variants[@]}"}; do
    if has_losses "$variant"; then general+=("${teams[@]/#/$variant/general_}"); fi
    for seed in "${seeds[@]}"; do runs+=("$variant/seed_$seed/"); done
done
if ((${#variants[@]})); then runs=("${runs[@]:1}"); fi
alone=$zh$task_dir$origin  # then BERT is fetched without fine-tuned siblings
vectors=${augment[*]:+glove }  # for augmentation
if [[ -n $zh ]]; then vectors=; fi  # its words are characters, of one wordpiece each
downloads="$vectors${glue[*]-} wiki bert" text=(extract sentences pregenerate) fix=fix
if $published; then
    [[ ${general[*]} != */* ]] || die "${task_dir:+--task_dir is }--published${task_dir:+, which} leaves out the \
corpus, which step ${general[*]: -1} needs: drop it, or the ablation"
    downloads="$vectors${glue[*]-} bert" text=()
fi
if [[ -n $teacher && -z ${augment[*]-} ]]; then downloads='' fix=''; fi  # nobody asks BERT
general=("$(unique "${general[@]}")")
chains=()
for stage in intermediate prediction eval; do
    names=()
    for run in "${runs[@]}"; do
        who=("${students[@]}")
        if [[ $stage == intermediate ]]; then
            who=("${teams[@]}")
            case $run in
                no_td/*) continue ;;
                no_pred/* | search_*) run=full/${run#*/} ;;  # the same student
            esac
        fi
        for key in "${keys[@]}"; do
            for student in "${who[@]}"; do names+=("$run${stage}_${student}_$key"); done
        done
    done
    chains+=("$(unique ${names[@]+"${names[@]}"})")
done
devices=()  # to share out
if ((JOBS > 1)); then
    if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
        IFS=, read -ra devices <<<"$CUDA_VISIBLE_DEVICES"
    elif gpus=$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null); then
        read -ra devices <<<"${gpus//$'\n'/ }"
    fi
fi
# beside general distillation, unless steps share a GPU: one of 24 GB has no room for both
branches=("${general[*]} ${augment[*]-}")
if ((${#devices[@]} && ${#devices[@]} < JOBS)); then branches=("${general[*]}" "${augment[*]-}"); fi
# the teachers first: their scores tell early whether all is well
stages=("$downloads" "$fix" "${teachers[*]-}" ${text[@]+"${text[@]}"} "${branches[@]}" "${chains[@]}")

task_of() {
    local number
    for number in "${!tasks[@]}"; do
        if [[ ${keys[number]} == "${1##*_}" ]]; then echo "${tasks[number]}"; fi
    done
}

# `downloading fetch URL FILE`, and `downloading unzip_file ARCHIVE FILE`, the file of that name.
downloading() {
    python -c "import sys
from transformer.cli import run_script
from transformer.fetching.download import $1
sys.exit(run_script(lambda: $1(*sys.argv[1:])))" "${@:2}"
}

# The students of a step: 4l and 6l of full/seed_1/intermediate_4l+6l_rte.
students_of() {
    local who=${1##*/}
    who=${who#*_} who=${who%%_*}
    echo "${who//+/ }"
}

# The steps that train the students of a step one by one: general_4l and general_6l of general_4l+6l. Of others, itself.
one_by_one() {
    local who student
    who=$(students_of "$1")
    for student in $who; do echo "${1/"_${who// /+}"/_$student}"; done
}

# The step that trains the student of a step together with the other one: general_4l+6l of general_4l.
together() { echo "${1/_[${sizes//[l ]/}]l/_${sizes/ /+}}"; }

# The names of a step, and of those that train its students one by one, or together.
relatives() {
    local name
    # shellcheck disable=SC2046
    unique $(for name in $(one_by_one "$1"); do echo "$name" "$(together "$name")"; done)
}

# Whether a step is finished: for each of its students, by itself or by a relative.
is_finished() {
    local name
    for name in $(one_by_one "$1"); do
        [[ -f results/steps/$name.seconds || -f results/steps/$(together "$name").seconds ]] || return
    done
}

# Whether a step, or a relative, has been tried.
was_tried() {
    local name
    for name in $(relatives "$1"); do
        name=results/steps/$name
        if [[ -e $name.log || -e $name.1.log || -e $name.spent ]]; then return; fi
    done
    return 1
}

# Set `team`, the students of a step who are not finished (all of them where $2 is true), and `wishes`, of each of them
# the file that is there where it is to be done anew.
choose_team() {
    local name
    team=() wishes=()
    for name in $(one_by_one "$1"); do
        if $2 || ! is_finished "$name"; then
            team+=("$(students_of "$name")") wishes+=("results/steps/$name.again")
        fi
    done
}

# The flag for a step that was tried before: what an earlier try of this script left is gone on with or, after --from,
# done anew. What anything else made is neither: the step refuses it. The arguments are files that the step writes when
# it starts anew, one for each of the team: where they are younger than the wish to do so, a try has started since, and
# is gone on with.
again() {
    local file number=0
    $tried || return 0
    for file; do
        if [[ -e ${wishes[number]} && ! $file -nt ${wishes[number]} ]]; then
            echo --overwrite_output_dir
            return
        fi
        number=$((number + 1))
    done
    echo --resume
}

# The flags that the environment adds to a step's command: those of the step's kind, $1, and for the task $2.
added() {
    local names=("$1_FLAGS") task name
    if [[ -n ${2-} ]]; then
        task=$([[ -n $task_dir ]] && echo OWN || capitals "$2")
        if [[ $1 == INTERMEDIATE || $1 == PREDICTION || $1 == EVAL ]]; then names+=("TASK_FLAGS_$task"); fi
        names+=("$1_FLAGS_$task")
    fi
    for name in "${names[@]}"; do printf '%s ' "${!name-}"; done
}

# Flags that only one of the settings has: the paper's lengths, epochs and rates are the scripts' own. A GPU of less
# than 24 GB, or without bf16, wants GENERAL_FLAGS="--gradient_accumulation_steps 2".
pregenerate_settings=
general_settings="--eval_step 10000"
augment_settings=
teacher_settings=
intermediate_settings=
prediction_settings=
eval_settings=
if [[ $settings == earlier ]]; then
    # the last two were the published code's defaults
    general_settings+=" --train_batch_size 256 --gradient_accumulation_steps 8 --learning_rate 5e-5"
    general_settings+=" --warmup_proportion 0.1"
    intermediate_settings="--max_seq_length 128 --train_batch_size 32 --num_train_epochs 10"
    prediction_settings="--max_seq_length 128 --train_batch_size 32 --num_train_epochs 3 --learning_rate 3e-5"
    prediction_settings+=" --eval_step 100"
    eval_settings="--max_seq_length 128 --eval_batch_size 32"
fi

# Of --size laptop, for a task: rates of small models, and so much data that one task takes two hours on 2 cores.
# An epoch of SST-2, whose rows are 67,349 phrases, is long: a part of it will do. The other tasks are hard for a small
# BERT: that of 4 layers, 256 wide, is published with 0.0 on CoLA and 57.9 on RTE, as good as chance
# (github.com/google-research/bert). So their teachers need not pass the check.
settle_laptop() {
    pregenerate_settings="--max_seq_len 64"
    general_settings="--max_seq_length 64 --train_batch_size 32 --learning_rate 1e-3 --eval_step 500"
    augment_settings="--N 5"
    teacher_settings="--learning_rate 3e-5 --num_train_epochs 8"  # at 1e-4 one 384 wide learnt nothing of MRPC
    intermediate_settings="--learning_rate 3e-4 --num_train_epochs 1"
    prediction_settings="--learning_rate 3e-4 --num_train_epochs 2"
    case $1 in
        CoLA) intermediate_settings+=" --num_train_epochs 2" ;;
        SST-2)
            augment_settings="--N 1"
            teacher_settings+=" --learning_rate 1e-4 --num_train_epochs 2"
            intermediate_settings+=" --num_train_epochs 0.5"
            prediction_settings+=" --num_train_epochs 0.5" ;;
    esac
    if [[ $1 != SST-2 ]]; then
        intermediate_settings+=" --skip_teacher_check"
        prediction_settings+=" --skip_teacher_check"
    fi
}

# What a step is about to do, in words.
what() {
    local step=${1##*/} task student learns=learns
    task=$(task_of "$step")
    student="the ${team[0]%l}-layer student"
    if ((${#team[@]} > 1)); then student="the ${team[0]%l}- and the ${team[1]%l}-layer student" learns=learn; fi
    case $step in
        glove) echo "getting the GloVe vectors" ;;
        glue_*)
            if ! has_server "$task"; then echo "getting $task"; return; fi
            if [[ -n $zh ]]; then echo "getting $task of CLUE"; else echo "getting $task of GLUE"; fi ;;
        wiki) echo "getting ${articles:+the first $articles articles of }the Wikipedia dump" ;;
        bert)
            if [[ -n $zh ]]; then echo "getting the Chinese BERT"; return; fi
            if [[ $size == laptop ]]; then echo "getting a small BERT"; return; fi
            echo "getting BERT${glue[*]:+ and its fine-tuned siblings}" ;;
        extract) echo "extracting the articles of the dump" ;;
        sentences) echo "splitting the articles into sentences" ;;
        pregenerate) echo "making the instances of general distillation" ;;
        general_*)
            if $published; then echo "getting the general student of the paper's authors"; return; fi
            echo "general distillation of $student" ;;
        augment_*) echo "augmenting the training set of $task" ;;
        fix) echo "checking the models, and making them loadable" ;;
        teacher_*) echo "fine-tuning BERT on $task, the teacher" ;;
        intermediate_*) echo "$student $learns the teacher's attention and hidden states on $task" ;;
        prediction_*) echo "$student learns the teacher's answers on $task" ;;
        eval_*) echo "scoring $student on $task" ;;
    esac
}

# What each step does: the commands of the README, or of docs/chinese.md.
run_step() {
    local step=${1##*/} key=${1##*_} run= variant=full named= seed= task student again answers
    if [[ $1 == */* ]]; then run=runs/${1%/*}/ variant=${1%%/*} named="--variant ${1%%/*}"; fi
    if [[ $1 == */seed_*/* ]]; then seed=${1#*/seed_} seed="--seed ${seed%%/*}"; fi
    task=$(task_of "$step")
    local data=${task_dir:-data/glue_data/$task} taught=${teacher:-models/final_${key}_teacher} aug_train=--aug_train
    if ! is_augmented "$task"; then aug_train=; fi
    # the paper trains the prediction stage of STS-B, whose labels are scores, on the original rows, and that of SQuAD,
    # too (appendix B)
    if [[ $step == prediction_* ]] && { [[ $task == STS-B || $own_metric == corr ]] || is_squad "$task"; }; then
        aug_train=
    fi
    if [[ $size == laptop ]]; then settle_laptop "$task"; fi
    local losses= prediction=  # flags of the variant
    case $variant in
        no_gd) losses=--from_scratch ;;
        no_td) prediction=--hard_labels ;;
        no_da) aug_train= ;;
        no_pred) prediction=--hard_labels ;;
        no_trm) losses="--without attn hidn" ;;
        no_*) losses="--without ${variant#no_}" ;;
        map_*) losses="--layer_mapping ${variant#map_}" ;;
        search_*) prediction=${variant#search_b} prediction="--train_batch_size ${prediction/_lr/ --learning_rate }" ;;
    esac
    # of each of the team: its sizes, the folder after general distillation, and after the intermediate stage
    local config general intermediate configs=() generals=() intermediates=()
    for student in "${team[@]}"; do
        config=$(config_of "$student")
        general=models/distilled_tinybert_$student$zh
        if has_losses "$variant"; then general=models/runs/$variant/distilled_tinybert_$student; fi
        intermediate=models/${run}tmp_distilled_tinybert_${student}_$key
        case $variant in
            no_gd) general=$config ;;
            no_td) intermediate=$general ;;
            no_pred | search_*)
                intermediate=models/runs/full/${run#runs/*/}tmp_distilled_tinybert_${student}_$key ;;
        esac
        configs+=("$config") generals+=("$general") intermediates+=("$intermediate")
    done
    case $step in
        glove)
            [[ -f data/$GLOVE_FILE ]] || { downloading fetch "$GLOVE_URL" "data/${GLOVE_URL##*/}" &&
                downloading unzip_file "data/${GLOVE_URL##*/}" "data/$GLOVE_FILE"; } ;;
        glue_*) python "$kit/download_glue.py" --tasks "$task" --data_dir data/glue_data ;;
        wiki)
            if [[ -n $articles ]]; then
                python -m transformer.fetching.wikipedia "$WIKI_URL" --articles "$articles" --output_file "data/$wiki"
            else
                downloading fetch "$WIKI_URL" "data/$wiki"
            fi ;;
        bert) python "$kit/get_bert_models.py" ${alone:+--models "${origin:-${bert#models/}}"} ;;
        extract)
            # files of another dump must not stay among the new ones; the folder may be a link to another disk
            if [[ -d data/extracted_wiki && $(again "") == --overwrite_output_dir ]]; then
                python -c 'import wikiextractor.WikiExtractor' || return  # nothing is lost where it cannot start
                find data/extracted_wiki/ -mindepth 1 -delete || return
            fi
            python -m wikiextractor.WikiExtractor "data/$wiki" --json -o data/extracted_wiki ;;
        sentences) python "$kit/prepare_data.py" ${zh:+--language chinese} --num_workers "$WORKERS" ;;
        pregenerate)
            again=$(again data/json_wiki/epoch_0.unfinished/progress.jsonl)
            python "$kit/pregenerate_training_data.py" --train_corpus data/wiki_for_bert.txt \
                --bert_model "$bert" --reduce_memory $lower_case --epochs_to_generate 3 \
                --output_dir data/json_wiki --arrays --num_workers "$WORKERS" \
                ${again/--resume/} $pregenerate_settings $(added PREGENERATE) ;;  # goes on by itself
        general_*)
            if $published; then
                python "$kit/get_bert_models.py" --models "distilled_tinybert_$student$zh" || return
                if [[ -n $teacher ]]; then describe "$student"; fi
                return
            fi
            again=$(again "${generals[@]/%//run.json}")
            python "$kit/general_distill.py" --pregenerated_data data/json_wiki \
                --teacher_model "$bert" --student_model "${configs[@]}" --reduce_memory \
                $lower_case $general_settings \
                --output_dir "${generals[@]}" $again $(added GENERAL) $losses $named ;;
        augment_*)
            again=$(again "$data/train_aug.unfinished/facts.json")  # starts anew without a flag
            python "$kit/data_augmentation.py" --pretrained_bert_model "$bert" \
                ${vectors:+--glove_embs "data/$GLOVE_FILE"} --glue_dir "${task_dir:-data/glue_data}" \
                --task_name "$task" ${again/--overwrite_output_dir/} $augment_settings $(added AUGMENT "$task") ;;
        fix) python "$kit/fix_teacher_layers.py" ${alone:+"$bert"} ;;
        teacher_*)
            again=$(again "models/final_${key}_teacher/run.json")
            python "$kit/finetune_teacher.py" --tasks "$task" ${zh:+--model "$bert"} ${origin:+--model "$bert"} \
                ${task_dir:+--glue_dir "$task_dir" --output_dir "models/final_${key}_teacher"} $again \
                $teacher_settings $(added TEACHER "$task") ;;
        intermediate_*)
            again=$(again "${intermediates[@]/%//run.json}")
            python "$kit/task_distill.py" --teacher_model "$taught" \
                --student_model "${generals[@]}" --data_dir "$data" \
                --task_name "$task" --output_dir "${intermediates[@]}" \
                $again $intermediate_settings $aug_train \
                $lower_case $(added INTERMEDIATE "$task") $losses $seed $named ;;
        prediction_*)
            again=$(again "models/${run}distilled_tinybert_${student}_$key/run.json")
            # a student of one's own goes to others, whose classes have no relu there
            python "$kit/task_distill.py" --pred_distill ${task_dir:+--hf_head} --teacher_model "$taught" \
                --student_model "$intermediate" --data_dir "$data" --task_name "$task" $aug_train \
                --output_dir "models/${run}distilled_tinybert_${student}_$key" $again \
                $lower_case $prediction_settings $(added PREDICTION "$task") $prediction $seed $named ;;
        eval_*)
            # only students of the full method go to the server
            answers=
            if [[ $variant == full ]] && has_test "$task"; then answers=--do_predict; fi
            if is_squad "$task"; then answers=--save_predictions; fi
            python "$kit/task_distill.py" --do_eval $answers \
                $lower_case --data_dir "$data" --task_name "$task" \
                --student_model "models/${run}distilled_tinybert_${student}_$key" \
                --output_dir "results/${run}${student}_$key" $eval_settings $(added EVAL "$task") ;;
        *) echo "unknown step $step" >&2; return 2 ;;
    esac
}

# The commands of all steps, none of them run, for transformer.planning: NAME STATE ARGC ARG ... of each, then END, with
# a NUL after every word.
commands() {
    local name state count again tried=false team wishes
    again=" $([[ -z $from ]] || anew | tr '\n' ' ')"
    python() { count=$((count + 1)); printf '%s\0' "$name" "$state" $# "$@"; }
    # shellcheck disable=SC2068
    for name in ${stages[@]}; do
        state=open count=0
        choose_team "$name" true
        if [[ $again == *" $name "* ]]; then
            :
        elif is_finished "$name"; then
            state=done
        else
            if was_tried "$name"; then state=begun; fi
            choose_team "$name" false
        fi
        run_step "$name"
        ((count)) || printf '%s\0' "$name" "$state" 0
    done
    printf 'END\0'
}

# Run one step unless it is finished; its seconds, those of all its tries, are written last and mark it as finished.
step() {
    local base=results/steps/$1 begin=$SECONDS before=0 tried=false number=1 score= name team wishes
    local log=$base.log mark=$base.seconds spent=$base.spent metric="acc|mcc|corr"
    if is_finished "$1"; then echo "$1: finished before, skipped"; return; fi
    mkdir -p "${log%/*}"
    if was_tried "$1"; then tried=true; fi
    choose_team "$1" false
    if [[ -e $log ]]; then
        while [[ -e $base.$number.log ]]; do number=$((number + 1)); done
        mv "$log" "$base.$number.log"
    fi
    for name in $(relatives "$1"); do
        name=results/steps/$name.spent
        if [[ -e $name ]] && mv "$name" "$base.taken" 2>/dev/null; then  # by one of two relatives that start at once
            before=$((before + $(<"$base.taken")))
            echo 0 >"$name"  # still tells that it was tried
        fi
    done
    if [[ -e $base.taken ]]; then rm -f "$base.taken"; fi
    echo "$before" >"$spent"
    echo "$1: $(what "$1") ..."
    trap 'echo $((before + SECONDS - begin)) >"$spent"; exit 143' INT TERM HUP
    if ! run_step "$1" >"$log" 2>&1; then
        echo $((before + SECONDS - begin)) >"$spent"
        { echo "reproduce.sh: step $1 failed, its log is $log; the end of it:"; tail -n 5 "$log"; } >&2
        return 1
    fi
    rm -f "${wishes[@]}"
    echo $((before + SECONDS - begin)) >"$mark"
    for name in $(relatives "$1"); do
        if [[ -e results/steps/$name.spent ]] && is_finished "$name"; then rm -f "results/steps/$name.spent"; fi
    done
    case ${1##*/} in  # the log of an intermediate stage tells a score, too: its teacher's
        teacher_* | prediction_* | eval_*)
            if [[ $1 == *_squad[12] ]]; then metric=f1; fi
            metric=${own_metric:-$metric}
            score=$(awk "/^($metric) = /"'{score = ", " $1 " " $3} END {print score}' "$log") ;;
    esac
    echo "$1: done in $((SECONDS - begin)) s$score"
}

# Mark a step to be done anew, and its seconds with it. That it was tried stays known, also where its logs are deleted.
# What a shared step tells of the student that is not done anew stays with that one.
do_again() {
    local name file other spent
    mkdir -p "${1%/*}"
    for name in $(one_by_one "$1"); do touch "$name.again"; done
    for name in $(relatives "$1"); do
        for file in "$name.seconds" "$name.spent"; do
            [[ -e $file ]] || continue
            for other in $(one_by_one "$name"); do
                [[ ! -e $other.again && ! -e $other.seconds ]] || continue
                spent=$(cat "$other.spent" 2>/dev/null || echo 0)
                echo $((spent + $(<"$file"))) >"$other.${file##*.}"
            done
            echo 0 >"$1.spent"
            if [[ $file != "$1.spent" ]]; then rm "$file"; fi
        done
    done
}

# Of the three branches that come together in task distillation, the one that a step belongs to, or nothing.
branch() {
    case $1 in
        fix | teacher_*) echo teachers ;;
        extract | sentences | pregenerate | general_* | */general_*) echo general ;;
        augment_*) echo augmented ;;
    esac
}

# Whether a step, after the one that --from names, is to be done once more, too: no branch follows from another. Of
# data that were made anew all do, and nothing else does.
follows() {
    local one other
    if [[ -n $remade ]]; then [[ $1 == *"_$keys" ]]; return; fi
    one=$(branch "$from") other=$(branch "$1")
    [[ -z $one || -z $other || $one == "$other" ]]
}

# The steps that --from does once more.
anew() {
    local name
    for name in $(printf '%s\n' ${stages[@]} | sed -n "\|^$from\$|,\$p"); do
        if follows "$name"; then echo "$name"; fi
    done
}

if $list; then printf '%s\n' ${stages[@]}; exit; fi
choice=$settings$($published && echo " --published" || true)
if [[ -n $task_dir ]]; then choice="$settings --task_dir"; fi
if [[ -n $zh ]]; then choice+=" --language chinese"; fi
if [[ $size == laptop ]]; then
    choice+=" --size laptop --teacher $origin$($augmentation || echo " --no_augmentation")"
fi
if [[ -n $articles ]]; then choice+=" --articles $articles"; fi
made=$choice
if [[ -f results/steps/settings ]]; then
    made=$(<results/steps/settings)
elif [[ -d results/steps && -n $(find results/steps -name '*.seconds') ]]; then
    made=earlier  # this script knew no others
fi
if [[ -n $zh && $made != *--language* ]]; then made+=" --language english"; fi  # which goes without saying elsewhere
[[ $made == "$choice" ]] || die "the steps in this folder were done with --settings $made: give that, or go to \
another folder"
own=${task_dir:+results/steps/task_$keys}  # the first key, the only one
own_choice="$task_dir${teacher:+ --teacher $teacher}$($augmentation || echo " --no_augmentation")"
remade=  # 1: --from does all steps of a task once more, in results/steps itself, too, since its data were made anew
if [[ -f $own && -n $(find results/steps -name "*_$keys.seconds") ]]; then
    made=$(sed -n 1p "$own") made_digest=$(sed -n 2p "$own")
    [[ $made == "$own_choice" ]] || die "the steps of ${tasks[0]} in this folder were done with --task_dir $made: give \
that, or go to another folder"
    if [[ -n $made_digest && $made_digest != "$own_digest" ]]; then
        first=$(printf '%s\n' ${stages[@]} | grep -m 1 "_$keys\$")
        [[ $from == "$first" ]] || die "$task_dir was made anew since steps of ${tasks[0]} were done here: do them \
again with --from $first, or make it under another name"
        remade=1
    fi
fi
# shellcheck disable=SC2068
names=" $(echo ${stages[@]}) "
if [[ -n $from && $names != *" $from "* ]]; then
    for name in $(relatives "$from"); do
        how=$([[ $name == *+* ]] && echo "both students together" || echo "a student by itself")
        [[ $names != *" $name "* ]] || die "no step $from here: --from $name, which trains $how"
    done
    die "no step $from; --list shows them"
fi
# Days of augmentation are not to be for nothing.
for task in "${tasks[@]}"; do
    if ! is_squad "$task"; then continue; fi
    name=augment_$(key "$task")
    if ! $augment_squad; then
        if is_finished "$name" || was_tried "$name"; then
            die "step $name was begun here: give --augment_squad, or delete results/steps/$name.*"
        fi
    elif ! is_finished "$name"; then
        # shellcheck disable=SC2068
        for other in ${stages[@]}; do
            if [[ $other == *intermediate_*"_${name#augment_}" && $other != no_da/* ]] && is_finished "$other" &&
                [[ -z $from || $'\n'$(anew)$'\n' != *$'\n'"$other"$'\n'* ]]; then
                die "step $other was done without augmented data: --from $name does it again with it"
            fi
        done
    fi
done
if [[ -n $planning ]]; then
    # it gets the signals itself
    exec python -m transformer.planning "$planning" --language "$language" --jobs "$JOBS" < <(commands)
fi
mkdir -p data models results/steps
echo "$choice" >results/steps/settings
if [[ -n $from ]]; then
    # on disk: they have to be done again even if this run is stopped
    for name in $(anew); do do_again "results/steps/$name"; done
    case ${remade:-$from} in
        */* | intermediate_* | prediction_* | eval_*) ;;
        *)  # every run of every variant starts from what is made anew
            find results/steps -mindepth "${remade:-2}" \
                \( -name '*.seconds' -o -name '*.log' ! -name '*.[0-9]*.log' \) | while read -r file; do
                    name=${file%.*}
                    if follows "${name#results/steps/}"; then do_again "$name"; fi
                done ;;
    esac
fi
# last: where this was stopped before, --from is asked for once more
if [[ -n $own ]]; then printf '%s\n' "$own_choice" "$own_digest" >"$own"; fi
pids=()  # of the steps that run side by side, each with its processes in a process group
set -m
trap 'for pid in ${pids[@]+"${pids[@]}"}; do kill -- "-$pid" 2>/dev/null || true; done; wait; exit 143' INT TERM HUP
rm -f results/steps/.failed
threads=${OMP_NUM_THREADS-}
for stage in "${stages[@]}"; do
    if [[ -z $threads ]]; then
        steps=($stage)
        side_by_side=$((${#steps[@]} < JOBS ? ${#steps[@]} : JOBS))
        if ((side_by_side > 1)); then
            export OMP_NUM_THREADS=$((side_by_side < cores ? cores / side_by_side : 1))
        else
            unset OMP_NUM_THREADS
        fi
    fi
    for name in $stage; do
        slot=0  # the first free one; wait -n is not in the bash of macOS
        while [[ -n ${pids[slot]-} ]] && kill -0 "${pids[slot]}" 2>/dev/null; do
            slot=$(((slot + 1) % JOBS))
            if ((slot == 0)); then sleep 0.2; fi
        done
        if [[ -e results/steps/.failed ]]; then break; fi
        {
            if ((${#devices[@]})); then export CUDA_VISIBLE_DEVICES=${devices[slot % ${#devices[@]}]}; fi
            step "$name" || touch results/steps/.failed
        } &
        pids[slot]=$!
        if ((JOBS == 1)); then wait; fi
    done
    wait
    for name in $stage; do is_finished "$name" || exit 1; done
done
if ((${#variants[@]})); then python "$kit/report.py"; fi
