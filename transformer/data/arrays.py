"""Arrays in a folder: made once, part by part, by one process at a time; then only mapped.

manifest.json is written last: where it stands, the arrays are whole. BlocksOnDisk is a table that several processes
fill at a time. No torch here: workers need none.
"""
from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from transformer.data.parallel import available_cores, in_order
from transformer.data.parts import GrowingFiles, byte_ranges
from transformer.files import InputError, read_json, require_unchanged, write_json

ARRAYS_MANIFEST = "manifest.json"

_SECONDS_BETWEEN_BLOCKS = 1.0  # of work on a BlocksOnDisk that a kill can cost


class UnfinishedArrays(GrowingFiles):
    """The files of arrays that are not whole yet: append() the parts that `records` lacks.

    summary: what the manifest is to tell beside the facts, to be set before the block of unfinished_arrays() ends.
    """

    def __init__(self, folder: Path, names: Sequence[str], facts: dict[str, Any]):
        super().__init__(folder, names, facts, wait=True)
        self.summary: dict[str, Any] = {}


def key_of(facts: dict[str, Any]) -> str:
    """The end of a name for arrays of these facts, by which they are found again."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


@contextlib.contextmanager
def unfinished_arrays(places: Sequence[Path], typecodes: dict[str, str], facts: dict[str, Any], part_size: int,
                      ) -> Iterator[UnfinishedArrays | None]:
    """The files {name: type code} to fill where none of `places` holds whole arrays of these facts; else None.

    They stand in the first place that can be written, and the arrays are whole when the block ends without an error.
    A killed run goes on where it was, if part_size is the same; a process that comes meanwhile waits for it. Raises
    InputError where no place can be written.
    """
    if any(_manifest(place, typecodes, facts) for place in places):
        yield None
        return
    with UnfinishedArrays(_first_writable(places), list(typecodes), {**facts, "part_size": part_size}) as files:
        if _manifest(files.folder, typecodes, facts):  # made while this process waited
            yield None
        else:
            yield files
            finish_arrays(files, facts, files.summary)


def finish_arrays(files: GrowingFiles, facts: dict[str, Any], summary: dict[str, Any]) -> None:
    """Make whole arrays of the files: record their facts and sizes, and what `summary` tells beside them."""
    files.save()
    write_json(files.folder / ARRAYS_MANIFEST, {"facts": facts, "sizes": files.sizes, **summary})


def read_manifest(folder: Path, names: Iterable[str]) -> dict[str, Any] | None:
    """What is recorded of the arrays `names` in a folder; None where they are not whole."""
    try:
        manifest = read_json(folder / ARRAYS_MANIFEST)
        whole = "facts" in manifest and manifest["sizes"] == [(folder / name).stat().st_size for name in names]
    except (InputError, OSError, KeyError):
        return None
    return manifest if whole else None


def open_arrays(places: Sequence[Path], typecodes: dict[str, str], facts: dict[str, Any], in_memory: bool = False,
                ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays {name: type code} of these facts, memory-mapped or read with in_memory, and their manifest.

    They are those of the first of `places` where they are whole, as unfinished_arrays() makes them. Raises InputError
    where they are not.
    """
    for place in places:
        if manifest := _manifest(place, typecodes, facts):
            return {name: _load(place / name, typecode, in_memory) for name, typecode in typecodes.items()}, manifest
    raise InputError(f"{places[0].parent} holds no whole arrays any more: start again")


def convert_lines(sources: Mapping[Path, os.stat_result], places: Sequence[Path], typecodes: dict[str, str],
                  facts: dict[str, Any], parse_part: Callable, start_worker: Callable, worker_facts: tuple,
                  part_bytes: int, num_workers: int | None, in_memory: bool,
                  ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """convert_parts() of files of lines: parse_part((path, start, stop)) is asked for ranges of about part_bytes."""
    def ranges() -> Iterator[tuple[tuple[Path, int, int], int]]:
        before = 0
        for path, status in sources.items():
            yield from (((path, start, stop), before + stop) for start, stop in byte_ranges(path, part_bytes))
            before += status.st_size

    return convert_parts(sources, places, typecodes, facts, ranges, parse_part, start_worker, worker_facts, part_bytes,
                         num_workers, in_memory)


def convert_parts(sources: Mapping[Path, os.stat_result], places: Sequence[Path], typecodes: dict[str, str],
                  facts: dict[str, Any], parts: Callable[[], Iterable[tuple[Any, int]]], parse_part: Callable,
                  start_worker: Callable, worker_facts: tuple, part_bytes: int, num_workers: int | None,
                  in_memory: bool) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """open_arrays() of the examples in some files, one after the other, which are made where they are not there yet.

    The arrays are the tokens, end to end; the offsets; then any others, which are laid end to end, too. parts() cuts
    the files, the same way each time, into parts of about part_bytes, and tells of each how many bytes were before its
    end.
    parse_part(part) gives the tokens as bytes, the int32 lengths of the examples, a list of the other arrays as bytes,
    and {name: number} of what is to be counted. num_workers processes (None: one for each core) share the parts;
    start_worker(*worker_facts) prepares each. in_memory: as of open_arrays().
    The manifest tells `examples`, `longest` (in tokens) and the sums of what was counted. Raises InputError also where
    one of the files `sources` is not any more what its status says, from before the facts were taken.
    """
    with unfinished_arrays(places, typecodes, facts, part_bytes) as files:
        if files is not None:
            done, size = len(files.records), sum(status.st_size for status in sources.values())
            workers = max(1, min(num_workers or available_cores(), -(-size // part_bytes) - done))
            itemsize = np.dtype(typecodes["tokens"]).itemsize
            stops: deque[int] = deque()  # of the parts that are being parsed
            with tqdm(desc=f"{next(iter(sources)).name} to arrays", total=size, unit="B", unit_scale=True,
                      disable=None) as progress:

                def missing() -> Iterator[Any]:
                    for number, (part, stop) in enumerate(parts()):
                        if number < done:
                            progress.initial = progress.n = stop
                        else:
                            stops.append(stop)
                            yield part

                with contextlib.closing(in_order(parse_part, missing(), workers, start_worker, worker_facts)) as parsed:
                    for tokens, lengths, others, counts in parsed:
                        append_examples(files, itemsize, tokens, lengths, others, **counts)
                        progress.update(stops.popleft() - progress.n)
            try:
                for path, status in sources.items():
                    require_unchanged(path, status)
            except InputError:
                files.keep(0)
                raise
            counted = set().union(*files.records) - {"part", "sizes", "examples", "longest"}
            files.summary = {**summary_of_examples(files),
                             **{name: sum(record[name] for record in files.records) for name in sorted(counted)}}
    return open_arrays(places, typecodes, facts, in_memory)


def append_examples(files: GrowingFiles, itemsize: int, tokens: bytes, lengths: Sequence[int] | np.ndarray,
                    others: Sequence[bytes], **record: Any) -> None:
    """Append a part to the files of tokens, offsets, which are counted from the start of the file, and `others`.

    itemsize: bytes of a token; record: what to remember of the part beside its `examples` and their `longest`.
    """
    offsets = np.cumsum(lengths, dtype=np.int64) + files.sizes[0] // itemsize
    if not files.records:
        offsets = np.append(0, offsets)
    files.append((tokens, offsets.tobytes(), *others), examples=len(lengths), longest=int(np.max(lengths, initial=0)),
                 **record)


def summary_of_examples(files: GrowingFiles) -> dict[str, int]:
    """How many `examples` were appended, and how many tokens the `longest` has."""
    return {"examples": sum(record["examples"] for record in files.records),
            "longest": max((record["longest"] for record in files.records), default=0)}


def _manifest(folder: Path, names: Iterable[str], facts: dict[str, Any]) -> dict[str, Any] | None:
    """read_manifest() where the arrays are of these facts; else None."""
    manifest = read_manifest(folder, names)
    return manifest if manifest and manifest["facts"] == facts else None


def _first_writable(places: Sequence[Path]) -> Path:
    for place in places:
        with contextlib.suppress(OSError):
            place.mkdir(parents=True, exist_ok=True)
            if os.access(place, os.W_OK):
                if place != places[0]:
                    print(f"the arrays go to {place.parent}", flush=True)
                return place
        print(f"{place.parent} cannot be written", flush=True)
    raise InputError(f"no place for the arrays of the data: make {places[-1].parent} writable")


def _load(path: Path, typecode: str, in_memory: bool) -> np.ndarray:
    if in_memory or not path.stat().st_size:  # nothing cannot be mapped
        return np.fromfile(path, typecode)
    # A plain array over the mapped pages: np.memmap's own indexing takes microseconds more.
    return np.asarray(np.memmap(path, typecode, mode="r"))


class BlocksOnDisk:
    """A table on disk, [rows, columns], that several processes fill by blocks of rows; a kill costs a second's work.

    Beside it stands a byte for each block, 1 when the block has reached the disk.
    """

    def __init__(self, folder: Path, columns: int, typecode: str):
        self.folder = folder
        self.columns = columns
        self.typecode = typecode
        self._pending: list[int] = []
        self._saved_at = time.monotonic()

    def create(self, blocks: int, facts: dict[str, Any]) -> None:
        """Make it empty; `facts` are what its contents follow from."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "facts.json").unlink(missing_ok=True)
        (self.folder / "table").write_bytes(b"")
        (self.folder / "done").write_bytes(bytes(blocks))
        write_json(self.folder / "facts.json", facts)  # last: where it stands, the rest does

    def facts(self) -> dict[str, Any] | None:
        """Those that it was made with; None where there is none."""
        return read_json(self.folder / "facts.json") if (self.folder / "facts.json").is_file() else None

    def is_whole(self, blocks: int) -> bool:
        """Whether both files are there, and as many blocks: a machine that lost power can lose young files."""
        done = self.folder / "done"
        return (self.folder / "table").is_file() and done.is_file() and done.stat().st_size == blocks

    def remove(self) -> None:
        """Delete the folder, so that a kill in the middle leaves none that seems to hold something."""
        (self.folder / "facts.json").unlink()
        shutil.rmtree(self.folder)

    def missing(self) -> np.ndarray:
        """Numbers of the blocks that are not on disk."""
        return np.flatnonzero(np.fromfile(self.folder / "done", np.uint8) == 0)

    def write(self, number: int, start: int, block: np.ndarray) -> None:
        """Write block `number`, the rows from `start` on."""
        block = block.astype(self.typecode)
        with open(self.folder / "table", "r+b") as table:
            table.seek(start * self.columns * block.itemsize)
            table.write(block.tobytes())
        self._pending.append(number)
        if time.monotonic() - self._saved_at > _SECONDS_BETWEEN_BLOCKS:
            self.save()

    def save(self) -> None:
        """Bring what was written to the disk, then say so."""
        with open(self.folder / "table", "r+b") as table, open(self.folder / "done", "r+b", 0) as done:
            os.fsync(table.fileno())
            for number in self._pending:
                done.seek(number)
                done.write(b"\1")
            os.fsync(done.fileno())
        self._pending.clear()
        self._saved_at = time.monotonic()

    def map(self) -> np.ndarray:
        """The whole table, read-only."""
        if not (self.folder / "table").stat().st_size:
            return np.empty((0, self.columns), self.typecode)
        return np.memmap(self.folder / "table", self.typecode, mode="r").reshape(-1, self.columns)
