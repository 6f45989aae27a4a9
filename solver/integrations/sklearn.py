"""Estimators for scikit-learn: k subspaces as clusters of rows, and as a transformer of few numbers a row.

>>> from ksubspaces.integrations.sklearn import KSubspaces
>>> from sklearn.datasets import load_digits
>>> from sklearn.linear_model import RidgeClassifier
>>> from sklearn.pipeline import make_pipeline
>>> X, y = load_digits(return_X_y=True)
>>> model = make_pipeline(KSubspaces(10, 5, random_state=0), RidgeClassifier())
>>> bool(model.fit(X[:1200], y[:1200]).score(X[1200:], y[1200:]) > 0.85)
True
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
    from sklearn.utils import check_array, check_random_state
    from sklearn.utils._array_api import _convert_to_numpy, get_namespace
    from sklearn.utils._array_api import device as get_device
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError:
    raise ImportError(
        'ksubspaces.integrations.sklearn needs scikit-learn 1.6 or later: pip install "ksubspaces[sklearn]"'
    ) from None

from ..arrays import AnyArray, device_of, home_of, import_array
from ..budget import compress
from ..checks import Passed, Seed, check_weights
from ..fit import fit_subspaces
from ..online import OnlineSubspaces
from ..seeding import Init
from ..subspaces import Subspaces

if TYPE_CHECKING:
    from scipy.sparse import csr_array
    from sklearn.utils import Tags
    from typing_extensions import Self

__all__ = ["KSubspaces", "SubspaceCompressor"]

RandomState: TypeAlias = "int | np.random.RandomState | None"


class _SubspaceEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """What is done with subspaces once they are fitted."""

    sparse_output: bool
    random_state: RandomState

    def _validate(self, X: AnyArray, method: str = "fit", least: int = 1, features: int = 1) -> AnyArray:
        """X as scikit-learn checks it: with ``array_api_dispatch`` an array of its own library, else NumPy's."""
        xp, _ = get_namespace(X)
        if method != "fit":
            check_is_fitted(self)
            fitted, _ = get_namespace(self.components_)
            if xp is not fitted:
                raise ValueError(
                    f"Inputs passed to {type(self).__name__}.{method}() must use the same namespace as those passed to "
                    f"fit(), {fitted.__name__}, not {xp.__name__}"
                )
        least_shape = {"ensure_min_samples": least, "ensure_min_features": features}
        return validate_data(self, X, reset=method == "fit", dtype=[xp.float64, xp.float32], **least_shape)

    def _seed(self) -> Seed:
        state = self.random_state
        return int(check_random_state(state).randint(2**31)) if isinstance(state, np.random.RandomState) else state

    def _keep(self, subspaces: Subspaces, X: AnyArray) -> None:
        """The attributes of a fit, as arrays of X's library."""
        self.subspaces_ = subspaces
        self.labels_ = _like(X, subspaces.labels)
        self.bases_ = [_like(X, V) for V in subspaces.bases]
        self.offsets_ = None if subspaces.offsets is None else _like(X, subspaces.offsets)
        xp, _ = get_namespace(X)
        self.components_ = xp.concat(self.bases_ if self.offsets_ is None else [*self.bases_, self.offsets_])
        self.objective_ = subspaces.objective

    @property
    def _n_features_out(self) -> int:
        return int(self.components_.shape[0])

    def predict(self, X: AnyArray) -> AnyArray:
        """Number of the nearest flat of each row of X (m, d): (m,) int32."""
        X = self._validate(X, "predict")
        return _like(X, self.subspaces_.predict(_known(X)))

    def transform(self, X: AnyArray) -> AnyArray | csr_array:
        """Coefficients of each row in its nearest flat, in the columns of that flat, and zeros elsewhere.

        If affine, k columns follow, with a one for the offset of that flat. Times ``components_`` this is the nearest
        point of the flats (the stitched factors of MESSI, section 2.2).

        Parameters
        ----------
        X : (m, d) array

        Returns
        -------
        (m, sum j_c) array, or (m, sum j_c + k) if affine
            In X's dtype; a SciPy matrix of sparse rows with ``sparse_output=True``.
        """
        X = self._validate(X, "transform")
        if self.sparse_output:
            return self.subspaces_.factorize(_known(X)).stitch()[0]
        labels, coefficients = self.subspaces_.predict(_known(X)), self.subspaces_.transform(_known(X))
        xp, _ = get_namespace(coefficients)
        shape = len(labels), self._n_features_out
        Z = xp.zeros(shape, dtype=coefficients.dtype, device=get_device(coefficients))
        ends = np.cumsum(self.subspaces_.dims).tolist()
        for c, (end, j) in enumerate(zip(ends, self.subspaces_.dims, strict=True)):
            own = labels == c
            Z[own, end - j : end] = coefficients[own, :j]
            if self.offsets_ is not None:
                Z[own, ends[-1] + c] = 1
        return _like(X, Z)

    def inverse_transform(self, Z: AnyArray) -> AnyArray:
        """The points (m, d) of coefficients as :meth:`transform` gives them: ``Z @ components_``."""
        check_is_fitted(self)
        Z = check_array(Z, accept_sparse="csr", dtype=[self.components_.dtype])
        if Z.shape[1] != self._n_features_out:
            raise ValueError(f"Z must have {self._n_features_out} columns, as transform gives them, got {Z.shape[1]}")
        return Z @ self.components_

    def score(self, X: AnyArray, y: None = None, sample_weight: AnyArray | None = None) -> float:
        """Minus the weighted sum of squared distances of rows to their nearest flats: the larger, the better."""
        X = self._validate(X, "score")
        residuals = import_array(self.subspaces_.residuals(_known(X)), "residuals")
        if sample_weight is None:
            return -float(residuals.sum(dtype=np.float64))
        weights, unit = check_weights(_known(sample_weight), len(residuals), device_of(residuals))
        return -unit * float(weights @ residuals)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class KSubspaces(ClusterMixin, _SubspaceEstimator):
    """K-subspaces clustering: rows in k clusters, each near a subspace of dimension j. :func:`fit_subspaces` fits it.

    Parameters
    ----------
    n_clusters : int, default 8
        Number k of subspaces.
    n_components : int or sequence of ints, default 1
        Dimension j of each.
    affine : bool, default False
        Flats with offsets. With ``n_components=0`` that is k-means.
    init, n_init, search, effort, max_iter, tol, loss, scale, device
        As in :func:`fit_subspaces`.
    half_life : float, default inf
        Of what :meth:`partial_fit` has seen, in rows of a cluster.
    sparse_output : bool, default False
        :meth:`transform` gives a sparse matrix: j numbers a row rather than k j.
    random_state : int, RandomState or None
        The same int gives the same bits. ``None`` differs each time.

    Attributes
    ----------
    labels_ : (n,) int32 array
        Nearest flat of each row.
    bases_ : list of k arrays (j_c, d)
        Orthonormal rows.
    offsets_ : (k, d) array or None
    components_ : (sum j_c, d) array
        The bases one above the other; if affine, the offsets below them.
    objective_ : float
        Weighted sum of squared distances of the rows to their flats.
    n_iter_ : int
        Steps of the run that won.
    subspaces_ : Subspaces
        The result of :func:`fit_subspaces`, which knows more.
    n_features_in_, feature_names_in_
        As scikit-learn has them.

    Notes
    -----
    With ``sklearn.set_config(array_api_dispatch=True)`` Torch and CuPy arrays stay what they are, where they are;
    without it scikit-learn makes NumPy arrays of them. ``sample_weight`` of ``fit`` and ``score`` is routed metadata.

    Examples
    --------
    >>> import numpy as np
    >>> from ksubspaces.integrations.sklearn import KSubspaces
    >>> X = np.array([[1.0, 0.0], [2.0, 0.0], [-3.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    >>> lines = KSubspaces(n_clusters=2, n_components=1, random_state=0).fit(X)
    >>> lines.transform(X).shape, bool(np.allclose(lines.inverse_transform(lines.transform(X)), X))
    ((5, 2), True)
    """

    def __init__(
        self,
        n_clusters: int = 8,
        n_components: int | Sequence[int] = 1,
        *,
        affine: bool = False,
        init: Init = "k-means++",
        n_init: int | str = "auto",
        search: str = "auto",
        effort: float = 1,
        max_iter: int = 100,
        tol: float = 1e-4,
        loss: str = "l2",
        scale: float | str = "auto",
        half_life: float = np.inf,
        device: str | None = None,
        sparse_output: bool = False,
        random_state: RandomState = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.n_components = n_components
        self.affine = affine
        self.init = init
        self.n_init = n_init
        self.search = search
        self.effort = effort
        self.max_iter = max_iter
        self.tol = tol
        self.loss = loss
        self.scale = scale
        self.half_life = half_life
        self.device = device
        self.sparse_output = sparse_output
        self.random_state = random_state

    def fit(self, X: AnyArray, y: None = None, sample_weight: AnyArray | None = None) -> Self:
        """Fit to the rows of X (n, d), with nonnegative weights (n,) if given."""
        X = self._validate(X)
        given = {"affine": self.affine, "sample_weight": _known(sample_weight), "seed": self._seed()}
        found = fit_subspaces(_known(X), self.n_clusters, self.n_components, **given, **self._options)
        self._keep(found, X)
        self.n_iter_ = found.n_iter
        self._stream: OnlineSubspaces | None = None
        return self

    def partial_fit(self, X: AnyArray, y: None = None, sample_weight: AnyArray | None = None) -> Self:
        """Go on with a batch of rows X (m, d), as :class:`OnlineSubspaces` does; the first one is fitted as a whole.

        After :meth:`fit` it goes on from the subspaces found. ``labels_`` and ``objective_`` are those of
        :class:`OnlineSubspaces`.
        """
        stream = getattr(self, "_stream", None)
        X = self._validate(X, "partial_fit" if hasattr(self, "subspaces_") else "fit")
        if stream is None:
            given = {**self._options, "init": getattr(self, "subspaces_", self.init), "seed": self._seed()}
            stream = OnlineSubspaces(
                self.n_clusters, self.n_components, affine=self.affine, half_life=self.half_life, **given
            )
        stream.partial_fit(_known(X), _known(sample_weight))
        self._keep(stream.subspaces, X)
        self._stream = stream
        self.n_iter_ = getattr(self, "n_iter_", 0) + 1
        return self

    @property
    def _options(self) -> dict[str, Passed]:
        passed = ("init", "n_init", "search", "effort", "max_iter", "tol", "loss", "scale", "device")
        return {name: getattr(self, name) for name in passed}


class SubspaceCompressor(_SubspaceEstimator):
    """Rows as few numbers in clusters of rows, whose dimensions share a budget. :func:`compress` fits it.

    Parameters
    ----------
    ratio : float, default 0.4
        Share of the numbers of the rows fitted to save: 0.4 leaves 60% of them, bases and labels included.
    n_clusters : "auto" or int, default "auto"
        "auto" splits clusters for as long as that pays.
    n_parameters : int, optional
        Most numbers that the factors may take, in place of ``ratio``.
    dims : {"budget", "equal"}, default "budget"
        As in :func:`compress`.
    affine : bool, default False
    device : {None, "cpu", "cuda", "cuda:<index>"}
    sparse_output : bool, default False
        As in :class:`KSubspaces`.
    random_state : int, RandomState or None

    Attributes
    ----------
    factorization_ : Factorization
        The rows fitted, compressed; what keeps to the budget.
    labels_, bases_, offsets_, components_, objective_, subspaces_, n_features_in_, feature_names_in_
        As in :class:`KSubspaces`.

    Notes
    -----
    ``transform`` puts any row on its nearest flat. Of the rows fitted it may put some on a flat of more dimensions than
    ``factorization_`` has them on, which pays for each coefficient.

    Examples
    --------
    >>> from ksubspaces.integrations.sklearn import SubspaceCompressor
    >>> from sklearn.datasets import load_digits
    >>> X = load_digits().data
    >>> half = SubspaceCompressor(ratio=0.5, random_state=0).fit(X)
    >>> bool(half.factorization_.n_parameters <= X.size / 2), bool(half.factorization_.relative_error < 0.03)
    (True, True)
    """

    def __init__(
        self,
        ratio: float = 0.4,
        n_clusters: int | str = "auto",
        *,
        n_parameters: int | None = None,
        dims: str = "budget",
        affine: bool = False,
        device: str | None = None,
        sparse_output: bool = False,
        random_state: RandomState = None,
    ) -> None:
        self.ratio = ratio
        self.n_clusters = n_clusters
        self.n_parameters = n_parameters
        self.dims = dims
        self.affine = affine
        self.device = device
        self.sparse_output = sparse_output
        self.random_state = random_state

    def fit(self, X: AnyArray, y: None = None, sample_weight: AnyArray | None = None) -> Self:
        """Compress the rows of X (n, d), with nonnegative weights (n,) if given."""
        X = self._validate(X, least=2, features=2)
        found = compress(
            _known(X),
            None if self.n_parameters is not None else self.ratio,
            n_parameters=self.n_parameters,
            k=self.n_clusters,
            dims=self.dims,
            affine=self.affine,
            sample_weight=_known(sample_weight),
            device=self.device,
            seed=self._seed(),
        )
        self.factorization_ = found
        self._keep(Subspaces(found.bases, found.offsets, found.labels, found.home, found.record), X)
        return self


def _known(array: AnyArray) -> AnyArray:
    """An array of a library that the solver does not know, as NumPy's."""
    if isinstance(array, np.ndarray) or home_of(array).kind != "numpy" or not hasattr(array, "__array_namespace__"):
        return array
    return _convert_to_numpy(array, array.__array_namespace__())


def _like(X: AnyArray, result: AnyArray) -> AnyArray:
    """A result as an array of X's library."""
    if not isinstance(result, np.ndarray) or isinstance(X, np.ndarray):
        return result
    xp, _ = get_namespace(X)
    return xp.asarray(result, device=get_device(X))
