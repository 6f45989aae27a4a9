"""Second moments per cluster: what a refit needs to know of the rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .flats import Array, Flats, namespace

ROUNDING = 1e-4  # share of its terms below which a difference of moments is taken for zero


def traces(S: Array) -> Array:
    """Trace of each matrix of S (k, d, d)."""
    return S.diagonal(axis1=1, axis2=2).sum(axis=1)


def measure_objective(moments: Moments, flats: Flats) -> Array:
    """Weighted sum of squared distances of all rows to their flats, by products of all bases at a time."""
    S, xp = moments.about(moments.shifts(flats)), namespace(moments.first)
    V = flats.layout.pad(flats.bases).astype(S.dtype)
    return xp.maximum(traces(S) - ((V @ S) * V).sum(axis=(1, 2)), 0).sum()


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

    Attributes
    ----------
    raw : (k, d, d) array or None
        ``sum w_i (x_i - o_c)(x_i - o_c)^T``; ``None`` when only the means were asked for.
    first : (k, d) array
        ``sum w_i (x_i - o_c)``.
    mass : (k,) array
        ``sum w_i``.
    counts : (k,) int64 array
        Number of rows.
    origins : (k, d) array
        o_c: zero for flats through the origin; near the cluster's mean when ``center`` is set, so that a large
        common offset costs no digits.
    center : bool
        Whether ``scatter`` is taken about the means.
    """

    raw: Array | None
    first: Array
    mass: Array
    counts: Array
    origins: Array
    center: bool

    @property
    def means(self) -> Array:
        """Weighted mean of each cluster, (k, d); the origin for a cluster without mass."""
        return self.origins + self.first / self._safe_mass[:, None]

    @property
    def sums(self) -> Array:
        """``sum w_i x_i``, (k, d)."""
        return self.first + self.mass[:, None] * self.origins

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
        shift = self.first / self._safe_mass[:, None]
        about_means = raw - self.first[:, :, None] * shift[:, None, :]
        # Of rows that are all alike, what is left after the mean is rounding, and no more semidefinite.
        return about_means * (traces(about_means) > ROUNDING * traces(raw))[:, None, None]

    def shifts(self, flats: Flats) -> Array | None:
        """From the origins to the offsets of the flats, (k, d) float64; ``None`` where both are zero."""
        if flats.offsets is None and not self.center:
            return None
        return (0 if flats.offsets is None else flats.offsets) - self.origins

    def about(self, shifts: Array | None) -> Array:
        """``sum w_i (x_i - o_c - s_c)(x_i - o_c - s_c)^T``, s (k, d) being shifts from the origins."""
        raw = self.known_raw
        if shifts is None:
            return raw
        cross = (self.first - 0.5 * self.mass[:, None] * shifts)[:, :, None] * shifts[:, None, :]
        return raw - cross - cross.swapaxes(1, 2)

    def add(self, other: Moments) -> None:
        """Add the moments of further rows, in place, about the origins held here.

        A cluster without mass here takes the other's origin. With ``s = o' - o`` between the two origins,
        ``sum w (x - o)(x - o)^T = sum w (x - o')(x - o')^T + first' s^T + s first'^T + mass' s s^T``.
        """
        new = (self.mass <= 0)[:, None]
        self.origins = new * other.origins + ~new * self.origins
        shift = other.origins - self.origins
        gained = other.mass[:, None] * shift
        if self.raw is not None and other.raw is not None:
            self.raw += other.raw
            if self.center:  # else all origins are zero
                self.raw += (other.first + gained)[:, :, None] * shift[:, None, :]
                self.raw += shift[:, :, None] * other.first[:, None, :]
        self.first += other.first + gained
        self.mass += other.mass
        self.counts += other.counts

    @property
    def _safe_mass(self) -> Array:
        return self.mass + (self.mass <= 0)
