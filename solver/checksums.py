"""Checksums of what is saved: of facts and arrays by their content, of files by their bytes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

_BLOCK = 1 << 20


def checksum_facts(facts: object) -> int:
    """CRC-32 of what JSON can tell; the order of names does not count."""
    return zlib.crc32(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode())


def checksum_arrays(arrays: Mapping[str, np.ndarray], facts: object = None) -> int:
    """CRC-32 of facts and of contiguous arrays: names, dtypes, shapes and every byte."""
    layout = {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()}
    checksum = checksum_facts([facts, layout])
    for name in sorted(arrays):
        checksum = zlib.crc32(arrays[name].data, checksum)
    return checksum


def checksum_file(path: Path) -> int:
    """CRC-32 of a file."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
    return checksum
