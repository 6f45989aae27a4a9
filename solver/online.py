"""Subspaces of a stream: each batch of rows is assigned, added to its clusters' second moments, and forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ksubspaces import kernels
from ksubspaces.kernels import Flats, Moments, Streamed

from .alternation import rounded
from .arrays import AnyArray, AnyDtype, Array, Home, device_of, entered, namespace
from .checks import Passed, Seed, check_matrix, check_weights, flag, positive, whole
from .fit import fit_subspaces
from .refit import best_flats
from .result import Record
from .seeding import Init
from .subspaces import Subspaces

if TYPE_CHECKING:
    from typing_extensions import Self


class OnlineSubspaces:
    """K subspaces of rows that come in batches and are not kept; old ones may be forgotten.

    The first batch is fitted by :func:`fit_subspaces`. Of each later one the rows go to their nearest flats, their
    second moments are added to those of the clusters, and the flats are fitted again.

    Parameters
    ----------
    k : int
        Number of subspaces.
    j : int or sequence of k ints
        Dimension of each.
    affine : bool, default False
        Flats with offsets.
    half_life : float, default inf
        Weight (number, if they have none) of a cluster's rows after which what came before them counts half. With inf
        nothing is forgotten.
    steps : int, default 1
        Times that a batch is assigned and the flats are fitted again. More lower the batch's distances further.
    init : Subspaces or str or array or list, default "k-means++"
        Subspaces to begin with, in place of a fit to the first batch; or the start of that.
    dtype : {None, "float32", "float64"}
        Precision to compute in; ``None`` goes by the first batch.
    device : {None, "cpu", "cuda", "cuda:<index>"}
        Where to compute; ``None`` is where the first batch lives.
    seed : int, numpy.random.Generator or None
        Of the fit to the first batch.
    **options
        Of that fit, as :func:`fit_subspaces` takes them.

    Attributes
    ----------
    subspaces : Subspaces
        The flats now, with the labels of the last batch. Its objective is that of all rows so far, as far as they are
        remembered, about these flats; each row counts for the cluster that it was given to when it came.
    n_rows : int
        Rows seen.

    Notes
    -----
    It gives up what takes a second look: a row keeps the cluster of its batch, a cluster that gets no rows stays where
    it is, nothing breathes, and the result depends on the order of batches. The first batch should show every subspace,
    by some times k (j + 1) rows. With k=1 nothing is given up: without forgetting it is the PCA of all rows. Memory is
    ``8 k d^2`` bytes and a batch. GROUSE (Balzano, Nowak and Recht 2010) and K-subspaces by it (Balzano, Szlam, Recht
    and Nowak, "K-subspaces with missing data", 2012) keep k bases alone, for a step size to be chosen; moments that
    fade are those of recursive least squares (Yang, "Projection approximation subspace tracking", 1995).

    Examples
    --------
    >>> import numpy as np
    >>> from ksubspaces import OnlineSubspaces
    >>> rng = np.random.default_rng(0)
    >>> lines = np.array([[1.0, 0.0, 0.0], [0.0, 0.6, 0.8]])
    >>> stream = OnlineSubspaces(k=2, j=1, half_life=500, seed=0)
    >>> for batch in range(5):
    ...     rows = rng.normal(size=(100, 1)) * lines[rng.integers(2, size=100)]
    ...     stream = stream.partial_fit(rows + 0.01 * rng.normal(size=(100, 3)))
    >>> stream.n_rows, bool(stream.subspaces.residuals(lines).max() < 1e-3)
    (500, True)
    """

    def __init__(
        self,
        k: int,
        j: int | Sequence[int],
        *,
        affine: bool = False,
        half_life: float = np.inf,
        steps: int = 1,
        init: Init = "k-means++",
        dtype: AnyDtype | None = None,
        device: str | None = None,
        seed: Seed = None,
        **options: Passed,
    ) -> None:
        if options.get("loss", "l2") != "l2":
            raise ValueError(f"loss={options['loss']!r} cannot be had of a stream, whose rows are not kept; use 'l2'")
        self.k, self.steps, self.affine = whole("k", k, 1), whole("steps", steps, 1), flag("affine", affine)
        self.half_life = positive("half_life", half_life, "in rows, or inf to forget nothing")
        self.n_rows: int = 0
        self._found: Subspaces | None = init if isinstance(init, Subspaces) else None
        self._options: dict[str, Passed] = options | {
            "j": j, "init": init, "device": device, "dtype": dtype, "seed": seed
        }  # fmt: skip
        self._moments: Moments | None = None
        self._mass: Array | None = None
        found = self._found
        if found is not None and (found.k != self.k or (found.offsets is not None) != self.affine):
            raise ValueError(
                f"init has {found.k} flats and affine={found.offsets is not None}, but k={self.k} and affine={affine}"
            )

    @property
    def subspaces(self) -> Subspaces:
        """The flats now, with the labels of the last batch."""
        if self._found is None:
            raise ValueError("there are no subspaces before the first batch; call partial_fit")
        return self._found

    def partial_fit(self, X: AnyArray, sample_weight: AnyArray | None = None) -> Self:
        """Take in a batch of rows X (n, d), with nonnegative weights (n,) if given.

        Raises
        ------
        ValueError, TypeError
            When they cannot be used; the message says what to do. What was there before stays as it was.
        """
        start = self._found
        if start is None:
            start = fit_subspaces(X, self.k, affine=self.affine, sample_weight=sample_weight, **self._options)
        flats, dtype = start._flats, start._flats.bases.dtype
        with entered(X, "X", device_of(flats.bases), dtype) as (rows, home):
            if isinstance(rows, Streamed):
                raise ValueError("X is more than the device can hold; pass it in smaller batches")
            if check_matrix(rows, "X", columns=start.d, beside=flats.offsets):
                raise ValueError(f"X has entries whose squares leave the range of {dtype}; scale it, or use float64")
            weights, unit = None, 1.0
            if sample_weight is not None:
                weights, unit = check_weights(sample_weight, len(rows), device_of(rows))
                weights = weights * unit
            self._take_in(rows, weights, flats, home)
        return self

    def _take_in(self, rows: Array, weights: Array | None, flats: Flats, home: Home) -> None:
        for _ in range(self.steps):
            labels, _ = kernels.assign(rows, flats, residuals=False)
            moments, mass = self._with_batch(rows, labels, weights)
            fitted = best_flats(moments, flats.layout, self.affine, np.float64)
            flats = rounded(_kept(fitted, flats, mass), rows.dtype)
        labels, _ = kernels.assign(rows, flats, residuals=False)
        self._moments, self._mass, self.n_rows = moments, mass, self.n_rows + len(rows)
        record = Record(objective=float(kernels.measure_objective(moments, flats).sum()))
        bases = [home.back(V) for V in flats.layout.split(flats.bases)]
        offsets = None if flats.offsets is None else home.back(flats.offsets)
        self._found = Subspaces(bases, offsets, home.back(labels), home, record)

    def _with_batch(self, rows: Array, labels: Array, weights: Array | None) -> tuple[Moments, Array]:
        """Moments and mass (k,) of the clusters: those of a batch, and of before as far as it makes these fade."""
        xp, groups = namespace(rows), kernels.group_rows(labels, self.k)
        moments = kernels.second_moments(rows, groups, weights, self.affine, dtype=np.float64)
        mass = groups.sums(xp.ones(len(rows)) if weights is None else weights)
        if self._moments is None or self._mass is None:
            return moments, mass
        old, fade = self._moments, xp.exp2(-mass / self.half_life)
        faded = replace(old, raw=old.known_raw * fade[:, None, None])
        if old.first is not None and old.mass is not None:
            faded = replace(faded, first=old.first * fade[:, None], mass=old.mass * fade)
        faded.add(moments)
        return faded, self._mass * fade + mass


def _kept(fitted: Flats, before: Flats, mass: Array) -> Flats:
    """The flats fitted, and those of before of clusters that have no weight."""
    empty = (mass <= 0).nonzero()[0].tolist()
    if not empty:
        return fitted
    bases, old = fitted.layout.split(fitted.bases), before.layout.split(before.bases)
    offsets = None if fitted.offsets is None else fitted.offsets.copy()
    for c in empty:
        bases[c] = old[c].astype(fitted.bases.dtype)
        if offsets is not None and before.offsets is not None:
            offsets[c] = before.offsets[c]
    return Flats.from_bases(bases, offsets)
