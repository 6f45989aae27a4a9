"""The choice of a device, and what concerns the CPU's kernels alone; what all must do stands in ``contract/``."""

import numpy as np
import pytest
from contract.problems import problem

from ksubspaces import kernels
from ksubspaces.kernels import Flats, cpu


@pytest.mark.parametrize("few", [-1, 1 << 40], ids=["products", "loops"])
def test_assign_takes_many_probes_in_groups(few, monkeypatch):
    monkeypatch.setattr(cpu, "FEW_PRODUCTS", few)
    X, flats, _ = problem(700, 20, [3, 15, 0, 7, 7, 20, 1], np.float64, True)
    expected = kernels.assign(X, flats)
    monkeypatch.setattr(cpu, "ASSIGN_DIRECTIONS", 8)
    for got, want in zip(kernels.assign(X, flats), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


def test_kernels_refuse_arrays_of_nowhere():
    with pytest.raises(TypeError, match=r"NumPy or CuPy arrays, got builtins\.list$"):
        kernels.sqdistances([[1.0]], Flats.from_bases([np.ones((1, 1))]))
