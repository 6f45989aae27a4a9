"""A factored embedding table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.types import Device

from ..arrays import AnyArray
from ..bits.quantized import QuantizedFactorization
from ..checks import Passed, one_budget
from ..decoded import row_numbers
from ..factorization import Factorization
from ._factors import Factors, check_exact, read_shapes
from ._lookup import check_ids, check_padding, decode, decode_static, is_static, lookup
from ._packed import PackedEmbedding, refuse_beside_bits
from ._scaling import PLAIN, Scaling, scaling_of, tell_options
from ._types import AnyClass, AnyModule

if TYPE_CHECKING:
    from typing_extensions import Self

UNSUPPORTED = {
    "max_norm": "it shortens rows of the table in place, and factored rows share their bases",
    "scale_grad_by_freq": "a basis has no frequency of its own to scale its gradient by",
    "sparse": "each lookup touches whole bases, so their gradients are dense",
}


class SubspaceEmbedding(Factors):
    """An ``nn.Embedding`` whose table is factored: row i is its coefficients times the basis of its cluster.

    Coefficients, bases and offsets are parameters, trained as the table's rows would be; with int8 storage the
    coefficients are codes and stay as they are, while bases and offsets train. The k clusters of one lookup take one
    gather and one product each, whatever the number of ids; rows asked for twice are decoded once.

    Made from shapes alone, as here, all factors are zero, to be filled by ``load_state_dict``; see
    :meth:`from_embedding` and :meth:`from_factorization` for the rest.

    Parameters
    ----------
    num_embeddings, embedding_dim : int
        Rows n and columns d of the table.
    counts, dims : sequence of k int
        Rows n_c and dimension j_c of each cluster.
    affine : bool, default False
        Whether each cluster has an offset.
    padding_idx : int, optional
        A row that passes no gradient on, neither to its coefficients nor to its cluster's basis and offset. As in
        ``nn.Embedding`` its value is what is stored, not necessarily zero. In a cluster that other rows train it
        moves with them; :meth:`from_embedding` gives it a cluster of its own, which is fixed.
    storage : {"float32", "float16", "bfloat16", "int8"}, optional
        Of the coefficients; int8 with one scale per row. ``None`` is ``dtype``. float16 is not for training: Adam's
        steps underflow in it, as they do for any parameter.
    scaling : (float, bool), default (1.0, False)
        A number that rows are multiplied by as they come out (``weight`` is without it), and whether it is rounded to
        their dtype first: the ``embed_scale`` of BART's embeddings and, rounded, of Gemma's.
    n_fixed : int, default 0
        So many of the last clusters do not train.
    device, dtype
        As in ``nn.Embedding``. ``dtype`` is that of the bases and of what comes out, under autocast too.

    Attributes
    ----------
    num_embeddings, embedding_dim, padding_idx
        As in ``nn.Embedding``.
    scaling : (factor, rounded)
    weight : (n, d) tensor
        The table, decoded anew each time; gradients flow through it to the factors. It is no parameter: it cannot be
        assigned or tied to, for which there is :meth:`SubspaceLinear.tied_to`.
    coefficients, bases : modules of k tensors (n_c, j_c) and (j_c, d)
    offsets : (k, d) parameter or None
    places : (n,) integers
        Where each row lies among the rows sorted by cluster.
    scales : (n,) or None
        By place, what int8 coefficients are multiplied by.

    Raises
    ------
    ValueError
        When the shapes do not fit together, or padding_idx or storage is none there is.

    Notes
    -----
    The layer is that of MESSI (Maalouf et al., Deep Learning Meets Projective Clustering, ICLR 2021, section 2), with
    a gather in place of its sparse first factor. ``torch.compile`` takes it whole, as one operation. Traced or
    exported (``torch.export``, ONNX) it decodes each row in every cluster, since groups of unknown size cannot be
    exported; what is exported is meant for inference and passes gradients on for the padding row too.

    Examples
    --------
    >>> import torch
    >>> from ksubspaces import fit_subspaces
    >>> from ksubspaces.integrations.torch import SubspaceEmbedding
    >>> table = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    >>> layer = SubspaceEmbedding.from_factorization(fit_subspaces(table, k=2, j=3, seed=0).factorize(table))
    >>> layer(torch.tensor([[5, 7, 5]])).shape
    torch.Size([1, 3, 8])
    >>> again = SubspaceEmbedding(60, 8, layer.counts, layer.dims)
    >>> again.load_state_dict(layer.state_dict())
    <All keys matched successfully>
    >>> bool((again.weight == layer.weight).all())
    True
    """

    _dense: AnyClass = nn.Embedding
    _packed: AnyClass = PackedEmbedding

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        counts: Sequence[int],
        dims: Sequence[int],
        *,
        affine: bool = False,
        padding_idx: int | None = None,
        storage: str | None = None,
        scaling: tuple[float, bool] = PLAIN,
        n_fixed: int = 0,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shapes = (num_embeddings, embedding_dim, counts, dims)
        super().__init__(*shapes, affine=affine, storage=storage, n_fixed=n_fixed, device=device, dtype=dtype)
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = check_padding(padding_idx, num_embeddings)
        self.scaling = Scaling(*scaling)

    @classmethod
    def from_factorization(
        cls,
        factorization: Factorization,
        *,
        padding_idx: int | None = None,
        storage: str | None = None,
        scaling: tuple[float, bool] = PLAIN,
        n_fixed: int = 0,
        dtype: torch.dtype | None = None,
        device: Device = None,
        **more: Passed,
    ) -> Self:
        """An embedding with a copy of given factors.

        Parameters
        ----------
        factorization : Factorization
            Of NumPy, Torch or CuPy arrays.
        padding_idx, storage, scaling, n_fixed
            See the class.
        dtype : torch.dtype, optional
            Of bases and output; that of the factorization by default.
        device : optional
            That of the factorization by default.
        **more
            Of a class derived from this.

        Raises
        ------
        TypeError
            When it is given something else.
        """
        shapes, options = read_shapes(factorization, dtype, device)
        options |= {"padding_idx": padding_idx, "storage": storage, "scaling": scaling, "n_fixed": n_fixed, **more}
        return cls(*shapes, **options).fill(factorization)

    @classmethod
    def from_embedding(
        cls,
        embedding: AnyModule,
        ratio: float | None = None,
        *,
        n_parameters: int | None = None,
        bits: float | None = None,
        nbytes: int | None = None,
        max_error: float | None = None,
        code: QuantizedFactorization | None = None,
        token_weights: AnyArray | None = None,
        storage: str | None = None,
        k: int | str = "auto",
        seed: int | None = None,
        **options: Passed,
    ) -> Self | PackedEmbedding:
        """Compress an embedding; it is left as it is.

        Dtype, device, padding_idx, training mode, whether it is trained, and a number that it multiplies rows by (the
        ``embed_scale`` of BART, Gemma and others in transformers) are the embedding's. Rows come out approximately.
        The padding row is exact, and stays so in training: it has a cluster of its own, which is fixed.

        Parameters
        ----------
        embedding : nn.Embedding
        ratio : float, optional
            Share of the parameters to save, in (0, 1). Give this, ``keep`` (as in ``compress``) or ``n_parameters``.
        n_parameters : int, optional
            Parameters to spend.
        bits, nbytes : number, optional
            Bits to spend for each number of the table, or bytes for all of it, in place of those. The layer is then a
            :class:`PackedEmbedding`, which trains once it is unfrozen.
        max_error : float, optional
            Most relative error allowed, in place of a budget: the smallest layer in bits that keeps to it.
        code : QuantizedFactorization, optional
            Of this table, made before; in place of a budget.
        token_weights : (n,) array, optional
            Weight of each row's error, for instance how often its token occurs.
        storage
            See the class.
        k, seed, **options
            As in ``ksubspaces.compress``.

        Raises
        ------
        ValueError
            When the embedding has ``max_norm``, ``scale_grad_by_freq`` or ``sparse`` set or does anything but look up
            and scale, or as ``compress`` raises.
        TypeError
            When it is no ``nn.Embedding``.

        Examples
        --------
        >>> import torch
        >>> from ksubspaces.integrations.torch import SubspaceEmbedding
        >>> generator = torch.Generator().manual_seed(0)
        >>> bases = torch.randn(2, 3, 16, generator=generator)
        >>> table = (torch.randn(2, 200, 3, generator=generator) @ bases).flatten(0, 1)
        >>> embedding = torch.nn.Embedding.from_pretrained(table)
        >>> layer = SubspaceEmbedding.from_embedding(embedding, 0.7, seed=0)
        >>> layer.n_parameters <= 0.3 * 400 * 16
        True
        """
        if not isinstance(embedding, cls._dense):
            raise TypeError(f"embedding must be an nn.{cls._dense.__name__}, got {type(embedding).__name__}")
        for name, reason in UNSUPPORTED.items():
            if getattr(embedding, name):
                raise ValueError(f"embeddings with {name} cannot be factored: {reason}; set it to None or False first")
        scaling = scaling_of(embedding)
        if scaling is None:
            raise ValueError(
                f"embedding is of type {type(embedding).__name__}, whose own way of computing would be lost; "
                "compress its weight with ksubspaces.compress, and decode in a module like it"
            )
        from ..budget import compress

        table = embedding.weight.detach()
        padding_idx = embedding.padding_idx
        budget = {"bits": bits, "nbytes": nbytes, "max_error": max_error}
        in_bits = one_budget(**budget, code=code)
        if padding_idx is not None and (in_bits or table[padding_idx].any()):
            options["exact_rows"] = and_row(options.get("exact_rows"), padding_idx, len(table))
        if in_bits:
            refuse_beside_bits(ratio=ratio, n_parameters=n_parameters, storage=storage)
            made = code or compress(table, k=k, sample_weight=token_weights, seed=seed, **options, **budget)
            assert isinstance(made, QuantizedFactorization)
            packed = cls._packed.from_factorization(
                made,
                padding_idx=padding_idx,
                scaling=scaling,
                dtype=table.dtype,
                device=table.device,
                **cls._options_of(embedding),
            )
            return packed.train(embedding.training)
        check_exact(options.get("exact_rows"), table.shape, storage, table.dtype)
        factorization = compress(
            table, ratio, n_parameters=n_parameters, k=k, sample_weight=token_weights, seed=seed, **options
        )
        if padding_idx is not None:
            factorization = _set_apart(factorization, padding_idx, table[padding_idx])
        layer = cls.from_factorization(
            factorization,
            padding_idx=padding_idx,
            storage=storage,
            scaling=scaling,
            n_fixed=0 if padding_idx is None else 1,
            dtype=table.dtype,
            device=table.device,
            **cls._options_of(embedding),
        )
        if not embedding.weight.requires_grad:
            layer.requires_grad_(False)
        return layer.train(embedding.training)

    @staticmethod
    def _options_of(embedding: AnyModule) -> dict[str, Passed]:
        """What more an embedding of this kind is made with."""
        return {}

    @property
    def weight(self) -> Tensor:
        return self.to_dense()

    def forward(self, ids: Tensor) -> Tensor:
        """Rows (*ids.shape, d) of int32 or int64 ids of any shape.

        Raises
        ------
        IndexError
            When an id is not in [0, n).
        TypeError
            When ids are not integers.
        """
        check_ids(ids)
        table = self.table()
        padding_idx = -1 if self.padding_idx is None else self.padding_idx
        if not is_static(ids):
            return self.scaling(decode(ids, table, padding_idx))
        if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
            return self.scaling(lookup(ids, *table, padding_idx))
        return self.scaling(decode_static(ids, table))

    def extra_repr(self) -> str:
        return super().extra_repr() + tell_options(self.padding_idx, self.scaling)


def and_row(exact_rows: AnyArray | None, row: int, n: int) -> AnyArray:
    """Numbers of rows, and one more. What is no index is returned as it is, and compress refuses it."""
    try:
        return sorted({row, *([] if exact_rows is None else row_numbers(exact_rows, n).tolist())})
    except (IndexError, TypeError):
        return exact_rows


def _set_apart(factorization: Factorization, row: int, value: Tensor) -> Factorization:
    """The factorization with one row in a last cluster of its own, of dimension 1, or 0 if the row is zero."""
    given = factorization.to("torch")
    c = int(given.labels[row])
    labels, blocks, bases, offsets = given.labels.clone(), list(given.blocks), list(given.bases), given.offsets
    others = torch.arange(given.counts[c], device=labels.device) != (labels[:row] == c).sum()
    if len(others) == 1 and c == len(bases) - 1:
        del blocks[c], bases[c]
        offsets = None if offsets is None else offsets[:c]
    else:
        rest = blocks[c][others]
        used = (rest != 0).any(0)
        blocks[c], bases[c] = rest[:, used], bases[c][used]  # without the direction of the row alone, if it had one
    labels[row] = len(bases)
    own = value[None].to(bases[0])[: int(value.any())]
    blocks.append(own.new_ones(1, len(own)))
    bases.append(own)
    offsets = None if offsets is None else nn.functional.pad(offsets, (0, 0, 0, 1))
    return Factorization(labels, blocks, bases, offsets, given.home)
