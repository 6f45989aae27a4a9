"""Products side by side on the CPU: those of BLAS, and the same bits on however many threads."""

import os
import subprocess
import sys
from threading import get_ident

import numpy as np
import pytest

from ksubspaces import compress, kernels
from ksubspaces.kernels import products

SHAPES = [(1, 1, 1), (40, 0, 50), (31, 7, 5), (33, 384, 50), (250, 65, 131), (300, 521, 9), (64, 2100, 3), (0, 12, 4)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("m, d, p", SHAPES)
def test_products_are_those_of_blas(m, d, p, dtype):
    rng = np.random.default_rng(m + d)
    A, V = rng.normal(size=(m, d)).astype(dtype), rng.normal(size=(p, d)).astype(dtype)
    close = {"rtol": 0, "atol": 8 * max(m, d) * np.finfo(dtype).eps}
    found = products.multiply(V, A, np.empty((p, m), dtype))
    np.testing.assert_allclose(found, V.astype(float) @ A.T.astype(float), **close)
    if p * d:
        np.testing.assert_allclose(products.project(A, V.T), A.astype(float) @ V.T.astype(float), **close)
    squares = products.gram(A)
    np.testing.assert_allclose(squares, A.T.astype(float) @ A.astype(float), **close)
    np.testing.assert_array_equal(squares, squares.T)


def test_results_come_in_order_and_errors_come_through(monkeypatch):
    monkeypatch.setattr(products, "count_threads", lambda: 3)
    assert list(products.side_by_side(lambda i: i * i, range(20))) == [i * i for i in range(20)]
    with pytest.raises(ZeroDivisionError):
        list(products.side_by_side(lambda i: 1 / i, [2, 1, 0, 3]))


@pytest.mark.parametrize("asked, most", [("1", 1), ("", None), ("many", None)])
def test_threads_are_those_that_the_process_may_use(asked, most, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert 1 <= products.count_threads() <= (most or 1 << 20)


def test_the_same_bits_on_any_number_of_threads(monkeypatch):
    rng = np.random.default_rng(0)
    A = rng.normal(size=(900, 24)).astype("f4") * np.linspace(2, 0.1, 24, dtype="f4")
    weights = rng.exponential(size=len(A))
    groups = kernels.group_rows(rng.integers(0, 3, len(A)).astype(np.int32), 3)
    monkeypatch.setattr(products, "LARGE", 1 << 16)
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(products, "count_threads", lambda threads=threads: threads)
        moments = kernels.second_moments(A, groups, weights, center=True)
        found.append((moments.scatter, moments.means, compress(A, 0.5, sample_weight=weights, seed=0).reconstruct()))
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(one, other)


def test_work_within_a_task_stays_on_its_thread(monkeypatch):
    monkeypatch.setattr(products, "count_threads", lambda: 2)

    def nested(_):
        return set(products.side_by_side(lambda _: get_ident(), range(9))), {get_ident()}

    assert all(inner == own for inner, own in products.side_by_side(nested, range(9)))


def test_after_an_error_nothing_goes_on(monkeypatch):
    monkeypatch.setattr(products, "count_threads", lambda: 2)
    done = []

    def work(i):
        done.append(i)
        return 1 / (i - 1)

    with pytest.raises(ZeroDivisionError):
        list(products.side_by_side(work, range(100)))
    before = len(done)
    assert before < 10
    assert list(products.side_by_side(lambda i: i, range(20))) == list(range(20))
    assert len(done) == before


def test_a_forked_process_has_threads_of_its_own(monkeypatch):
    monkeypatch.setattr(products, "count_threads", lambda: 2)
    here, there = (products._workers(2, process) for process in (1, 2))
    assert here is not there
    assert here is products._workers(2, 1)
    for pool in (here, there):
        pool.shutdown()
    products._workers.cache_clear()


@pytest.mark.parametrize("scale", [1e-60, 1.0, 1e60, 0.0])
def test_what_vectors_capture(scale):
    rng = np.random.default_rng()
    A = rng.normal(size=(50, 37))
    S, V = A.T @ A, np.linalg.qr(rng.normal(size=(37, 20)))[0].T
    found = products.measure_captured(S * scale, V.astype("f4"))
    np.testing.assert_allclose(found, np.diag(V @ S @ V.T) * scale, rtol=1e-4)


BITS = """
import hashlib
import numpy as np
from ksubspaces.kernels import products
rng, found = np.random.default_rng(0), hashlib.sha256()
for m, d, p in ((1, 384, 1365), (3, 384, 5000), (40, 65, 3000), (31, 520, 700)):
    A, V = rng.normal(size=(m, d)).astype("f4"), rng.normal(size=(p, d)).astype("f4")
    found.update(products.multiply(V, A, np.empty((p, m), "f4")).tobytes() + products.gram(V).tobytes())
    found.update(products.project(V, A.T).tobytes())
print(found.hexdigest())
"""


def test_products_have_the_same_bits_whatever_the_threads_of_blas():
    found = set()
    for threads in ("1", "2"):
        command = [sys.executable, "-c", BITS]
        environment = os.environ | {"OPENBLAS_NUM_THREADS": threads}
        found.add(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    assert len(found) == 1
