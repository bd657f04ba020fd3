"""What a run of pregenerate_training_data.py will make and take, judged by samples of its corpus."""
from __future__ import annotations

import argparse
import contextlib
import shutil
import tempfile
import time
from pathlib import Path

from transformer.data.corpus import STORE_NAME, open_corpus
from transformer.data.instances import InstanceSampler, InstanceSettings, draw_part
from transformer.data.parallel import available_cores
from transformer.files import InputError
from transformer.pieces import Tokenizer

_SAMPLES, _SAMPLE_BYTES = 8, 1 << 17  # places in the corpus that are looked at, and how much of each


def read_samples(text_file: Path) -> bytes:
    """Lines from places all over a text file, with an empty line between the places."""
    size = text_file.stat().st_size
    samples = []
    with open(text_file, "rb") as handle:
        for place in range(_SAMPLES):
            handle.seek(size * place // _SAMPLES)
            skipped = handle.readline() if place else b""  # most likely the rest of a line
            wanted = min(_SAMPLE_BYTES, size // _SAMPLES) - len(skipped)
            samples.append(handle.read(max(wanted, 0)) + handle.readline())
    return b"\n\n".join(samples).decode("utf-8", "ignore").encode()


def print_estimate(args: argparse.Namespace, tokenizer: Tokenizer, settings: InstanceSettings) -> None:
    """Print what the run will make and take; OSError where the disk is too small for it.

    Nothing is said of a corpus whose samples hold no text, or no end of a document.
    """
    with tempfile.TemporaryDirectory() as temporary, contextlib.suppress(InputError):
        sample = Path(temporary) / "sample.txt"
        sample.write_bytes(read_samples(args.train_corpus))
        started = time.perf_counter()
        with open_corpus(sample, tokenizer, Path(temporary) / STORE_NAME) as (corpus, _):
            tokenized = time.perf_counter()
            part, counts = draw_part(InstanceSampler(corpus, tokenizer, settings), (0, (0, corpus.num_documents)),
                                     args.arrays)
            generated = time.perf_counter()
        scale = args.train_corpus.stat().st_size / sample.stat().st_size
        epochs = args.epochs_to_generate
        store_bytes = scale * sum(map(len, corpus.maps))
        epochs_bytes = scale * epochs * (part.nbytes if args.arrays else len(part))
        seconds = scale * (tokenized - started + epochs * (generated - tokenized))
        instances = scale * counts["instances"]
        print(f"estimate: {instances:,.0f} instances in each epoch; {epochs_bytes / 1e9:,.2f} GB for {epochs} epochs "
              f"in {args.output_dir}; {store_bytes / 1e9:,.2f} GB for the tokenized corpus in {args.tmp_dir}; "
              f"{seconds / 60 / min(args.num_workers, available_cores()):,.1f} minutes", flush=True)
        _require_room(args.output_dir, epochs_bytes, args.tmp_dir, store_bytes)


def _require_room(output_dir: Path, epochs_bytes: float, tmp_dir: Path, store_bytes: float) -> None:
    """OSError where the disk, or one of both disks, has no room for what is not there yet."""
    free = {}
    of_epochs = ("epoch_*.json", "epoch_*.instances/*", "epoch_*.unfinished/*")
    for folder, patterns, needed in ((output_dir, of_epochs, epochs_bytes),
                                     (tmp_dir, (f"{STORE_NAME}/*",), store_bytes)):
        written = sum(path.stat().st_size for pattern in patterns for path in folder.glob(pattern))
        disk = folder.stat().st_dev
        free[disk] = free.get(disk, shutil.disk_usage(folder).free) - max(needed - written, 0)
        if free[disk] < 0:
            raise OSError(f"{folder} lacks about {-free[disk] / 1e9:,.2f} GB of free disk: make room, name "
                          "another --output_dir or --tmp_dir, or lower --epochs_to_generate")
