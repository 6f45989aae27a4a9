"""A card that counts: what the host asks of it in launches, allocations and waits, while emulated kernels do the work.

Its arrays are no NumPy arrays, and the host can read them in no other way than CuPy's: ``get``, ``item``, ``float``
and so on are waits, and so are operations whose result has a size that only the device knows. Where CuPy refuses to mix
its arrays with the host's, so do they. A call of the library counts as one launch, though it may make several; views
cost nothing.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import simulator
from emulator import emulated

from ksubspaces.kernels.cuda import loader

HERE = Path(__file__).parent
SIZED_BY_VALUES = {"nonzero", "flatnonzero", "argwhere", "unique", "bincount", "compress", "extract", "histogram"}
FROM_HOST = {"array", "asarray", "asanyarray", "ascontiguousarray"}


@dataclass
class Counts:
    """What was asked of the card, by name and by who asked; and seconds of the host.

    Those are of its thread, without the calls of kernels and of the library; CuPy takes some 5 us for each of these.
    """

    launches: Counter[str] = field(default_factory=Counter)
    allocations: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    uploads: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    variants: set[tuple[Any, ...]] = field(default_factory=set)
    told: list[Any] = field(default_factory=list)
    """What the host has read."""

    def __sub__(self, other: Counts) -> Counts:
        """What came in between."""
        parts = ({name: a[name] - b[name] for name in a | b} for a, b in zip(self._all, other._all, strict=True))
        counters = (Counter({name: n for name, n in part.items() if n}) for part in parts)
        return Counts(*counters, self.seconds - other.seconds)

    def now(self) -> Counts:
        """A copy, and what the clock says."""
        parts = (part.copy() for part in self._all)
        return Counts(*parts, self.seconds + time.thread_time(), set(self.variants))

    @property
    def _all(self) -> tuple[Counter[str], ...]:
        return self.launches, self.allocations, self.waits, self.uploads

    @property
    def totals(self) -> dict[str, int]:
        names = ("launches", "allocations", "waits", "uploads")
        return {name: part.total() for name, part in zip(names, self._all, strict=True)}

    def __str__(self) -> str:
        host = f"{1e6 * self.seconds:.0f} us of the host"
        lines = [", ".join([*(f"{number} {what}" for what, number in self.totals.items()), host])]
        for what, part in zip(self.totals, self._all, strict=True):
            lines.append(f"  {what}: " + ", ".join(f"{n} x {name}" for name, n in part.most_common()))
        return "\n".join(lines)


_counts = Counts()
_before: Iterator[Any] | None = None


def _of_card(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, the time it takes being none of the host's."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        begin = time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            _counts.seconds -= time.thread_time() - begin

    return call


class CardArray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array of the counting card; ``host`` has its numbers."""

    __slots__ = ("host",)
    __module__ = "cupy"

    def __init__(self, host: np.ndarray) -> None:
        self.host = host

    shape = property(lambda self: self.host.shape)
    dtype = property(lambda self: self.host.dtype)
    ndim = property(lambda self: self.host.ndim)
    size = property(lambda self: self.host.size)
    nbytes = property(lambda self: self.host.nbytes)
    itemsize = property(lambda self: self.host.itemsize)
    strides = property(lambda self: self.host.strides)
    flags = property(lambda self: self.host.flags)
    T = property(lambda self: CardArray(self.host.T))
    data = property(lambda self: SimpleNamespace(ptr=self.host.ctypes.data))
    device = SimpleNamespace(id=0)

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("implicit conversion to a NumPy array; use .get()")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return _called(getattr(ufunc, method), ufunc.__name__, inputs, kwargs)

    def __array_function__(self, function: Callable[..., Any], _: Any, args: Any, kwargs: Any) -> Any:
        return _function(function)(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        method = getattr(np.ndarray, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            return _called(method, name, (self, *args), kwargs)

        return call

    @_of_card
    def get(self, *, out: np.ndarray | None = None, blocking: bool = True) -> np.ndarray:
        if blocking:
            _waited("get")
        told = _tell(self.host.copy)
        if out is None:
            return told.copy()
        out[...] = told
        return out

    @_of_card
    def _read(self, name: str, of: Callable[[np.ndarray], Any]) -> Any:
        _waited(name)
        return _tell(lambda: of(self.host))

    def item(self) -> Any:
        return self._read("item", np.ndarray.item)

    def tolist(self) -> Any:
        return self._read("tolist", np.ndarray.tolist)

    def __float__(self) -> float:
        return self._read("float", float)

    def __int__(self) -> int:
        return self._read("int", int)

    def __index__(self) -> int:
        return self._read("index", int)

    def __bool__(self) -> bool:
        return self._read("bool", bool)

    def __len__(self) -> int:
        return len(self.host)

    def __iter__(self) -> Iterator[CardArray]:
        return (self[i] for i in range(len(self)))

    @_of_card
    def __getitem__(self, index: Any) -> CardArray:
        parts = index if isinstance(index, tuple) else (index,)
        if any(isinstance(part, CardArray) and part.dtype == bool for part in parts):
            _waited("rows where a mask is true")
        _counts.uploads[_asker()] += sum(isinstance(part, (np.ndarray, list)) for part in parts)
        return _given("getitem", self.host[_on_host(index, mixed=True)], [self.host])

    @_of_card
    def __setitem__(self, index: Any, value: Any) -> None:
        self.host[_on_host(index, mixed=True)] = _on_host(value)
        _note(_counts.launches, "setitem")


def _tell(read: Callable[[], Any]) -> Any:
    """What the host reads; in a run in which kernels do nothing, what it read in the one before."""
    told = read() if _before is None else next(_before)
    _counts.told.append(told)
    return told


def _asker() -> str:
    """The function of the solver or the kernels that is asking."""
    frame = sys._getframe(1)
    while frame.f_back and ("numpy" in frame.f_code.co_filename or frame.f_code.co_filename == __file__):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}"


def _note(counter: Counter[str], what: str) -> None:
    counter[f"{what} in {_asker()}"] += 1


def _waited(what: str) -> None:
    _note(_counts.waits, what)


def _on_host(value: Any, mixed: bool = False) -> Any:
    """The value with its arrays as NumPy's; the host's own are refused unless they may be mixed in."""
    if isinstance(value, CardArray):
        return value.host
    if isinstance(value, (tuple, list)):
        return type(value)(_on_host(part, mixed) for part in value)
    if isinstance(value, np.ndarray) and not mixed:
        raise TypeError(f"an array of the host among those of the card, in {_asker()}")
    return value


def _arrays(value: Any) -> list[np.ndarray]:
    if isinstance(value, CardArray):
        return [value.host]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return [array for part in parts for array in _arrays(part)]


@_of_card
def _called(function: Callable[..., Any], name: str, args: Any, kwargs: dict[str, Any]) -> Any:
    """What a function gives for arrays of the card."""
    if name in SIZED_BY_VALUES or (name == "where" and len(args) == 1):
        _waited(name)
    mixed = name in FROM_HOST and not isinstance(args[0], CardArray)
    host = {key: _on_host(value, mixed) for key, value in kwargs.items()}
    result = None
    if _before is None or "out" not in kwargs:
        with np.errstate(all="ignore"):
            result = function(*_on_host(tuple(args), mixed), **host)
    if "out" in kwargs:
        _note(_counts.launches, name)
        return kwargs["out"][0] if isinstance(kwargs["out"], tuple) else kwargs["out"]
    if mixed:
        _counts.uploads[_asker()] += 1
        _note(_counts.allocations, name)
        return CardArray(np.array(result))
    return _given(name, result, _arrays([args, kwargs]))


def _given(name: str, result: Any, inputs: list[np.ndarray]) -> Any:
    """The result as arrays of the card, counted as launched and allocated unless it is a view."""
    if result is None:
        _note(_counts.launches, name)
        return None
    if isinstance(result, (tuple, list)):
        parts = [_given(name, part, inputs) for part in result]
        return type(result)(*parts) if hasattr(result, "_fields") else type(result)(parts)
    if not isinstance(result, (np.ndarray, np.generic)):
        return result
    if not any(np.may_share_memory(result, array) for array in inputs):
        _note(_counts.allocations, name)
        if not name.startswith("empty"):
            _note(_counts.launches, name)
    return CardArray(np.asarray(result))


def _function(function: Callable[..., Any], name: str = "") -> Callable[..., Any]:
    name = name or function.__name__

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return _called(function, name, args, kwargs)

    return call


class _Library(ModuleType):
    """CuPy, or a part of it, by NumPy's functions."""

    def __init__(self, name: str, numpy: Any, **attributes: Any) -> None:
        super().__init__(name)
        self.__dict__.update(attributes, numpy=numpy)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.numpy, name)
        if isinstance(value, ModuleType):
            value = _Library(f"{self.__name__}.{name}", value)
        elif callable(value) and not isinstance(value, type):
            value = _function(value, name)
        self.__dict__[name] = value
        return value


def _empty(shape: Any, dtype: Any = float) -> np.ndarray:
    """New memory holds NaN and -1, lest the right numbers lie there from before."""
    array = np.empty(shape, dtype)
    array.reshape(-1).view(np.uint8)[:] = 0xFF
    return array


def _solve_triangular(a: Any, b: Any, lower: bool = False, **_: Any) -> Any:
    from scipy.linalg import solve_triangular

    def solve(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return solve_triangular(a, b, lower=lower, check_finite=False)

    return _called(solve, "solve_triangular", (a, b), {})


def _modules() -> dict[str, ModuleType]:
    """The counting card's CuPy, by the names that are imported."""
    spec = importlib.util.spec_from_file_location("cupy", HERE / "numpy_as_cupy" / "cupy" / "__init__.py")
    pretended = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(pretended)  # type: ignore[union-attr]

    class Event(pretended.Event):  # type: ignore[name-defined,misc]
        done = True

        def synchronize(self) -> None:
            _waited("event")

    class Device(pretended.Device):  # type: ignore[name-defined,misc]
        def synchronize(self) -> None:
            _waited("device")

    stream = SimpleNamespace(ptr=0, synchronize=lambda: _waited("stream"))
    cuda = SimpleNamespace(
        **{**vars(pretended.cuda), "Event": Event, "Device": Device}, get_current_stream=lambda: stream
    )
    cupy = _Library(
        "cupy",
        np,
        ndarray=CardArray,
        cuda=cuda,
        empty=_function(_empty, "empty"),
        asnumpy=lambda array: array.get(),
        get_default_memory_pool=pretended.get_default_memory_pool,
    )
    linalg = _Library("cupyx.scipy.linalg", np.linalg, solve_triangular=_solve_triangular)
    cupyx = _Library("cupyx", np, empty_pinned=np.empty)
    return {"cupy": cupy, "cupyx": cupyx, "cupyx.scipy": _Library("cupyx.scipy", np), "cupyx.scipy.linalg": linalg}


@contextlib.contextmanager
def counting(told: list[Any] | None = None) -> Iterator[Counts]:
    """Within it CuPy is that of the counting card, whose kernels are emulated; what is yielded goes on counting.

    Kernels do nothing if the host is to be ``told`` what it read in a run before; nor does the library where it is
    given an array to write to.
    """
    global _counts, _before
    before, _counts = _counts, Counts()
    _before = None if told is None else iter(told)
    from ksubspaces.kernels.cuda import irregular

    modules = _modules()
    with emulated("late"), pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        emulator, compiled = loader.kernel, {}

        def kernel(source: str, name: str, defines: Mapping[str, Any] | None = None) -> loader.Launch:
            key = source, name, *sorted((defines or {}).items())
            _counts.variants.add((source, *key[2:]))
            if key not in compiled:
                compiled[key] = _counted(_of_card(emulator)(source, name, defines), source, name)
            return compiled[key]

        patch.setattr(loader, "kernel", kernel)
        patch.setattr(loader, "numba_kernel", lambda *which: _counted(_simulated(*which), *which))
        for name in ("THREADS", "CHUNK"):
            patch.setattr(irregular, name, getattr(simulator, name))
        patch.setattr(loader, "namespace", lambda array: np if isinstance(array, np.ndarray) else modules["cupy"])
        yield _counts
    _counts, _before = before, None


def _counted(launch: loader.Launch, source: str, name: str) -> loader.Launch:
    @_of_card
    def counted(grid: Any, block: Any, args: Any, *, shared_mem: int = 0) -> None:
        _counts.launches[f"{source}.{name}"] += bool(all(grid))
        if _before is None:
            launch(grid, block, _on_host(tuple(args)), shared_mem=shared_mem)

    return counted


def _simulated(source: str, name: str) -> loader.Launch:
    """A kernel of Numba's under its simulator."""

    def launch(grid: Any, block: Any, args: Any, **_: Any) -> None:
        if all(grid):
            for mine, after in zip(args, simulator.launch(source, name, grid, block, list(args)), strict=True):
                if mine.ndim:
                    mine[...] = after

    return launch


def bookkeeping(counts: Counts, repeats: int = 500) -> float:
    """Seconds that counting as many launches, new arrays and waits takes: what it alone takes of the host's time."""
    cupy = loader.namespace(CardArray(np.empty(0)))
    array, launch = CardArray(np.zeros(1)), _counted(lambda *args, **options: None, "none", "none")

    def each(call: Callable[[], Any]) -> float:
        times = []
        for _ in range(5):
            before = _counts.now()
            for _ in range(repeats):
                call()
            times.append((_counts.now() - before).seconds / repeats)
        return min(times)

    ours = sum(n for name, n in counts.launches.items() if " in " not in name)
    of_library = counts.launches.total() - ours
    costs = [
        (ours, lambda: launch((1,), (1,), (array,), shared_mem=0)),
        (of_library, lambda: cupy.negative(array, out=array)),
        (counts.allocations.total() - of_library, lambda: cupy.empty(1)),
    ]
    return sum(n * each(call) for n, call in costs if n > 0)


def on_card(array: np.ndarray) -> CardArray:
    """A copy of an array, on the counting card; not counted."""
    return CardArray(array.copy())
