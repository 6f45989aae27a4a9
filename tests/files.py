"""Files, as tests see them: what a folder holds, the pixels of a picture, bytes that come through a pipe."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import import_or_skip
from numpy.typing import NDArray


def contents(folder: Path) -> dict[str, bytes | None]:
    """All that is in a folder, by its path; None for a folder in it."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def rewrite(path: Path, **entries: Any) -> None:
    """Change entries of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def pixels(path: Path) -> NDArray[np.float32]:
    """Red, green and blue of a picture, (height, width, 3)."""
    image = import_or_skip("matplotlib.image")
    return np.asarray(image.imread(path))[..., :3]


@contextmanager
def piped(monkeypatch: pytest.MonkeyPatch, content: bytes, by: str) -> Iterator[str]:
    """A name for --texts under which these bytes come through a pipe, as from a process or on the standard input."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source:
        with os.fdopen(writing, "wb") as sink:
            sink.write(content)
        if by == "-":
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(source))
        yield "-" if by == "-" else f"/dev/fd/{reading}"
