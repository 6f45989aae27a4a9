"""Gives each test of the contract its backends, shapes and dtypes; at the end stands who passed what."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any

import pytest
import simulator

from contract.backends import BACKENDS, Reference
from contract.problems import SHAPES

OUTCOMES = {"passed": "", "skipped": " skipped", "failed": " FAILED", "error": " FAILED"}


def pytest_configure(config: Any) -> None:
    text = "operation(name, case=None, many=False, reference=False): whose contract; many: for backends that are fast"
    config.addinivalue_line("markers", text)


def pytest_generate_tests(metafunc: Any) -> None:
    """Parameters ``backend``, and those of ``dtype`` and ``n, d, dims`` that the test asks for."""
    mark = metafunc.definition.get_closest_marker("operation")
    if mark is None:
        return
    (operation,), many, reference = mark.args, mark.kwargs.get("many"), mark.kwargs.get("reference")
    dtyped, shaped = "dtype" in metafunc.fixturenames, "dims" in metafunc.fixturenames
    names = ["backend", *(["dtype"] if dtyped else []), *(["n", "d", "dims"] if shaped else [])]
    cases = []
    for backend in BACKENDS:
        slow, itself = many and not backend.many, isinstance(backend, Reference) and not reference
        if operation not in backend.operations or slow or itself:
            continue
        for dtype, shape in product(backend.dtypes if dtyped else [None], SHAPES if shaped else [()]):
            if shape:
                n, d, dims = shape
                most, most_flats = backend.limits.get(operation, (n, len(dims)))
                shape = (min(n, most), d, dims[:most_flats])
            values, ident = [backend, *shape], [backend.name.replace(", ", "_"), *map(_text, shape)]
            if dtype:
                values.insert(1, dtype)
                ident.insert(1, dtype.__name__)
            cases.append(pytest.param(*values, marks=backend.marks, id="-".join(ident)))
    metafunc.parametrize(names, cases, indirect=["backend"])


def _text(value: Any) -> str:
    return str(value).replace(" ", "")


@pytest.fixture
def backend(request: Any) -> Any:
    with request.param.within():
        yield request.param


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Each report says of which operation and backend it is, wherever it was made."""
    for item in items:
        mark = item.get_closest_marker("operation")
        if mark is not None:
            case = mark.kwargs.get("case")
            row = f"{mark.args[0]}: {case}" if case else mark.args[0]
            item.user_properties.append(("contract", (row, item.callspec.params["backend"].name)))


def pytest_sessionfinish() -> None:
    simulator.end()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    counts: Counter[tuple[str, str, str]] = Counter()
    for outcome, word in OUTCOMES.items():
        for report in terminalreporter.stats.get(outcome, []):
            for name, value in getattr(report, "user_properties", []):
                if name == "contract":
                    counts[(*value, word)] += 1
    if counts:
        terminalreporter.section("contract: operations by backends, tests passed")
        for line in table(counts):
            terminalreporter.write_line(line)


def table(counts: Counter[tuple[str, str, str]]) -> list[str]:
    """Operations by backends; what was skipped and failed is said, a dash is for what a backend does not have."""

    def cell(row: str, column: str) -> str:
        told = [
            f"{counts[row, column, word]}{word}"
            for word in dict.fromkeys(OUTCOMES.values())
            if counts[row, column, word]
        ]
        return ", ".join(told) or "-"

    rows = sorted({row for row, *_ in counts})
    columns = [backend.name for backend in BACKENDS]
    lines = [["", *columns], *([row, *(cell(row, column) for column in columns)] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            [line[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    ]
