"""cuSOLVER's eigensolvers, with NumPy in their place: how they are called, and what becomes of wrong results."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from contract.checks import assert_decomposed
from cusolver_on_cpu import CUPYS_HANDLE, HEADER, CuSolver
from emulator import emulated

from ksubspaces.kernels.cuda import cusolver, eigen

dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f4", "f8"])
D = 130  # above what the Jacobi kernel takes
BATCHED, EACH = "cusolverDnXsyevBatched", "cusolverDnXsyevd"


def matrices(k, d=D, dtype=np.float64):
    A = np.random.default_rng(k).normal(size=(k, 2 * d, d))
    return (A.transpose(0, 2, 1) @ A / d).astype(dtype)


def assert_solved(S, values, vectors):
    assert values.dtype == vectors.dtype == S.dtype
    assert np.all(np.diff(values, axis=1) >= 0)
    assert_decomposed(S, values[:, ::-1].astype(np.float64), vectors[:, ::-1], S.dtype)


def test_arguments_are_those_of_the_header():
    assert cusolver.PROTOTYPES == HEADER


@dtypes
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_batch_is_one_call_on_the_current_stream(dtype, order):
    solver, S = CuSolver(), np.asarray(matrices(3, 20, dtype), order=order)
    before = S.copy()
    with emulated(solver=solver):
        stream = cusolver.libraries.cupy().current.ptr
        assert_solved(S, *cusolver.eigh_batched(S))
    np.testing.assert_array_equal(S, before)
    assert solver.calls == [(BATCHED, CUPYS_HANDLE, stream, 3)]
    assert not solver.params


@dtypes
@pytest.mark.parametrize("k", [2, 5, cusolver.LANES + 3])
def test_matrices_side_by_side_have_a_handle_and_a_stream_each(dtype, k):
    solver, S = CuSolver(), matrices(k, 20, dtype)
    with emulated(solver=solver):
        cupy = cusolver.libraries.cupy()
        for _ in range(2):
            assert_solved(S, *cusolver.eigh_each(S))
        lanes, caller = set(cusolver._idle[3]), cupy.current.ptr
    assert len(solver.calls) == 2 * k
    used = {(handle, stream) for _, handle, stream, _ in solver.calls}
    assert used == {(lane.handle, lane.stream.ptr) for lane in lanes}  # made once
    assert len({handle for handle, _ in used}) == len({stream for _, stream in used}) == min(k, cusolver.LANES)
    assert all(handle != CUPYS_HANDLE and stream != caller for handle, stream in used)
    turn = cupy.told[: len(cupy.told) // 2]
    assert turn[0] == (caller, "record")  # what they wait for: the matrices are there
    for _, stream in used:
        own = [turn.index((stream, what)) for what in (f"wait for {caller}", "record")]
        assert own[0] < own[1] < turn.index((caller, f"wait for {stream}"))


def test_one_matrix_stays_on_the_current_stream():
    solver = CuSolver()
    with emulated(solver=solver):
        stream = cusolver.libraries.cupy().current.ptr
        cusolver.eigh_each(matrices(1, 20))
        assert cusolver.libraries.cupy().told == []
    assert solver.calls == [(EACH, CUPYS_HANDLE, stream, 1)]


def test_none_at_all():
    with emulated():
        values, vectors = eigen.eigh(np.zeros((0, D, D)), np.dtype(np.float32))
    assert values.shape == (0, D)
    assert vectors.shape == (0, D, D)


def test_a_cusolver_without_batches_solves_them_one_by_one():
    solver, S = CuSolver(batched=False), matrices(5)
    with emulated(solver=solver):
        values, vectors = eigen.eigh(S, np.dtype(np.float32))
    assert_decomposed(S, values, vectors, np.float32)
    assert [name for name, *_ in solver.calls] == [EACH] * 5


class Failing(CuSolver):
    """Says of large matrices that they did not converge."""

    def _solve(self, S, w):
        return super()._solve(S, w) or int(w[-1] > 100)


@pytest.mark.parametrize("solve", [cusolver.eigh_batched, cusolver.eigh_each])
def test_what_did_not_converge_has_no_eigenvalues(solve):
    S = matrices(5, 20)
    S[[1, 3]] *= 1000
    with emulated(solver=Failing()):
        values, _ = solve(S)
    np.testing.assert_array_equal(np.isnan(values).all(axis=1), [False, True, False, True, False])
    assert not np.isnan(values[::2]).any()


def test_workspaces_past_4_gigabytes():
    S = matrices(1, 20)
    with emulated(solver=CuSolver(on_device=2**33 + 8)), cusolver._Solver(BATCHED, S, 1) as solver:
        solver.xp = SimpleNamespace(empty=lambda size, dtype: size)
        assert solver.workspace(cusolver._Results.of(S))[0] == 2**33 + 8


def test_a_call_that_fails_is_an_error():
    solver = CuSolver()
    solver.cusolverDnCreateParams = lambda *args: 2
    with (
        emulated(solver=solver),
        pytest.raises(RuntimeError, match=r"CreateParams failed .* 2 \(allocation failed\): free"),
    ):
        cusolver.eigh_batched(matrices(2, 20))


def test_a_cusolver_that_is_missing_is_told_with_versions(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs", SimpleNamespace())
    cusolver.library.cache_clear()
    expected = r"need CuPy with cuSOLVER, .*Found: Python 3.*numpy \d.*ksubspaces\[cuda12\]"
    with pytest.raises(ImportError, match=expected):
        cusolver.library()


@pytest.mark.parametrize(("d", "k", "name"), [(D, 3, EACH), (D, 4, BATCHED), (300, 4, EACH), (300, 13, BATCHED)])
def test_crossings(d, k, name):
    solver = CuSolver()
    with emulated(solver=solver):
        values, _ = eigen.eigh(np.stack([np.eye(d)] * k), np.dtype(np.float32))
    np.testing.assert_allclose(values, 1, rtol=1e-5)
    assert {called for called, *_ in solver.calls} == {name}
    assert sum(batch for *_, batch in solver.calls) == k  # all sound: none is solved again


@dtypes
@pytest.mark.parametrize("k", [1, 5])
def test_what_does_not_converge_is_an_error(dtype, k):
    for bad in (np.nan, np.inf):
        S = matrices(k)
        S[k - 1, 2, 2] = bad
        expected = rf"1 of {k} matrices did not .* number {k - 1}: .* check X"
        with emulated(), np.errstate(invalid="ignore"), pytest.raises(RuntimeError, match=expected):
            eigen.top_eigenspaces(S, [1] * k, dtype)


# Wrong results


def lengths(values, vectors):
    vectors *= np.float32(1 + 1.5e-4)  # squared norms off by 3e-4, as syevjBatched's were


def one_length(values, vectors):
    vectors[-1] *= np.float32(1 + 1.5e-4)


def turned(values, vectors):
    """Orthonormal, but no eigenvectors: two of them turned by a degree."""
    a, b, angle = vectors[0].copy(), vectors[-1].copy(), np.pi / 180
    vectors[0], vectors[-1] = np.cos(angle) * a + np.sin(angle) * b, np.cos(angle) * b - np.sin(angle) * a


def of_another(values, vectors):
    values *= np.float32(1.01)


def nothing(values, vectors):
    vectors[:] = 0


def not_numbers(values, vectors):
    vectors[3, 4] = np.nan


DAMAGES = [lengths, one_length, turned, of_another, nothing, not_numbers]


class Damaged(CuSolver):
    """Damages every other matrix that it solves in float32."""

    def __init__(self, how):
        super().__init__()
        self.solved, self.how = 0, how
        self.damage = self._every_other

    def _every_other(self, values, vectors):
        self.solved += 1
        if self.solved % 2 == 0:
            self.how(values, vectors)


def exercise(eigen, how, k=5):
    """What a check that is wrong must not pass."""
    solver, S = Damaged(how), matrices(k)
    with emulated(solver=solver):
        values, vectors = eigen.eigh(S, np.dtype(np.float32))
    assert_decomposed(S, values, vectors, np.float32)
    assert [batch for name, *_, batch in solver.calls[-(k // 2) :] if name == EACH] == [1] * (k // 2)
    return solver


@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("how", DAMAGES)
def test_wrong_results_are_noticed_and_mended(how, k):
    solver = exercise(eigen, how, k)
    again = k // 2
    assert len(solver.calls) == (1 if k == 5 else k) + again  # the others are left alone


def test_what_cannot_be_mended_is_an_error(monkeypatch):
    def hopeless(self, S, w):
        S[:], w[:] = 0, 1
        return 0

    monkeypatch.setattr(CuSolver, "_solve", hopeless)
    with emulated(), pytest.raises(RuntimeError, match=r"2 of 2 matrices did not converge"):
        eigen.eigh(matrices(2), np.dtype(np.float64))


MUTANTS = {
    "a tolerance too wide": ("UNSOUND = 16\n", "UNSOUND = 16e3\n"),
    "nothing is solved again": ("if not is_sound]", "if False]"),
    "sound ones are solved again": ("if not is_sound]", "if is_sound]"),
    "lengths are not looked at": ("(xp.abs(off) <= tolerance).all(axis=(1, 2)) & ", ""),
    "eigenvectors are not looked at": (" & (xp.abs(rest) <= tolerance * largest).all(axis=(1, 2))", ""),
    "NaN passes": (
        "(xp.abs(off) <= tolerance).all(axis=(1, 2)) & (xp.abs(rest) <= tolerance * largest).all(axis=(1, 2))",
        "~(xp.abs(off) > tolerance).any(axis=(1, 2)) & ~(xp.abs(rest) > tolerance * largest).any(axis=(1, 2))",
    ),
    "one sound vector is enough": ("(xp.abs(off) <= tolerance).all(", "(xp.abs(off) <= tolerance).any("),
    "solved again in the precision that failed": ("S[one], np.dtype(np.float64), ", "S[one], dtype, "),
    "another matrix is solved again": ("one = slice(c, c + 1)", "one = slice(c - 1, c)"),
}


@pytest.mark.parametrize("what", MUTANTS)
def test_mutants_of_the_check_are_caught(what):
    old, new = MUTANTS[what]
    text = Path(eigen.__file__).read_text()
    assert text.count(old) == 1, f"{old!r} must stand in eigen.py exactly once"
    mutant = ModuleType("mutant")
    mutant.__package__ = eigen.__package__
    exec(compile(text.replace(old, new), "mutant", "exec"), mutant.__dict__)
    assert any(_fails(mutant, how) for how in DAMAGES), f"nothing notices: {what}"


def _fails(mutant, how):
    try:
        exercise(mutant, how)
    except (AssertionError, RuntimeError):
        return True
    return False
