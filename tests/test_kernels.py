"""The choice of a device, and what concerns the CPU's kernels alone; what all must do stands in ``contract/``."""

import numpy as np
import pytest
from contract.checks import captured
from contract.problems import problem
from planted import random_bases

from ksubspaces import kernels
from ksubspaces.kernels import Flats, cpu, lapack, layout_of


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


def test_many_narrow_flats_are_refitted_by_power_steps():
    rng, dims = np.random.default_rng(0), [6, 2, 0, 5] * 10
    S = np.stack([A.T @ A for A in rng.normal(size=(40, 90, 24)) * 1.3 ** -np.arange(24)])
    S[3] = 0
    start, layout = np.concatenate(random_bases(rng, 24, dims, np.float32)), layout_of(24, tuple(dims))
    got = lapack.top_eigenspaces(S, dims, np.float32, start, exact=False)
    assert not got.exact
    for c, V in enumerate(layout.split(got.bases)):
        np.testing.assert_allclose(V @ V.T, np.eye(dims[c]), atol=1e-5)
    exact = lapack.top_eigenspaces(S, dims, np.float32, start)
    most, found = (np.array(captured(S, layout.split(bases))) for bases in (exact.bases, got.bases))
    assert exact.exact
    assert np.all(found >= np.array(captured(S, layout.split(start))) * (1 - 1e-6))
    assert np.all(found >= 0.95 * most)
