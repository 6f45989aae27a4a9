"""``fit_subspaces``: checks the input, runs the starts, finishes the best."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from numbers import Integral
from typing import Any

import numpy as np

from ksubspaces import kernels
from ksubspaces.kernels import Flats

from .alternation import FixedDims, State, alternate, finish
from .arrays import AnyArray, Array, device_of, energy, enter, entered, namespace, scaled
from .checks import Seed, check_labels, check_matrix, check_weights, flag, generators, tolerance, whole
from .problem import Problem
from .progress import Bar, shown
from .result import Record, share
from .seeding import STARTS
from .subspaces import Subspaces

RACE = (
    (64, ("k-means", "k-means", "k-means++", "k-means++")),
    (128, ("k-means", "k-means++")),
    (np.inf, ("k-means++",)),
)
"""Kinds of the starts that are raced for up to so many flats.

With many flats one start is as good as another: what they end at no longer follows from what they have after a few
steps. And there a start by direction wins no race any more, which it does among few flats of embeddings.
"""
RACE_STEPS = 3

Start = Callable[[Problem, np.random.Generator], Array]


@dataclass(frozen=True)
class Step:
    """What a callback is told after each step of the alternation.

    Attributes
    ----------
    start : int
        Number of the start it belongs to, from 0.
    iteration : int
        Step within that start, from 1.
    objective : float
        Weighted sum of squared distances after the step, in the precision of the computation.
    moved : int
        Rows whose label changed.
    n_reseeded : int
        Clusters re-seeded so far within this start.
    seconds : float
        Since the fit began.
    """

    start: int
    iteration: int
    objective: float
    moved: int
    n_reseeded: int
    seconds: float


def fit_subspaces(
    X: AnyArray,
    k: int,
    j: int | Sequence[int],
    *,
    device: str | None = None,
    affine: bool = False,
    sample_weight: AnyArray | None = None,
    init: Any = "k-means++",
    n_init: int | str = "auto",
    max_iter: int = 100,
    tol: float = 1e-4,
    dtype: Any = None,
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
        NumPy, Torch or CuPy, or anything with ``__dlpack__``, ``__cuda_array_interface__`` or ``__array__``.
        float16, bfloat16 and float32 are computed in float32, float64 and integers in float64. Never modified, and
        not copied unless its dtype, the device or its scale demand it: where squares of its entries leave the range of
        the precision computed in (float32: the largest above 1e17 or below 1e-12), X times a power of two is fitted,
        which rounds nothing, and results come in X's own scale. n >= k; entries finite.
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
    init : str or array or list, default "k-means++"
        How to start: "k-means++" (greedy D^2 seeding for flats), "k-means" (labels of a spherical k-means, or an
        ordinary one if affine), "random" (random partition, as in the MESSI paper), labels (n,) of ints, k bases of
        subspaces through the origin (of any dimensions: they only give the first labels), or a :class:`Subspaces` to
        go on from.
    n_init : "auto" or int, default "auto"
        "auto" races a few starts for 3 steps each and finishes the best: 4 up to k=64, 2 up to k=128, beyond there is
        one. For ``init="k-means++"`` half of the racers are "k-means" starts. An int runs that many starts of the kind
        named to the end and keeps the best. With k=1, or a given start, there is one.
    max_iter : int, default 100
        Most steps of any one start.
    tol : float, default 1e-4
        Stop when a step lowers the objective by at most this share of it (or when no label changes).
    dtype : {None, "float32", "float64"}
        Precision to compute in; ``None`` goes by X.
    seed : int, numpy.random.Generator or None
        The same int gives the same bits on the same machine, whatever kind of array X is. ``None`` differs each time.
    progress : bool, default False
        Show a bar (needs rich: ``pip install "ksubspaces[cli]"``).
    callback : callable, optional
        Called with a :class:`Step` after each step; a true answer stops the fit there and then, with the best start so
        far.

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

    References
    ----------
    Bradley and Mangasarian, "k-Plane Clustering" (2000). Tseng, "Nearest q-Flat to m Points" (2000). Maalouf, Lang,
    Rus and Feldman, "Deep Learning Meets Projective Clustering" (ICLR 2021), section 2.

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
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable, got {callback!r}")
    with entered(X, "X", device, dtype) as (array, home):
        kernels.prepare(array)
        exponent = check_matrix(array, "X")
        array = scaled(array, -exponent)
        n, d = array.shape
        if k > n:
            raise ValueError(f"k={k} subspaces need at least {k} rows, but X has {n}; choose a smaller k")
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

        def on_step(start: int, state: State) -> bool:
            seconds = time.perf_counter() - begun
            step = Step(start, len(state.history), state.objective, state.moved, state.n_reseeded, seconds)
            return bool(callback is not None and callback(step))

        best, flats, labels, objective = fit_problem(
            problem, init, n_init, max_iter, tol, seed, bar, exponent=exponent, on_step=on_step
        )
        record = Record(
            objective,
            total,
            share(objective, total),
            list(best.history),
            best.converged,
            best.n_reseeded,
            time.perf_counter() - begun,
        )
        offsets = None if flats.offsets is None else home.back(scaled(flats.offsets, exponent))
        bases = [home.back(V) for V in flats.layout.split(flats.bases)]
        return Subspaces(bases, offsets, home.back(labels), home, record)


def fit_problem(
    problem: Problem,
    init: Any,
    n_init: int | str,
    max_iter: int,
    tol: float,
    seed: Seed,
    bar: Bar | None = None,
    *,
    exponent: int = 0,
    on_step: Callable[[int, State], bool] | None = None,
) -> tuple[State, Flats, Array, float]:
    """Race the starts and finish the best: where it ended; flats, labels and objective of the exact finish.

    ``init`` is given in the scale of ``2^exponent`` times the problem's rows; ``on_step`` is told the start's number.
    """
    starts, race_steps = _starts(init, n_init, problem, device_of(problem.X), exponent)
    steps = max_iter if race_steps is None else min(race_steps, max_iter)

    def run(number: int, state: State, most: int) -> State:
        def report(state: State) -> bool:
            if bar is not None:
                step = len(state.history)
                bar.update(f"start {number}, step {step}", state.objective, f"{state.moved} moved", step)
            return on_step is not None and on_step(number, state)

        return alternate(state, FixedDims(problem), max_iter=most, tol=tol, on_step=report)

    best: State | None = None
    with shown(bar):
        for number, (start, rng) in enumerate(zip(starts, generators(seed), strict=False)):
            state = run(number, State(start(problem, rng)), steps)
            if best is None or state.objective < best.objective:
                best, winner = state, number
            if state.stopped:
                best = replace(best, stopped=True)
                break
        assert best is not None
        best = run(winner, best, max_iter)
        if bar is not None:
            bar.finish()
    return best, *finish(problem, best.labels)


def _starts(
    init: Any, n_init: int | str, problem: Problem, device: str, exponent: int
) -> tuple[Iterable[Start], int | None]:
    """The starts to run, and how many steps each is given before the best goes on; None for all it takes."""
    if n_init != "auto":
        n_init = whole("n_init", n_init, 1, "'auto' or ")
    if isinstance(init, str) and init in STARTS:
        if problem.k == 1:
            return [STARTS[init]], None
        if n_init == "auto":
            kinds = next(kinds for most, kinds in RACE if problem.k <= most)
            return [STARTS[kind if init == "k-means++" else init] for kind in kinds], RACE_STEPS
        return repeat(STARTS[init], int(n_init)), None
    labels = _given_labels(init, problem, device, exponent)
    return [lambda problem, rng: labels], None


def _given_labels(init: Any, problem: Problem, device: str, exponent: int) -> Array:
    """Labels that a caller starts from, or those of the flats given; the problem's rows are ``2^-exponent X``."""
    names = ", ".join(repr(name) for name in STARTS)
    (n, d), k, dtype = problem.X.shape, problem.k, problem.X.dtype
    if isinstance(init, str):
        raise ValueError(f"init must be one of {names}, or labels, bases or a Subspaces; got {init!r}")
    offsets = None
    if isinstance(init, Subspaces):
        init, offsets = init.bases, init.offsets
    elif not _are_bases(init):
        given = enter(init, "init", device, np.float64)[0]
        try:
            return check_labels(given, n, k)
        except ValueError as error:
            raise ValueError(f"init is not one of {names}, a list of bases or labels: {error}") from None
    bases = [enter(V, f"init[{c}]", device, dtype)[0] for c, V in enumerate(init)]
    if len(bases) != k:
        raise ValueError(f"init has {len(bases)} bases, but k={k}")
    for c, V in enumerate(bases):
        if V.shape[1] != d or V.shape[0] > d:
            raise ValueError(f"init[{c}] must be a basis (j, {d}) with j <= {d}, got shape {tuple(V.shape)}")
        if not bool(namespace(V).isfinite(V).all()):
            raise ValueError(f"init[{c}] must be finite, but has NaN or infinity in it")
    xp = namespace(problem.X)
    bases = [xp.ascontiguousarray(xp.linalg.qr(V.T)[0].T) for V in bases]
    if offsets is not None:
        offsets = scaled(enter(offsets, "init.offsets", device, dtype)[0], -exponent)
    return kernels.assign(problem.X, Flats.from_bases(bases, offsets))[0]


def _are_bases(init: Any) -> bool:
    """Whether this is a list of matrices, or one array of them (k, j, d)."""
    if isinstance(init, (list, tuple)):
        return len(init) > 0 and all(len(getattr(part, "shape", np.shape(part))) == 2 for part in init)
    return len(getattr(init, "shape", ())) == 3


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
