"""``compress`` in bits, for a budget or for an error: checks what is given, and what comes of the search for a code."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from numbers import Real

import numpy as np

from ..arrays import AnyArray, AnyDtype, entered, scaled, to_numpy
from ..checks import Passed, Seed, check_matrix, check_weights, flag, fraction, generators, whole
from ..decoded import exact_numbers
from ..progress import Bar, shown
from ..result import Record, share
from .quantized import QuantizedFactorization
from .search import WIDTH, Coded, Search, Target, TooFew
from .smallest import Trial, Unreachable, smallest

CODERS = {"trellis": WIDTH, "scalar": 0}


class Quantizer:
    """One matrix, in packed bits of any size.

    Parameters
    ----------
    A, sample_weight, relative, coder, exact_rows, device, dtype, seed, progress
        As in :func:`ksubspaces.compress`.
    """

    def __init__(
        self,
        A: AnyArray,
        *,
        sample_weight: AnyArray | None = None,
        relative: bool = False,
        coder: str = "trellis",
        exact_rows: AnyArray | None = None,
        device: str | None = None,
        dtype: AnyDtype | None = None,
        seed: Seed = None,
        progress: bool = False,
    ) -> None:
        self._begun = time.perf_counter()
        if coder not in CODERS:
            raise ValueError(f"coder must be 'trellis' or 'scalar', got {coder!r}")
        self._relative = flag("relative", relative)
        with entered(A, "A", device, dtype) as (given, self._home):
            array, kept = to_numpy(given), exact_numbers(given, exact_rows)
            weights, self._unit = np.ones(len(array)), 1.0
            if sample_weight is not None:
                own, self._unit = check_weights(sample_weight, len(array), "cpu")
                weights = to_numpy(own).astype(np.float64)
        self._dtype, self._exponent = array.dtype.name, check_matrix(array, "A", dtype=np.float32)
        rows = np.ascontiguousarray(scaled(array, -self._exponent), np.float32)
        squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
        self._bar = Bar(float(weights @ squares)) if progress else None
        if relative:
            weights = np.where(squares > 0, weights / np.where(squares > 0, squares, 1), 0)
        self.energy = float(weights @ squares)
        numbers = np.zeros(0, np.int64) if kept is None else to_numpy(kept)
        weights[numbers] = 0
        target = Target(rows, weights, numbers, array[numbers], CODERS[coder])
        self.search = Search(target, next(generators(seed)), self._bar)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d) of the matrix."""
        n, d = self.search.target.A.shape
        return n, d

    def within(self, nbytes: float) -> QuantizedFactorization:
        """The least error that is found in so many bytes.

        Raises
        ------
        ValueError
            When they are too few for anything.
        """
        with shown(self._bar):
            try:
                found = self.search.within(nbytes)
            except TooFew as failure:
                raise TooFew(f"{nbytes:.0f} bytes are too few for A {self.shape}: {failure}; give more") from None
        if self._bar is not None:
            self._bar.finish()
        return self._result(found)

    def smallest(self, max_error: float) -> QuantizedFactorization:
        """The smallest code that is found whose relative error is at most ``max_error``.

        Raises
        ------
        ValueError
            When no number of bits does.
        """
        n, d = self.shape

        def attempt(nbytes: float) -> Trial[Coded] | None:
            try:
                coded = self.search.within(nbytes)
            except TooFew:
                return None
            return Trial(coded, coded.stored.nbytes, share(coded.error, self.energy))

        with shown(self._bar):
            try:
                trial = smallest(attempt, max_error, self.search.size_for(max_error * self.energy), n * d)
            except Unreachable as failure:
                raise ValueError(
                    f"max_error={max_error:g} is less than the most bits there are leave of A, {failure.lost:.3g}; "
                    "allow more"
                ) from None
        if self._bar is not None:
            self._bar.finish()
        return self._result(trial.result)

    def _result(self, coded: Coded) -> QuantizedFactorization:
        facts = {**coded.stored.facts, "dtype": self._dtype, "exponent": self._exponent}
        scale = 0 if self._relative else 2 * self._exponent
        with np.errstate(over="ignore"):
            energy = float(np.ldexp(self.energy * self._unit, scale))
        lost, seconds = share(coded.error, self.energy), time.perf_counter() - self._begun
        record = Record(lost * energy, energy, lost, converged=True, seconds=seconds)
        return QuantizedFactorization(replace(coded.stored, facts=facts), coded.candidate.name, self._home, record)


def quantize(
    A: AnyArray, *, bits: float | None, nbytes: int | None, max_error: float | None, **options: Passed
) -> QuantizedFactorization:
    """The code of one matrix for one of these, with the options of a :class:`Quantizer`."""
    if max_error is not None:
        allowed = fraction("max_error", max_error)
        return Quantizer(A, **options).smallest(allowed)
    quantizer = Quantizer(A, **options)
    return quantizer.within(bytes_for(quantizer.shape, bits, nbytes))


def bytes_for(shape: tuple[int, int], bits: float | None, nbytes: int | None) -> int:
    """The budget in bytes of so many bits for each number, or as it is."""
    if nbytes is not None:
        return whole("nbytes", nbytes, 1)
    if isinstance(bits, (bool, np.bool_)) or not isinstance(bits, Real):
        raise TypeError(f"bits must be a number, got {bits!r}")
    if not 0 < float(bits) < math.inf:
        raise ValueError(f"bits is how many to store for each number of A, above 0; got {bits!r}")
    return math.floor(float(bits) * shape[0] * shape[1] / 8)
