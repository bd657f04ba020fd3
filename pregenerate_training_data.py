"""Turn a text corpus into BERT's pre-training instances, one file per epoch.

Reads a text file with one sentence per line and an empty line between documents (prepare_data.py writes it); writes
epoch_K.json, one instance per line, and epoch_K_metrics.json into --output_dir.
"""
from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

from transformer.cli import Parser, add_run_flags, positive, print_settings, proportion, run_script

SHORTEST = 8  # wordpieces: [CLS], two [SEP], and something to split


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__.splitlines()[0])
    group = parser.add_argument_group("data")
    group.add_argument("--train_corpus", type=Path, required=True,
                       help="text file: a sentence per line, an empty line between documents")
    group.add_argument("--output_dir", type=Path, required=True, help="folder for epoch_K.json and its metrics")
    group.add_argument("--overwrite_output_dir", action="store_true",
                       help="delete the epoch files that are in --output_dir before writing new ones")
    group.add_argument("--bert_model", type=Path, required=True,
                       help="folder with the vocab.txt of the BERT model to distil, or that file")
    group.add_argument("--do_lower_case", action="store_true",
                       help="lower-case and strip accents: for uncased models")
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
    group.add_argument("--reduce_memory", action="store_true",
                       help="keep the tokenized corpus in a temporary file in --output_dir, not in memory")
    group.add_argument("--num_workers", type=positive, default=1, help="number of processes that make instances")
    add_run_flags(parser, preset=True)
    args = parser.parse_args(argv)
    if args.max_seq_len < SHORTEST:
        parser.error(f"--max_seq_len {args.max_seq_len} is too short: at least {SHORTEST} wordpieces")
    return args


if __name__ == "__main__":
    parse_args()  # --help and refused flags answer before the slow imports below

import contextlib
import json
import multiprocessing
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict

from tqdm import tqdm

from transformer.corpus import InstanceSampler, InstanceSettings, map_corpus, read_corpus
from transformer.files import InputError, atomic_write, find_input, read_json, write_json
from transformer.tokenization import BertTokenizer

DOCUMENTS_PER_TASK = 100  # a unit of work for a process: some megabytes of JSON

Task = tuple[int, int, int]  # epoch, first document, last document + 1


def generate(sampler: InstanceSampler, task: Task) -> tuple[str, int]:
    """JSON lines of the instances of some documents, and how many they are."""
    epoch, start, stop = task
    lines = [json.dumps(instance) + "\n" for document in range(start, stop)
             for instance in sampler.instances(epoch, document)]
    return "".join(lines), len(lines)


worker_sampler: InstanceSampler | None = None  # of a worker process


def start_worker(corpus_folder: Path, bert_model: Path, do_lower_case: bool, settings: InstanceSettings) -> None:
    """Open the corpus that the main process tokenized; its pages are shared between processes."""
    global worker_sampler
    tokenizer = BertTokenizer.from_pretrained(bert_model, do_lower_case)
    worker_sampler = InstanceSampler(map_corpus(corpus_folder, tokenizer), tokenizer, settings)


def generate_in_worker(task: Task) -> tuple[str, int]:
    return generate(worker_sampler, task)


@contextlib.contextmanager
def generators(num_workers: int, sampler: InstanceSampler, worker_facts: tuple,
               ) -> Iterator[Callable[[Iterable[Task]], Iterator[tuple[str, int]]]]:
    """A function that maps generate() over tasks, in order: in this process, or in `num_workers` others."""
    if num_workers == 1:
        yield lambda tasks: (generate(sampler, task) for task in tasks)
        return
    pool = ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"), start_worker, worker_facts)
    try:
        yield lambda tasks: pool.map(generate_in_worker, tasks)
    except BrokenProcessPool:
        raise InputError("a worker process died, most likely for want of memory: use fewer --num_workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def check_model(args: argparse.Namespace, tokenizer: BertTokenizer) -> None:
    """InputError if vocabulary or length do not fit the model's config.json; a warning if the casing does not fit."""
    config_file = args.bert_model / "config.json"
    config = read_json(config_file) if config_file.is_file() else {}
    if not isinstance(config, dict):
        raise InputError(f"{config_file} is no model configuration: expected a JSON object")
    if config.get("vocab_size", len(tokenizer.vocab)) != len(tokenizer.vocab):
        raise InputError(f"{args.bert_model}: the vocabulary has {len(tokenizer.vocab)} pieces and config.json says "
                         f"vocab_size {config['vocab_size']}: the files do not belong together")
    positions = config.get("max_position_embeddings", args.max_seq_len)
    if not isinstance(positions, int) or args.max_seq_len > positions:
        raise InputError(f"--max_seq_len {args.max_seq_len} is over the {positions} positions of {args.bert_model}")
    if tokenizer.is_uncased and not args.do_lower_case:
        print(f"WARNING: the vocabulary of {args.bert_model} has no capital letters, and --do_lower_case is not given: "
              "every word with a capital becomes [UNK]", flush=True)


def show_first(sampler: InstanceSampler, count: int) -> None:
    """Print some instances, for a person to look at."""
    instances = (instance for document in range(sampler.corpus.num_documents)
                 for instance in sampler.instances(0, document))
    for number, instance in enumerate(itertools.islice(instances, count)):
        print(f"instance {number}: {' '.join(instance['tokens'])}\n"
              f"  segment_ids {' '.join(map(str, instance['segment_ids']))}  "
              f"is_random_next {instance['is_random_next']}  "
              f"masked {dict(zip(instance['masked_lm_positions'], instance['masked_lm_labels'], strict=True))}",
              flush=True)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    args.train_corpus, args.bert_model = find_input(args.train_corpus), find_input(args.bert_model)
    if args.output_dir.exists() and not args.output_dir.is_dir():
        raise InputError(f"--output_dir {args.output_dir} is a file: name a folder")
    old_files = sorted(args.output_dir.glob("epoch_*.json"))
    if old_files and not args.overwrite_output_dir:
        raise InputError(f"{args.output_dir} already holds {old_files[0].name}: name another --output_dir, "
                         "or add --overwrite_output_dir")
    tokenizer = BertTokenizer.from_pretrained(args.bert_model, args.do_lower_case)
    check_model(args, tokenizer)
    settings = InstanceSettings(args.seed, args.max_seq_len, args.short_seq_prob, args.masked_lm_prob,
                                args.max_predictions_per_seq, mask_at_least_one=args.preset == "code",
                                whole_word=args.do_whole_word_mask, one_seq=args.one_seq)
    print_settings(args)
    if args.do_whole_word_mask and not args.masked_lm_prob and args.preset == "paper":
        print("WARNING: --do_whole_word_mask changes nothing: --masked_lm_prob 0 masks no word", flush=True)

    args.output_dir.mkdir(parents=True, exist_ok=True)
    # Beside the output, not in /tmp, which often lies in memory itself. Workers always share the corpus as files.
    with tempfile.TemporaryDirectory(prefix=".corpus_", dir=args.output_dir) as temporary:
        corpus_folder = Path(temporary)
        in_files = args.reduce_memory or args.num_workers > 1
        corpus = read_corpus(args.train_corpus, tokenizer, corpus_folder if in_files else None)
        print(f"{args.train_corpus}: {corpus.num_documents:,} documents, {corpus.num_sentences:,} sentences, "
              f"{len(corpus.tokens):,} wordpieces", flush=True)
        sampler = InstanceSampler(corpus, tokenizer, settings)
        show_first(sampler, 2)
        for path in old_files:  # all of them first: epochs of two runs must not mix
            path.unlink()
        worker_facts = (corpus_folder, args.bert_model, args.do_lower_case, settings)
        with generators(args.num_workers, sampler, worker_facts) as generated:
            for epoch in range(args.epochs_to_generate):
                tasks = [(epoch, start, min(start + DOCUMENTS_PER_TASK, corpus.num_documents))
                         for start in range(0, corpus.num_documents, DOCUMENTS_PER_TASK)]
                count = 0
                with atomic_write(args.output_dir / f"epoch_{epoch}.json") as output:
                    for lines, instances in tqdm(generated(tasks), desc=f"epoch {epoch}", total=len(tasks),
                                                 unit=f" x {DOCUMENTS_PER_TASK} documents", disable=None):
                        output.write(lines)
                        count += instances
                # Written last: where it stands, its epoch is complete.
                write_json(args.output_dir / f"epoch_{epoch}_metrics.json", {
                    "num_training_examples": count, "max_seq_len": args.max_seq_len,
                    "vocab_sha256": tokenizer.vocab_fingerprint, "do_lower_case": args.do_lower_case,
                    "train_corpus": str(args.train_corpus), "preset": args.preset, **asdict(settings)})
                print(f"{args.output_dir}/epoch_{epoch}.json: {count:,} instances", flush=True)


if __name__ == "__main__":
    sys.exit(run_script(main))
