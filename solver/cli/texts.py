"""Texts that a command reads, one a line."""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

STDIN = Path("-")


class Lines:
    """The lines of a file that are not blank, from the beginning each time they are iterated."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._text, self._name = io.TextIOWrapper(file, encoding="utf-8"), name

    def __iter__(self) -> Iterator[str]:
        try:
            self._text.seek(0)
            for line in self._text:
                if "\0" in line:
                    raise ValueError(f"{self._name} is not text in UTF-8 (it has null characters; is it UTF-16?)")
                if text := line.strip():
                    yield text
        except UnicodeDecodeError as error:
            raise ValueError(f"{self._name} is not text in UTF-8 ({error})") from None


@contextmanager
def open_texts(path: Path | None) -> Iterator[Iterable[str] | None]:
    """Texts of a file, a pipe or ``-``, the standard input. They can be read repeatedly. None if there is no path.

    What can be read but once is copied first, to a temporary file.

    Raises
    ------
    OSError
        When there is no such file, or it is a folder.
    """
    if path is None:
        yield None
        return
    if path != STDIN and not path.exists():
        raise FileNotFoundError(f"--texts {path}: no such file")
    if path.is_dir():
        raise IsADirectoryError(f"--texts {path} is a folder; name a file of texts, one a line")
    with ExitStack() as stack:
        file = sys.stdin.buffer if path == STDIN else stack.enter_context(path.open("rb"))
        if path == STDIN or not file.seekable():
            copy = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(file, copy)
            file = copy
        yield Lines(file, "the standard input" if path == STDIN else str(path))
