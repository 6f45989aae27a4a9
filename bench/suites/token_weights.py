"""`python -m bench token-weights`: which token weights keep an encoder's sentence vectors best.

The word embeddings of the pretrained MiniLM encoder are compressed with weights (count + floor) ** power, counted in
the training half of the movie reviews and editorials, or with a Zipf prior in place of the counts. What is measured
needs no labels: mean cosine and Spearman (of the similarities of pairs) of the vectors of 2,000 held-out sentences.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import mean

import numpy as np
from rich.console import Console
from rich.table import Table

from ksubspaces import compress
from ksubspaces.storage import write_whole
from ksubspaces.tokens import token_weights, zipf_counts

from ..lib import encoder, machine, texts
from ..lib.data import minilm
from ..lib.results import RESULTS
from ..lib.units import cache_folder, in_parallel, once

RATIOS = (0.4, 0.6, 0.8)
OUT = RESULTS / "token-weights.json"


@dataclass(frozen=True)
class Weighting:
    """One choice of weights; counts are those of the texts, of the prior, or of the prior on plain token numbers."""

    counts: str
    power: float
    floor: float
    exponent: float = 1.0
    total: float = 1e6

    @property
    def name(self) -> str:
        prior = "" if self.counts == "texts" else f", rank^-{self.exponent:g}, {self.total:.0e} tokens"
        return f"{self.counts}: (count + {self.floor:g})^{self.power:g}{prior}"

    def weights(self) -> np.ndarray:
        if self.counts == "texts":
            counts = encoder.training_counts()
        elif self.counts == "prior":
            counts = zipf_counts(encoder.load_tokenizer(), exponent=self.exponent, total=self.total)
        else:
            shares = np.arange(1.0, 1 + len(encoder.training_counts())) ** -self.exponent
            counts = self.total * shares / shares.sum()
        return token_weights(counts, power=self.power, floor=self.floor)


@dataclass(frozen=True)
class Trial:
    """One compression and what it does to sentence vectors."""

    weighting: Weighting
    ratio: float
    seed: int

    @property
    def file(self) -> str:
        w = self.weighting
        numbers = [w.power, w.floor, w.exponent, w.total, self.ratio, self.seed]
        return "-".join([w.counts, *(f"{number:g}" for number in numbers)]) + ".json"


def weightings() -> list[Weighting]:
    """Every power with every floor for counts; for the prior its own two parameters instead."""
    counted = [Weighting("texts", 0, 1)]
    counted += [Weighting("texts", power, floor) for power in (0.25, 0.5, 0.75, 1) for floor in (0.1, 1, 10)]
    priors = [
        Weighting("prior", 0.5, 1),
        Weighting("prior", 0.5, 1, total=1e5),
        Weighting("prior", 0.5, 1, exponent=0.75),
    ]
    return [*counted, *priors, Weighting("plain numbers", 0.5, 1)]


@cache
def probe() -> encoder.Probe:
    """One for all trials of a process."""
    return encoder.Probe()


def measure(trial: Trial) -> dict:
    """Compress, swap in, compare."""
    A = minilm()
    factors = compress(A, trial.ratio, sample_weight=trial.weighting.weights(), seed=trial.seed)
    kept = probe().fidelity(factors.reconstruct())
    return {
        **asdict(kept),
        "k": len(factors.dims),
        "n_parameters": factors.n_parameters,
        "relative_error": factors.measure_error(A),
    }


def _unit(trial: Trial) -> dict:
    return once(cache_folder("study-weights") / trial.file, lambda: measure(trial))


def main(arguments: Sequence[str]) -> None:
    """Measure everything that is not yet measured, print the table, write the results."""
    parser = argparse.ArgumentParser(prog="python -m bench token-weights", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="partitions for each weighting and ratio (default: 1)")
    parser.add_argument("--processes", type=int, default=machine.cores())
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    console = Console(width=120)
    texts.load_all()  # fetched once, not by each process
    trials = [Trial(w, ratio, seed) for seed in range(options.seeds) for w in weightings() for ratio in RATIOS]
    results: dict[Trial, dict] = {}
    for trial, result in in_parallel(_unit, trials, options.processes):
        results[trial] = result
        shown = f"{trial.weighting.name}, ratio {trial.ratio}, seed {trial.seed}: cosine {result['cosine']:.4f}"
        console.print(f"{len(results)}/{len(trials)} {shown}", markup=False, highlight=False)
    console.print(table(results))
    about = machine.describe() | {"sentences": encoder.SENTENCES}
    rows = [{**asdict(trial), **result} for trial, result in sorted(results.items(), key=lambda item: item[0].file)]
    write_whole(options.out, (json.dumps({**about, "rows": rows}, indent=1) + "\n").encode())
    console.print(f"written: {options.out}")


def table(results: dict[Trial, dict]) -> Table:
    """A line for each weighting: cosine and Spearman at each ratio, means over the seeds."""
    grid = Table(title="mean cosine / Spearman of sentence vectors", title_justify="left")
    grid.add_column("weights")
    for ratio in RATIOS:
        grid.add_column(f"{ratio:.0%} fewer", justify="right")

    def over_seeds(pick: Callable[[Trial], bool], figure: str) -> str:
        return f"{mean(result[figure] for trial, result in results.items() if pick(trial)):.4f}"

    for weighting in dict.fromkeys(trial.weighting for trial in results):
        cells = []
        for ratio in RATIOS:

            def same(trial: Trial, w: Weighting = weighting, ratio: float = ratio) -> bool:
                return (trial.weighting, trial.ratio) == (w, ratio)

            cells.append(f"{over_seeds(same, 'cosine')} / {over_seeds(same, 'spearman')}")
        grid.add_row(weighting.name, *cells)
    return grid
