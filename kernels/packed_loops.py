"""Loops over packed rows, compiled by Numba: the search for the best bits of a row, and decoding."""

from __future__ import annotations

import numpy as np

from .loops import _jit

FAR = np.float32(1e30)  # cost of a state that no path has reached


@_jit
def search_trellis(Z, bits, weights, tables, places, first, stop, out):  # type: ignore[no-untyped-def]
    """Bits of rows Z[first:stop] (n, terms) whose weighted squared error on the trellis is least: Viterbi's algorithm.

    A state is the last ``width`` bits, the newest highest. A term of b bits shifts b new ones in: the states that differ
    in the b bits shifted out meet, the best of them wins, pair by pair, and each of 2^b successors pays for its level.
    ``tables`` (rates, 2^width), ``places`` (9,): which of them are the levels of b bits; out (n, terms): the new bits.
    """
    terms, states = bits.size, tables.shape[1]
    cost, new = np.empty(states, np.float32), np.empty(states, np.float32)
    won = np.empty((terms, states), np.uint8)
    for i in range(first, stop):
        cost[:] = FAR
        cost[0] = 0
        for t in range(terms):
            b, table, taken = bits[t], tables[places[bits[t]]], won[t]
            meet, size = 0, states
            for _ in range(b):
                size //= 2
                for q in range(size):
                    low, high = cost[2 * q], cost[2 * q + 1]
                    taken[meet + q] = high < low
                    new[q] = min(low, high)
                meet += size
                cost, new = new, cost
            z, w = Z[i, t], weights[t]
            for j in range(0, states, size):
                for q in range(size):
                    error = z - table[j + q]
                    new[j + q] = cost[q] + w * error * error
            cost, new = new, cost
        state = np.argmin(cost)
        for t in range(terms - 1, -1, -1):
            b = bits[t]
            size = states >> b
            out[i, t] = state // size
            state, meet, taken = state % size, states - size, won[t]
            for _ in range(b):
                meet -= size
                state = 2 * state + taken[meet + state]
                size *= 2
