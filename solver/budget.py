"""``compress``: a matrix as k small factors that take a given number of parameters, with the least error that is found.

The descent itself is in :mod:`.pricing`, the number of clusters in :mod:`.splitting`.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import overload

import numpy as np

from ksubspaces import kernels
from ksubspaces.kernels import Flats

from . import coreset as coresets
from .alternation import alternate
from .arrays import AnyArray, AnyDtype, Array, device_of, energy, enter, entered, namespace, place, scaled
from .bits.quantized import QuantizedFactorization
from .blocked import is_dask
from .blocked_budget import NO_PARTITION, WHOLE_STEPS, compress_blocks, refuse_for_blocks
from .blocked_factors import BlockedFactorization
from .checks import (
    Passed,
    Seed,
    check_labels,
    check_matrix,
    check_weights,
    flag,
    generators,
    one_budget,
    tolerance,
    whole,
)
from .coefficients import parameters_within
from .decoded import exact_numbers
from .exact import with_exact
from .factorization import Factorization, factorize
from .metric import Metric
from .pricing import PATIENCE, Budget, Solution, compact
from .problem import Problem
from .progress import Bar, shown
from .racing import fit_problem
from .seeding import Init
from .splitting import clusters, equal_dims

WAYS = ("budget", "equal")


@overload
def compress(A: AnyArray, *, bits: float, **options: Passed) -> QuantizedFactorization: ...
@overload
def compress(A: AnyArray, *, nbytes: int, **options: Passed) -> QuantizedFactorization: ...
@overload
def compress(A: AnyArray, *, max_error: float, **options: Passed) -> QuantizedFactorization: ...
@overload
def compress(A: AnyArray, ratio: float | None = None, **options: Passed) -> Factorization: ...
def compress(  # type: ignore[misc]
    A: AnyArray,
    ratio: float | None = None,
    *,
    keep: float | None = None,
    n_parameters: int | None = None,
    bits: float | None = None,
    nbytes: int | None = None,
    max_error: float | None = None,
    relative: bool = False,
    coder: str = "trellis",
    k: int | str = "auto",
    dims: str = "budget",
    sample_weight: AnyArray | None = None,
    metric: AnyArray | None = None,
    affine: bool = False,
    exact_rows: AnyArray | None = None,
    init: Init | Factorization | None = None,
    n_init: int | str = "auto",
    coreset: int | str | None = "auto",
    max_iter: int = 100,
    tol: float = 1e-4,
    dtype: AnyDtype | None = None,
    device: str | None = None,
    seed: Seed = None,
    progress: bool = False,
) -> Factorization | QuantizedFactorization | BlockedFactorization:
    """Factor a matrix into k clusters of rows and a basis for each, within a number of parameters, or of bytes.

    Minimises ``sum_i w_i |a_i - row i decoded|^2``. Every cluster gets the dimension that its rows are worth: a
    direction of cluster c costs a coefficient for each of its n_c rows and d numbers of its basis, and is kept if what
    it captures exceeds that at the price of a parameter; a row goes where its weighted residual and its coefficients
    together cost least. The price is such that the directions kept fill the budget. Clusters come from splitting one
    top-down.

    Parameters
    ----------
    A : (n, d) array
        As X in :func:`fit_subspaces`. Never modified.
    ratio : float, optional
        Share of the n d numbers to save, 0 <= ratio < 1: 0.4 leaves 60% of them. Give this, ``keep``,
        ``n_parameters``, ``bits``, ``nbytes`` or ``max_error``.
    keep : float, optional
        Share of them to keep, 0 < keep <= 1: ``keep=0.6`` is ``ratio=0.4``.
    n_parameters : int, optional
        Most numbers that the factors may take: ``sum n_c j_c + d sum j_c``, and with more than one cluster a label for
        each row, and with offsets ``k d``.
    bits : float, optional
        Bits to store for each of the n d numbers, all told: ``bits=2.0`` takes a sixteenth of float32. Each cluster's
        basis is a transform, whose coefficients are coded with 0 to 8 bits each, as many as they are worth; the result
        is a :class:`QuantizedFactorization`. Counted in bytes, this loses far less than to drop directions alone.
    nbytes : int, optional
        The same budget in bytes: of codes, labels, bases, scales, levels, gains and exact rows together.
    max_error : float, optional
        Most ``relative_error`` allowed, between 0 and 1, in place of a budget: the smallest code in bits that is found
        to keep to it, within a hundredth or so of its size. It takes three to six encodings, at most ten; what wins
        the first begins those near it.
    relative : bool, default False
        With bits, every row's error relative to its length counts alike, which keeps neighbours and cosines; a row of
        zeros has none.
    coder : {"trellis", "scalar"}, default "trellis"
        With bits, how coefficients are coded: along a trellis of 1,024 states (256 for small matrices), or each by
        itself, which codes some times faster, is decoded as fast, and loses up to a fifth more.
    k : "auto" or int, default "auto"
        Number of clusters. "auto" splits for as long as a split pays for its bases; an int splits up to that many, or
        fewer where more would only cost. k=1 is the truncated SVD.
    dims : {"budget", "equal"}, default "budget"
        "equal" gives every cluster the same dimension, the largest that fits: MESSI, for comparison. It needs an int k
        and runs :func:`fit_subspaces`.
    sample_weight : (n,) array, optional
        Nonnegative weights w_i; default all 1. In tables of words what matters is how often each occurs, see
        :func:`token_weights`.
    metric : (d, d) array, optional
        M, symmetric and positive semidefinite: the error of a row is ``(a - a') M (a - a')^T``. With A the weight
        (out, in) of a linear layer and M the second moment of its inputs, ``E[x^T x]``, that is the mean squared error
        of an output. Rows times ``M^(1/2)`` are what is compressed, after a millionth of their mean is added to M's
        eigenvalues; bases are taken back, and not orthonormal. Errors told are in the metric.
    affine : bool, default False
        Flats with offsets, which cost d numbers each.
    exact_rows : (m,) array of ints, or mask (n,), optional
        Rows to keep just as they are. They count towards the budget: ``min(m, d) (m + d)`` numbers.
    init : (n,) array of ints or Factorization, optional
        Labels to begin with (of exact rows they are of no account), in place of one cluster: those of a compression to
        a similar size save most of the time.
    n_init : "auto" or int, default "auto"
        Times to split from the start, each with random numbers of its own; the best is kept. "auto" is once; with equal
        dimensions it is as in :func:`fit_subspaces`.
    coreset : "auto", None or int, default "auto"
        Rows that clusters are found on, drawn and weighted back, where there are twice as many or more; "auto" is
        65,536. ``None`` finds them on all rows (but of a Dask array).
    max_iter : int, default 100
        Most steps of the last descent.
    tol : float, default 1e-4
        The last descent stops when the objective no longer falls by this share of it.
    dtype : {None, "float32", "float64"}
        Precision to compute and return; ``None`` goes by A.
    device : {None, "cpu", "cuda", "cuda:<index>"}
        Where to compute; ``None`` is where A lives.
    seed : int, numpy.random.Generator or None
        The same int gives the same bits on the same machine.
    progress : bool, default False
        Show a bar (needs rich: ``pip install "ksubspaces[cli]"``).

    Returns
    -------
    Factorization, QuantizedFactorization or BlockedFactorization
        Of A's kind, where A lives. Within ``bits`` or ``nbytes`` it is the latter, which never exceeds them; several
        codes compete, and ``winner`` says which won. The former never has more parameters than asked, and fewer than
        99% of them only where A is exact with fewer or no direction of any cluster fits in what is left (a direction
        takes n_c + d). It is never worse than the truncated SVD at the same count: where no partition beats that, it is
        what comes back, with a warning (not with ``dims="equal"``, which stays what it is).

    Raises
    ------
    ValueError, TypeError
        When an argument cannot be used, or the budget is less than one direction takes, n + d.
    ImportError, RuntimeError
        When ``device`` asks for CUDA and CuPy or a device is missing.

    Notes
    -----
    Rows of a coreset are drawn by their share of the rows, of what they weigh and of what they leave, and weighted back
    (Feldman and Langberg 2011; :mod:`.coreset`). Some steps over all rows follow. Half the rows of MiniLM's table
    instead of all cost 0.6% of the error at a ratio of 0.6. On the CPU, steps of eight clusters or more measure all
    flats in turn with those that were nearest to each row (:mod:`.nearby`).

    References
    ----------
    A metric of the data, for one cluster: DRONE (Chen et al., NeurIPS 2021), SVD-LLM (Wang et al., ICLR 2025). Equal
    dimensions: Maalouf, Lang, Rus and Feldman, "Deep Learning Meets Projective Clustering" (ICLR 2021),
    section 2. Bits: transform coding of a mixture with one price of a bit over all components and directions, as in
    PrismQuant (arXiv 2605.15507), here with weights of rows, and bases coded under the same price; trellises: QTIP
    (Tseng et al., NeurIPS 2024). Near: GroupReduce (Chen et al., NeurIPS 2018), DiscBlock (Findings of EMNLP 2021).

    Examples
    --------
    >>> import numpy as np
    >>> from ksubspaces import compress
    >>> rng = np.random.default_rng(0)
    >>> small, large = rng.normal(size=(300, 2, 1)) * rng.normal(size=(2, 16)), rng.normal(size=(100, 12))
    >>> A = np.concatenate([small.sum(axis=1), large @ rng.normal(size=(12, 16))])
    >>> factors = compress(A, 0.6, seed=0)
    >>> factors.n_parameters <= 0.4 * A.size
    True
    >>> sorted(zip(factors.dims, factors.counts))
    [(2, 300), (12, 100)]
    >>> compress(A.astype("float32"), bits=3.0, seed=0).relative_error < 0.05
    True
    """
    begun = time.perf_counter()
    few = coresets.ROWS if coreset == "auto" else coreset
    few = few if few is None else whole("coreset", few, 1, "'auto' or ")
    if is_dask(A):
        few = coresets.ROWS if few is None else few  # all rows are never at hand
        refuse_for_blocks(exact_rows=exact_rows, init=init, device=device, bits=bits, nbytes=nbytes, metric=metric)
        refuse_for_blocks(dims=dims, n_init=n_init, relative=relative, max_error=max_error)
        parameters = partial(parameters_within, ratio=ratio, keep=keep, n_parameters=n_parameters)
        most = None if k == "auto" else whole("k", k, 1, "'auto' or ")
        bounds = {"max_iter": whole("max_iter", max_iter, 1), "tol": tolerance(tol), "progress": progress}
        given = {"sample_weight": sample_weight, "affine": flag("affine", affine), "dtype": dtype, "seed": seed}
        return compress_blocks(A, parameters, most, few, **bounds, **given)  # type: ignore[arg-type]
    in_bits = {"bits": bits, "nbytes": nbytes, "max_error": max_error}
    if any(value is not None for value in in_bits.values()):
        one_budget(ratio=ratio, keep=keep, n_parameters=n_parameters, **in_bits)
        if metric is not None:
            raise ValueError("metric is for factors of numbers; give ratio, keep or n_parameters")
        others = {"k": k != "auto", "dims": dims != "budget", "affine": affine, "init": init is not None}
        for name, is_given in (others | {"n_init": n_init != "auto"}).items():
            if is_given:
                raise ValueError(
                    f"{name} is for factors of numbers; with a budget in bits it is found, so leave it out"
                )
        from .bits.compression import quantize

        return quantize(
            A,
            bits=bits,
            nbytes=nbytes,
            max_error=max_error,
            sample_weight=sample_weight,
            relative=relative,
            coder=coder,
            exact_rows=exact_rows,
            device=device,
            dtype=dtype,
            seed=seed,
            progress=progress,
        )
    if flag("relative", relative) or coder != "trellis":
        raise ValueError("relative and coder are for a budget in bits; give bits or nbytes, or leave them out")
    if dims not in WAYS:
        raise ValueError(f"dims must be 'budget' or 'equal', got {dims!r}")
    most = None if k == "auto" else whole("k", k, 1, "'auto' or ")
    max_iter, tol, affine = whole("max_iter", max_iter, 1), tolerance(tol), flag("affine", affine)
    with entered(A, "A", device, dtype) as (array, home):
        kernels.prepare(array)
        exponent = check_matrix(array, "A")
        own, plain = None if metric is None else Metric.of(metric, array.shape[1]), array
        if own is not None:
            array = own.whiten(plain)
            exponent = check_matrix(array, "A in the metric")
        rows = scaled(array, -exponent)
        n, d = array.shape
        exact = exact_numbers(array, exact_rows)
        problem = _problem(rows, exact, sample_weight, affine)
        budget = Budget(problem, parameters_within(n, d, ratio=ratio, keep=keep, n_parameters=n_parameters), exact)
        if budget.linear.overhead(1) + budget.n_rows + d > budget.n_parameters:
            more = "lower ratio" if ratio is not None else "raise keep" if keep is not None else "raise n_parameters"
            raise ValueError(
                f"the {budget.n_exact} exact_rows leave no room for a direction of the others "
                f"in {budget.n_parameters} parameters; name fewer, or {more}"
            )
        if most is not None and most > budget.n_rows:
            raise ValueError(f"k={most} clusters need at least {most} rows, but there are {budget.n_rows}; lower k")
        start = _start(init, n, exact, device_of(array))
        if dims == "equal" and most is None:
            raise ValueError("dims='equal' does not find k; give it, for instance k=5")
        bar = Bar(energy(problem.X, problem.weights)) if progress else None
        if most is not None and dims == "equal":
            first = "k-means++" if init is None else start
            labels, flats, steps, converged = _fit_equal(budget, most, first, n_init, max_iter, tol, seed, bar)
        else:
            runs = 1 if n_init == "auto" else whole("n_init", n_init, 1, "'auto' or ")
            with shown(bar):
                labels, flats, steps, converged = _descend(budget, start, most, few, runs, max_iter, tol, seed, bar)
        weights = (None, 1.0) if sample_weight is None else check_weights(sample_weight, n, device_of(array))
        if exact is None:
            factors = factorize(rows, labels, flats, home, exponent, weights)
        else:
            factors = with_exact(rows, labels, flats, exact, home, exponent, weights)
        if own is not None:
            factors = own.restored(factors, plain, exact)
    with np.errstate(over="ignore"):
        history = np.ldexp(np.array(steps) * problem.unit, 2 * exponent).tolist()
    seconds = time.perf_counter() - begun
    record = replace(factors.record, history=history, converged=converged, seconds=seconds)
    return replace(factors, record=record)


def _problem(A: Array, exact: Array | None, sample_weight: AnyArray | None, affine: bool) -> Problem:
    """A problem of all rows, in which exact rows weigh nothing: a copy without them would double the memory."""
    xp, weights, unit = namespace(A), None, 1.0
    if sample_weight is not None:
        weights, unit = check_weights(sample_weight, len(A), device_of(A))
    if exact is None:
        return Problem(A, weights, (), affine, unit)
    if len(exact) == len(A):
        raise ValueError("exact_rows names all rows of A, so that none is left to compress")
    others = xp.ones(len(A))
    others[exact] = 0
    if weights is None or not bool((weights * others > 0).any()):
        return Problem(A, others, (), affine)
    return Problem(A, weights * others, (), affine, unit)


def _start(init: Init | Factorization | None, n: int, exact: Array | None, device: str) -> Array:
    """Labels to start from: those given, or one cluster of all rows. Exact rows are in the first."""
    if init is None:
        return place(np.zeros(n, dtype=np.int32), device)
    given = init.labels if isinstance(init, Factorization) else init
    labels = enter(given, "init", device, np.float64)[0]
    most = float(labels.max()) if labels.size else 0
    try:
        labels = check_labels(labels, n, int(most) + 1 if 0 <= most < n else n)
    except ValueError as error:
        raise ValueError(f"init does not give clusters to begin with: {error}") from None
    if exact is not None:
        labels = labels.copy()
        labels[exact] = 0
    return labels


def _descend(
    budget: Budget,
    start: Array,
    most: int | None,
    few: int | None,
    runs: int,
    max_iter: int,
    tol: float,
    seed: Seed,
    bar: Bar | None,
) -> tuple[Array, Flats, Sequence[float], bool]:
    """Labels, flats, objectives of the best run, or of the truncated SVD if no run beats it; whether it converged."""
    first = compact(budget.solve(start, int(start.max()) + 1))
    best: Solution | None = None
    history, converged = [first.objective], True
    for rng in islice(generators(seed), runs):
        steps = [first.objective]

        def step(solution: Solution, steps: list[float] = steps) -> None:
            if solution.moved and len(solution.labels) == len(start):  # not of a coreset
                steps.append(solution.objective)
            if bar is not None:
                dims = f"{min(solution.dims)} to {max(solution.dims)} dims"
                bar.update(f"{solution.k} clusters", solution.objective, dims)

        large = few is not None and budget.n_rows >= coresets.LARGE * few
        found = (
            coresets.clusters(budget, first, most, few, rng, step)
            if few is not None and large
            else clusters(budget, first, most, rng, step)
        )
        solution = alternate(
            replace(found, history=(), converged=False),
            budget,
            max_iter=min(max_iter, WHOLE_STEPS) if large else max_iter,
            tol=tol,
            patience=PATIENCE,
            on_step=step,
        )
        if best is None or solution.objective < best.objective:
            best, history, converged = solution, steps, solution.converged
    assert best is not None
    best = compact(best)
    budget.release()
    best = budget.solve(best.labels, best.k, np.float64)
    svd = budget.linear.solve(0 * start, 1, np.float64)
    if svd.objective < best.objective:
        best, history, converged = svd, [svd.objective], True
    if best.k == 1 and most != 1 and best.price > 0:
        warnings.warn(NO_PARTITION, stacklevel=3)
    if bar is not None:
        bar.finish()
    return best.labels, best.flats(budget.problem.X.dtype), history, converged


def _fit_equal(
    budget: Budget, k: int, init: Init, n_init: int | str, max_iter: int, tol: float, seed: Seed, bar: Bar | None
) -> tuple[Array, Flats, Sequence[float], bool]:
    """Flats of the largest dimension that fits in every cluster alike."""
    dims = equal_dims(budget, k)
    if dims[0] < 1:
        raise ValueError(f"k={k} clusters of equal dimension do not fit in {budget.n_parameters} parameters; lower k")
    problem = replace(budget.problem, dims=dims, unit=1.0)  # as with a budget, histories are in units
    state, flats, labels, _ = fit_problem(problem, init, n_init, max_iter, tol, seed, bar)
    return labels, flats, state.history, state.converged
