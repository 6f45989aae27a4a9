"""A model with a multilingual vocabulary through the command line: `python -m bench vocabulary [--ratio R]`.

Makes a folder of one encoder layer with 250,000 x 384 embeddings (MiniLM's rows over and over, with noise), a tokenizer
of as many words, and texts; compresses it with ``ksubspaces compress`` on a terminal, in a process of its own. Prints
one JSON object: seconds and peak memory of that process, and how long its terminal ever stood still.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .data import large_table
from .results import ROOT

ROWS, RATIO = 250_000, 0.6
SENTENCES, WORDS = 4000, 20


def main(arguments: Sequence[str]) -> None:
    """Make the folder, compress it, print what was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench vocabulary", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--ratio", type=float, default=RATIO)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="ksubspaces-") as scratch:
        print(json.dumps(measure(Path(scratch), options.rows, options.ratio)))


def measure(folder: Path, rows: int, ratio: float) -> dict[str, Any]:
    """Compress a model made here by the command of the command line; what that took, and what came of it."""
    from safetensors import safe_open

    table_bytes = make(folder / "model", folder / "texts.txt", rows)
    command = [sys.executable, "-m", "ksubspaces", "compress", str(folder / "model"), f"--ratio={ratio}", "--seed=0"]
    command += [f"--texts={folder / 'texts.txt'}", f"--out={folder / 'small'}"]
    begin = time.perf_counter()
    still, told = watch(command)
    seconds = time.perf_counter() - begin
    with safe_open(folder / "small" / "model.safetensors", "np") as saved:
        names = [name for name in saved.keys() if "word_embeddings" in name]  # noqa: SIM118 (no mapping)
        nbytes = sum(saved.get_tensor(name).nbytes for name in names)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return {
        "rows": rows,
        "ratio": ratio,
        "seconds": seconds,
        "still": still,
        "peak_bytes": peak,
        "table_bytes": table_bytes,
        "bytes": nbytes,
        "told": told[-2000:],
    }


def make(model: Path, texts: Path, rows: int) -> int:
    """The model's folder, with its tokenizer, and a file of texts; returns the bytes of its table."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from .data import minilm

    table = large_table(-(-rows // len(minilm())))[0][:rows]
    shape = {"hidden_size": table.shape[1], "intermediate_size": table.shape[1], "num_attention_heads": 12}
    encoder = BertModel(BertConfig(vocab_size=rows, num_hidden_layers=1, **shape))
    with torch.no_grad():
        encoder.get_input_embeddings().weight.copy_(torch.from_numpy(table))
    encoder.save_pretrained(model)
    words = ["[UNK]", "[PAD]", *(f"w{i}" for i in range(2, rows))]
    split = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]"))
    split.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=split, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(model)
    chances = 1 / (10 + np.arange(rows))
    drawn = np.random.default_rng(0).choice(rows, (SENTENCES, WORDS), p=chances / chances.sum())
    texts.write_text("\n".join(" ".join(words[i] for i in sentence) for sentence in drawn), encoding="utf-8")
    return table.nbytes


def watch(command: Sequence[str]) -> tuple[float, str]:
    """Run a command on a terminal of its own: the longest time in seconds that nothing changed on it, and all it told.

    Raises
    ------
    RuntimeError
        When the command fails.
    """
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True)
    os.close(theirs)
    longest, changed, told = 0.0, time.perf_counter(), []
    while True:
        ready, _, _ = select.select([ours], [], [], 0.1)
        try:
            part = os.read(ours, 1 << 16) if ready else b""
        except OSError:  # the other end is closed
            break
        if part:
            now = time.perf_counter()
            longest, changed = max(longest, now - changed), now
            told.append(part.decode(errors="replace"))
        elif process.poll() is not None:
            break
    os.close(ours)
    text = "".join(told)
    if process.wait():
        raise RuntimeError(f"{' '.join(command)} failed:\n{text}")
    return longest, text
