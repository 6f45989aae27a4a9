"""Time and peak memory of compressing the MiniLM folder, in a process of its own: `python -m bench whole-model ...`.

Prints one JSON object. Imports are in place before the count begins and, unless --cold, compiled kernels as well (a
small matrix is compressed first). The model is not: it is loaded, compressed, and what it takes is in the peak.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .memory import in_a_process, peak_extra_bytes

RATIO = 0.4
WARM_UP = (2000, 64)


def measure(out: Path, *, texts: bool, cold: bool) -> dict[str, Any]:
    """Compress in a fresh process, save the model to a folder, and return what the process printed."""
    flags = [f"--{name}" for name, wanted in (("texts", texts), ("cold", cold)) if wanted]
    return in_a_process("whole-model", str(out), *flags)


def main(arguments: Sequence[str]) -> None:
    """Load, compress and save the model."""
    from transformers import AutoModel, AutoTokenizer

    from ksubspaces import compress
    from ksubspaces.demo import minilm_folder
    from ksubspaces.integrations.transformers import compress_model, save_compressed

    from . import texts

    parser = argparse.ArgumentParser(prog="python -m bench whole-model", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--texts", action="store_true", help="count tokens in the training texts")
    parser.add_argument("--cold", action="store_true", help="kernels are compiled within what is measured")
    options = parser.parse_args(arguments)
    sentences = [sentence.text for sentence in texts.training(texts.load_all())] if options.texts else None
    if not options.cold:
        A = np.random.default_rng(0).normal(size=WARM_UP).astype(np.float32)
        compress(A, 0.5, sample_weight=np.arange(1, len(A) + 1), exact_rows=[0], seed=0)
    kept: dict[str, Any] = {}

    def run() -> None:
        folder = minilm_folder()
        model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        compress_model(model, RATIO, texts=sentences, tokenizer=tokenizer, seed=0)
        kept.update(model=model, tokenizer=tokenizer)

    peak, how = peak_extra_bytes(run)
    save_compressed(kept["model"], options.out, kept["tokenizer"], overwrite=True)
    report = kept["model"].compression_report
    print(
        json.dumps(
            {
                "texts": None if sentences is None else len(sentences),
                "cold": options.cold,
                "peak_bytes": peak,
                "how": how,
                "model_bytes": report.nbytes_before,
                "bytes": report.nbytes,
                "seconds": report.seconds,
                "relative_error": report.modules[0].relative_error,
            }
        )
    )
