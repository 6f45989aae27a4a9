"""The windows of a row's terms whose levels come nearest to its numbers: Viterbi's algorithm, a row at a time.

Terms of one row follow each other in a stream of bits, and a term's level is read off the ``width`` bits that end with
its own (see :mod:`.packed`). A state is such a window, its newest bits the highest: a term of b bits shifts b new ones
in, so states that differ in the b bits shifted out meet, the cheapest of them wins, and each of its 2^b successors pays
for its level (Marcellin and Fischer, 1990; bit-shift trellises: Tseng et al., "QTIP", NeurIPS 2024).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .loops import _jit
from .products import side_by_side

FAR = 1e30  # cost of a state that no path has reached
ROWS = 256  # that a thread takes at a time


def search(
    Z: np.ndarray, bits: np.ndarray, levels: Sequence[np.ndarray], weights: np.ndarray | None = None
) -> np.ndarray:
    """Windows (n, terms), uint16, of rows Z (n, terms) float32.

    ``weights`` (terms,) multiply the squared errors of each term, default all 1: numbers of unit spread have a scale.

    ``bits`` (terms,) are those of each term, not ascending; ``levels[b]`` are the levels of b bits: 2^b ascending ones
    where a window is a term's own bits, else 2^width, as many for all such b, which are the smallest in use.
    """
    windows = np.zeros(Z.shape, np.uint16)
    own = np.array([levels[b].size == 1 << b for b in bits], bool)
    n_own = int(own.sum())
    for t in range(n_own):
        table = levels[bits[t]]
        windows[:, t] = np.searchsorted((table[1:] + table[:-1]) / 2, Z[:, t])
    if n_own == len(bits) or len(Z) == 0:
        return windows
    states = levels[bits[-1]].size
    first = _states_after(windows[:, :n_own], bits[:n_own], states)
    tables = np.zeros((9, states), np.float32)
    for b in np.unique(bits[n_own:]):
        tables[b] = levels[b]
    rest, found = np.ascontiguousarray(Z[:, n_own:], np.float32), np.empty((len(Z), len(bits) - n_own), np.uint16)
    costs = np.ones(len(bits) - n_own, np.float32)
    if weights is not None:
        costs[:] = weights[n_own:] / max(float(weights[n_own:].max()), np.finfo(np.float32).tiny)
    parts = [(start, min(start + ROWS, len(Z))) for start in range(0, len(Z), ROWS)]

    def work(part: tuple[int, int]) -> None:
        _search(rest, bits[n_own:], costs, tables, first, *part, found)

    for _ in side_by_side(work, parts):
        pass
    windows[:, n_own:] = found
    return windows


def _states_after(windows: np.ndarray, bits: np.ndarray, states: int) -> np.ndarray:
    """The last bits of each row once these terms are written, as a state."""
    state, width = np.zeros(len(windows), np.int64), states.bit_length() - 1
    for t, b in enumerate(bits.tolist()):
        state = ((state | (windows[:, t].astype(np.int64) << width)) >> b) & (states - 1)
    return state


@_jit
def _search(Z, bits, weights, tables, first, start, stop, out):  # type: ignore[no-untyped-def]
    terms, states = bits.size, tables.shape[1]
    cost, new = np.empty(states, np.float32), np.empty(states, np.float32)
    won = np.empty((terms, states), np.uint8)
    for i in range(start, stop):
        cost[:] = FAR
        cost[first[i]] = 0
        for t in range(terms):
            met, size = 0, states
            for _ in range(bits[t]):
                size //= 2
                _meet(cost, new[:size], won[t, met : met + size])
                met += size
                cost, new = new, cost
            shape = (states // size, size)
            _pay(cost[:size], tables[bits[t]].reshape(shape), Z[i, t], weights[t], new.reshape(shape))
            cost, new = new, cost
        state = np.argmin(cost)
        for t in range(terms - 1, -1, -1):
            out[i, t] = state
            size = states >> bits[t]
            state, met = state % size, states - size
            for _ in range(bits[t]):
                met -= size
                state = 2 * state + won[t, met + state]
                size *= 2


# Loops of their own, over nothing but neighbours, are what the compiler turns into SIMD.


@_jit
def _meet(cost, least, second):  # type: ignore[no-untyped-def]
    """States that meet, pair by pair: the cost of the cheaper one, and whether that is the second."""
    for q in range(least.size):
        low, high = cost[2 * q], cost[2 * q + 1]
        second[q] = high < low
        least[q] = high if high < low else low


@_jit
def _pay(cost, levels, z, weight, total):  # type: ignore[no-untyped-def]
    """Each successor of each state pays for its level."""
    for j in range(levels.shape[0]):
        for q in range(cost.size):
            error = z - levels[j, q]
            total[j, q] = cost[q] + weight * error * error
