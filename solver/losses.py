"""Losses that grow slower than squares: each a function of a residual's square, concave, of slope 1 at first.

``rho(r) = delta^2 f(r / delta^2)``, with delta the scale of the residuals times the loss's tuning constant. Concave
in r means that its tangents lie above it, so least squares with the weights ``f'`` lower the sum of rho: reweighting
majorises and minimises (Black and Rangarajan, "On the Unification of Line Processes, Outlier Rejection, and Robust
Statistics with Applications in Early Vision", IJCV 1996, section 4).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

import numpy as np

from .arrays import Array, namespace

MAD = 1.4826  # times the median of |e| is the standard deviation of normal e


@dataclass(frozen=True)
class Loss:
    """A loss by its value f and weight f' at ``u = r / delta^2``.

    Attributes
    ----------
    name : str
    tuning : float
        delta in scales: where the loss is 95% as efficient as squares for normal errors in one dimension.
    value, weight : callable
        Of an array u.
    power : int
        Of delta that f is to be multiplied by: 1 if the loss is a sum of distances.
    """

    name: str
    tuning: float
    value: Callable[[Array], Array]
    weight: Callable[[Array], Array]
    power: int = 2

    def total(self, residuals: Array, weights: Array | None, scale: float) -> Array:
        """``sum_i w_i rho(r_i)``, a float64 number where the residuals are."""
        delta = self.tuning * scale
        values = self.value(residuals / delta**2).astype(np.float64)
        return delta**self.power * (values if weights is None else weights * values).sum()

    def reweighted(self, residuals: Array, weights: Array | None, scale: float) -> Array:
        """``w_i f'(r_i / delta^2)``, float64 (n,)."""
        own = self.weight(residuals / (self.tuning * scale) ** 2).astype(np.float64)
        return own if weights is None else own * weights


def _root(u: Array) -> Array:
    xp = namespace(u)
    return xp.sqrt(xp.maximum(u, 1))


def _least(u: Array) -> Array:
    return namespace(u).minimum(u, 1)


def _cubic(u: Array) -> Array:
    """``(1 - (1 - u)^3) / 3``, which keeps the digits of a small u."""
    return u * (1 - u * (1 - u / 3))


LOSSES = {
    loss.name: loss
    for loss in (
        # Fast median subspace (Lerman and Maunu 2018): distances, but squares below delta, which is next to nothing.
        Loss("l1", 1e-3, lambda u: _root(u) - (1 - _least(u)) / 2, lambda u: 1 / _root(u), power=1),
        Loss("huber", 1.345, lambda u: _least(u) + 2 * (_root(u) - 1), lambda u: 1 / _root(u)),
        Loss("cauchy", 2.3849, lambda u: namespace(u).log1p(u), lambda u: 1 / (1 + u)),
        Loss("geman-mcclure", 3.7870, lambda u: u / (1 + u), lambda u: 1 / (1 + u) ** 2),
        Loss("welsch", 2.9846, lambda u: -namespace(u).expm1(-u), lambda u: namespace(u).exp(-u)),
        Loss("tukey", 4.6851, lambda u: _cubic(_least(u)), lambda u: (1 - _least(u)) ** 2),
    )
}


def robust_scale(residuals: Array, weights: Array | None = None) -> float:
    """1.4826 times the weighted median of the distances ``sqrt(r_i)``: what is called MAD of residuals about 0."""
    xp = namespace(residuals)
    if weights is None:
        return MAD * float(xp.sqrt(xp.median(residuals)))
    order = xp.argsort(residuals)
    passed = xp.cumsum(weights[order])
    middle = int(xp.searchsorted(passed, passed[-1:] / 2)[0])
    return MAD * float(xp.sqrt(residuals[order[middle]]))


def check_loss(loss: object, scale: object) -> None:
    """A loss by its name, and a scale > 0 or "auto"."""
    if loss != "l2" and (not isinstance(loss, str) or loss not in LOSSES):
        names = ", ".join(map(repr, ("l2", *LOSSES)))
        raise ValueError(f"loss must be one of {names}, got {loss!r}")
    if isinstance(scale, str) and scale == "auto":
        return
    if isinstance(scale, bool) or not isinstance(scale, Real) or not 0 < float(scale) < np.inf:
        raise ValueError(f"scale must be 'auto' or a number > 0, a distance in the units of X; got {scale!r}")
    if loss == "l2":
        raise ValueError("scale has no say over loss='l2'; pass a robust loss with it, such as loss='huber'")
