"""Second moments per cluster: what a refit needs to know of the rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .flats import Array, Flats, namespace

ROUNDING = 1e-4  # share of its terms below which a difference of moments is taken for zero
LEAST = 1e-28  # share of |x|^2 that the square of a difference from the mean is rounded by, and more


def traces(S: Array) -> Array:
    """Trace of each matrix of S (k, d, d)."""
    return S.diagonal(axis1=1, axis2=2).sum(axis=1)


def measure_objective(moments: Moments, flats: Flats) -> Array:
    """Weighted sum of squared distances of each flat's rows to it, (k,), by products of all bases at a time."""
    S, xp = moments.about(moments.shifts(flats)), namespace(moments.counts)
    V = flats.layout.pad(flats.bases).astype(S.dtype)
    return xp.maximum(traces(S) - ((V @ S) * V).sum(axis=(1, 2)), 0)


def combined(parts: Iterable[Moments]) -> Moments | None:
    """The moments of all rows from those of blocks of them; ``None`` if there are no blocks."""
    total = None
    for moments in parts:
        if total is None:
            total = moments
        else:
            total.add(moments)
    return total


@dataclass(eq=False)
class Moments:
    """Sums over the rows of each cluster, in float64, about one origin per cluster.

    Second moments for flats through the origin hold no sums: ``first``, ``mass`` and ``origins`` are ``None``.

    Attributes
    ----------
    raw : (k, d, d) array or None
        ``sum w_i (x_i - o_c)(x_i - o_c)^T``; ``None`` when only the means were asked for.
    first : (k, d) array or None
        ``sum w_i (x_i - o_c)``.
    mass : (k,) array or None
        ``sum w_i``.
    counts : (k,) int64 array
        Number of rows.
    origins : (k, d) array or None
        o_c: near the cluster's mean when ``center`` is set, so that a large common offset costs no digits; else zero.
    center : bool
        Whether ``scatter`` is taken about the means.
    """

    raw: Array | None
    first: Array | None
    mass: Array | None
    counts: Array
    origins: Array | None
    center: bool

    @property
    def means(self) -> Array | None:
        """Weighted mean of each cluster, (k, d), the origin for a cluster without mass; ``None`` without sums."""
        return None if self.first is None else self.origins + self._shift

    @property
    def sums(self) -> Array:
        """``sum w_i x_i``, (k, d)."""
        first, mass, origins = self.known_sums
        return first + mass[:, None] * origins

    @property
    def known_sums(self) -> tuple[Array, Array, Array]:
        """``first``, ``mass`` and ``origins``, or an error if there are none."""
        if self.first is None or self.mass is None or self.origins is None:
            raise ValueError("these moments hold no sums; ask second_moments for center=True or products=False")
        return self.first, self.mass, self.origins

    @property
    def known_raw(self) -> Array:
        """``raw``, or an error if it was not asked for."""
        if self.raw is None:
            raise ValueError("these moments hold the means only; ask second_moments for products=True")
        return self.raw

    @property
    def scatter(self) -> Array:
        """S_c (k, d, d): ``sum w_i (x_i - mu_c)(x_i - mu_c)^T``, with mu_c the mean if ``center``, else zero."""
        raw = self.known_raw
        if not self.center:
            return raw
        first, mass, origins = self.known_sums
        about_means = raw - first[:, :, None] * self._shift[:, None, :]
        # Of rows that are all alike, what is left after the mean is rounding, and no more semidefinite.
        rounding = ROUNDING * traces(raw) + LEAST * mass * (origins * origins).sum(axis=1)
        return about_means * (traces(about_means) > rounding)[:, None, None]

    def shifts(self, flats: Flats) -> Array | None:
        """From the origins to the offsets of the flats, (k, d) float64; ``None`` where both are zero."""
        if flats.offsets is None and not self.center:
            return None
        return (0 if flats.offsets is None else flats.offsets) - self.known_sums[2]

    def about(self, shifts: Array | None) -> Array:
        """``sum w_i (x_i - o_c - s_c)(x_i - o_c - s_c)^T``, s (k, d) being shifts from the origins."""
        raw = self.known_raw
        if shifts is None:
            return raw
        first, mass, _ = self.known_sums
        cross = (first - 0.5 * mass[:, None] * shifts)[:, :, None] * shifts[:, None, :]
        return raw - cross - cross.swapaxes(1, 2)

    def add(self, other: Moments) -> None:
        """Add the moments of further rows, in place, about the origins held here.

        A cluster without mass here takes the other's origin. With ``s = o' - o`` between the two origins,
        ``sum w (x - o)(x - o)^T = sum w (x - o')(x - o')^T + first' s^T + s first'^T + mass' s s^T``.
        """
        self.counts = self.counts + other.counts
        if self.raw is not None:
            self.raw += other.raw
        if self.first is None:
            return
        (first, mass, origins), (more, gained_mass, theirs) = self.known_sums, other.known_sums
        new = (mass <= 0)[:, None]
        self.origins = new * theirs + ~new * origins
        shift = theirs - self.origins
        gained = more + gained_mass[:, None] * shift
        if self.raw is not None:
            self.raw += gained[:, :, None] * shift[:, None, :]
            self.raw += shift[:, :, None] * more[:, None, :]
        self.first = first + gained
        self.mass = mass + gained_mass

    @property
    def _shift(self) -> Array:
        """From the origins to the means."""
        first, mass, _ = self.known_sums
        return first / (mass + (mass <= 0))[:, None]
