"""A student (or teacher) of a task as a folder for others: Hugging Face's layout, a model card and ONNX.

Writes model.safetensors, config.json, vocab.txt, tokenizer.json, tokenizer_config.json and README.md; where onnx,
onnxscript and onnxruntime are installed, model.onnx, and model_int8.onnx with its dev score.
"""
from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from transformer.cli import SPAN_SETTINGS, Parser, run_script
from transformer.files import (
    InputError,
    find_folder,
    find_model,
    read_json,
    require_no_file,
    workplace,
    write_json,
)

if TYPE_CHECKING:  # torch takes a second to load: it stands inside the functions
    from transformer.data.features import Sequences
    from transformer.modeling import BertPreTrainedModel
    from transformer.pieces import Tokenizer
    from transformer.tasks.task import Task

# Keys of config.json that mean something to the kit's training, or to the published code, alone.
_OWN_KEYS = ("cell", "pre_trained", "structure", "training", "emb_size")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__.splitlines()[0])
    parser.prog = "transformer.export"
    parser.add_argument("model", metavar="MODEL", help="folder that task_distill.py --pred_distill, or "
                                                       "finetune_teacher.py, wrote")
    parser.add_argument("--output_dir", required=True, help="folder to write to; must not be there, or be empty")
    parser.add_argument("--data_dir", help="the task's folder, whose dev files the ONNX files are compared and scored "
                                           "on (default: the one of the run, if it is there)")
    parser.add_argument("--no_onnx", action="store_true", help="write no ONNX, and score nothing")
    return parser.parse_args(argv)


@contextlib.contextmanager
def workplace_for(folder: Path) -> Iterator[Path]:
    """A folder that becomes `folder` when the block ends without an error, and nothing otherwise. InputError where
    there is something in `folder`."""
    require_no_file(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"output folder {folder} is not empty: name another, or remove it")
    temporary = folder.absolute().with_name(f".{folder.absolute().name}.exporting")
    with workplace(temporary, folder):
        yield temporary
        temporary.replace(folder)


def dev_examples(tokenizer: Tokenizer, task: Task, args: argparse.Namespace, data_dir: str | None,
                 required: bool) -> dict[str, Sequences]:
    """The dev sets of a task, whose files are in `data_dir`, encoded as `args` say. Where there are none: InputError
    where they are required, else it is said, and none returned."""
    from transformer.data.tables import data_folder
    from transformer.tasks.own import open_task
    from transformer.training.scoring import dev_sets

    try:
        if data_dir is None:
            raise InputError("nothing tells where its dev set is")
        there = open_task(task.name, find_folder(data_dir))
        if there.folder and there != task:
            raise InputError(f"{there.folder} describes another task than the run had")
        task = there if there.folder else task
        return dev_sets(task, data_folder(find_folder(data_dir), task), tokenizer, args)
    except InputError as error:
        if required:
            raise
        print(f"ONNX is compared on made-up texts and not scored ({error}): --data_dir names the task's folder",
              flush=True)
        return {}


def write_layout(model: BertPreTrainedModel, source: Path, temporary: Path) -> None:
    """Write what Hugging Face's classes open into a folder; source: the one that the model comes from."""
    from transformer.checkpoint import load_tokenizer, save_model
    from transformer.export.tokenizer_json import tokenizer_json
    from transformer.inspection import check_loads
    from transformer.tokenization import TOKENIZER_CONFIG_NAME, TOKENIZER_NAME, BertTokenizer

    for key in _OWN_KEYS:
        model.config.extra.pop(key, None)
    save_model(model, temporary, source, safetensors=True, pickled=False)
    check_loads(temporary, model.state_dict())
    write_json(temporary / TOKENIZER_CONFIG_NAME, {**read_json(temporary / TOKENIZER_CONFIG_NAME),
                                               "model_max_length": model.config.max_position_embeddings})
    with contextlib.redirect_stdout(io.StringIO()):  # what there is to say has been said
        tokenizer = load_tokenizer(source)
    if isinstance(tokenizer, BertTokenizer):
        write_json(temporary / TOKENIZER_NAME, tokenizer_json(tokenizer))
    else:
        print(f"no {TOKENIZER_NAME}: of SentencePiece Hugging Face makes it from {tokenizer.vocab_file.name}",
              flush=True)


def export(args: argparse.Namespace, temporary: Path, scratch: str) -> None:
    """Write the files of a model into a folder. scratch: a folder for arrays, where that of the task's data cannot
    be written."""
    from transformer.checkpoint import head_note, load_tokenizer, model_sha256
    from transformer.data.windows import settled
    from transformer.export.card import CARD_NAME, Exported, card
    from transformer.export.measures import measure
    from transformer.export.onnx_files import made_up, missing_packages
    from transformer.export.origin import DevScores, dev_scores, exported_task, settings_of, stages
    from transformer.files import atomic_write
    from transformer.tasks.labels import class_order, name_labels
    from transformer.tasks.table import is_known_task
    from transformer.training.models import load_task_model
    from transformer.training.record import read_run, require_finished
    from transformer.weights import SAFETENSORS_NAME, read_model

    folder = find_model(args.model)
    require_finished(folder)
    config, state = read_model(folder)
    if not {"classifier.weight", "qa_outputs.weight"} & state.keys():
        raise InputError(f"{folder} has neither a classifier nor a span head, as no general student has and no BERT: "
                         "export a model of a task, of task_distill.py --pred_distill or finetune_teacher.py")
    record = read_run(folder) or {}
    task, settings = exported_task(folder, record, config, args.data_dir), settings_of(record)
    if args.no_onnx and args.data_dir and is_known_task(task.name):
        raise InputError(f"--data_dir is for the scores of ONNX files, which --no_onnx leaves out, and {task.name} is "
                         "known without it: drop one of them")
    length = min(settings.get("max_seq_length") or task.max_seq_length, config.max_position_embeddings)
    own = argparse.Namespace(max_seq_length=length, hf_head=False, skip_teacher_check=False, output_dir=scratch, **{
        name: settings[name] for name, default in SPAN_SETTINGS.items() if settings.get(name, default) != default})
    task = settled(task, own)
    model = load_task_model(folder, task, own).eval()
    tokenizer, order = load_tokenizer(folder), class_order(config.extra, task, folder)
    scores = dev_scores(folder, record, task, model_sha256(model, order))

    named = map(str.lower, map(str, (config.extra.get("id2label") or {}).values()))
    is_named = not {*map(str.lower, task.head.names)}.isdisjoint(named)
    if order == list(range(task.num_labels)):  # also where config.json calls them LABEL_0 and so on
        name_labels(model.config.extra, task)
    write_layout(model, folder, temporary)
    examples, files = None, []
    if not args.no_onnx and (missing := missing_packages()):
        print(f"no ONNX: it needs {', '.join(missing)} (pip install {' '.join(missing)})", flush=True)
    elif not args.no_onnx:
        data_dir = args.data_dir or settings.get("data_dir") or settings.get("glue_dir")
        dev = dev_examples(tokenizer, task, own, data_dir, required=args.data_dir is not None)
        examples = next(iter(dev.values()), None) or made_up(tokenizer, length)
        files = measure(model, task, dev, examples, order, temporary)
        if dev and not scores:
            scores = DevScores(files[0].scores, f"this export, on {examples.count()} examples")
    for file in files:
        print(f"{file.name}: {file.megabytes:.1f} MB, {file.milliseconds:.2f} ms a text",
              *(f", {metric} {value:.4f}" for metric, value in file.scores.items()), sep="", flush=True)
    with atomic_write(temporary / CARD_NAME) as handle:
        handle.write(card(Exported(
            Path(args.output_dir).absolute().name, model, task, length, "max_seq_length" in settings, is_named,
            tokenizer.do_lower_case,
            (temporary / SAFETENSORS_NAME).stat().st_size / 1e6, scores, stages(folder), files, examples)))
    print(head_note(model.config, args.output_dir), flush=True)


def main(argv: list[str] | None = None) -> None:
    """Export a model."""
    args = parse_args(argv)
    with workplace_for(Path(args.output_dir)) as temporary, tempfile.TemporaryDirectory() as scratch:
        export(args, temporary, scratch)
    print(f"{args.output_dir}: {', '.join(sorted(path.name for path in Path(args.output_dir).iterdir()))}", flush=True)


if __name__ == "__main__":
    sys.argv[0] = "transformer.export"  # which the user called
    sys.exit(run_script(main))
