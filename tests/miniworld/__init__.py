"""A small embedded world for the smoke run and the tests: an encyclopedia, GLUE, SQuAD, word vectors and a tiny BERT.

Everything is generated from a seed; nothing in it means anything outside it. `python -m tests.miniworld build DIR`
makes it, `python -m tests.miniworld serve DIR` offers it under the paths of the real hosts.
"""
from .server import serve
from .world import ensure_world

__all__ = ["ensure_world", "serve"]
