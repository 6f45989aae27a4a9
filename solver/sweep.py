"""What a matrix lost at several sizes, by several methods: points that are told, saved and drawn in one way."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from .figures import Series
from .storage import Facts, write_json

if TYPE_CHECKING:
    from typing_extensions import Self


class Point:
    """One method at one size: what the points of all sweeps have."""

    if TYPE_CHECKING:

        @property
        def method(self) -> str: ...
        @property
        def relative_error(self) -> float: ...
        @property
        def weighted_error(self) -> float | None: ...

    def error(self, weighted: bool) -> float:
        """One of the two errors; 0 where the weighted one was not measured."""
        return self.weighted_error or 0.0 if weighted else self.relative_error


P = TypeVar("P", bound=Point)


@dataclass(frozen=True)
class Sweep(Generic[P]):
    """The points of a matrix (n, d), method by method."""

    shape: tuple[int, int]
    points: tuple[P, ...]

    _POINT: ClassVar[type[Any]]
    _NAME: ClassVar[str]

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods, in the order asked for."""
        return tuple(dict.fromkeys(point.method for point in self.points))

    @property
    def is_weighted(self) -> bool:
        """Whether there are weighted errors."""
        return any(point.weighted_error is not None for point in self.points)

    def rows(self) -> list[Facts]:
        """A dict for each point: the rows of a table, for instance ``pandas.DataFrame(curve.rows())``."""
        return [asdict(point) for point in self.points]  # type: ignore[call-overload]

    def to_dict(self) -> Facts:
        """All of it in types that JSON knows."""
        return {"shape": list(self.shape), "points": self.rows()}

    @classmethod
    def from_dict(cls, facts: Facts) -> Self:
        """The inverse of :meth:`to_dict`; further entries are passed over.

        Raises
        ------
        ValueError
            When entries are missing or are not what they should be.
        """
        try:
            return cls(**cls._parts(facts))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is no {cls._NAME}, or not all of one: {error!r}") from None

    @classmethod
    def _parts(cls, facts: Facts) -> Facts:
        names = [field.name for field in fields(cls._POINT)]
        n, d = facts["shape"]
        points = tuple(cls._POINT(**{name: point[name] for name in names}) for point in facts["points"])
        return {"shape": (int(n), int(d)), "points": points}

    def save(self, path: str | os.PathLike[str], facts: Facts | None = None) -> None:
        """Save as JSON, whole or not at all, with further facts beside it that :meth:`load` passes over.

        Raises
        ------
        OSError
            When the folder is missing, read-only or full; a file that was there before is left as it was.
        """
        write_json(path, {**(facts or {}), **self.to_dict()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Load what :meth:`save` wrote.

        Raises
        ------
        FileNotFoundError, ValueError
            When there is no such file, or it holds something else.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_bytes()))
        except ValueError as error:  # JSON's and Unicode's own errors are ValueErrors
            raise ValueError(f"{os.fspath(path)}: {error}") from None

    def _panels(self) -> dict[str, list[Series]]:
        """What is drawn: the errors, and beside them the weighted ones where there are weights."""
        panels = {"Relative squared error": self._series(False)}
        if self.is_weighted:
            panels["Relative squared error, rows weighted"] = self._series(True)
        return panels

    def _series(self, weighted: bool) -> list[Series]:
        """The errors of each method, rows weighted or not."""
        raise NotImplementedError
