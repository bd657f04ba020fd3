"""Augment a GLUE training set by replacing words (paper, section 3.2 and algorithm 1): train.tsv -> train_aug.tsv.

Candidates for a word of one wordpiece come from BERT's masked LM, for longer words from their GloVe neighbours. Reads
glue_dir/TASK/train.tsv; writes train_aug.tsv (same columns, tab-separated, no quoting) and train_aug.json (settings
and counts) beside it.
"""
from __future__ import annotations

import argparse
import sys

from transformer.cli import Parser, add_run_flags, positive, print_settings, proportion, run_script


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, as given; resolve_copies() settles N."""
    parser = Parser(__doc__.splitlines()[0])
    data = parser.add_argument_group("data and models")
    data.add_argument("--pretrained_bert_model", required=True, help="folder of a BERT with its masked-LM head")
    data.add_argument("--glove_embs", required=True, help="GloVe vectors, text: a word and its numbers on every line")
    data.add_argument("--glue_dir", required=True, help="folder that holds the task's folder")
    data.add_argument("--task_name", required=True, help="GLUE task, in any spelling")
    augment = parser.add_argument_group("augmentation")
    augment.add_argument("--N", type=positive, help="tries per sentence; each new sentence is a row (paper preset: 20; "
                         "code preset: 10, 20 or 30 by task, whatever is given here)")
    augment.add_argument("--M", type=positive, default=15, help="candidates per word")
    augment.add_argument("--p", type=proportion, default=0.4, help="probability of replacing a word with candidates")
    add_run_flags(parser, preset=True)
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_args()  # --help and refused flags answer before the slow imports below

import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from transformer.checkpoint import load_tokenizer
from transformer.files import InputError, atomic_write, find_input, read_lines, write_json
from transformer.glue import Task, get_task, parse_label, read_rows, task_folder
from transformer.modeling import BertForMaskedLM
from transformer.runtime import join_processes
from transformer.tokenization import BertTokenizer

PAPER_COPIES = 20
GLOVE_VOCABULARY = 100_000   # vectors read, the most frequent words
BATCH_SIZE = 64              # masked copies per forward pass, at most
BATCH_TOKENS = 4096          # wordpieces per forward pass, padding included: long sentences go in smaller batches
BLOCK_ROWS = 1024            # rows whose sentences go through the masked LM together
REMEMBERED_SENTENCES = 50_000
NEIGHBOUR_BLOCK = 64         # words per product with the GloVe matrix: 64 * 100,000 similarities are 26 MB

STOP_WORDS = frozenset(read_lines(Path(__file__).parent / "transformer" / "stop_words.txt"))  # NLTK's English, two more
PLAIN_WORD = re.compile("[a-z]+")


class Glove:
    """The first GLOVE_VOCABULARY vectors of a GloVe file, at unit length, and nearest neighbours by cosine.

    Attributes: words (list), index (word -> row, its first one), vectors (float32 [words, dimensions]).
    """

    def __init__(self, path: str | Path, limit: int = GLOVE_VOCABULARY):
        self.words: list[str] = []
        rows: list[np.ndarray] = []
        dimensions = 0
        for number, line in enumerate(itertools.islice(read_lines(path), limit), 1):
            line = line.rstrip(" ")
            dimensions = dimensions or line.count(" ")
            # From the right: glove.840B.300d has words with spaces in them (". . .", "at name@domain.com").
            word, *numbers = line.rsplit(" ", dimensions)
            try:
                vector = np.array(numbers, dtype=np.float32)
            except ValueError:
                vector = np.empty(0, dtype=np.float32)
            extra = " " in word and all(map(_is_number, word.split(" ")[1:]))  # numbers, not part of a word
            if not dimensions or len(vector) != dimensions or extra or not np.isfinite(vector).all():
                raise InputError(f"{path}, line {number}: expected a word and {dimensions or 'some'} numbers, as on "
                                 "line 1; the file may be cut short: get it again")
            if "\t" not in word:  # as a candidate it would break a row into more columns
                self.words.append(word)
                rows.append(vector)
        if not rows:
            raise InputError(f"{path} holds no vectors")
        self.vectors = np.stack(rows)
        rows.clear()
        lengths = np.linalg.norm(self.vectors, axis=1, keepdims=True)
        self.vectors /= np.where(lengths > 0, lengths, 1)
        self.index: dict[str, int] = {}
        for row, word in enumerate(self.words):
            self.index.setdefault(word, row)

    def neighbours(self, words: Iterable[str], count: int) -> dict[str, list[str]]:
        """For each word that has a vector, its `count` nearest other words, the nearest first."""
        known = sorted(word for word in set(words) if word in self.index)
        count = min(count, len(self.words) - 1)
        result: dict[str, list[str]] = {}
        for start in range(0, len(known) if count else 0, NEIGHBOUR_BLOCK):
            block = known[start:start + NEIGHBOUR_BLOCK]
            rows = np.array([self.index[word] for word in block])
            similarity = self.vectors[rows] @ self.vectors.T                          # [block, words]
            similarity[np.arange(len(block)), rows] = -np.inf                         # the word itself
            nearest = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
            order = np.argsort(-np.take_along_axis(similarity, nearest, axis=1), axis=1, kind="stable")
            for word, best in zip(block, np.take_along_axis(nearest, order, axis=1)):
                result[word] = [self.words[row] for row in best]
        return result


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def words_to_vary(words: list[str]) -> list[int]:
    """Positions of the words that may be replaced: letters a to z only, and not in the stop list."""
    return [i for i, word in enumerate(words) if PLAIN_WORD.fullmatch(word) and word not in STOP_WORDS]


class CandidateFinder:
    """Finds what each word of a sentence may be replaced by.

    model: BertForMaskedLM. tokenizer: lower-casing. neighbours: word -> GloVe neighbours. count: candidates per word
    (M). `by_masked_lm`, `by_glove` and `without` count the words of the sentences asked for, one by one.
    """

    def __init__(self, model: BertForMaskedLM, tokenizer: BertTokenizer, neighbours: dict[str, list[str]], count: int,
                 batch_size: int = BATCH_SIZE):
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.neighbours = neighbours
        self.batch_size = batch_size
        self.longest = min(tokenizer.max_len, model.config.max_position_embeddings)
        self.device = next(model.parameters()).device
        suffixes = [piece.startswith("##") for piece in tokenizer.ids_to_tokens]
        self.suffixes = torch.tensor(suffixes, device=self.device)
        self.count = min(count, suffixes.count(False))
        self.remembered: dict[str, dict[int, np.ndarray]] = {}
        self.by_masked_lm = self.by_glove = self.without = 0

    def prepare(self, sentences: Iterable[str]) -> None:
        """Run the masked LM for those sentences that are not remembered, all together."""
        if len(self.remembered) > REMEMBERED_SENTENCES:
            self.remembered.clear()
        jobs: list[tuple[list[int], int, str, int]] = []  # pieces, masked position among them, sentence, word number
        for sentence in dict.fromkeys(sentences):
            if sentence in self.remembered:
                continue
            self.remembered[sentence] = {}
            words = self.tokenizer.basic_tokenizer.tokenize(sentence)
            pieces, starts = [], [0]
            for word in words:
                pieces += [self.tokenizer.vocab[piece] for piece in self.tokenizer.wordpiece_tokenizer.tokenize(word)]
                starts.append(len(pieces))
            jobs += [(pieces, starts[i], sentence, i) for i in words_to_vary(words)
                     if starts[i + 1] - starts[i] == 1 and starts[i] + 1 < self.longest]
        jobs.sort(key=lambda job: len(job[0]))  # batches of sequences of similar length; the sort is stable
        start = 0
        while start < len(jobs):
            stop = start + 1
            while stop < len(jobs) and stop - start < self.batch_size and \
                    (stop - start + 1) * (2 * len(jobs[stop][0]) + 3) <= BATCH_TOKENS:
                stop += 1
            batch, start = jobs[start:stop], stop
            for (_, _, sentence, word), best in zip(batch, self._masked_lm([job[:2] for job in batch])):
                self.remembered[sentence][word] = best

    @torch.no_grad()
    def _masked_lm(self, batch: list[tuple[list[int], int]]) -> np.ndarray:
        """Ids [batch, count] of the best pieces for each (pieces of a sentence, masked position), the best first.

        The input is [CLS] masked sentence [SEP] original sentence [SEP], segments 0 and 1, cut at `longest` pieces.
        """
        cls, sep, mask = self.tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", "[MASK]"])
        length = min(2 * max(len(pieces) for pieces, _ in batch) + 3, self.longest)
        ids, segments, attention = (torch.zeros(len(batch), length, dtype=torch.long) for _ in range(3))
        for row, (pieces, position) in enumerate(batch):
            masked = [*pieces[:position], mask, *pieces[position + 1:]]
            sequence = [cls, *masked, sep, *pieces, sep][:self.longest]
            ids[row, :len(sequence)] = torch.tensor(sequence)
            segments[row, len(pieces) + 2:len(sequence)] = 1
            attention[row, :len(sequence)] = 1
        inputs = (tensor.to(self.device) for tensor in (ids, segments, attention))
        hidden = self.model.bert(*inputs, scores=())[0][-1]                                        # [B, S, H]
        positions = torch.tensor([position + 1 for _, position in batch], device=self.device)
        logits = self.model.cls(hidden[torch.arange(len(batch), device=self.device), positions])   # [B, vocabulary]
        return logits.masked_fill(self.suffixes, -torch.inf).topk(self.count).indices.to(torch.int32).cpu().numpy()

    def find(self, sentence: str) -> tuple[list[str], dict[int, list[str]]]:
        """(words of a prepared sentence, {position of a word that may be replaced: its candidates, never empty})."""
        words = self.tokenizer.basic_tokenizer.tokenize(sentence)
        candidates = {}
        for i in words_to_vary(words):
            if i in self.remembered[sentence]:
                candidates[i] = self.tokenizer.convert_ids_to_tokens(self.remembered[sentence][i])
                self.by_masked_lm += 1
            elif words[i] in self.neighbours:
                candidates[i] = self.neighbours[words[i]]
                self.by_glove += 1
            else:
                candidates[i] = [words[i]]
                self.without += 1
        return words, candidates


def vary(sentence: str, words: list[str], candidates: dict[int, list[str]], tries: int, p: float,
         generator: np.random.Generator) -> list[str]:
    """At most `tries` different variants of `sentence`, none equal to it (paper, algorithm 1).

    Every try replaces each word that has candidates with probability p by a random one of them. Variants are the
    basic-tokenised words joined by spaces: a try that replaces nothing is new where the original has another form.
    """
    positions = list(candidates)
    sizes = np.array([len(candidates[i]) for i in positions], dtype=np.int64)
    replaced = generator.random((tries, len(positions))) < p
    choices = generator.integers(0, sizes, size=(tries, len(positions)))
    variants: dict[str, None] = {}
    for chosen, choice in zip(replaced, choices):
        variant = list(words)
        for i in np.flatnonzero(chosen):
            variant[positions[i]] = candidates[positions[i]][choice[i]]
        variants[" ".join(variant)] = None
    variants.pop(sentence, None)
    return list(variants)


def augment_row(columns: list[str], task: Task, variants: list[list[str]], preset: str) -> Iterator[list[str]]:
    """Rows for one row of train.tsv: itself, then each text in turn varied. variants: one list per text column.

    The other text stays the original; in the code preset the second text varies beside the first one's last variant.
    """
    yield columns
    beside = columns
    for column, texts in zip(task.text_columns, variants):
        for text in texts:
            row = list(beside)
            row[column] = text
            yield row
        if preset == "code" and texts:  # what the published code leaves standing in the row
            beside = row


def resolve_copies(args: argparse.Namespace, task: Task) -> int:
    """N of this run; InputError for a task that is not augmented."""
    if task.augment_copies_in_code is None:
        raise InputError(f"{task.name} is not augmented: its label hangs on single words (which noun a pronoun stands "
                         "for), so that replacing words would make it wrong; train without --aug_train")
    if args.preset == "paper":
        return args.N or PAPER_COPIES
    if args.N not in (None, task.augment_copies_in_code):
        print(f"preset code: --N {args.N} is overridden by {task.augment_copies_in_code}, as in the published code",
              flush=True)
    return task.augment_copies_in_code


def survey(task: Task, path: Path, tokenizer: BertTokenizer) -> tuple[int, set[str]]:
    """Read the whole file before the long work: (number of rows, words that need GloVe). Refuses bad rows, labels."""
    longer: set[str] = set()
    met: set[str] = set()
    rows = 0
    for number, columns in read_rows(task, path):
        parse_label(task, columns, f"{path}, line {number}")
        rows += 1
        for column in task.text_columns:
            words = tokenizer.basic_tokenizer.tokenize(columns[column])
            new = {words[i] for i in words_to_vary(words)} - met
            met |= new
            longer |= {word for word in new if len(tokenizer.wordpiece_tokenizer.tokenize(word)) > 1}
    return rows, longer


def main(argv: list[str] | None = None) -> None:
    """Augment one task."""
    args = parse_args(argv)
    task = get_task(args.task_name)
    args.N = resolve_copies(args, task)
    args.task_name = task.name
    print_settings(args)
    bert_folder, glove_path = find_input(args.pretrained_bert_model), find_input(args.glove_embs)
    path = task_folder(find_input(args.glue_dir), task) / "train.tsv"
    output = path.with_name("train_aug.tsv")
    tokenizer = load_tokenizer(bert_folder, do_lower_case=True)
    total, longer_words = survey(task, path, tokenizer)
    model = BertForMaskedLM.from_pretrained(bert_folder).to(join_processes().device)
    print(f"{path}: {total} rows; looking for GloVe neighbours of {len(longer_words)} words", flush=True)
    finder = CandidateFinder(model, tokenizer, Glove(glove_path).neighbours(longer_words, args.M), args.M)

    written = 0
    rows = enumerate(columns for _, columns in read_rows(task, path))
    with atomic_write(output) as handle, tqdm(total=total, unit="row", desc=task.name, disable=None) as bar:
        if task.has_header:
            handle.write(next(read_lines(path)) + "\n")
        while block := list(itertools.islice(rows, BLOCK_ROWS)):
            finder.prepare(columns[column] for _, columns in block for column in task.text_columns)
            for number, columns in block:
                variants = [vary(columns[column], *finder.find(columns[column]), args.N, args.p,
                                 np.random.default_rng((args.seed, number, column))) for column in task.text_columns]
                for row in augment_row(columns, task, variants, args.preset):
                    handle.write("\t".join(row) + "\n")
                    written += 1
            bar.update(len(block))
    counts = {"rows_in": total, "rows_out": written, "words_by_masked_lm": finder.by_masked_lm,
              "words_by_glove": finder.by_glove, "words_without_candidates": finder.without}
    write_json(output.with_suffix(".json"), {"settings": vars(args), **counts})
    print(f"{output}: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in counts.items()), flush=True)


if __name__ == "__main__":
    sys.exit(run_script(main))
