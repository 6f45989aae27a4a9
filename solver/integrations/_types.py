"""Names of what Torch and transformers leave without types."""

from __future__ import annotations

from typing import Any, TypeAlias

AnyModule: TypeAlias = Any
"""A model or a layer, whose attributes beyond those of ``nn.Module`` its own class alone knows."""

AnyClass: TypeAlias = Any
"""A class of models, of transformers or sentence-transformers."""

Context: TypeAlias = Any
"""What an operation of Torch hands from its forward to its backward pass."""
