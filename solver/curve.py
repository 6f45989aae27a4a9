"""Error against size: what each way of compressing makes of a matrix at every size, in one sweep."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from .arrays import AnyArray, import_array
from .budget import compress
from .checks import Passed, Seed, check_weights
from .coefficients import parameters_within
from .factorization import Factorization
from .figures import Series, plot_series
from .progress import Bar, shown
from .result import UNKNOWN
from .storage import Facts
from .sweep import Point, Sweep

__all__ = ["CompressionCurve", "CurvePoint", "compression_curve"]

RATIOS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
METHODS = ("svd", "messi-3", "messi-5", "ours")
WEIGHTED = "-weighted"
_METHOD = re.compile(rf"(?P<way>svd|ours|messi-(?P<k>[1-9]\d*))(?P<weighted>{WEIGHTED})?")


@dataclass(frozen=True)
class CurvePoint(Point):
    """One method at one size.

    Attributes
    ----------
    method : str
    ratio : float
        Share of the parameters to save, as asked.
    n_parameters : int
        Parameters taken, at most ``(1 - ratio) n d``.
    relative_error : float
        Squared, over the squared norm of the matrix; all rows alike, whatever the method went by.
    weighted_error : float or None
        The same with each row weighted; None where no weights were given.
    k : int
        Clusters, that of the exact rows among them.
    seconds : float
        Of this fit alone; next to none where an SVD is cut out of a larger one.
    """

    method: str
    ratio: float
    n_parameters: int
    relative_error: float
    weighted_error: float | None
    k: int
    seconds: float


@dataclass(frozen=True)
class CompressionCurve(Sweep[CurvePoint]):
    """What :func:`compression_curve` measured.

    Attributes
    ----------
    shape : (n, d)
        Of the matrix.
    points : tuple of CurvePoint
        Method by method, by ascending ratio.
    ended : dict of str to str
        Why a method has no points at the higher ratios, for those of which that is so.
    """

    ended: Mapping[str, str]

    _POINT, _NAME = CurvePoint, "compression curve"

    @property
    def ratios(self) -> tuple[float, ...]:
        """Ratios asked for, ascending."""
        return tuple(sorted({point.ratio for point in self.points}))

    def of(self, method: str) -> dict[float, CurvePoint]:
        """The points of a method, by ratio.

        Raises
        ------
        KeyError
            When it was not measured.
        """
        found = {point.ratio: point for point in self.points if point.method == method}
        if not found:
            raise KeyError(f"no method {method!r} here; there are {', '.join(self.methods)}")
        return found

    def to_dict(self) -> Facts:
        """All of it in types that JSON knows."""
        return {**super().to_dict(), "ended": dict(self.ended)}

    @classmethod
    def _parts(cls, facts: Facts) -> Facts:
        return {**super()._parts(facts), "ended": dict(facts["ended"])}

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw error against size into an image file, beside it the weighted error where there are weights.

        Parameters
        ----------
        path : path
            Of the image; its ending chooses the format (.png, .pdf, .svg).

        Raises
        ------
        ImportError
            matplotlib (extra ``cli``) is not installed.
        """
        plot_series(path, self._panels(), "seconds are those of all sizes together")

    def _series(self, weighted: bool) -> list[Series]:
        """The errors of each method, rows weighted or not; its label tells the seconds that all its sizes took."""
        n, d = self.shape
        series = []
        for method in self.methods:
            points = self.of(method).values()
            way = method.removesuffix(WEIGHTED)
            name = "SVD" if way == "svd" else way.replace("messi-", "MESSI, k = ")
            name += ", weighted" * method.endswith(WEIGHTED)
            label = f"{name}  ({sum(point.seconds for point in points):.0f} s)"
            sizes, errors = [p.n_parameters / (n * d) for p in points], [p.error(weighted) for p in points]
            series.append(Series(label, way, method.endswith(WEIGHTED), sizes, errors))
        return series


def compression_curve(
    A: AnyArray,
    ratios: Iterable[float] = RATIOS,
    *,
    methods: Iterable[str] | None = None,
    sample_weight: AnyArray | None = None,
    exact_rows: AnyArray | None = None,
    warm: bool = False,
    known: Mapping[tuple[str, float], Factorization] | None = None,
    device: str | None = None,
    seed: Seed = None,
    progress: bool = False,
) -> CompressionCurve:
    """Compress a matrix to several sizes in several ways, and measure the errors.

    Parameters
    ----------
    A : (n, d) array
        As for :func:`compress`.
    ratios : iterable of float
        Shares of the parameters to save, in any order.
    methods : iterable of str, optional
        Any of

        - ``"svd"``, the truncated SVD: ``compress(A, ratio, k=1)``;
        - ``"messi-K"``, K clusters of equal dimension: ``compress(A, ratio, k=K, dims="equal")``;
        - ``"ours"``, ``compress(A, ratio)``;
        - each of them with ``"-weighted"`` after it: the same with ``sample_weight``.

        The default is svd, messi-3, messi-5, ours, and ours-weighted if there are weights.
    sample_weight : (n,) array, optional
        Weights of the rows: for the weighted errors, which all methods are measured by then, and for the methods that
        go by them.
    exact_rows : (m,) array of ints, or mask (n,), optional
        Rows that every method keeps as they are, see :func:`compress`.
    warm : bool, default False
        Begin each fit with the clusters of the one before, at the next larger size. That takes less time, messi-K's
        most of all; but each point is then only about what :func:`compress` gives (within 2% for the table tried).
    known : mapping of (method, ratio) to Factorization, optional
        Compressions of A that are at hand: they are measured, not made again.
    device : {None, "cpu", "cuda", "cuda:<index>"}
        Where to compute; ``None`` is where A lives.
    seed : int, numpy.random.Generator or None
        As for :func:`compress`.
    progress : bool, default False
        Show a bar, with the point that was reached (needs rich: ``pip install "ksubspaces[cli]"``).

    Returns
    -------
    CompressionCurve
        A method that no longer fits from some ratio on (say, the bases of 50 clusters of equal dimension) ends there,
        and ``ended`` says why.

    Raises
    ------
    ValueError, TypeError
        When an argument cannot be used, a method does not fit even at the lowest ratio, or nothing does at the highest.
    ImportError, RuntimeError
        As :func:`compress`.

    Notes
    -----
    Each point is what the call of :func:`compress` named above gives, unless ``warm``. Only the truncated SVDs are all
    cut out of the largest one, which is the same but for rounding.

    Examples
    --------
    >>> import numpy as np
    >>> from ksubspaces.curve import compression_curve
    >>> rng = np.random.default_rng(0)
    >>> A = np.concatenate([rng.normal(size=(200, 3)) @ rng.normal(size=(3, 20)) for _ in range(4)])
    >>> curve = compression_curve(A, (0.4, 0.7), methods=("svd", "ours"), seed=0)
    >>> [(point.method, point.ratio) for point in curve.points]
    [('svd', 0.4), ('svd', 0.7), ('ours', 0.4), ('ours', 0.7)]
    >>> curve.of("ours")[0.7].relative_error < 0.01 < curve.of("svd")[0.7].relative_error
    True
    """
    shape = tuple(import_array(A, "A").shape)
    if len(shape) != 2:
        raise ValueError(f"A must be a matrix of rows (n, d), got shape {shape}")
    if sample_weight is not None:
        check_weights(sample_weight, shape[0], "cpu")
    path = _path(ratios, *shape)
    chosen = [_Method.parse(name) for name in _names(methods, sample_weight is not None)]
    if sample_weight is None and any(method.weighted for method in chosen):
        weighted = next(method.name for method in chosen if method.weighted)
        raise ValueError(f"{weighted!r} goes by weights; give sample_weight, or {weighted.removesuffix(WEIGHTED)!r}")

    known = _known(known, chosen, path, shape)

    points: list[CurvePoint] = []
    ended: dict[str, str] = {}
    bar = Bar(1.0, len(chosen) * len(path)) if progress else None
    with shown(bar):
        for number, method in enumerate(chosen):
            options = {"exact_rows": exact_rows, "device": device, "seed": seed, **method.options}
            if method.weighted:
                options["sample_weight"] = sample_weight
            factors: Factorization | None = None
            for step, (ratio, budget) in enumerate(path.items(), 1):
                begun = time.perf_counter()
                try:
                    factors = known.get((method.name, ratio)) or method.fit(A, ratio, budget, factors, warm, options)
                except ValueError as error:
                    if factors is None:  # what is refused at the largest size is refused at any
                        raise
                    ended[method.name] = str(error)
                    break
                seconds = time.perf_counter() - begun
                point = CurvePoint(
                    method=method.name,
                    ratio=ratio,
                    n_parameters=factors.n_parameters,
                    relative_error=factors.measure_error(A),
                    weighted_error=None if sample_weight is None else factors.measure_error(A, sample_weight),
                    k=len(factors.bases),
                    seconds=seconds,
                )
                points.append(point)
                if bar is not None:
                    place = f"{method.name} at {100 * ratio:g}%"
                    bar.update(place, point.relative_error, f"k={point.k}", number * len(path) + step)
        if bar is not None:
            bar.finish()
    return CompressionCurve((shape[0], shape[1]), tuple(points), ended)


@dataclass(frozen=True)
class _Method:
    """A way of compressing: its name, what it asks of :func:`compress`, and whether by the weights."""

    name: str
    options: Mapping[str, Passed]
    weighted: bool

    @classmethod
    def parse(cls, name: str) -> _Method:
        found = _METHOD.fullmatch(name) if isinstance(name, str) else None
        if found is None:
            raise ValueError(
                f"unknown method {name!r}; there are 'svd', 'messi-K' with a number of clusters for K, and 'ours', "
                f"each with '{WEIGHTED}' after it if it is to go by sample_weight"
            )
        options: dict[str, Passed] = {}
        if found["way"] == "svd":
            options = {"k": 1}
        elif found["k"]:
            options = {"k": int(found["k"]), "dims": "equal"}
        return cls(name, options, bool(found["weighted"]))

    def fit(
        self,
        A: AnyArray,
        ratio: float,
        budget: int,
        larger: Factorization | None,
        warm: bool,
        options: Mapping[str, Passed],
    ) -> Factorization:
        """The factors of a size, given those of the next larger one."""
        if self.name.startswith("svd") and larger is not None:
            return truncate_svd(larger, budget) or compress(A, ratio, **options)  # which says why it does not fit
        return compress(A, ratio, init=larger if warm else None, **options)


def truncate_svd(svd: Factorization, budget: int) -> Factorization | None:
    """A truncated SVD within a budget from a longer one: its first directions. None if not even one fits."""
    direction = svd.counts[0] + svd.shape[1]  # what is kept exactly is a cluster behind it
    rank = svd.dims[0] - max(0, -(-(svd.n_parameters - budget) // direction))
    if rank < min(1, svd.dims[0]):
        return None
    blocks, bases = [svd.blocks[0][:, :rank], *svd.blocks[1:]], [svd.bases[0][:rank], *svd.bases[1:]]
    return replace(svd, blocks=blocks, bases=bases, record=UNKNOWN)


def _path(ratios: Iterable[float], n: int, d: int) -> dict[float, int]:
    """Ratios, ascending, and the parameters that each leaves."""
    try:
        ascending = sorted({float(ratio) for ratio in ratios})
    except (TypeError, ValueError):
        raise ValueError(f"ratios must be numbers, for instance (0.2, 0.4); got {ratios!r}") from None
    if not ascending:
        raise ValueError("ratios is empty; give at least one, for instance (0.4,)")
    return {ratio: parameters_within(n, d, ratio=ratio) for ratio in ascending}


def _known(
    known: Mapping[tuple[str, float], Factorization] | None,
    methods: Iterable[_Method],
    ratios: Iterable[float],
    shape: tuple[int, ...],
) -> Mapping[tuple[str, float], Factorization]:
    asked = {(method.name, ratio) for method in methods for ratio in ratios}
    for key, factors in (known or {}).items():
        if key not in asked:
            raise ValueError(f"known has {key!r}, which is not among the methods and ratios asked for; leave it out")
        if factors.shape != shape:
            raise ValueError(f"known[{key!r}] is of a matrix of shape {factors.shape}, but A is of {shape}")
    return known or {}


def _names(methods: Iterable[str] | None, weighted: bool) -> tuple[str, ...]:
    if methods is None:
        return (*METHODS, "ours" + WEIGHTED) if weighted else METHODS
    names = tuple(dict.fromkeys([methods] if isinstance(methods, str) else methods))
    if not names:
        raise ValueError(f"methods is empty; give at least one, for instance {METHODS}")
    return names
