"""Eigenvalues and eigenvectors of one symmetric matrix, on the thread that asks for them.

LAPACK's drivers multiply by BLAS, whose threads share every product and wait for one another: where another program
keeps a core busy they take several times as long. Here the reduction to tridiagonal form and the way back are loops of
Numba, and what LAPACK does in between (Dhillon and Parlett's relatively robust representations) calls no BLAS that has
threads. So many matrices are solved side by side, in the time that one thread of LAPACK takes for each.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from .loops import reflect_back, tridiagonalize


def eigenvalues(S: np.ndarray) -> np.ndarray:
    """Eigenvalues (d,) of S (d, d), ascending, in float64. S is lost."""
    diagonal, beside, _, _ = _tridiagonal(S)
    info = ctypes.c_int()
    _lapack("dsterf")(_int(len(S)), _at(diagonal), _at(beside), ctypes.byref(info))
    if info.value:
        raise np.linalg.LinAlgError("eigenvalues did not converge")
    return diagonal


def eigenpairs(S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (d,), ascending, in float64, and eigenvectors (d, d), as rows, in S's dtype. S is lost."""
    d, kept = len(S), S.diagonal().copy()
    diagonal, beside, reflectors, scales = _tridiagonal(S)
    values, vectors = np.empty(d), np.empty((d, d))
    support, work, more = np.empty(2 * d, np.int32), np.empty(18 * d), np.empty(10 * d, np.int32)
    found, info, none = ctypes.c_int(), ctypes.c_int(), _int(0)
    nowhere = ctypes.byref(ctypes.c_double())
    _lapack("dstemr")(
        *(b"V", b"A", _int(d), _at(diagonal), _at(beside), nowhere, nowhere, none, none, ctypes.byref(found)),
        *(_at(values), _at(vectors), _int(d), _int(d), _at(support), _int(1)),
        *(_at(work), _int(len(work)), _at(more), _int(len(more)), ctypes.byref(info)),
    )
    if info.value or found.value < d:
        np.fill_diagonal(S, kept)
        whole = np.linalg.eigh(S, UPLO="U")  # the other triangle is lost
        return whole[0].astype(np.float64), np.ascontiguousarray(whole[1].T)
    rows = vectors.astype(S.dtype, copy=False)
    reflect_back(rows, reflectors, scales)
    return values, rows


def _tridiagonal(S: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Diagonal (d,) and what is beside it (d,), both float64, Householder vectors (d, d), as rows, and their scales."""
    d = len(S)
    parts = np.empty(d), np.zeros(d), np.zeros((d, d), S.dtype), np.zeros(d, S.dtype)
    tridiagonalize(S, *parts)
    return parts


@lru_cache
def _lapack(name: str) -> Callable[..., None]:
    """One of LAPACK's routines from SciPy's table for Cython. Called through it, unlike SciPy's own functions, it lets
    other threads of Python go on."""
    from numba.extending import get_cython_function_address

    return ctypes.CFUNCTYPE(None, *(ctypes.c_void_p,) * ARGUMENTS[name])(
        get_cython_function_address("scipy.linalg.cython_lapack", name)
    )


ARGUMENTS = {"dsterf": 4, "dstemr": 21}


def _int(value: int) -> object:
    return ctypes.byref(ctypes.c_int(value))


def _at(array: np.ndarray) -> int:
    return array.ctypes.data
