"""Task distillation: a general TinyBERT learns a task from a BERT that was fine-tuned on it (paper, section 3).

Two runs: the intermediate stage (attention and hidden states), then, with --pred_distill, the prediction stage (the
teacher's logits). --do_eval only scores --student_model on the dev set, into eval_results.json in its folder;
--do_predict writes the submission file of the test set, or the answers to --predict_file. Reads
DATA_DIR/{train,train_aug,dev,test,unlabelled}.tsv, for SQuAD the train and dev file of its version and train_aug.jsonl;
writes a student folder, eval_results.txt, metrics.jsonl and run.json.
"""
from __future__ import annotations

import argparse
import math
import sys
from typing import TYPE_CHECKING

import numpy as np

from transformer.cli import (
    Parser,
    add_device_flags,
    add_loss_flags,
    add_run_flags,
    add_span_flags,
    add_training_flags,
    add_warmup_flag,
    check_losses,
    check_students,
    each_student,
    positive,
    positive_float,
    resolve_precision,
    run_script,
)
from transformer.data.tables import data_folder
from transformer.data.windows import settled
from transformer.files import InputError, find_folder, find_model
from transformer.tasks.labels import class_order
from transformer.tasks.own import open_task, recorded
from transformer.tasks.task import UNLABELLED_FILE, Task

if TYPE_CHECKING:  # torch takes a second to load: it stands inside the functions, --help and refused flags do without
    from pathlib import Path

    from torch import nn

    from transformer.data.features import Sequences
    from transformer.distillation import Pairs
    from transformer.modeling import BertPreTrainedModel
    from transformer.training.processes import Processes
    from transformer.training.run import Run, Training
    from transformer.training.stages import Stage


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, as given; resolve() settles what depends on preset and task."""
    parser = Parser(__doc__.splitlines()[0])
    data = parser.add_argument_group("data and models")
    data.add_argument("--data_dir", required=True, help="the task's folder with its train and dev files")
    data.add_argument("--task_name",
                      help="a GLUE task, squad1, squad2 or a Chinese task, in any case, with or without the hyphen "
                           "(not needed for one of your own, which DATA_DIR describes)")
    data.add_argument("--student_model", required=True, nargs="+", metavar="FOLDER",
                      help="general student, for --pred_distill an intermediate one; several, in the intermediate "
                           "stage: students that learn side by side")
    data.add_argument("--output_dir", required=True, nargs="+", metavar="FOLDER",
                      help="folder to write to; must be empty for training; one for each student")
    data.add_argument("--cache_dir", help="keeps encoded examples and teacher logits (default: DATA_DIR/features)")
    data.add_argument("--max_seq_length", type=positive,
                      help="longest sequence in wordpieces (default paper: 64 for CoLA and SST-2, else 128; code: 128; "
                           "SQuAD: 384; CSL, ChnSentiCorp: 256)")
    data.add_argument("--do_lower_case", action="store_true",
                      help="lower-case the text, as is done for an uncased model anyway; a cased one refuses this")
    data.add_argument("--eval_batch_size", type=positive, default=32,
                      help="longest sequences per batch without training; of shorter ones as many wordpieces "
                           "(on the CPU 512 at most)")
    train = parser.add_argument_group("training")
    train.add_argument("--teacher_model", help="folder of the fine-tuned teacher; needed for training")
    train.add_argument("--pred_distill", action="store_true", help="run the prediction stage, not the intermediate one")
    train.add_argument("--aug_train", action="store_true",
                       help="train on train_aug.tsv of data_augmentation.py; for SQuAD, whose intermediate stage alone "
                            "can, train_aug.jsonl")
    train.add_argument("--skip_teacher_check", action="store_true", help="go on with a teacher at chance level")
    train.add_argument("--from_scratch", action="store_true",
                       help="start from random weights: of --student_model only config.json is read (paper, table 2)")
    train.add_argument("--learning_rate", type=positive_float,
                       help="rate of BertAdam (default 5e-5; prediction stage of the paper preset: 3e-5)")
    train.add_argument("--num_train_epochs", type=positive_float,
                       help="default: 3; intermediate stage of the paper preset: 20, MNLI QQP QNLI 10, CoLA 50")
    add_training_flags(train)
    train.add_argument("--eval_step", type=positive,  # last, for --resume names first what its default follows from
                       help="optimizer steps between logs and saves (default: 50; prediction stage, where each scores "
                            "the dev set: the multiple of 50 with which that takes at most a tenth)")
    intermediate = parser.add_argument_group("intermediate stage")
    add_loss_flags(intermediate)
    intermediate.add_argument("--dynamic_padding", action="store_true",
                              help="pad to the longest of each batch: faster; the losses, means over padding, change")
    prediction = parser.add_argument_group("prediction stage")
    add_warmup_flag(prediction)
    prediction.add_argument("--temperature", type=positive_float, default=1.0, help="of the soft cross-entropy")
    prediction.add_argument("--hard_labels", action="store_true", help="learn the data's labels (paper, table 3: Pred)")
    prediction.add_argument("--hf_head", action="store_true",
                            help="a classifier without relu, for Hugging Face's BertForSequenceClassification")
    scoring = parser.add_argument_group("scoring, without training")
    scoring.add_argument("--do_eval", action="store_true", help="score --student_model on the dev set")
    scoring.add_argument("--save_predictions", action="store_true",
                         help="with --do_eval: also write label, prediction and logits of each example; for SQuAD "
                              "predictions.json, nbest_predictions.json and, of v2.0, null_odds.json")
    scoring.add_argument("--do_predict", action="store_true",
                         help="answer the test set, for the server of GLUE or CLUE, or in predictions.tsv; for "
                              "SQuAD --predict_file")
    scoring.add_argument("--predict_file", metavar="FILE",
                         help="with --do_predict: other texts to answer, a table whose header is sentence, or "
                              "sentence1 and sentence2; for SQuAD questions, a file without answers")
    add_span_flags(parser)
    add_device_flags(parser)
    add_run_flags(parser, preset=True)
    args = parser.parse_args(argv)
    refuse_idle_flags(parser, argv, args, train, intermediate, prediction)
    check_losses(parser, argv, args)
    check_students(parser, args)
    if len(args.student_model) > 1 and (args.pred_distill or args.do_eval or args.do_predict):
        parser.error("several students learn side by side in the intermediate stage only: name one --student_model")
    return resolve_precision(parser, args)


def refuse_idle_flags(parser: Parser, argv: list[str] | None, args: argparse.Namespace,
                      train: argparse._ArgumentGroup, intermediate: argparse._ArgumentGroup,
                      prediction: argparse._ArgumentGroup) -> None:
    """End as Parser.error() does where a flag of another stage is given, or one without the flag that it belongs to.

    train, intermediate, prediction: the groups of their flags.
    """
    if args.do_eval or args.do_predict:
        mode = "--do_eval" if args.do_eval else "--do_predict"
        parser.refuse(argv, f"is for training, not for {mode}: drop one of them", train, intermediate, prediction)
    elif not args.teacher_model:
        parser.error("training needs --teacher_model (or --do_eval to score a student)")
    elif args.pred_distill:
        parser.refuse(argv, "is for the intermediate stage: drop it, or drop --pred_distill", intermediate)
    else:
        parser.refuse(argv, "is for the prediction stage: add --pred_distill, or drop it", prediction)
    if args.hard_labels:
        parser.refuse(argv, "is for the teacher's answers and --hard_labels asks for none: drop one", "temperature")
    if args.save_predictions and not args.do_eval:
        parser.error("--save_predictions is for --do_eval: add it, or drop it")
    if args.predict_file and not args.do_predict:
        parser.error("--predict_file is for --do_predict: add it, or drop it")


def resolve(args: argparse.Namespace, task: Task) -> Task:
    """Fill in what the user left open, by preset, task and stage (paper, section 4.2); InputError for an idle flag. The
    task with what flags say of its answers."""
    paper = args.preset == "paper"
    args.max_seq_length = args.max_seq_length or (task.max_seq_length if paper else max(128, task.max_seq_length))
    args.num_train_epochs = args.num_train_epochs or (3 if args.pred_distill or not paper else task.intermediate_epochs)
    args.learning_rate = args.learning_rate or (3e-5 if paper and args.pred_distill else 5e-5)
    if not args.pred_distill:  # whose own follows from the data, too: eval_step_for()
        args.eval_step = args.eval_step or 50
    if not task.head.has_temperature and args.temperature != 1.0:
        raise InputError(f"--temperature has no effect on {task.name}, whose answers are scores: drop it")
    if args.aug_train and args.pred_distill and not task.head.answers_variants:
        raise InputError(f"--aug_train is for the intermediate stage of {task.name}: the prediction stage "
                         "learns answers to the original data (paper, appendix B): drop it")
    if args.do_predict and not task.submissions and not args.predict_file:
        why = f"that of {task.name} has them: --do_eval scores it" if len(task.dev_files) > 1 else \
            f"{task.name} has none"
        raise InputError(f"--do_predict is for test sets without labels, and {why}; --predict_file names other texts")
    if task.unlabelled_rows and args.teacher_model and args.pred_distill:
        from transformer.training.stages import learns_labels  # it loads torch
        if learns_labels(args, task.head):
            raise InputError(f"{'--hard_labels' if args.hard_labels else '--preset code'} learns the labels of the "
                             f"data, and {task.name} has {task.unlabelled_rows} rows without ({UNLABELLED_FILE}): drop "
                             "it, so that the teacher labels all, or prepare the task without --unlabelled")
    return settled(task, args)


def load_students(args: argparse.Namespace, task: Task, teacher_folder: Path, teacher: BertPreTrainedModel,
                  processes: Processes) -> dict[str, tuple[BertPreTrainedModel, tuple[Pairs, Pairs] | None]]:
    """The students on the device, to be trained, by output folder, and what the intermediate stage compares of each;
    --attention_loss comes to what suits all."""
    from transformer.distillation import chosen_attention_loss, compared
    from transformer.training.models import load_student
    from transformer.training.processes import seed_everything

    students = {}
    for own in each_student(args):
        seed_everything(args.seed)  # random weights are the same whatever was made before
        student = load_student(find_model(own.student_model), teacher_folder, teacher.config, task, own)
        pairs = None if args.pred_distill else compared(student.config, teacher.config, args.layer_mapping,
                                                        args.without)
        students[own.output_dir] = student.to(processes.device).train(), pairs
    if not args.pred_distill:
        models = [teacher.config, *(student.config for student, _ in students.values())]
        args.attention_loss = chosen_attention_loss(args.attention_loss, args.preset, args.max_seq_length, models)
    return students


def freeze_idle_weights(student: BertPreTrainedModel, stage: Stage, teacher: BertPreTrainedModel, train: Sequences,
                        processes: Processes) -> None:
    """Freeze the weights that no loss of the stage reaches; any example tells which."""
    from transformer.optimization import freeze_unused

    rows = np.arange(1)
    batch = processes.send(train.batch(rows))
    freeze_unused(student, sum(stage.losses(student, batch, stage.taught(teacher, batch, rows, [stage]))))


def distill(args: argparse.Namespace, task: Task, processes: Processes) -> None:
    """Train students: the intermediate stage, or the prediction stage, which has one."""
    from transformer.checkpoint import head_note, load_tokenizer
    from transformer.data.features import show_examples
    from transformer.distillation import losses_on
    from transformer.reporting.curves import draw_or_warn
    from transformer.training.batches import Plan, micro_batch_size
    from transformer.training.models import load_task_model
    from transformer.training.processes import freeze
    from transformer.training.record import format_metrics, open_outputs, require_finished, student_label
    from transformer.training.run import Training, compiled, parameter_counts, student_run
    from transformer.training.scoring import dev_sets, encoded, eval_step_for, evaluate, require_fit_teacher, train_file
    from transformer.training.stages import IntermediateStage, PredictionStage
    from transformer.training.states import files_sha256

    teacher_folder, data_dir = find_model(args.teacher_model), data_folder(find_folder(args.data_dir), task)
    args.data_dir = str(data_dir)
    train_path = train_file(data_dir, task, args.aug_train)
    micro_batch = micro_batch_size(args.train_batch_size, args.gradient_accumulation_steps, processes.world)
    require_finished(teacher_folder)
    tokenizer = load_tokenizer(teacher_folder, args.do_lower_case)
    args.do_lower_case = tokenizer.do_lower_case
    teacher = load_task_model(teacher_folder, task, args).to(processes.device)
    students = load_students(args, task, teacher_folder, teacher, processes)
    teacher_order = class_order(teacher.config.extra, task, teacher_folder)
    unfinished = open_outputs(each_student(args), processes, teacher_folder)
    if not unfinished:
        return
    first = unfinished[0]
    dev = dev_sets(task, data_dir, tokenizer, first)
    teacher_scores, _ = evaluate(teacher, task, dev, teacher_order, args.eval_batch_size, processes, "teacher")
    print(format_metrics(f"teacher {teacher_folder}", teacher_scores), flush=True)
    if not args.skip_teacher_check:
        require_fit_teacher(teacher_folder, task, teacher_scores[task.metric], next(iter(dev.values())))
    train = encoded(task, train_path, tokenizer, first, "augmented" if args.aug_train else "train",
                    task.unlabelled_in(data_dir))
    show_examples(train, tokenizer)
    epochs = math.ceil(args.num_train_epochs)
    plan = Plan.of(args, [train] * epochs, [len(train)] * epochs, [train_path] * epochs)
    for own in unfinished:
        own.eval_step = own.eval_step or eval_step_for(plan, dev)

    freeze(teacher, args.precision)
    teacher.train(args.preset == "code")  # the published code leaves the teacher's dropout on
    facts = {"train": train.key, "dev": [sequences.key for sequences in dev.values()],
             "teacher_files": files_sha256(teacher_folder)}
    losses = losses_on(processes.device, args.compile)
    stages: dict[Run, Stage] = {}
    for own in unfinished:
        student, pairs = students[own.output_dir]
        if args.pred_distill:
            stage = PredictionStage(own, task, teacher, teacher_order, train, processes)
        else:
            stage = IntermediateStage(own, pairs)
        freeze_idle_weights(student, stage, teacher, train, processes)
        if not args.pred_distill:  # from here on batches are whole: what is compiled is so for their sizes
            stage.transformer_losses = losses
        schedule = "warmup_linear" if args.pred_distill else "none"
        run = student_run(own, processes, plan, student, stage.loss_names, schedule, teacher_folder, facts,
                          random=args.from_scratch)
        stages[run] = stage
    training = Training(args, processes, plan, list(stages), stage.padded_length)
    for run in stages:
        run.begin(student=student_label(vars(run.args), None, run.model.config.num_hidden_layers),
                  teacher=teacher_scores, teacher_family=teacher.config.family.name,
                  **parameter_counts(run.model), **training.companions(run))
    print(f"{'prediction' if args.pred_distill else 'intermediate'} stage: {len(train)} examples, {plan.total_steps} "
          f"steps of {args.train_batch_size} = {processes.world} processes x {args.gradient_accumulation_steps} x "
          f"{micro_batch}, on {processes.device}, a log every {first.eval_step}", flush=True)

    teach(args, task, training, stages, compiled(teacher, args), dev, processes)
    for run in stages:
        run.finish(**recorded(task), kept=run.kept)
    for run in stages:
        if processes.is_first:
            draw_or_warn(run.output_dir)
        print(format_metrics(f"student in {run.output_dir}", run.kept), flush=True)
        if args.pred_distill:
            print(head_note(run.model.config, run.output_dir), flush=True)


def teach(args: argparse.Namespace, task: Task, training: Training, stages: dict[Run, Stage], teacher: nn.Module,
          dev: dict[str, Sequences], processes: Processes) -> None:
    """Train the students of these runs to their last step."""
    from transformer.distillation import warn_of_low_scores
    from transformer.training.record import format_metrics
    from transformer.training.scoring import evaluate

    own_order = list(range(task.num_labels))  # the student's, whatever the teacher's
    stage = next(iter(stages.values()))  # any: what is asked of the teacher, it tells for all
    with training:
        for shares in training:
            for rows, batch in shares:
                taught = None  # the memory of the last is free for it
                taught = stage.taught(teacher, batch, rows, [stages[run] for run in training.active])
                for run in training.turns():
                    run.backward(stages[run].losses(run.trained, batch, taught))
            for run in training.active:
                run.update()
                if run.is_due:
                    values = {**run.means(), "learning_rate": run.learning_rate}
                    score = None  # the intermediate stage has none to choose by: its last state is its result
                    if args.pred_distill:
                        values |= evaluate(run.model, task, dev, own_order, args.eval_batch_size, processes,
                                           to_beat=run.to_beat, precision=args.precision)[0]
                        score = values[task.metric]
                    else:
                        warn_of_low_scores(taught[0], batch[2], "teacher")
                    run.log(values, "eval_results.txt", format_metrics(f"step {run.step}", values))
                    run.keep(values, score)


def main(argv: list[str] | None = None) -> None:
    """Train students, or score one."""
    args = parse_args(argv)
    task = open_task(args.task_name, args.data_dir)
    args.task_name = task.name
    task = resolve(args, task)

    from transformer.training.processes import join_processes, seed_everything, set_device_flags, set_precision
    from transformer.training.scoring import evaluate_only

    processes = join_processes(args.no_cuda, args.local_rank)
    args.precision = set_precision(args.precision, processes)
    set_device_flags(args, processes)
    seed_everything(args.seed)
    if args.do_eval or args.do_predict:
        evaluate_only(*each_student(args), task, processes)
    else:
        distill(args, task, processes)


if __name__ == "__main__":
    sys.exit(run_script(main))
