"""Arrays within what operations take and give, each of them converted: how inputs reach a device and results return."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


def converted(value: Any, convert: Callable[[Any], Any]) -> Any:
    """The value with ``convert`` applied to all that is no list, tuple, dict, namespace or dataclass within it."""
    if isinstance(value, (list, tuple)):
        parts = [converted(part, convert) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, dict):
        return {name: converted(part, convert) for name, part in value.items()}
    if isinstance(value, SimpleNamespace):
        return SimpleNamespace(**{name: converted(part, convert) for name, part in vars(value).items()})
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        return dataclasses.replace(value, **{name: converted(getattr(value, name), convert) for name in names})
    return convert(value)


def parts(value: Any) -> list[Any]:
    """What ``converted`` would convert, in order."""
    found: list[Any] = []
    converted(value, lambda part: found.append(part) or part)
    return found
