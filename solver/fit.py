"""``fit_subspaces``: checks the input, runs the starts, lets the best breathe, and finishes it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from numbers import Integral, Real

import numpy as np

from ksubspaces import kernels
from ksubspaces.kernels import Flats

from .alternation import State, alternate
from .arrays import AnyArray, AnyDtype, device_of, energy, enter, entered, import_array, place, scaled
from .blocked import Blocks, is_dask
from .blocked_dims import BlockedDims, BlockedState, sample_size
from .checks import Seed, check_matrix, check_weights, flag, generators, tolerance, whole
from .losses import LOSSES, check_loss
from .metric import Metric
from .problem import Problem
from .progress import Bar, shown
from .racing import fit_problem
from .result import Record, share
from .robust import fit_robust
from .seeding import Init, are_bases
from .subspaces import Subspaces

SEARCHES = ("auto", "breathing", "starts")


@dataclass(frozen=True)
class Step:
    """What a callback is told after each step of the alternation.

    Attributes
    ----------
    start : int
        Number of the start it belongs to, from 0.
    iteration : int
        Step within that start, or within a part of a breath, from 1.
    objective : float
        Weighted sum of squared distances after the step, in the precision of the computation; in a breath of the flats
        that there are, which may be more than k.
    moved : int
        Rows whose label changed.
    n_reseeded : int
        Clusters re-seeded so far within this start.
    seconds : float
        Since the fit began.
    breath : int
        Number of the breath it belongs to, from 1; 0 before and after them.
    best : float
        Least objective of k flats so far, in any start.
    """

    start: int
    iteration: int
    objective: float
    moved: int
    n_reseeded: int
    seconds: float
    breath: int = 0
    best: float = np.inf


def fit_subspaces(
    X: AnyArray,
    k: int,
    j: int | Sequence[int],
    *,
    device: str | None = None,
    affine: bool = False,
    sample_weight: AnyArray | None = None,
    metric: AnyArray | None = None,
    init: Init = "k-means++",
    n_init: int | str = "auto",
    search: str = "auto",
    effort: float = 1,
    max_iter: int = 100,
    tol: float = 1e-4,
    loss: str = "l2",
    scale: float | str = "auto",
    dtype: AnyDtype | None = None,
    seed: Seed = None,
    progress: bool = False,
    callback: Callable[[Step], bool | None] | None = None,
) -> Subspaces:
    """Fit k subspaces of dimension j to the rows of X: (k, j) projective clustering.

    Minimises ``sum_i w_i min_c |x_i - mu_c - V_c^T V_c (x_i - mu_c)|^2`` by alternation: each row to its nearest flat,
    each flat to its rows. k=1 is the truncated SVD (PCA if affine), j=0 with ``affine=True`` is k-means.

    Parameters
    ----------
    X : (n, d) array
        NumPy, Torch or CuPy, or anything with ``__dlpack__``, ``__cuda_array_interface__`` or ``__array__``; or a Dask
        array, see the notes. float16, bfloat16 and float32 are computed in float32, float64 and integers in float64.
        Never modified, and not copied unless its dtype, the device or its scale demand it: where squares of its entries
        leave the range of the precision computed in (float32: the largest above 1e17 or below 1e-12), X times a power
        of two is fitted, which rounds nothing, and results come in X's own scale. n >= k; entries finite.
    k : int
        Number of subspaces, 1 <= k <= n.
    j : int or sequence of k ints
        Dimension of every subspace, or of each, 0 <= j <= d.
    device : {None, "cpu", "cuda", "cuda:<index>"}
        Where to compute; ``None`` is where X lives. Results go back to where X lives. An X in host memory that a card
        cannot hold stays there and is streamed to it in blocks, in every step.
    affine : bool, default False
        Fit flats with offsets mu_c rather than subspaces through the origin.
    sample_weight : (n,) array, optional
        Nonnegative weights w_i; default all 1. Rows of weight 0 get labels but no say. Only their ratios matter to
        the fit, and weights below 1e-300 of the largest may count as 0.
    metric : (d, d) array, optional
        M, symmetric and positive semidefinite: squared distances are ``(x - y) M (x - y)^T``. A millionth of their mean
        is added to M's eigenvalues. Bases are orthonormal in that metric, ``V_c M V_c^T = I``, and the result measures
        in it.
    init : str or array or list, default "k-means++"
        How to start: "k-means++" (greedy D^2 seeding for flats), "k-means" (labels of a spherical k-means, or an
        ordinary one if affine), "random" (random partition, as in the MESSI paper), labels (n,) of ints, k bases of
        subspaces through the origin (of any dimensions: they only give the first labels), or a :class:`Subspaces` to
        go on from.
    n_init : "auto" or int, default "auto"
        An int runs that many starts of the kind named to the end and keeps the best. "auto" races a few for 3 steps
        each and finishes the best: with ``search="starts"`` 4 up to k=64, 2 up to k=128, of which half are "k-means"
        starts for ``init="k-means++"``, and beyond there is one; with breaths there is one. With k=1,
        or a given start, there is one.
    search : {"auto", "breathing", "starts"}
        How to look for a better optimum than that of one start. "breathing" adds flats and takes others away, as the
        notes tell; "starts" is the plain alternation from one start or several. "auto" breathes on the CPU when
        ``init`` is a name and ``n_init`` is "auto" too, and alternates from what is given otherwise, and on a card.
    effort : float, default 1
        For how much longer than by default to search: 5 takes about five times as long. More breaths, or with
        ``search="starts"`` more starts raced. At least 1.
    max_iter : int, default 100
        Most steps of any one start; breaths, and the steps after the last, have their own. A start that is cut off
        does not breathe.
    tol : float, default 1e-4
        Stop when a step lowers the objective by at most this share of it (or when no label changes).
    loss : {"l2", "l1", "huber", "cauchy", "geman-mcclure", "welsch", "tukey"}, default "l2"
        What a squared distance r costs: r itself, or less where rows may be outliers. "geman-mcclure", "welsch" and
        "tukey" give a row far off no say at all; "cauchy" little; "l1" (distances) and "huber" less than "l2" does.
    scale : "auto" or float, default "auto"
        Distance of a usual row to its flat, in X's units, for a robust loss: 1.4826 times the median distance. "auto"
        estimates it from a start that resists outliers. :meth:`Subspaces.outliers` counts in it.
    dtype : {None, "float32", "float64"}
        Precision to compute in; ``None`` goes by X.
    seed : int, numpy.random.Generator or None
        The same int gives the same bits on the same machine, whatever kind of array X is. ``None`` differs each time.
    progress : bool, default False
        Show a bar (needs rich: ``pip install "ksubspaces[cli]"``).
    callback : callable, optional
        Called with a :class:`Step` after each step; a true answer stops the fit there and then, with the best result so
        far. So does Ctrl-C once the fit breathes, with a warning.

    Returns
    -------
    Subspaces
        Its arrays are of X's kind and live where X lives.

    Raises
    ------
    ValueError, TypeError
        When an argument cannot be used; the message names it and says what to do.
    ImportError, RuntimeError
        When ``device`` asks for CUDA and CuPy or a device is missing.

    Notes
    -----
    A cluster with fewer rows than its flat passes through anyway (j, or j + 1 if affine), an empty one above all, is
    filled with the rows of largest residual, and ``n_reseeded`` counts that. When nothing is left to gain, as with
    more flats than distinct rows or X all zero, clusters stay empty and the objective is 0.

    The alternation ends in a local optimum. A breath gets it out of there: as many flats again are added where
    residuals are, all settle for a few steps, those go that would be missed least, the others settle, and what comes
    out is kept if it is better; if not, the next breath adds half as many. The idea is that of breathing k-means
    (Fritzke 2020). The result is never worse than the start that breathed, and ``history`` has the steps that led to
    it. By default breaths take the time that races of more starts would take. Turn them off (``search="starts"``) to
    see the plain alternation, or where flats are found at once and time counts.

    A robust loss minimises ``sum_i w_i rho(r_i)``, with rho as in :mod:`.losses`, by the same alternation under weights
    ``w_i rho'(r_i)`` that each step makes anew; the sum never rises, as rho is concave (Black and Rangarajan 1996).
    Starts are several (``n_init``, ``effort``), by distances that are cut off, and the best of them under Geman and
    McClure's loss gives the scale, which is then held (as in Yohai's MM-estimates, 1987). ``objective``, ``energy`` and
    ``history`` are sums of rho. In float32 this takes rows of like size: ask for ``dtype="float64"`` where
    outliers are thousands of times longer than the distances that matter.

    A Dask array (``pip install "ksubspaces[dask]"``) has whole rows in each chunk, of known sizes. A start is found on
    a sample of its rows, drawn by weight and energy and weighted back (Feldman and Langberg 2011); from there the
    alternation goes on over all rows, in one pass over the blocks a step, which persist where they were made: call
    ``X.persist()`` where they are dear to make and there is memory for them. Nothing of n numbers is held in one place.
    ``labels`` are a Dask array with X's chunks, the rest is NumPy's. The bits depend on the chunks, not on who works
    on them. ``init``, ``n_init``, ``search`` and ``effort`` are for the start.

    References
    ----------
    Bradley and Mangasarian, "k-Plane Clustering" (2000). Tseng, "Nearest q-Flat to m Points" (2000). Maalouf, Lang,
    Rus and Feldman, "Deep Learning Meets Projective Clustering" (ICLR 2021), section 2. Fritzke, "The breathing
    k-means algorithm" (2020), arXiv 2006.15666. Feldman and Langberg, "A Unified Framework for Approximating and
    Clustering Data" (2011). Lerman and Maunu, "An Overview of Robust Subspace Recovery" (2018), arXiv 1803.01013.
    Huber, "Robust Estimation of a Location Parameter" (1964). Geman and McClure, "Statistical methods for tomographic
    image reconstruction" (1987).

    Examples
    --------
    Points on two lines through the origin:

    >>> import numpy as np
    >>> from ksubspaces import fit_subspaces
    >>> X = np.array([[1.0, 0.0], [2.0, 0.0], [-3.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    >>> lines = fit_subspaces(X, k=2, j=1, seed=0)
    >>> bool(lines.objective < 1e-12)
    True
    >>> sorted(lines.counts)
    [2, 3]
    """
    begun = time.perf_counter()
    k, max_iter = whole("k", k, 1), whole("max_iter", max_iter, 1)
    tol, affine = tolerance(tol), flag("affine", affine)
    _check_search(search, effort, init, n_init)
    check_loss(loss, scale)
    if loss != "l2" and search == "breathing":
        raise ValueError(f"search='breathing' is for loss='l2'; with loss={loss!r} leave it out, and raise effort")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable, got {callback!r}")
    if is_dask(X):
        if loss != "l2":
            raise ValueError(f"loss={loss!r} cannot be had for a Dask array; fit a sample of its rows, or loss='l2'")
        blocks = Blocks(X, sample_weight, dtype)
        if device is not None:
            raise ValueError(
                f"device={device!r} cannot be had for a Dask array: its blocks are worked on where they are"
            )
        if metric is not None:
            raise ValueError("metric cannot be had for a Dask array; fit X @ M^(1/2), whose plain distances it is")
        if not isinstance(init, (str, Subspaces)) and not are_bases(init):
            raise TypeError("init of a Dask array must be the name of a start, bases or a Subspaces, not labels")

        def start(rows: np.ndarray, weights: np.ndarray, seed: int) -> Subspaces:
            find = partial(fit_subspaces, init=init, n_init=n_init, search=search, effort=effort)
            return find(rows, k, j, affine=affine, sample_weight=weights, seed=seed)

        given = init if isinstance(init, Subspaces) else start
        return _fit_blocks(blocks, k, j, max_iter, tol, seed, progress, callback, begun, given, affine)
    with entered(X, "X", device, dtype) as (array, home):
        kernels.prepare(array)
        exponent = check_matrix(array, "X")
        own = None if metric is None else Metric.of(metric, array.shape[1])
        if own is not None:
            init, array = _in_metric(init, own), own.whiten(array)
            exponent = check_matrix(array, "X in the metric")
        array = scaled(array, -exponent)
        n, d = array.shape
        _check_rows(n, k)
        where = device_of(array)
        weights, unit = (None, 1.0) if sample_weight is None else check_weights(sample_weight, n, where)
        with np.errstate(over="ignore"):
            unit = float(np.ldexp(unit, 2 * exponent))
        problem = Problem(array, weights, _check_dims(j, k, d), affine, unit)
        own_total = energy(array, weights)
        total = unit * own_total
        if not np.isfinite(total):
            raise ValueError("the weighted sum of squares of X overflows float64; scale X or sample_weight down")
        if total < np.finfo(np.float64).tiny and own_total > 0:
            raise ValueError("the weighted sum of squares of X underflows float64; scale X or sample_weight up")
        bar = Bar(total, max_iter) if progress else None

        def on_step(start: int, breath: int, best: float, state: State) -> bool:
            seconds = time.perf_counter() - begun
            told = len(state.history), state.objective, state.moved, state.n_reseeded, seconds, breath, best
            return bool(callback is not None and callback(Step(start, *told)))

        way = init, n_init, max_iter, tol, seed, bar
        if loss == "l2":
            best, flats, labels, objective = fit_problem(
                problem, *way, search, effort, exponent=exponent, on_step=on_step
            )
            record = _record(best, objective, total, begun)
        else:
            by = LOSSES[loss]
            fit = fit_robust(problem, by, scale, *way, effort, exponent=exponent, on_step=on_step)
            best, flats, labels = fit.state, fit.flats, fit.labels
            record = replace(_record(best, fit.objective, fit.energy, begun), loss=loss, scale=fit.scale)
        offsets = None if flats.offsets is None else scaled(flats.offsets, exponent)
        bases = flats.layout.split(flats.bases)
        if own is not None:
            bases, offsets = [own.restore(V) for V in bases], None if offsets is None else own.restore(offsets)
            metric = home.back(place(import_array(metric, "metric"), device_of(array)))
        offsets = None if offsets is None else home.back(offsets)
        return Subspaces([home.back(V) for V in bases], offsets, home.back(labels), home, record, metric)


def _in_metric(init: Init, metric: Metric) -> Init:
    """A start by bases or flats, for rows in the metric; what does not fit is refused later."""

    def whitened(V: AnyArray) -> AnyArray:
        V = enter(V, "init")[0]
        return metric.whiten(V) if V.ndim == 2 and V.shape[1] == len(metric.root) else V

    if isinstance(init, Subspaces):
        offsets = None if init.offsets is None else whitened(init.offsets)
        return replace(init, bases=[whitened(V) for V in init.bases], offsets=offsets, metric=None)
    return [whitened(V) for V in init] if not isinstance(init, str) and are_bases(init) else init


def _fit_blocks(
    blocks: Blocks,
    k: int,
    j: int | Sequence[int],
    max_iter: int,
    tol: float,
    seed: Seed,
    progress: bool,
    callback: Callable[[Step], bool | None] | None,
    begun: float,
    start: Subspaces | Callable[[np.ndarray, np.ndarray, int], Subspaces],
    affine: bool,
) -> Subspaces:
    """A fit of a sample, from which the alternation goes on over all rows."""
    _check_rows(blocks.n, k)
    rule = BlockedDims(blocks, _check_dims(j, k, blocks.d), affine)
    total, mass = blocks.survey()
    drawing, fitting = (int(rng.integers(2**63)) for rng in islice(generators(seed), 2))
    if not isinstance(start, Subspaces):
        rows, weights, stands = blocks.sample(max(k, sample_size(blocks, rule.layout.dims)), drawing, total, mass)
        start = start(rows, weights * stands, fitting)
    flats = Flats.from_bases(start.bases, start.offsets)
    bar = Bar(total, max_iter) if progress else None

    def on_step(state: BlockedState) -> bool:
        step = len(state.history)
        if bar is not None:
            bar.update(f"all rows, step {step}", state.objective, f"{state.moved} moved", step)
        told = step, state.objective, state.moved, state.n_reseeded, time.perf_counter() - begun, 0, min(state.history)
        return bool(callback is not None and callback(Step(0, *told)))

    with shown(bar):
        begin = BlockedState(None, flats=flats)  # type: ignore[arg-type]
        best = alternate(begin, rule, max_iter=max_iter, tol=tol, on_step=on_step)
        assert best.flats is not None
        flats, labels, objective = rule.finish(best.flats)
        if bar is not None:
            bar.finish()
    record = _record(best, objective, total, begun)
    return Subspaces(flats.layout.split(flats.bases), flats.offsets, blocks.array(labels), record=record)


def _check_search(search: str, effort: float, init: Init, n_init: int | str) -> None:
    if search not in SEARCHES:
        raise ValueError(f"search must be one of {', '.join(map(repr, SEARCHES))}, got {search!r}")
    if isinstance(effort, bool) or not isinstance(effort, Real) or not 1 <= effort < np.inf:
        raise ValueError(f"effort must be a number >= 1, got {effort!r}")
    if effort != 1 and search != "breathing" and not (isinstance(init, str) and n_init == "auto"):
        raise ValueError(f"effort={effort} has no say over a given start or n_init; pass search='breathing' too")


def _record(best: State, objective: float, total: float, begun: float) -> Record:
    told = list(best.history), best.converged, best.n_reseeded, time.perf_counter() - begun
    return Record(objective, total, share(objective, total), *told)


def _check_rows(n: int, k: int) -> None:
    if k > n:
        raise ValueError(f"k={k} subspaces need at least {k} rows, but X has {n}; choose a smaller k")


def _check_dims(j: int | Sequence[int], k: int, d: int) -> tuple[int, ...]:
    try:
        given = np.asarray(j).tolist() if not isinstance(j, Integral) else j
    except ValueError:
        raise ValueError(f"j must be one int or k={k} of them, got {j!r}") from None
    if isinstance(given, list) and len(given) != k:
        raise ValueError(f"j must be one int or k={k} of them, got {len(given)}")
    dims = tuple(whole("j", dim, 0) for dim in (given if isinstance(given, list) else [given] * k))
    if max(dims) > d:
        raise ValueError(f"j={max(dims)} is more than the {d} columns of X; a subspace has at most {d} dimensions")
    return dims
