"""``fit_subspaces``: checks the input, runs the starts, lets the best breathe, and finishes it."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np

from ksubspaces import kernels
from ksubspaces.kernels import Flats

from .alternation import FixedDims, State, alternate, finish
from .arrays import AnyArray, Array, device_of, energy, entered, scaled
from .breathing import ROUGH, breathe
from .checks import Seed, check_matrix, check_weights, flag, generators, tolerance, whole
from .problem import Problem
from .progress import Bar, shown
from .result import Record, share
from .seeding import STARTS, given_labels
from .subspaces import Subspaces


class Plan(NamedTuple):
    """What a fit of up to so many flats does when it is left to choose.

    Attributes
    ----------
    most : float
        Flats.
    raced : tuple of str
        Kinds of the starts that are raced where there are no breaths. With many flats one start is as good as another:
        what they end at no longer follows from what they have after a few steps. And there a start by direction wins
        no race any more, which it does among few flats of embeddings.
    breathing : tuple of str
        Kinds of the starts that are raced to breathe.
    breaths : int
        Steps that breaths may take: about what the starts take that are not raced then.
    whole : int
        Steps that a whole fit takes, starts counted as well: what each further effort adds.
    """

    most: float
    raced: tuple[str, ...]
    breathing: tuple[str, ...]
    breaths: int
    whole: int


PLANS = (
    Plan(31, ("k-means", "k-means", "k-means++", "k-means++"), ("k-means",), 30, 40),
    Plan(64, ("k-means", "k-means", "k-means++", "k-means++"), ("k-means++",), 54, 90),
    Plan(128, ("k-means", "k-means++"), ("k-means++",), 20, 60),
    Plan(np.inf, ("k-means++",), ("k-means++",), 0, 60),
)
RACE_STEPS = 3
POINTS = 4  # as many steps for flats of dimension 0, of which a start takes longer and a step less time
SEARCHES = ("auto", "breathing", "starts")

Start = Callable[[Problem, np.random.Generator], Array]


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
    init: Any = "k-means++",
    n_init: int | str = "auto",
    search: str = "auto",
    effort: float = 1,
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

    References
    ----------
    Bradley and Mangasarian, "k-Plane Clustering" (2000). Tseng, "Nearest q-Flat to m Points" (2000). Maalouf, Lang,
    Rus and Feldman, "Deep Learning Meets Projective Clustering" (ICLR 2021), section 2. Fritzke, "The breathing
    k-means algorithm" (2020), arXiv 2006.15666.

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

        def on_step(start: int, breath: int, best: float, state: State) -> bool:
            seconds = time.perf_counter() - begun
            told = len(state.history), state.objective, state.moved, state.n_reseeded, seconds, breath, best
            return bool(callback is not None and callback(Step(start, *told)))

        best, flats, labels, objective = fit_problem(
            problem, init, n_init, max_iter, tol, seed, bar, search, effort, exponent=exponent, on_step=on_step
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
    search: str = "auto",
    effort: float = 1,
    *,
    exponent: int = 0,
    on_step: Callable[[int, int, float, State], bool] | None = None,
) -> tuple[State, Flats, Array, float]:
    """Race the starts, let the best breathe and finish it: where it ended; flats, labels and objective of the exact
    finish.

    ``init`` is given in the scale of ``2^exponent`` times the problem's rows; ``on_step`` is told the numbers of the
    start and the breath and the least objective so far.
    """
    plan = next(plan for plan in PLANS if problem.k <= plan.most)
    breathes = _breathes(search, init, n_init, problem)
    starts, race_steps = _starts(init, n_init, problem, device_of(problem.X), exponent, plan, breathes, effort)
    steps = max_iter if race_steps is None else min(race_steps, max_iter)
    rough = max(tol, ROUGH) if breathes else tol
    number, breath, least = 0, 0, math.inf

    def run(problem_: Problem, state: State, most: int, tol: float = 0.0) -> State:
        def report(state: State) -> bool:
            nonlocal least
            if problem_ is problem:
                least = min(least, state.objective)
            if bar is not None:
                step, place = len(state.history), f"breath {breath}" if breath else f"start {number}"
                bar.update(f"{place}, step {step}", least if breath else state.objective, f"{state.moved} moved", step)
            return on_step is not None and on_step(number, breath, least, state)

        return alternate(state, FixedDims(problem_), max_iter=most, tol=tol, on_step=report)

    best: State | None = None
    seeds = generators(seed)
    with shown(bar):
        for number, (start, rng) in enumerate(zip(starts, seeds, strict=False)):
            state = run(problem, State(start(problem, rng)), steps, rough)
            if best is None or state.objective < best.objective:
                best, winner = state, number
            if state.stopped:
                best = replace(best, stopped=True)
                break
        assert best is not None
        number = winner
        best = run(problem, best, max_iter, rough)
        if breathes and best.converged and not best.stopped:
            allowed = (plan.breaths + (effort - 1) * plan.whole) * (1 if any(problem.dims) else POINTS)
            breath = 1
            try:
                for found in breathe(problem, best, next(seeds), allowed, run):
                    best, breath = found, breath + 1
            except KeyboardInterrupt:
                warnings.warn("interrupted: this is the best result so far", RuntimeWarning, stacklevel=3)
                best = replace(best, stopped=True)
            breath = 0
            best = run(problem, replace(best, converged=False), len(best.history) + max_iter, tol)
        if bar is not None:
            bar.finish()
    return best, *finish(problem, best.labels)


def _breathes(search: str, init: Any, n_init: int | str, problem: Problem) -> bool:
    if search != "auto":
        return search == "breathing"
    return isinstance(init, str) and n_init == "auto" and not problem.on_card


def _starts(
    init: Any,
    n_init: int | str,
    problem: Problem,
    device: str,
    exponent: int,
    plan: Plan,
    breathes: bool,
    effort: float,
) -> tuple[Iterable[Start], int | None]:
    """The starts to run, and how many steps each is given before the best goes on; None for all it takes."""
    if n_init != "auto":
        n_init = whole("n_init", n_init, 1, "'auto' or ")
    if isinstance(init, str) and init in STARTS:
        if problem.k == 1:
            return [STARTS[init]], None
        if n_init == "auto":
            kinds = plan.breathing if breathes else plan.raced * round(effort)
            return [STARTS[kind if init == "k-means++" else init] for kind in kinds], RACE_STEPS
        return repeat(STARTS[init], int(n_init)), None
    labels = given_labels(init, problem, device, exponent)
    return [lambda problem, rng: labels], None


def _check_search(search: str, effort: float, init: Any, n_init: int | str) -> None:
    if search not in SEARCHES:
        raise ValueError(f"search must be one of {', '.join(map(repr, SEARCHES))}, got {search!r}")
    if isinstance(effort, bool) or not isinstance(effort, Real) or not 1 <= effort < np.inf:
        raise ValueError(f"effort must be a number >= 1, got {effort!r}")
    if effort != 1 and search != "breathing" and not (isinstance(init, str) and n_init == "auto"):
        raise ValueError(f"effort={effort} has no say over a given start or n_init; pass search='breathing' too")


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
