"""Turn a text corpus into BERT's pre-training instances, one file per epoch.

Reads a text file with one sentence per line and an empty line between documents (prepare_data.py writes it); writes
epoch_K.json, one instance per line, and epoch_K_metrics.json into --output_dir. With --arrays it writes
epoch_K.instances in place of the JSON: the same instances, ready for general_distill.py. Started again with the same
arguments after it was stopped, it goes on with the finished parts.
"""
from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import shutil
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from transformer.cli import Parser, add_run_flags, positive, print_settings, proportion, run_script
from transformer.data.corpus import STORE_NAME, Corpus, corpus_sha256, open_corpus
from transformer.data.epochs import EPOCH_ARRAYS, append_instances, finish_instances, read_instances_manifest
from transformer.data.estimate import print_estimate
from transformer.data.instances import (
    INSTANCES_VERSION,
    InstanceSampler,
    InstanceSettings,
    generate,
    show_instances,
    start_generating,
)
from transformer.data.parallel import in_order
from transformer.data.parts import GrowingFiles
from transformer.files import InputError, delete, find_input, find_model, locked, read_json, require_no_file, write_json
from transformer.kinds import kind_of
from transformer.pieces import Tokenizer
from transformer.tokenization import open_tokenizer, resolve_casing

SHORTEST = 8               # wordpieces: [CLS], two [SEP], and something to split
JSON_NAME = "instances"    # of an epoch_K.json that is being written
PART_WORDPIECES = 100_000  # that a process makes instances of at a time: 1.5 megabytes of JSON
MOST_UNUSED = 0.05         # of the wordpieces, that long lines may waste without a warning
# Of the wordpieces, that an epoch may leave out without a warning: what BERT's procedure cuts off is 12% of English in
# sentences at --max_seq_len 128 and 24% at 64, but about half where each line alone is nearly as long as an instance.
MOST_CUT_OFF = 1 / 3


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__.splitlines()[0])
    group = parser.add_argument_group("data")
    group.add_argument("--train_corpus", type=Path, required=True,
                       help="text file: a sentence per line, an empty line between documents")
    group.add_argument("--output_dir", type=Path, required=True, help="folder for epoch_K.json and its metrics")
    group.add_argument("--arrays", action="store_true",
                       help="write folders epoch_K.instances in place of epoch_K.json: integer arrays of what "
                            "general_distill.py reads of it, on a sixth of the disk, and not to be parsed")
    group.add_argument("--overwrite_output_dir", action="store_true",
                       help="start afresh: delete the epochs in --output_dir, finished or not, before writing new ones")
    group.add_argument("--bert_model", type=Path, required=True,
                       help="folder of the BERT model to distil, or its vocab.txt or spiece.model")
    group.add_argument("--do_lower_case", action="store_true",
                       help="lower-case the text, as is done for an uncased model anyway; a cased one refuses this")
    group = parser.add_argument_group("instances")
    group.add_argument("--epochs_to_generate", type=positive, default=3, help="number of epochs, each drawn anew")
    group.add_argument("--max_seq_len", type=int, default=128,
                       help="wordpieces of the longest instance, [CLS] and both [SEP] included")
    group.add_argument("--short_seq_prob", type=proportion, default=0.1,
                       help="share of documents cut into shorter instances, 0 to 1")
    group.add_argument("--one_seq", action="store_true",
                       help="the second half is always the real continuation, never from another document")
    group = parser.add_argument_group("masking")
    group.add_argument("--masked_lm_prob", type=proportion, default=0.0,
                       help="share of wordpieces to mask, 0 to 1; at 0 --preset paper masks none and code masks one")
    group.add_argument("--max_predictions_per_seq", type=positive, default=20,
                       help="masked wordpieces in an instance, at most")
    group.add_argument("--do_whole_word_mask", action="store_true", help="mask all pieces of a word or none")
    group = parser.add_argument_group("machine (no effect on the result)")
    group.add_argument("--num_workers", type=positive, default=1, help="number of processes")
    group.add_argument("--tmp_dir", type=Path,
                       help="folder for the tokenized corpus, half of the text's size (default: --output_dir); it "
                            "stays there and is used again while corpus and vocabulary are the same")
    group.add_argument("--reduce_memory", action="store_true",
                       help="keep no part of the tokenized corpus in memory for the next use")
    add_run_flags(parser, preset=True)
    args = parser.parse_args(argv)
    if args.max_seq_len < SHORTEST:
        parser.error(f"--max_seq_len {args.max_seq_len} is too short: at least {SHORTEST} wordpieces")
    return args


def check_inputs(args: argparse.Namespace) -> None:
    """Put the paths of the command line to what is there; InputError where one is not what it should be."""
    args.train_corpus, args.bert_model = find_input(args.train_corpus), find_model(args.bert_model, or_file=True)
    args.tmp_dir = args.tmp_dir or args.output_dir
    for folder in (args.output_dir, args.tmp_dir):
        require_no_file(folder)
    if not args.train_corpus.is_file():
        raise InputError(f"training corpus {args.train_corpus} is not a file: name the text file that prepare_data.py "
                         "wrote")
    if args.bert_model.is_file() and args.bert_model.suffix in (".bin", ".safetensors") or \
            args.bert_model.name == "config.json":
        raise InputError(f"{args.bert_model} is no vocabulary: name the model folder that holds it")
    # the vocabulary alone is enough, but one of another family's model is not
    if (args.bert_model / "config.json").is_file() and (what := kind_of(args.bert_model)):
        raise InputError(f"{args.bert_model} {what}")


def check_model(args: argparse.Namespace, tokenizer: Tokenizer) -> None:
    """InputError if vocabulary, length or the two halves do not fit the model's config.json."""
    config_file = args.bert_model / "config.json"
    config = read_json(config_file) if config_file.is_file() else {}
    tokenizer.require_rows(config.get("vocab_size", len(tokenizer.vocab)), args.bert_model)
    positions = config.get("max_position_embeddings", args.max_seq_len)
    if not isinstance(positions, int) or args.max_seq_len > positions:
        raise InputError(f"--max_seq_len {args.max_seq_len} is over the {positions} positions of {args.bert_model}")
    segments = config.get("type_vocab_size", 2)
    if not isinstance(segments, int) or segments < 2:
        raise InputError(f"{config_file}: type_vocab_size is {segments!r}, and the two halves of an instance need 2: "
                         "take another model")


def warn_of_long_lines(corpus: Corpus, args: argparse.Namespace) -> None:
    """Print a warning where much of the text can be in no instance, whatever is drawn."""
    longest = args.max_seq_len - 3  # [CLS] and two [SEP]
    unused = corpus.longer_than(longest) / len(corpus.tokens)
    if unused > MOST_UNUSED:
        print(f"warning: {unused:.1%} of the wordpieces of {args.train_corpus} will be in no instance: they stand in "
              f"lines after the {longest} that --max_seq_len {args.max_seq_len} has room for. The usual cause is text "
              "that is not split into sentences: a line should hold one (prepare_data.py does that)", flush=True)


def finished_epochs(output_dir: Path, facts: dict[str, Any]) -> dict[int, str]:
    """Numbers of the epochs that are complete, and names of what holds them.

    InputError where one was made from other facts than these, or tells none. One whose epoch_K.instances is damaged is
    not complete, even if its JSON is: general_distill.py takes the former.
    """
    epochs = {}
    for instances in (*output_dir.glob("epoch_*.json"), *output_dir.glob("epoch_*.instances")):
        number = instances.stem.removeprefix("epoch_")
        if number.isdecimal():
            metrics_json = output_dir / f"epoch_{number}_metrics.json"
            if not metrics_json.is_file():
                raise InputError(f"{output_dir} already holds {instances.name}, but no {metrics_json.name}, which "
                                 "tells what it was made from: copy that, too, name another --output_dir, or add "
                                 "--overwrite_output_dir")
            metrics = read_json(metrics_json)
            for name, value in facts.items():
                if metrics.get(name) != value:
                    what = {"corpus_sha256": "training corpus", "vocab_sha256": "vocabulary"}.get(name, name)
                    raise InputError(f"{output_dir} already holds {instances.name}, made with another {what}: "
                                     "name another --output_dir, or add --overwrite_output_dir")
            if instances.suffix == ".json" or read_instances_manifest(instances):
                epochs[int(number)] = instances.name
            else:
                epochs.pop(int(number), None)
    return epochs


def write_epochs(args: argparse.Namespace, corpus: Corpus, epochs: list[int], facts: dict[str, Any],
                 worker_facts: tuple) -> None:
    """Write the instances of each of `epochs` and its metrics, going on after the parts that are there.

    worker_facts: those of start_generating().
    """
    names, facts_of_parts = [JSON_NAME], {**facts, "part_wordpieces": PART_WORDPIECES}
    if args.arrays:
        names, facts_of_parts = EPOCH_ARRAYS, {**facts_of_parts, "arrays": EPOCH_ARRAYS}
    ranges = []
    for documents in corpus.document_ranges(PART_WORDPIECES):
        ranges.append(documents)
        if args.reduce_memory:
            corpus.release()
    warned = False
    with contextlib.ExitStack() as stack:
        growing = {}
        for epoch in epochs:
            folder = args.output_dir / f"epoch_{epoch}.unfinished"
            files = growing[epoch] = stack.enter_context(GrowingFiles(folder, names, facts_of_parts))
            others = [path for name in {JSON_NAME, *EPOCH_ARRAYS}.difference(names) if (path := folder / name).exists()]
            if files.dropped:
                how = ("as JSON" if args.arrays else "with --arrays") if others else "with other settings"
                print(f"epoch {epoch}: {files.dropped} parts that were made {how} are deleted", flush=True)
            for path in others:
                path.unlink()
        epoch_parts = [(epoch, documents) for epoch in epochs for documents in ranges[len(growing[epoch].records):]]
        results = stack.enter_context(contextlib.closing(
            in_order(partial(generate, args.arrays), epoch_parts, args.num_workers, start_generating, worker_facts)))
        for epoch in epochs:
            files = growing[epoch]
            done = len(files.records)
            if done:
                print(f"epoch {epoch}: {done} of {len(ranges)} parts are there already", flush=True)
            for part, counts in tqdm(itertools.islice(results, len(ranges) - done), desc=f"epoch {epoch}",
                                     initial=done, total=len(ranges), unit=" parts", disable=None):
                if args.arrays:
                    append_instances(files, part, counts)
                else:
                    files.append([part], **counts)
            unused = finish_epoch(args, epoch, files, facts)
            if unused > MOST_CUT_OFF and not warned:
                warned = True  # the other epochs are much the same
                print(f"warning: {unused:.1%} of the wordpieces are in no instance of this epoch. The usual cause is "
                      f"lines nearly as long as --max_seq_len {args.max_seq_len}, or longer: text that is not split "
                      "into sentences (prepare_data.py does that)", flush=True)


def finish_epoch(args: argparse.Namespace, epoch: int, files: GrowingFiles, facts: dict[str, Any]) -> float:
    """Make an epoch_K.json or epoch_K.instances of the parts, with its metrics; the share of the wordpieces that are
    in no instance."""
    files.save()
    count, share, unused, sums = sum(record["instances"] for record in files.records), "", 0.0, {}
    # parts that an earlier version of this script left count their instances alone
    if all("wordpieces" in record for record in files.records):
        sums = {name: sum(record[name] for record in files.records) for name in ("wordpieces", "wordpieces_used")}
        unused = 1 - sums["wordpieces_used"] / sums["wordpieces"]
        share = f", which hold {1 - unused:.1%} of the corpus's wordpieces"
    # Before the instances: where those stand, their epoch is complete.
    write_json(args.output_dir / f"epoch_{epoch}_metrics.json", {
        "num_training_examples": count, "max_seq_len": args.max_seq_len, "train_corpus": str(args.train_corpus),
        "preset": args.preset, **sums, **facts})
    instances = args.output_dir / f"epoch_{epoch}.{'instances' if args.arrays else 'json'}"
    if args.arrays:
        finish_instances(files, instances, facts["vocab_sha256"])
    else:
        delete(instances.with_suffix(".instances"))  # one that is not whole, which would be taken before the JSON
        os.replace(files.folder / JSON_NAME, instances)
    print(f"{instances}: {count:,} instances{share}", flush=True)
    return unused


def main(argv: list[str] | None = None) -> None:
    """Write the epochs that are not there yet."""
    args = parse_args(argv)
    check_inputs(args)
    args.do_lower_case = resolve_casing(args.bert_model, args.do_lower_case)
    tokenizer = open_tokenizer(args.bert_model, args.do_lower_case)
    check_model(args, tokenizer)
    settings = InstanceSettings(args.seed, args.max_seq_len, args.short_seq_prob, args.masked_lm_prob,
                                args.max_predictions_per_seq, mask_at_least_one=args.preset == "code",
                                whole_word=args.do_whole_word_mask, one_seq=args.one_seq)
    facts = {**tokenizer.facts, **asdict(settings), "instances_version": INSTANCES_VERSION}
    if not args.overwrite_output_dir and finished_epochs(args.output_dir, facts):
        finished_epochs(args.output_dir, {**facts, "corpus_sha256": corpus_sha256(args.train_corpus)})
    print_settings(args)
    if args.do_whole_word_mask and not args.masked_lm_prob and args.preset == "paper":
        print("warning: --do_whole_word_mask changes nothing: --masked_lm_prob 0 masks no word", flush=True)

    args.output_dir.mkdir(parents=True, exist_ok=True)
    args.tmp_dir.mkdir(parents=True, exist_ok=True)
    print_estimate(args, tokenizer, settings)
    store = args.tmp_dir / STORE_NAME
    with locked(args.output_dir / ".lock"):
        for unfinished in args.output_dir.glob(".epoch_*.tmp"):  # of a run that was killed
            unfinished.unlink()
        with open_corpus(args.train_corpus, tokenizer, store, args.num_workers) as (corpus, manifest):
            print(f"{args.train_corpus}: {corpus.num_documents:,} documents, {corpus.num_sentences:,} sentences, "
                  f"{len(corpus.tokens):,} wordpieces; left out {manifest['left_out']} lines without any", flush=True)
            warn_of_long_lines(corpus, args)
            show_instances(InstanceSampler(corpus, tokenizer, settings), 2)
            facts["corpus_sha256"] = manifest["corpus_sha256"]
            if args.overwrite_output_dir:  # all of them first: epochs of two runs must not mix
                # The metrics last, which are JSON: where a folder cannot be deleted, they still tell what it holds.
                for kind in ("instances", "arrays", "unfinished/*", "json"):
                    for path in list(args.output_dir.glob(f"epoch_*.{kind}")):
                        delete(path)
            finished = finished_epochs(args.output_dir, facts)
            for name in sorted(finished.values()):
                if name.endswith(".json") == args.arrays:
                    print(f"{args.output_dir} holds {name} already, which general_distill.py reads as well: add "
                          "--overwrite_output_dir to make it in the other form", flush=True)
            epochs = [epoch for epoch in range(args.epochs_to_generate) if epoch not in finished]
            write_epochs(args, corpus, epochs, facts, (store, tokenizer, settings, args.reduce_memory))
    for epoch in range(args.epochs_to_generate):
        shutil.rmtree(args.output_dir / f"epoch_{epoch}.unfinished", ignore_errors=True)
    if not epochs:
        print(f"{args.output_dir}: all {args.epochs_to_generate} epochs are there already", flush=True)


if __name__ == "__main__":
    sys.exit(run_script(main))
