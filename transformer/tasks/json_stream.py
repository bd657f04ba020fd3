"""A JSON file of gigabytes, value by value, with errors that name the byte."""
from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformer.files import MAX_LINE_BYTES, InputError, refuse_foreign

KINDS = {str: "a text", int: "a whole number", bool: "true or false", list: "a list", dict: "a table in braces"}
CORRECT_IT = "correct it, or get or make the file again"

_BYTES_AT_A_TIME = 1 << 16  # of a file that are read at a time, at least
_MARGIN = 32                # characters: more than any number, name or escape that a block can end in the middle of
_SPACES = re.compile(r"[ \t\n\r]*")


class JsonStream:
    """A JSON file, value by value. members() and items() go through an object and a list, and whoever iterates takes
    the value that is next, by value() or by these; bytes_read tells how far it has come."""

    def __init__(self, path: str | Path):
        self.path = path
        if not Path(path).is_file():
            raise InputError(f"{path} {'is no file' if Path(path).exists() else 'does not exist'}: name a file")
        refuse_foreign(path)
        self._blocks = self._read()
        self._decode = json.JSONDecoder().raw_decode
        self._text = ""        # of the file, from byte _start on
        self._start = 0
        self._at = 0           # what was taken of the text, in characters
        self._ended = False    # whether the text goes to the end of the file
        self.bytes_read = 0

    def _read(self) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")()
        with open(self.path, "rb") as handle:
            mark = len(codecs.BOM_UTF8) if handle.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0
            self._start = mark
            handle.seek(mark)
            block = b"\0"
            while block:
                # Twice as much as is there, so that trying again on a long value costs no more than reading it.
                block = handle.read(max(_BYTES_AT_A_TIME, len(self._text) - self._at))
                self.bytes_read += len(block)
                try:
                    yield decoder.decode(block, final=not block)
                except UnicodeDecodeError as error:
                    raise InputError(f"{self.path}: not valid UTF-8 at byte "
                                     f"{handle.tell() - len(error.object) + error.start}; convert the file to UTF-8"
                                     ) from None

    def _more(self) -> bool:
        """Read on, if there is anything; what was taken is dropped."""
        if len(self._text) - self._at > MAX_LINE_BYTES:
            raise InputError(f"{self.path}: what begins at byte {self._byte(self._at)} has no end within "
                             f"{MAX_LINE_BYTES >> 20} MB: get or make the file again")
        block = next(self._blocks, None)
        self._ended = block is None
        if not self._ended:
            self._start = self._byte(self._at)
            self._text, self._at = self._text[self._at:] + block, 0
        return not self._ended

    def _byte(self, character: int) -> int:
        return self._start + len(self._text[:character].encode())

    def _next(self) -> str:
        """The next character that is no space; empty at the end of the file."""
        while True:
            self._at = _SPACES.match(self._text, self._at).end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _wrong(self, character: int, why: str) -> InputError:
        rest = self._text[character:].rstrip()
        if not rest or self._ended and len(rest) < _MARGIN and rest[-1] != "}":  # in the middle of a name or an escape
            return InputError(f"{self.path} is cut short: it ends at byte {self._byte(len(self._text))}, in the middle "
                              "of its JSON: get or make it again")
        return InputError(f"{self.path}, byte {self._byte(character)}: not valid JSON ({why}): get or make it again")

    def _take(self, characters: str) -> str:
        character = self._next()
        if not character or character not in characters:
            raise self._wrong(self._at, f"expected {' or '.join(characters)}")
        self._at += 1
        return character

    def _begin(self, character: str, what: str, kind: type) -> None:
        if self._next() not in (character, ""):
            raise InputError(f"{self.path}, byte {self._byte(self._at)}: {what} is to be {KINDS[kind]}: "
                             f"{CORRECT_IT}")
        self._take(character)

    def value(self) -> Any:
        """The value that is next."""
        self._next()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                unterminated = error.msg.startswith("Unterminated")
                if (unterminated or error.pos + _MARGIN > len(self._text)) and self._more():
                    continue
                raise self._wrong(len(self._text) if unterminated else error.pos, error.msg) from None
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, or lists in lists in ...
                raise self._wrong(self._at, str(error)) from None
            if end + _MARGIN > len(self._text) and self._more():
                continue  # a number could go on
            self._at = end
            return value

    def members(self, what: str) -> Iterator[str]:
        """The keys of the object that is next."""
        self._begin("{", what, dict)
        if self._next() == "}":
            self._take("}")
            return
        going_on = ","
        while going_on == ",":
            if self._next() != '"':
                raise self._wrong(self._at, "expected a name in quotes")
            key = self.value()
            self._take(":")
            yield key
            going_on = self._take(",}")

    def items(self, what: str) -> Iterator[int]:
        """The numbers, from 1, of the values of the list that is next."""
        self._begin("[", what, list)
        if self._next() == "]":
            self._take("]")
            return
        number, going_on = 0, ","
        while going_on == ",":
            number += 1
            yield number
            going_on = self._take(",]")

    def end(self) -> None:
        """InputError where anything follows."""
        if self._next():
            raise InputError(f"{self.path}, byte {self._byte(self._at)}: something follows the JSON that ends there: "
                             "get or make it again")
