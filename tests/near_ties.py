"""Rows whose two nearest flats float16 puts in the wrong order, by nearly as much as the bound of screen.py allows.

Each function gives rows, flats, penalty and weights. A number a little under the middle of two of float16 is rounded
down and one a little over it is rounded up: so rounding can be made to favour the wrong flat everywhere at once.
"""

import numpy as np

from ksubspaces.kernels import Flats

STEP = 2.0**-11  # half of float16's spacing at 1
UNDER, OVER = 1 + 0.98 * STEP, 1 + 1.02 * STEP
SIDE = np.full(64, 0.125)


def _flats(bases, offsets=None):
    stacked = [np.asarray(basis, np.float32) for basis in bases]
    return Flats.from_bases(stacked, None if offsets is None else np.asarray(offsets, np.float32))


def _rows(x, count=20):
    return (np.asarray(x) * np.exp2(np.arange(count) % 5)[:, None]).astype(np.float32)


def _unit(row, column):
    """Makes a row's length 1 in a column where rows of data have 0."""
    row[column] = np.sqrt(1 - (row**2).sum())


def rounded_flats(before=0, copies=1, weight=None, width=0):
    """Directions are rounded, rows are not; the nearest flat comes last, ``before`` its decisive directions others.

    Up to ``width``, flats have directions across all rows besides.
    """
    d = 67 + 8 + 2 * before
    x = np.zeros(d)
    x[:63], x[64] = SIDE[:63], np.sqrt(1.2 * STEP)
    wrong, right = np.zeros((1, d)), np.zeros((2 + before, d))
    wrong[0, :63], right[before, :63] = OVER * SIDE[:63], UNDER * SIDE[:63]
    _unit(wrong[0], 65)
    _unit(right[before], 65)
    right[before + 1, 64] = 1
    right[:before, 67 : 67 + before] = np.eye(before)
    bases = [*[wrong] * copies, np.eye(d)[[66]], right]
    flats = _flats([np.concatenate([basis, np.eye(d)[d - max(width - len(basis), 0) :]]) for basis in bases])
    X = _rows(x)
    X[::3] = np.eye(d)[64]  # in no doubt, so that rows are not numbered as they are listed
    if weight is None:
        return X, flats, None, None
    return X, flats, np.zeros(flats.k), np.full(len(X), weight)


def rounded_rows():
    """Rows are rounded, directions are not."""
    d = 129
    x = np.concatenate([UNDER * SIDE, OVER * SIDE, [np.sqrt(0.5 * STEP)]])
    right, wrong = np.zeros((2, d)), np.zeros((1, d))
    right[0, :64], right[1, 128], wrong[0, 64:128] = SIDE, 1, SIDE
    return _rows(x), _flats([wrong, right, np.eye(d)[[128]]]), None, None


def rounded_rows_far_from_offsets():
    """The same among points, where products with offsets count."""
    d, far, t = 129, 127.0, np.sqrt(60 * STEP)
    x = np.concatenate([UNDER * SIDE, OVER * SIDE, [t]])
    right, wrong = np.zeros(d), np.zeros(d)
    right[:64], right[128], wrong[64:128] = far * SIDE, t, far * SIDE
    X = np.repeat(x[None], 20, axis=0).astype(np.float32)
    return X, _flats([np.zeros((0, d))] * 4, [wrong, -wrong, right, -right]), None, None


def rounded_offsets():
    """Points that are rounded; rows are not."""
    d, far, t = 129, 64.0, 64 * np.sqrt(0.5 * STEP)
    x = np.concatenate([far * SIDE, far * SIDE, [t]])
    right, wrong = np.zeros(d), np.zeros(d)
    right[:64], right[128], wrong[64:128] = UNDER * far * SIDE, t, OVER * far * SIDE
    X = np.repeat(x[None], 20, axis=0).astype(np.float32)
    return X, _flats([np.zeros((0, d))] * 4, [wrong, -wrong, right, -right]), None, None


def last_bits(k=512):
    """The numbers of many flats take bits that decide."""
    d = 32
    x = np.zeros(d)
    x[:3] = 1, 2.0**-7, np.float16(0.00728)
    wrong, right = np.eye(d)[[0, 1]], np.eye(d)[[0, 2]]
    wrong[0, 0] = 1 - 7e-6
    _unit(wrong[0], 3)
    others = [np.eye(d)[[3 + c % 29]] for c in range(k - 2)]
    return _rows(x), _flats([wrong, *others, right]), None, None


ALL = {
    "rounded flats": rounded_flats,
    "rounded flats, three near": lambda: rounded_flats(copies=2),
    "rounded flats, weighted": lambda: rounded_flats(weight=64.0),
    "rounded flats, eight directions": lambda: rounded_flats(width=8),
    "rounded flats, three near, eight directions": lambda: rounded_flats(copies=2, width=8),
    "rounded rows": rounded_rows,
    "rounded offsets": rounded_offsets,
    "rounded rows far from offsets": rounded_rows_far_from_offsets,
    "last bits": last_bits,
}
