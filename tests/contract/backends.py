"""Where operations run. Each backend takes arrays of the host, and gives them back."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.util
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import card
import numpy as np
import pytest
import simulator
from emulator import MODES, emulated, needs_compiler
from transfers import converted, parts

from ksubspaces import kernels
from ksubspaces.kernels import Streamed, cpu, cpu_grouped, cuda, lapack, reference

IRREGULAR = {"changed_rows", "largest", "lower_distances", "sample_rows"}
ALL = frozenset(cuda.__all__)
CHANGED = {
    "lower_distances": "trials",
    "update_moments": "moments",
    "sample_rows": "rng",
    "seed": "rng",
    "seed_directions": "rng",
}
"""The argument that an operation changes."""
STREAMED_ROWS = 32  # of a block, so that shapes have fewer rows, some blocks, and one row more


@dataclass(frozen=True, eq=False)
class Backend:
    """The operations as they are on the CPU, each an attribute; others do differently what is said here.

    Attributes
    ----------
    name : str
    operations : set of str
        Those it has.
    within : callable
        Gives the context in which a test runs.
    marks : sequence of marks
        Of its tests.
    dtypes : sequence of dtypes
    limits : dict
        Rows and flats that shapes are cut down to, for operations that are slow.
    many : bool
        Whether it is fast enough for tests of many rows.
    """

    name: str
    operations: frozenset[str] | set[str] = ALL
    within: Callable[[], AbstractContextManager[Any]] = nullcontext
    marks: Sequence[Any] = ()
    dtypes: Sequence[Any] = (np.float32, np.float64)
    limits: dict[str, tuple[int, int]] = field(default_factory=dict)
    many: bool = True

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        if operation not in ALL:
            raise AttributeError(f"no operation of the kernels is called {operation!r}")
        return functools.partial(self._bind, operation)

    def _bind(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        return self.run(operation, inspect.signature(getattr(kernels, operation)).bind(*args, **kwargs).arguments)

    def run(self, operation: str, arguments: dict[str, Any]) -> Any:
        """The result; the argument that the operation changes is changed."""
        return getattr(kernels, operation)(**arguments)


class Reference(Backend):
    """In plain NumPy, for tests that know the answer otherwise: ``operation(..., reference=True)``."""

    def run(self, operation: str, arguments: dict[str, Any]) -> Any:
        return getattr(reference, operation)(**arguments)


class InBlocks(Backend):
    """Rows that stay in host memory, block by block."""

    def run(self, operation: str, arguments: dict[str, Any]) -> Any:
        X = arguments["X"]
        rows = Streamed(X, np, STREAMED_ROWS * X.shape[1] * X.itemsize)
        return super().run(operation, {**arguments, "X": rows})


@dataclass(frozen=True, eq=False)
class Emulated(Backend):
    """CUDA C++ on the CPU, in each order in which warps and copies may get on: the results have to be the same bits."""

    def run(self, operation: str, arguments: dict[str, Any]) -> Any:
        found = []
        for mode in MODES:
            # What groups keep is of one order.
            given = copy.deepcopy(arguments) if operation in CHANGED else converted(arguments, lambda part: part)
            with emulated(mode):
                result = getattr(cuda, operation)(**given)
            found.append((result, given))
        for mode, other in zip(MODES, found, strict=True):
            assert_same_bits(other, found[0], f"{operation} in the order {mode!r}")
        return returned(operation, *found[0], arguments)


class Simulated(Backend):
    """Numba's kernels for GPUs, in the simulator's process."""

    def run(self, operation: str, arguments: dict[str, Any]) -> Any:
        return returned(operation, *simulator.run(operation, arguments), arguments)


class OnCard(Backend):
    """On an NVIDIA GPU."""

    def run(self, operation: str, arguments: dict[str, Any]) -> Any:
        given = {name: card.there(value) for name, value in arguments.items()}
        result = super().run(operation, given)
        return returned(operation, card.here(result), card.here(given), arguments)


def returned(operation: str, result: Any, changed: dict[str, Any], arguments: dict[str, Any]) -> Any:
    """The result, when the arguments have what an operation changed in their copies."""
    if operation in CHANGED:
        name = CHANGED[operation]
        for old, new in zip(parts(arguments[name]), parts(changed[name]), strict=True):
            if isinstance(old, np.ndarray):
                old[...] = new
            elif isinstance(old, np.random.Generator):
                old.bit_generator.state = new.bit_generator.state
    return result


def assert_same_bits(found: Any, first: Any, what: str) -> None:
    for a, b in zip(parts(found), parts(first), strict=True):
        if isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b, err_msg=what)


@contextlib.contextmanager
def cpu_by(way: str) -> Iterator[None]:
    """Small problems are worked on by loops alone; here either way has them all."""
    with pytest.MonkeyPatch.context() as patch:
        limits = (cpu, "FEW_PRODUCTS", 1 << 40), (cpu_grouped, "FEW_SQUARES", 1 << 40), (lapack, "JACOBI_REACH", 40)
        for module, limit, most in limits:
            patch.setattr(module, limit, -1 if way == "products" else most)
        yield


@contextlib.contextmanager
def decoding(direct: bool) -> Iterator[None]:
    """Rows are decoded one by one, or grouped by their clusters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            importlib.import_module("ksubspaces.kernels.cuda.lookup"), "DIRECT_BYTES", np.inf if direct else -1
        )
        yield


@contextlib.contextmanager
def screening(narrow: bool = True) -> Iterator[None]:
    """Small problems are screened as well, and flats of few dimensions as the others if not ``narrow``."""
    screen = importlib.import_module("ksubspaces.kernels.cuda.screen")
    with pytest.MonkeyPatch.context() as patch:
        for limit, least in (("PRODUCTS", 0), ("FEWEST", 2 if narrow else 1 << 30), ("FEWEST_DIRECTIONS", 0)):
            patch.setattr(screen, limit, least)
        yield


needs_simulator = pytest.mark.skipif(
    importlib.util.find_spec("numba_cuda") is None, reason="numba-cuda is missing: pip install 'ksubspaces[cuda13]'"
)
# Emulation is slow: enough rows for a block and some of the next.
SLOW = {"assign": (200, 99), "sqdistances": (200, 99), "two_nearest": (200, 99)}
BACKENDS = [
    Reference("reference"),
    Backend("cpu, products", within=functools.partial(cpu_by, "products")),
    Backend("cpu, loops", within=functools.partial(cpu_by, "loops")),
    InBlocks(
        "streamed",
        {"assign", "sqdistances", "two_nearest", "coefficients", "residuals", "second_moments", "update_moments"},
        many=False,
    ),
    Emulated("emulated", ALL - IRREGULAR, functools.partial(decoding, True), [needs_compiler], limits=SLOW, many=False),
    Emulated(
        "emulated, screened",
        {"assign"},
        screening,
        [needs_compiler],
        dtypes=[np.float32],
        limits=SLOW,
        many=False,
    ),
    Emulated("emulated, grouped", {"lookup"}, functools.partial(decoding, False), [needs_compiler], many=False),
    Simulated(
        "simulated",
        IRREGULAR,
        marks=[needs_simulator],
        limits={"largest": (100, 6), "changed_rows": (100, 6), "lower_distances": (65, 3)},
        many=False,
    ),
    OnCard("card", marks=card.marks),
    OnCard("card, screened", {"assign"}, screening, card.marks, [np.float32]),
]
"""All of them: two ways of the CPU; each Emulated in three orders; Numba's kernels simulated."""
