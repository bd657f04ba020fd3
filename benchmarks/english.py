"""English prose for benchmarks: the documentation that comes with botocore, a dependency of this kit."""
from __future__ import annotations

import gzip
import html
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def _documentation(value: Any) -> Iterator[str]:
    """Every text under a key `documentation` in nested JSON."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "documentation" and isinstance(item, str):
                yield item
            else:
                yield from _documentation(item)
    elif isinstance(value, list):
        for item in value:
            yield from _documentation(item)


def documents(wanted_bytes: int) -> list[list[str]]:
    """Documents of sentences, at least `wanted_bytes` in all; no sentence occurs twice.

    Raises RuntimeError where the installed botocore does not hold as much.
    """
    data = Path(importlib.util.find_spec("botocore").origin).parent / "data"
    seen: set[str] = set()
    found, size = [], 0
    for path in sorted(data.glob("*/*/service-2.json.gz")):
        for text in _documentation(json.loads(gzip.decompress(path.read_bytes()))):
            plain = html.unescape(re.sub(r"<[^>]*>", " ", text))
            sentences = [" ".join(sentence.split()) for sentence in re.split(r"(?<=[.!?])\s+", plain)]
            new = [sentence for sentence in sentences if len(sentence) > 20 and sentence not in seen]
            seen.update(new)
            if len(new) > 3:
                found.append(new)
                size += sum(len(sentence.encode()) + 1 for sentence in new)
        if size >= wanted_bytes:
            return found
    raise RuntimeError(f"botocore's documentation has only {size:,} bytes of prose")
