"""A Dask array in factored form: parts of consecutive rows, each a factorization by the same bases, where rows are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from ksubspaces import kernels
from ksubspaces.kernels import Flats

from .arrays import AnyArray, Array, device_of, place, to_numpy
from .blocked import Blocks, Delayed, joined, moved_to
from .coefficients import split_coefficients
from .factorization import RECORDED, Factorization
from .folders import Holding, whole_folder
from .result import UNKNOWN, Clustered, Record
from .storage import load_arrays, pack_labels, reading, save_arrays, split_bases, stack_bases, unpack_labels
from .subspaces import Subspaces

FLATS, PART = "flats.safetensors", "rows-{:05d}.safetensors"
HELD = Holding("factors in parts", lambda folder: (folder / FLATS).is_file())
_FLATS_KIND, _PART_KIND = "BlockedFactorization", "part of a BlockedFactorization"


@dataclass(frozen=True, eq=False, repr=False)
class BlockedFactorization(Clustered):
    """Rows in factored form, in parts that are computed when they are asked for: row i is its coefficients times
    ``bases[labels[i]]``, plus ``offsets[labels[i]]`` if affine.

    Attributes
    ----------
    parts : list of Dask's delayed :class:`Factorization`
        One for each chunk of rows, in their order.
    counts_of_parts : (parts, k) int64 array
        Rows of each cluster in each part.
    bases : list of k arrays (j_c, d)
    offsets : (k, d) array or None
    record : Record
        How the fit went; ``objective``, ``history`` and the other properties tell it.

    Examples
    --------
    >>> import dask.array as da
    >>> from ksubspaces import compress
    >>> A = da.random.default_rng(0).normal(size=(4000, 12), chunks=(1000, -1))
    >>> factors = compress(A, 0.4, k=1)
    >>> factors.labels.chunks == (A.chunks[0],), factors.reconstruct().shape
    (True, (4000, 12))
    """

    parts: list[Delayed]
    counts_of_parts: np.ndarray
    bases: list[np.ndarray]
    offsets: np.ndarray | None = None
    record: Record = field(default=UNKNOWN)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d) of the matrix."""
        return int(self.counts_of_parts.sum()), int(self.bases[0].shape[1])

    @property
    def counts(self) -> tuple[int, ...]:
        """Rows n_c of each cluster."""
        return tuple(self.counts_of_parts.sum(axis=0).tolist())

    @property
    def ratio(self) -> float:
        """Share of the matrix's n d numbers that is saved: ``1 - n_parameters / (n d)``; negative if none is."""
        n, d = self.shape
        return 1 - self.n_parameters / (n * d)

    @property
    def labels(self) -> AnyArray:
        """Cluster of each row: a Dask array (n,) of int32, in chunks as the rows were."""
        return self._joined(lambda part: part.labels, [(m,) for m in self.counts_of_parts.sum(axis=1)], np.int32)

    @property
    def blocks(self) -> list[AnyArray]:
        """Coefficients of the rows of each cluster, in the order of the rows: k Dask arrays (n_c, j_c)."""
        return [
            self._joined(partial(_block, c=c), [(m, j) for m in self.counts_of_parts[:, c]], self.bases[0].dtype)
            for c, j in enumerate(self.dims)
        ]

    def reconstruct(self) -> AnyArray:
        """The whole matrix decoded: a Dask array (n, d)."""
        shapes = [(m, self.shape[1]) for m in self.counts_of_parts.sum(axis=1)]
        return self._joined(Factorization.reconstruct, shapes, self.bases[0].dtype)

    def gather(self) -> Factorization:
        """All parts as one factorization in memory."""
        import dask

        parts = dask.compute(*self.parts)
        blocks = [np.concatenate([part.blocks[c] for part in parts]) for c in range(self.k)]
        labels = np.concatenate([part.labels for part in parts])
        return Factorization(labels, blocks, self.bases, self.offsets, record=self.record)

    def save(self, folder: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Save to a folder, whole or not at all: the bases, and a file for each part, written where it is computed.

        Parameters
        ----------
        folder : path
            Which all workers reach by this path.
        overwrite : bool, default False
            Replace factors in parts that are there.

        Raises
        ------
        OSError
            When the folder is in the way, or cannot be written, or the disk is full; what was there before stays.
        """
        import dask

        with whole_folder(folder, HELD, overwrite) as fresh:
            write = dask.delayed(_save_part, pure=False)
            dask.compute(*[write(part, fresh / PART.format(i)) for i, part in enumerate(self.parts)])
            arrays = {**stack_bases(self.bases), "counts": self.counts_of_parts}
            if self.offsets is not None:
                arrays["offsets"] = self.offsets
            save_arrays(fresh / FLATS, _FLATS_KIND, arrays, {name: getattr(self.record, name) for name in RECORDED})

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> BlockedFactorization:
        """Open what :meth:`save` wrote. Parts are read when they are asked for, and checked then.

        Raises
        ------
        OSError, ValueError
            When there is no such folder, or its bases are damaged or something else.
        """
        import dask

        path = Path(folder)
        arrays, facts = load_arrays(path / FLATS, _FLATS_KIND)
        with reading(path / FLATS):
            bases, counts = split_bases(arrays), arrays["counts"]
            if counts.ndim != 2 or counts.shape[1] != len(bases):
                raise ValueError(f"counts must be (parts, {len(bases)}), got shape {counts.shape}")
            record = Record.from_facts({name: facts[name] for name in RECORDED})
        flats = dask.delayed((bases, arrays.get("offsets")), traverse=False)
        read = dask.delayed(_load_part, pure=False)
        parts = [read(path / PART.format(i), own, flats) for i, own in enumerate(counts)]
        return cls(parts, counts, bases, arrays.get("offsets"), record)

    def _joined(self, take: Delayed, shapes: Sequence[tuple[int, ...]], dtype: DTypeLike) -> AnyArray:
        import dask

        take = dask.delayed(take, pure=False)
        return joined([take(part) for part in self.parts], [tuple(map(int, shape)) for shape in shapes], dtype)

    def __repr__(self) -> str:
        n, d = self.shape
        return (
            f"BlockedFactorization({n} x {d} in {self.k} clusters and {len(self.parts)} parts, "
            f"{self.n_parameters:,} parameters, {100 * self.ratio:.1f}% fewer)"
        )


def of_blocks(
    blocks: Blocks, labels: Sequence[Delayed], flats: Flats, counts: np.ndarray, record: Record
) -> BlockedFactorization:
    """Factors of rows in blocks by their labels, of which there are so many in each."""
    parts = blocks.each(_factor, blocks.blocks, labels, flats=flats)
    return BlockedFactorization(parts, counts, flats.layout.split(flats.bases), flats.offsets, record)


def factorize_blocks(X: AnyArray, model: Subspaces) -> BlockedFactorization:
    """Each row of a Dask array in the flat of its label in a fit of that array; the record is that of the fit."""
    blocks, flats = Blocks(X, dtype=model.bases[0].dtype), Flats.from_bases(model.bases, model.offsets)
    labels = list(model.labels.to_delayed())
    counts = blocks.sum(_count, flats.k, beside=labels)
    return of_blocks(blocks, labels, flats, counts, model.record)


def _count(block: tuple[Array, Array | None], labels: Array, k: int) -> np.ndarray:
    return to_numpy(kernels.label_counts(labels, k))[None]


def _factor(block: tuple[Array, Array | None], labels: Array, flats: Flats) -> Factorization:
    X, groups = block[0], kernels.group_rows(labels, flats.k)
    packed, _ = kernels.coefficients(X, groups, moved_to(flats, partial(place, device=device_of(X))))
    blocks = split_coefficients(to_numpy(packed), np.diff(groups.bounds).tolist(), flats.layout.dims)
    return Factorization(to_numpy(labels), blocks, flats.layout.split(flats.bases), flats.offsets)


def _block(part: Factorization, c: int) -> np.ndarray:
    return part.blocks[c]


def _save_part(part: Factorization, path: Path) -> None:
    arrays = {
        "labels": pack_labels(part.labels, part.k),
        "coefficients": np.concatenate([own.ravel() for own in part.blocks]),
    }
    save_arrays(path, _PART_KIND, arrays, {})


def _load_part(path: Path, counts: np.ndarray, flats: tuple[list[np.ndarray], np.ndarray | None]) -> Factorization:
    bases, offsets = flats
    arrays, _ = load_arrays(path, _PART_KIND)
    with reading(path):
        labels = unpack_labels(arrays["labels"], len(bases))
        if not np.array_equal(np.bincount(labels, minlength=len(bases)), counts):
            raise ValueError(f"it has other rows than {FLATS} says")
        blocks = split_coefficients(arrays["coefficients"], counts.tolist(), [len(V) for V in bases])
    return Factorization(labels, blocks, bases, offsets)
