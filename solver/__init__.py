"""Fast, exact (k, j) projective clustering: k subspaces of dimension j through the rows of a matrix.

>>> import numpy as np
>>> from ksubspaces import fit_subspaces
>>> X = np.random.default_rng(0).normal(size=(1000, 32)).astype("float32")
>>> fit_subspaces(X, k=4, j=3, seed=0).dims
(3, 3, 3, 3)
"""

from ._version import __version__
from .bits.quantized import QuantizedFactorization
from .blocked_factors import BlockedFactorization
from .budget import compress
from .curve import CompressionCurve, compression_curve
from .factorization import Factorization
from .fit import Step, fit_subspaces
from .online import OnlineSubspaces
from .selection import Selection, select
from .subspaces import Subspaces
from .tokens import token_weights

__all__ = [
    "BlockedFactorization",
    "CompressionCurve",
    "Factorization",
    "OnlineSubspaces",
    "QuantizedFactorization",
    "Selection",
    "Step",
    "Subspaces",
    "__version__",
    "compress",
    "compression_curve",
    "fit_subspaces",
    "select",
    "token_weights",
]
