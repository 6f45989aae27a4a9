"""A linear layer with a factored weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.types import Device

from ..arrays import AnyArray
from ..bits.quantized import QuantizedFactorization
from ..checks import Passed, one_budget
from ..factorization import Factorization
from ._embedding import SubspaceEmbedding
from ._factors import Factors, check_exact, read_shapes
from ._packed import PackedEmbedding, PackedFactors, refuse_beside_bits

if TYPE_CHECKING:
    from typing_extensions import Self


class SubspaceLinear(nn.Module):
    """An ``nn.Linear`` whose weight W (out, in) is factored by its rows or its columns, and never built.

    By rows, ``x @ W.T`` is ``(x @ V_c.T) @ U_c.T`` for the outputs of each cluster c; by columns it is the sum over
    the clusters of inputs of ``(x_c @ U_c) @ V_c``.

    Made from shapes alone, as here, all factors are zero, to be filled by ``load_state_dict``.

    Parameters
    ----------
    in_features, out_features : int
    counts, dims : sequence of k int
        Rows (or columns) n_c of W and dimension j_c of each cluster.
    by : {"rows", "columns"}, default "rows"
        What is clustered: rows, one for each output, as in the output projection of a language model; or columns,
        one for each input.
    bias : bool, default True
    affine, storage, device, dtype
        As in :class:`SubspaceEmbedding`.

    Attributes
    ----------
    factors : Factors or PackedFactors
        Of W, or of W.T by columns. Tied layers have the same.
    bias : (out,) parameter or None
    weight : (out, in) tensor
        W, decoded anew each time; gradients flow through it to the factors. It cannot be assigned.

    Raises
    ------
    ValueError
        When the shapes do not fit together, or by or storage is none there is.

    Examples
    --------
    >>> import torch
    >>> from ksubspaces import fit_subspaces
    >>> from ksubspaces.integrations.torch import SubspaceEmbedding, SubspaceLinear
    >>> table = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    >>> embedding = SubspaceEmbedding.from_factorization(fit_subspaces(table, k=2, j=3, seed=0).factorize(table))
    >>> head = SubspaceLinear.tied_to(embedding)
    >>> head(embedding(torch.tensor([5, 7]))).shape
    torch.Size([2, 60])
    >>> head.factors is embedding
    True
    """

    factors: Factors | PackedFactors
    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        counts: Sequence[int],
        dims: Sequence[int],
        *,
        by: str = "rows",
        bias: bool = True,
        affine: bool = False,
        storage: str | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_by(by)
        self.in_features = in_features
        self.out_features = out_features
        self.by = by
        shape = (out_features, in_features) if by == "rows" else (in_features, out_features)
        self.factors = Factors(*shape, counts, dims, affine=affine, storage=storage, device=device, dtype=dtype)
        self.register_parameter(
            "bias", nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype)) if bias else None
        )

    @classmethod
    def around(cls, factors: Factors | PackedFactors, *, by: str = "rows", bias: Tensor | None = None) -> Self:
        """A linear layer with these very factors, of W (out, in) by rows and of W.T by columns.

        Parameters
        ----------
        factors : Factors or PackedFactors
            Shared, not copied: an embedding's, say.
        by
            See the class.
        bias : (out,) tensor, optional
            Copied. Without it there is none.
        """
        _check_by(by)
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer.in_features, layer.out_features = factors.shape[:: 1 if by == "columns" else -1]
        layer.by, layer.factors = by, factors
        layer.register_parameter("bias", None)
        layer._take_bias(bias)
        return layer.train(factors.training)

    @classmethod
    def from_factorization(
        cls,
        factorization: Factorization,
        *,
        bias: Tensor | None = None,
        by: str = "rows",
        storage: str | None = None,
        dtype: torch.dtype | None = None,
        device: Device = None,
    ) -> Self:
        """A linear layer with a copy of given factors, of W (out, in) by rows and of W.T by columns.

        Parameters
        ----------
        factorization : Factorization
        bias : (out,) tensor, optional
            Copied. Without it there is none.
        by, storage
            See the class.
        dtype, device
            Those of the factorization by default.

        Raises
        ------
        TypeError
            When it is given something else than a factorization.
        ValueError
            When the bias does not have one entry for each output.
        """
        (rows, columns, *clusters), options = read_shapes(factorization, dtype, device)
        features = (columns, rows) if by == "rows" else (rows, columns)
        layer = cls(*features, *clusters, by=by, bias=False, storage=storage, **options)
        assert isinstance(layer.factors, Factors)
        layer.factors.fill(factorization)
        layer._take_bias(bias)
        return layer

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        ratio: float | None = None,
        *,
        by: str = "rows",
        n_parameters: int | None = None,
        bits: float | None = None,
        nbytes: int | None = None,
        max_error: float | None = None,
        code: QuantizedFactorization | None = None,
        sample_weight: AnyArray | None = None,
        storage: str | None = None,
        k: int | str = "auto",
        seed: int | None = None,
        metric: AnyArray | None = None,
        **options: Passed,
    ) -> Self:
        """Compress the weight of a linear layer, which is left as it is; the bias is kept.

        Parameters
        ----------
        linear : nn.Linear
        ratio : float, optional
            Share of the weight's parameters to save, in (0, 1). Give this, ``keep`` or ``n_parameters``.
        n_parameters : int, optional
            Parameters to spend on the weight.
        bits, nbytes : number, optional
            Bits to spend for each number of the weight, or bytes for all of it, in place of those. The factors are then
            :class:`PackedFactors`, which train once they are unfrozen.
        max_error : float, optional
            Most relative error allowed, in place of a budget: the smallest layer in bits that keeps to it.
        code : QuantizedFactorization, optional
            Of this weight, or of its transpose by columns, made before; in place of a budget.
        sample_weight : (out,) array, or (in,) by columns, optional
            Weight of the error of each row or column.
        by, storage
            See the class.
        k, seed, **options
            As in ``ksubspaces.compress``.
        metric : (in, in) array, or (out, out) by columns, optional
            Which directions of what is clustered matter more, as in ``ksubspaces.compress``. By rows, the second moment
            of the layer's inputs makes the error that of its outputs.

        Raises
        ------
        TypeError
            When it is no ``nn.Linear``.
        ValueError
            When by is neither "rows" nor "columns", or as ``compress`` raises.

        Examples
        --------
        >>> import torch
        >>> from ksubspaces.integrations.torch import SubspaceLinear
        >>> linear = torch.nn.Linear(16, 200)
        >>> layer = SubspaceLinear.from_linear(linear, 0.4, k=1, seed=0)
        >>> layer(torch.ones(3, 16)).shape
        torch.Size([3, 200])
        """
        if not isinstance(linear, nn.Linear):
            raise TypeError(f"linear must be an nn.Linear, got {type(linear).__name__}")
        _check_by(by)
        from ..budget import compress

        weight = linear.weight.detach()
        table = weight if by == "rows" else weight.T
        bias = None if linear.bias is None else linear.bias.detach()
        budget = {"bits": bits, "nbytes": nbytes, "max_error": max_error}
        if one_budget(**budget, code=code):
            refuse_beside_bits(ratio=ratio, n_parameters=n_parameters, storage=storage, metric=metric)
            made = code or compress(table, k=k, sample_weight=sample_weight, seed=seed, **options, **budget)
            assert isinstance(made, QuantizedFactorization)
            factors = PackedFactors(*table.shape, dtype=weight.dtype, device=weight.device).fill(made)
            return cls.around(factors, by=by, bias=bias)._as_in(linear)
        check_exact(options.get("exact_rows"), table.shape, storage, weight.dtype)
        options |= {"n_parameters": n_parameters, "k": k, "sample_weight": sample_weight, "seed": seed}
        factorization = compress(table, ratio, metric=metric, **options)
        layer = cls.from_factorization(
            factorization, bias=bias, by=by, storage=storage, dtype=weight.dtype, device=weight.device
        )
        return layer._as_in(linear)

    @classmethod
    def tied_to(cls, embedding: SubspaceEmbedding | PackedEmbedding, *, bias: Tensor | None = None) -> Self:
        """The output projection ``x @ table.T`` with the very factors of an embedding: training one trains both.

        Parameters
        ----------
        embedding : SubspaceEmbedding or PackedEmbedding
            Of n rows (outputs) and d columns (inputs).
        bias : (n,) tensor, optional
            Copied. Without it there is none.

        Raises
        ------
        TypeError
            When it is neither.
        ValueError
            When the bias does not have one entry for each row.
        """
        if not isinstance(embedding, (SubspaceEmbedding, PackedEmbedding)):
            raise TypeError(f"embedding must be a SubspaceEmbedding or PackedEmbedding, got {type(embedding).__name__}")
        return cls.around(embedding, bias=bias)

    def _as_in(self, linear: nn.Linear) -> Self:
        """Trained or not, and in training mode or not, as a linear layer is."""
        self.factors.requires_grad_(linear.weight.requires_grad)
        if self.bias is not None:
            self.bias.requires_grad_(linear.bias.requires_grad)
        return self.train(linear.training)

    def _take_bias(self, bias: Tensor | None) -> None:
        if bias is None:
            return
        if bias.shape != (self.out_features,):
            raise ValueError(f"bias must have shape ({self.out_features},), got {tuple(bias.shape)}")
        bases = self.factors.bases
        like = bases if isinstance(bases, Tensor) else bases.tensors()[0]
        self.bias = nn.Parameter(bias.detach().to(like, copy=True))

    @property
    def weight(self) -> Tensor:
        dense = self.factors.to_dense()
        return dense if self.by == "rows" else dense.T

    @property
    def n_parameters(self) -> int:
        """Numbers stored: those of the factors, and the bias."""
        return self.factors.n_parameters + (0 if self.bias is None else self.bias.numel())

    @property
    def nbytes(self) -> int:
        """Bytes that they take."""
        return self.factors.nbytes + (0 if self.bias is None else self.bias.numel() * self.bias.element_size())

    def to_dense(self) -> Tensor:
        """W (out, in) decoded, differentiable in the factors."""
        return self.weight

    def to_factorization(self) -> Factorization | QuantizedFactorization:
        """A copy of the factors of W, or of W.T by columns."""
        return self.factors.to_factorization()

    def forward(self, x: Tensor) -> Tensor:
        """``x @ W.T + bias``, (..., in) to (..., out)."""
        y = self.factors.products(x) if self.by == "rows" else self.factors.combinations(x)
        return y if self.bias is None else y + self.bias.to(y.dtype)  # under autocast y has its dtype

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, by={self.by!r}, "
            f"bias={self.bias is not None}"
        )


def _check_by(by: str) -> None:
    if by not in ("rows", "columns"):
        raise ValueError(f"by must be 'rows' or 'columns', got {by!r}")
