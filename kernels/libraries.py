"""The libraries that a GPU needs. They are imported when first used, and any failure becomes one error.

Often no library is missing, but two do not fit each other (Numba looks up names that a newer NumPy has dropped). So the
error says which versions were found, and what to install so that they work together.
"""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib import metadata
from types import ModuleType
from typing import Any, TypeAlias

Untyped: TypeAlias = Any
"""An object of a library that has no types: of CuPy, or of one that ctypes calls."""

PACKAGES = ("numpy", "numba", "numba-cuda", "cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x")


def cupy() -> ModuleType:
    """The module ``cupy``."""
    try:
        import cupy
    except Exception as failure:
        raise unusable("arrays on a CUDA device need CuPy", failure) from failure
    return cupy


def numba_cuda() -> ModuleType:
    """The module ``numba.cuda``, of the package numba-cuda, with all that its compiler is made of."""
    try:
        import numba.cuda
        import numba_cuda  # noqa: F401  Numba's own CUDA target is deprecated

        if not numba.config.ENABLE_CUDASIM:  # type: ignore[attr-defined]
            import numba.cuda.cudaimpl  # compiling imports it, and it is what does not fit a newer NumPy
            from cuda.bindings import nvjitlink  # noqa: F401
    except Exception as failure:
        raise unusable("sampling and lists of rows on a CUDA device need numba-cuda", failure) from failure
    return numba.cuda


def unusable(need: str, failure: Exception) -> ImportError:
    """The error to raise when a failure leaves a need unmet."""
    return ImportError(
        f"{need}, and it does not work here: {type(failure).__name__}: {failure}. Found: {found()}. Install versions "
        'that work together: pip install "ksubspaces[cuda12]" (or [cuda13], to match your driver)'
    )


def found() -> str:
    """Python and the packages that matter on a GPU, with their versions."""
    versions = {}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    missing = [package for package in ("numpy", "numba", "numba-cuda") if package not in versions]
    if not any(package.startswith("cupy") for package in versions):
        missing.append("cupy")
    told = [f"Python {platform.python_version()}", *(f"{package} {version}" for package, version in versions.items())]
    return ", ".join([*told, *(f"no {package}" for package in missing)])
