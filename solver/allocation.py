"""Which directions of which clusters a number of parameters is best spent on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Allocation(NamedTuple):
    """Dimensions of the clusters, and the price of a parameter.

    Attributes
    ----------
    dims : tuple of int
    price : float
        lambda: what the first direction that found no room would have gained per parameter; 0 when all found room.
    """

    dims: tuple[int, ...]
    price: float


def allocate(spectra: Sequence[np.ndarray] | np.ndarray, costs: Sequence[int], room: int) -> Allocation:
    """Keep the directions that gain most per parameter, as many as there is room for.

    Parameters
    ----------
    spectra : sequence of k arrays
        Eigenvalues of each cluster, descending: what the objective falls by with each direction.
    costs : sequence of k ints
        Parameters that a direction of each cluster takes: a coefficient for each row, and d for the basis.
    room : int
        Parameters there are.

    Notes
    -----
    Within a cluster all directions cost the same, so the gains descend and the directions kept are the leading ones.
    What is left when the best direction no longer fits goes to the next best that do.

    Examples
    --------
    >>> allocate([np.array([9.0, 4.0, 1.0]), np.array([6.0, 5.0])], [2, 3], room=8)
    Allocation(dims=(2, 1), price=1.6666666666666667)
    """
    owners = np.repeat(np.arange(len(spectra)), [len(values) for values in spectra])
    values = np.concatenate([np.asarray(v, dtype=np.float64) for v in spectra])
    paid = np.asarray(costs, dtype=np.int64)[owners]
    gains = values / paid
    order = np.argsort(-gains, kind="stable")
    order = order[values[order] > 0]
    ends = np.cumsum(paid[order])
    fit = int(np.searchsorted(ends, room, side="right"))  # so many find room one after another
    room -= int(ends[fit - 1]) if fit else 0
    dims = np.bincount(owners[order[:fit]], minlength=len(spectra)).tolist()
    price, closed = 0.0, [False] * len(spectra)
    for item in order[fit:]:
        c = int(owners[item])
        if closed[c]:
            continue
        if paid[item] <= room:
            dims[c] += 1
            room -= int(paid[item])
        else:
            price = price or float(gains[item])
            closed[c] = True  # its directions are taken in order
            if all(closed):
                break
    return Allocation(tuple(dims), price)
