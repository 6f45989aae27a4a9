"""The units of work of the downstream benchmark; each keeps what it finishes in the plan's folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ksubspaces import Factorization
from ksubspaces.integrations.torch import SubspaceEmbedding

from ..lib import encoder
from ..lib.data import minilm
from ..lib.units import once
from . import models
from .methods import METHODS
from .plan import Plan, data_of


@dataclass(frozen=True)
class Original:
    """A fine-tuned model before compression."""

    plan: Plan
    seed: int

    @property
    def checkpoint(self) -> Path:
        return self.plan.folder / f"model{self.seed}.safetensors"


@dataclass(frozen=True)
class Unit:
    """One factorization of one table, and all that is measured with it; without a model, the pretrained encoder's."""

    model: Original | None
    plan: Plan
    method: str
    ratio: float
    partition: int

    @property
    def name(self) -> str:
        table = "pretrained" if self.model is None else f"model{self.model.seed}"
        return f"{table}-{self.method}-{self.ratio:g}-{self.partition}"

    @property
    def path(self) -> Path:
        return self.plan.folder / self.name

    @property
    def tuned(self) -> bool:
        """One partition is fine-tuned in factored form."""
        return self.model is not None and self.partition == 0 and METHODS[self.method].tuned


def units(plan: Plan) -> list[Unit]:
    """All factorizations of a plan; those with most to measure come first."""
    tables = [None, *(Original(plan, seed) for seed in plan.seeds)]
    found = [
        Unit(table, plan, method, ratio, partition)
        for table in tables
        for method in plan.methods
        for ratio in plan.ratios
        for partition in plan.partitions_of(method)
    ]
    return sorted(found, key=lambda unit: not unit.tuned)


def fine_tune(original: Original) -> dict[str, Any]:
    """Fine-tune the pretrained encoder, which is what all methods start from."""
    plan, data = original.plan, data_of(original.plan)
    if not original.checkpoint.exists():
        classifier = models.new_classifier(minilm()[data.vocabulary.rows], original.seed)
        models.train(classifier, data.train.ids, data.train.scores > 0, epochs=plan.epochs, seed=original.seed)
        models.save_classifier(original.checkpoint, classifier)
    path = original.checkpoint.with_suffix("")
    return {"swapped": answers(plan, path, "swapped", lambda: models.load_classifier(original.checkpoint))}


def measure_original(original: Original) -> dict[str, Any]:
    """Fine-tune the pretrained encoder, then an epoch more."""
    found = fine_tune(original)

    def tuned() -> models.Classifier:
        return _tuned(original, models.load_classifier(original.checkpoint))

    return found | {"tuned": answers(original.plan, original.checkpoint.with_suffix(""), "tuned", tuned)}


def table_of(original: Original) -> np.ndarray:
    """The fine-tuned model's whole table; rows that occur nowhere are the pretrained ones."""
    table = minilm().copy()
    table[data_of(original.plan).vocabulary.rows] = models.table_of(models.load_classifier(original.checkpoint))
    return table


def measure(unit: Unit) -> dict[str, Any]:
    """Factor the table, then compare the pretrained encoder's sentence vectors, or a fine-tuned model's answers."""
    plan, model = unit.plan, unit.model
    stored = unit.path.with_name(f"{unit.name}.safetensors")

    @cache
    def factors() -> Factorization:
        if not stored.exists():
            _factor(unit, stored)
        return Factorization.load(stored)

    results = once(_file(unit.path, "factors"), lambda: _factor(unit, stored))
    if model is None:
        kept = once(_file(unit.path, "fidelity"), lambda: asdict(_probe(plan).fidelity(factors().reconstruct())))
        results |= {"fidelity": kept}
    else:
        vocabulary = data_of(plan).vocabulary

        def swapped() -> models.Classifier:
            return models.swap(models.load_classifier(model.checkpoint), encoder.dense(factors()[vocabulary.rows]))

        def tuned() -> models.Classifier:
            layer = SubspaceEmbedding.from_factorization(vocabulary.restrict(factors()))
            return _tuned(model, models.swap(models.load_classifier(model.checkpoint), layer))

        results |= {"swapped": answers(plan, unit.path, "swapped", swapped)}
        if unit.tuned:
            results |= {"tuned": answers(plan, unit.path, "tuned", tuned)}
    stored.unlink(missing_ok=True)  # up to 28 MB, of which there would be 190 in the end
    return results


def _factor(unit: Unit, stored: Path) -> dict[str, Any]:
    table = minilm() if unit.model is None else table_of(unit.model)
    begin = time.perf_counter()
    factors = METHODS[unit.method].factor(table, unit.ratio, unit.partition)
    seconds = time.perf_counter() - begin
    factors.save(stored)
    return {
        "seconds": seconds,
        "n_parameters": factors.n_parameters,
        "dims": factors.dims,
        "counts": factors.counts,
        "relative_error": factors.measure_error(table),
        "count_weighted_error": factors.measure_error(table, encoder.training_counts()),
    }


def _tuned(original: Original, classifier: models.Classifier) -> models.Classifier:
    tune = data_of(original.plan).tune
    models.train(classifier, tune.ids, tune.scores > 0, epochs=1, seed=original.seed)
    return classifier


def answers(plan: Plan, path: Path, what: str, make: Callable[[], models.Classifier]) -> np.ndarray:
    """The logits on the held-out sentences of the classifier that `make()` returns."""

    def answer() -> dict[str, Any]:
        return {"logits": [round(float(logit), 5) for logit in models.logits(make(), data_of(plan).test.ids)]}

    return np.array(once(_file(path, what), answer)["logits"])


def _file(path: Path, what: str) -> Path:
    return path.with_name(f"{path.name}-{what}.json")


@cache
def _probe(plan: Plan) -> encoder.Probe:
    return encoder.Probe(plan.probe)
