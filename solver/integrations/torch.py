"""Layers of factored tables for Torch: an embedding, a bag and a linear layer with k factors in place of one matrix.

They are those of MESSI (Maalouf et al., Deep Learning Meets Projective Clustering, ICLR 2021, section 2), and need
Torch 2.7 or later.
"""

try:
    import torch  # noqa: F401
except ImportError:
    raise ImportError('ksubspaces.integrations.torch needs Torch: pip install "ksubspaces[torch]"') from None

from ._bag import PackedEmbeddingBag, SubspaceEmbeddingBag
from ._embedding import SubspaceEmbedding
from ._linear import SubspaceLinear
from ._packed import PackedEmbedding

__all__ = ["PackedEmbedding", "PackedEmbeddingBag", "SubspaceEmbedding", "SubspaceEmbeddingBag", "SubspaceLinear"]
