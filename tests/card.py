"""The card, if there is one: what is missing if not, and how arrays go there and come back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from transfers import converted

try:
    import cupy
except ImportError:
    cupy = None


def device_count() -> int:
    try:
        return int(cupy.cuda.runtime.getDeviceCount()) if cupy else 0
    except cupy.cuda.runtime.CUDARuntimeError:
        return 0


if cupy is None:
    MISSING = "CuPy is missing: pip install 'ksubspaces[cuda12]' (or [cuda13])"
else:
    MISSING = "" if device_count() else "CUDA finds no device: it takes a card and its driver"
marks = [pytest.mark.gpu, pytest.mark.skipif(bool(MISSING), reason=MISSING)]


def there(value: Any) -> Any:
    """A value on the card, in the same order of memory: arrays, and what the kernels take made of them."""
    return converted(value, lambda x: cupy.asarray(x, order="K") if isinstance(x, np.ndarray) else x)


def here(value: Any) -> Any:
    """A value on the host: arrays, and what the kernels give made of them."""
    return converted(value, lambda x: cupy.asnumpy(x) if isinstance(x, cupy.ndarray) else x)
