"""Rows in the blocks of a Dask array, wherever these are, and the passes over them: one a step of the alternation.

Both steps are sums over rows. A pass gives each block the flats; the block gives back the moments of its clusters, its
part of the objective, how many rows moved, and the rows that are fitted worst. Sums go up a tree whose shape follows
from the number of blocks, so the bits do not depend on who worked on which block. Labels stay where the blocks are.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from ksubspaces import kernels
from ksubspaces.kernels import Flats, Moments

from .arrays import (
    AnyArray,
    AnyDtype,
    Array,
    compute_dtype,
    device_of,
    enter,
    place,
    requested_dtype,
    squared_lengths,
    to_numpy,
)
from .checks import Passed, check_matrix, check_weights
from .coreset import odds

Delayed: TypeAlias = Any
"""What Dask is to compute, or has; of a block: where the block is."""

MOMENT_BYTES = 1 << 30  # most that second moments of all clusters may take: each block gives back as much


def is_dask(X: AnyArray) -> bool:
    """Whether this is a Dask array, which there can only be where Dask has been imported."""
    return type(X).__module__.startswith("dask.array")


@dataclass(frozen=True, eq=False)
class Tally:
    """Moments of clusters and rows in each, which add up over blocks."""

    moments: Moments
    counts: np.ndarray

    def __add__(self, other: Tally) -> Tally:
        moments = copy.deepcopy(self.moments)  # Dask may add again what it has, after a worker died
        moments.add(other.moments)
        return Tally(moments, self.counts + other.counts)


class Blocks:
    """Rows (n, d) in blocks of consecutive rows, their weights, and the work that is done with them.

    Parameters
    ----------
    X : dask.array.Array (n, d)
        Of chunks that have all columns and known sizes.
    weights : (n,) dask.array.Array or array, optional
    dtype : {None, "float32", "float64"}
    name : str, default "X"
        Of the rows, in errors.
    """

    def __init__(
        self, X: AnyArray, weights: AnyArray | None = None, dtype: AnyDtype | None = None, name: str = "X"
    ) -> None:
        if X.ndim != 2:
            raise ValueError(f"{name} must be a matrix of rows (n, d), got shape {tuple(X.shape)}")
        if np.isnan(X.shape).any():
            raise ValueError(f"{name} has chunks of unknown sizes; call {name}.compute_chunk_sizes() first")
        if len(X.chunks[1]) > 1:
            raise ValueError(
                f"{name} has its columns in {len(X.chunks[1])} chunks, but a row must lie in one; "
                f"pass {name}.rechunk({{1: -1}})"
            )
        _check_workers()
        self.dtype = compute_dtype(X.dtype, name) if dtype is None else requested_dtype(dtype)
        self.sizes = [size for size in X.chunks[0] if size]
        self.n, self.d = int(sum(self.sizes)), int(X.shape[1])
        if not self.n or not self.d:
            raise ValueError(f"{name} has no rows or no columns: shape {tuple(X.shape)}")
        bounds = np.cumsum([0, *self.sizes]).tolist()
        self.first = bounds[:-1]
        blocks = [block for block, size in zip(X.to_delayed()[:, 0], X.chunks[0], strict=True) if size]
        parts: Sequence[Delayed] = [None] * len(blocks)
        if weights is not None:
            if weights.shape != (self.n,):
                raise ValueError(
                    f"sample_weight must have one entry for each of the {self.n} rows of {name}, got shape "
                    f"{tuple(weights.shape)}"
                )
            parts = [weights[a:b] for a, b in itertools.pairwise(bounds)]
        self.blocks = [
            self._delayed(_enter)(block, self.dtype, *where, part, (size, self.d), name)
            for block, *where, part, size in zip(blocks, range(len(blocks)), self.first, parts, self.sizes, strict=True)
        ]

    def check_moments(self, k: int) -> None:
        """Refuse more clusters than there is room for in what each block gives back."""
        size = 8 * k * self.d**2
        if size > MOMENT_BYTES:
            raise ValueError(
                f"k={k} second moments of {self.d} columns take {size / 2**30:.1f} GiB for each block; "
                "choose a smaller k, or pass an array in memory"
            )

    @property
    def _delayed(self) -> Delayed:
        import dask

        return partial(dask.delayed, pure=False, traverse=False)

    def tree(self, add: Callable[[Delayed, Delayed], Delayed], parts: Sequence[Delayed]) -> Delayed:
        """The sum of parts, not computed yet, by a tree over their order."""
        add = self._delayed(add)
        while len(parts) > 1:
            pairs = [add(*parts[i : i + 2]) for i in range(0, len(parts) - 1, 2)]
            parts = [*pairs, *parts[2 * len(pairs) :]]
        return parts[0]

    def sum(self, work: Callable[..., Delayed], *args: Passed, beside: Sequence[Delayed] | None = None) -> Delayed:
        """The sum of what work gives for each block and its number, or what there is ``beside`` it."""
        own = range(len(self.blocks)) if beside is None else beside
        sent = [self._delayed(arg) if isinstance(arg, Flats) else arg for arg in args]
        work = self._delayed(work)
        return self.tree(_plus, [work(*pair, *sent) for pair in zip(self.blocks, own, strict=True)]).compute()

    def step(
        self, work: Callable[..., Delayed], flats: Flats, before: Sequence[Delayed] | None, **how: Passed
    ) -> tuple[list[Delayed], Delayed, int]:
        """Labels of each block by flats, where it is; what the work gives besides, summed; how many labels are new."""
        import dask

        sent, work = self._delayed(flats), self._delayed(work)
        parts = [work(block, sent, **how) for block in self.blocks]
        labels, sums = [part[0] for part in parts], self.tree(_plus, [part[1] for part in parts])
        moved = [self._delayed(_count_moved)(*pair) for pair in zip(labels, before, strict=True)] if before else []
        total = self.tree(_plus, moved) if moved else self._delayed(int)(self.n)
        # Labels do not come from the labels before: what is lost is computed again from its block and these flats.
        sums, total, *labels = dask.persist(sums, total, *labels)
        sums, total = dask.compute(sums, total)
        return labels, sums, total

    def each(self, work: Callable[..., Delayed], *beside: Sequence[Delayed], **args: Passed) -> list[Delayed]:
        """Work on what there is of each block, not done yet."""
        work, sent = self._delayed(work), {name: self._delayed(arg) for name, arg in args.items()}
        return [work(*own, **sent) for own in zip(*beside, strict=True)]

    def array(self, labels: Sequence[Delayed]) -> AnyArray:
        """Labels of all rows (n,) as a Dask array with X's chunks."""
        return joined(labels, [(size,) for size in self.sizes], np.int32)

    def survey(self) -> tuple[float, float]:
        """``sum w |x|^2`` and ``sum w``, after every block was found fit to be computed with."""
        energy, mass = self.sum(_survey)
        if mass == 0:
            raise ValueError("sample_weight is zero everywhere; leave it out to weigh all rows alike")
        return float(energy), float(mass)

    def sample(
        self, m: int, seed: int, energy: float, mass: float, flats: Flats | None = None, left: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """About m rows, their weights, and for how many each stands: sums over them, so often, are those over all rows
        in expectation.

        A row is drawn with a probability that follows from its share of ``sum w`` and of ``sum w |x|^2``: the upper
        bound of its sensitivity (Feldman and Langberg, "A Unified Framework for Approximating and Clustering Data",
        2011) as far as one pass can know it. With flats that leave so much, its shares of that and of rows count.
        """
        totals = (mass, energy) if flats is None else (self.n, mass, energy, left)
        return self.sum(_sample, m, totals, seed, flats)


def joined(parts: Sequence[Delayed], shapes: Sequence[tuple[int, ...]], dtype: DTypeLike) -> AnyArray:
    """Arrays of known shapes, wherever they are, as one Dask array."""
    import dask.array as da

    return da.concatenate([da.from_delayed(*part, dtype) for part in zip(parts, shapes, strict=True)])


def _plus(a: Delayed, b: Delayed) -> Delayed:
    if isinstance(a, tuple):
        return tuple(map(_plus, a, b))
    return np.concatenate([a, b]) if isinstance(a, np.ndarray) else a + b


def _check_workers() -> None:
    """Refuse a cluster some of whose workers cannot import this package."""
    import dask

    client = getattr(dask.base.get_scheduler(), "__self__", None)
    if client is None or not hasattr(client, "run"):  # no cluster
        return
    found = client.run(importlib.util.find_spec, "ksubspaces", on_error="return")
    if lacking := [worker for worker, spec in found.items() if spec is None or isinstance(spec, ImportError)]:
        raise ImportError(
            f"{len(lacking)} of {len(found)} Dask workers lack ksubspaces, {lacking[0]} first; "
            "install it where they run, in the same version",
            name="ksubspaces",
        )


def _enter(
    block: AnyArray,
    dtype: np.dtype,
    number: int,
    first: int,
    weights: AnyArray,
    shape: tuple[int, int],
    name: str,
) -> tuple[Array, Array | None]:
    """A block in the dtype of the computation, and its weights, both checked."""
    where = f"in block {number}, rows {first} to {first + shape[0] - 1} of {name}: "
    try:
        array, _ = enter(block, name, None, dtype)
        if array.shape[1:] != shape[1:]:
            raise ValueError(f"{name} must have {shape[1]} columns as it said, got shape {tuple(array.shape)}")
        if len(array) != shape[0]:
            raise ValueError(f"{name} must have {shape[0]} rows as it said, got {len(array)}: did a file end early?")
        if check_matrix(array, name):
            raise ValueError(f"{name} has squares that leave the range of its dtype; scale it, or pass dtype='float64'")
    except (TypeError, ValueError) as error:
        raise type(error)(where + str(error)) from None
    if weights is None:
        return array, None
    w, _ = enter(np.asarray(weights), "sample_weight", device_of(array), np.float64)
    return array, w


def _survey(block: tuple[Array, Array | None], number: int) -> tuple[float, float]:
    X, w = block
    if w is not None:
        if bool((w > 0).any()):
            check_weights(w, len(X), device_of(X))
        elif bool((w != 0).any()):
            raise ValueError(f"sample_weight must be finite and nonnegative, but it is not in block {number}")
    squares = squared_lengths(X, np.float64)
    return (float(squares.sum()), float(len(X))) if w is None else (float(w @ squares), float(w.sum()))


def _sample(
    block: tuple[Array, Array | None],
    number: int,
    m: int,
    totals: Sequence[float],
    seed: int,
    flats: Flats | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    X, w = block
    own = np.ones(len(X)) if w is None else to_numpy(w)
    measures = [own, own * to_numpy(squared_lengths(X, np.float64))]
    if flats is not None:
        _, residuals = kernels.assign(X, moved_to(flats, partial(place, device=device_of(X))))
        measures = [np.ones(len(X)), *measures, own * to_numpy(residuals).astype(np.float64)]
    chances = odds(m, *measures, totals=totals)
    drawn = np.flatnonzero(np.random.default_rng([seed, number]).random(len(X)) < chances)
    return to_numpy(X[place(drawn, device_of(X))]), own[drawn], 1 / chances[drawn]


def _count_moved(labels: Array, before: Array) -> int:
    return int((labels != before).sum())


def moved_to(parts: Delayed, to: Callable[[Array], Array]) -> Delayed:
    """A dataclass of arrays with each of them moved."""
    found = {field.name: getattr(parts, field.name) for field in dataclasses.fields(parts)}
    return replace(parts, **{name: to(part) for name, part in found.items() if hasattr(part, "dtype")})
