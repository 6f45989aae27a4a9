"""The optional packages: what to install where one is missing."""

from __future__ import annotations

import importlib


def require(*modules: str, extra: str = "cli") -> None:
    """Import optional modules; an `ImportError` says what to install where one is missing."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ImportError(f'{module} is not installed: pip install "ksubspaces[{extra}]"', name=module) from error
