"""Whole models of transformers and sentence-transformers: compressed in place, saved, loaded.

A compressed model is a model like any other: it trains, casts, moves and exports as before.

ONNX
----
The standard export is all it takes; batch and length may be dynamic::

    model.eval()
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    torch.onnx.export(
        model,
        (input_ids, attention_mask),
        "model.onnx",
        input_names=["input_ids", "attention_mask"],
        dynamic_shapes={name: {0: batch, 1: length} for name in ("input_ids", "attention_mask")},
        dynamo=True,
    )

The older exporter (``dynamo=False``, ``dynamic_axes``) wants a module with plain arguments and one output around the
model, as it does for any model of transformers 5.

Exported, a row is decoded in every cluster, since groups of unknown size cannot be exported; with many clusters that
is slower than the layer itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from ..arrays import AnyArray
from ..bits.compression import bytes_for
from ..checks import Passed, Seed, fraction, one_budget
from ..progress import waiting
from ..tokens import Tokenizer
from ._types import AnyModule

try:
    import torch
    import transformers
except ImportError as error:
    raise ImportError(
        f'ksubspaces.integrations.transformers needs {error.name}: pip install "ksubspaces[transformers]"',
        name=error.name,
    ) from error

if int(transformers.__version__.partition(".")[0]) < 5:
    raise ImportError(
        "ksubspaces.integrations.transformers needs transformers 5 or later, and this is "
        f'{transformers.__version__}: pip install --upgrade "ksubspaces[transformers]"',
        name="transformers",
    )

from torch import nn

from ._activations import activation_metric
from ._linear import SubspaceLinear
from ._loading import attach
from ._methods import take_over
from ._model_report import Baseline, ModelReport, ModuleReport, RowLoss
from ._modules import LAYERS, TABLES, Layer, SharedTable, check_model, factored_layers, put, shared_tables, size
from ._packed import PackedFactors, refuse_beside_bits
from ._saved import load_compressed, outer_models, save_compressed
from ._saving import is_pipeline, take_static
from ._sentences import SentenceVectors, hold_back
from ._tables_in_bits import TablesInBits
from ._token_rows import ALIKE, SPECIAL, TokenRows, token_rows

__all__ = [
    "ModelReport",
    "ModuleReport",
    "RowLoss",
    "activation_metric",
    "compress_model",
    "load_compressed",
    "save_compressed",
]

EMBEDDINGS, WITH_HEADS = "embeddings", "embeddings+heads"
_CHOICES = f"{EMBEDDINGS!r}, {WITH_HEADS!r} or a list of names"


def compress_model(
    model: nn.Module,
    ratio: float | None = None,
    *,
    n_parameters: int | None = None,
    bits: float | None = None,
    nbytes: int | None = None,
    max_error: float | None = None,
    min_cosine: float | None = None,
    texts: Iterable[str] | None = None,
    tokenizer: Tokenizer | None = None,
    token_weights: AnyArray | None = None,
    modules: str | Iterable[str] = EMBEDDINGS,
    exact_rows: AnyArray | str | None = SPECIAL,
    storage: str | None = None,
    metric: Mapping[str, AnyArray] | None = None,
    k: int | str = "auto",
    seed: Seed = None,
    progress: bool = False,
    **options: Passed,
) -> ModelReport:
    """Compress the tables of a model, in place.

    The input embedding becomes a :class:`SubspaceEmbedding` (in the static models of sentence-transformers, where the
    table is the model, a :class:`SubspaceEmbeddingBag`). Whatever is tied to it, as the output projection of a
    language model often is, stays tied: it becomes a :class:`SubspaceLinear` with the very same factors and its own
    bias. dtype, device, training mode and what is trained stay as they were. If anything fails, nothing is replaced.
    The vocabulary may change (``resize_token_embeddings``) before or after: rows that are new then are added exactly.

    Rows of the input and output embedding are tokens, and count by how often these occur: by ``token_weights`` if
    given, else as counted in ``texts``, else by a Zipf prior over the order of the tokenizer's vocabulary
    (:func:`ksubspaces.tokens.token_weights`), else, with no tokenizer, all alike, with a warning.

    Parameters
    ----------
    model : transformers.PreTrainedModel, sentence_transformers.SentenceTransformer or torch.nn.Module
        A plain module must have ``get_input_embeddings``, or its ``modules`` be named.
    ratio : float, optional
        Share of each table's parameters to save, 0 <= ratio < 1. Give this, ``keep`` or ``n_parameters``.
    n_parameters : int, optional
        Parameters to spend, where there is one table. int8 storage takes a scale for each row in addition.
    bits, nbytes : number, optional
        Bits to spend for each number of a table, or bytes for all of it where there is one table, in place of those.
        The layers are then a :class:`PackedEmbedding` or :class:`PackedEmbeddingBag`, and a :class:`SubspaceLinear`
        of packed bits. They train once they are unfrozen.
    texts : iterable of str, optional
        Texts like those the model will read; a few thousand sentences do.
    tokenizer : optional
        Of the model; one of sentence-transformers has its own.
    token_weights : (n,) array, optional
        Weight of each token. Rows beyond the tokenizer's vocabulary, with which tables are padded, may be left out.
    modules : "embeddings", "embeddings+heads" or iterable of str
        Names of modules, each an ``nn.Embedding``, ``nn.EmbeddingBag`` or ``nn.Linear``, to compress in place of the
        input embedding. A head that is not tied to it is a table of its own: it is left, and the report tells so, but
        with "embeddings+heads".
    exact_rows : "special", None, array of ints, or mask
        Tokens to keep just as they are, at the expense of the others: by default the special tokens of the tokenizer,
        if there is one. More than d of them take a storage that holds the model's dtype.
    storage : {"float32", "float16", "bfloat16", "int8"}, optional
        Of the coefficients; by default the model's dtype.
    metric : dict of str to (in, in) array, optional
        For linear layers by name, which directions of their inputs matter more: see :func:`activation_metric`.
    k, seed, progress, **options
        As in :func:`ksubspaces.compress`.

    Returns
    -------
    ModelReport
        Also ``model.compression_report``, there together with what was compressed in the model earlier.

    Raises
    ------
    TypeError, ValueError
        When the model has nothing to compress, is compressed or quantised already, or an argument does not fit; the
        text says which, what was given and what to do.

    Examples
    --------
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> from ksubspaces.integrations.transformers import compress_model
    >>> small = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 16, "bos_token_id": 0, "eos_token_id": 0}
    >>> config = GPT2Config(vocab_size=500, **small)
    >>> model = GPT2LMHeadModel(config)
    >>> weights = [1 / rank for rank in range(1, 501)]
    >>> report = compress_model(model, 0.5, token_weights=weights, k=2, seed=0)
    >>> [(module.name, module.tied) for module in report.modules]
    [('transformer.wte', ('lm_head',))]
    >>> model.lm_head.factors is model.transformer.wte
    True
    >>> report.modules[0].n_parameters <= 0.5 * 500 * 32
    True
    """
    begun = time.perf_counter()
    if "sample_weight" in options:
        raise TypeError("rows are weighted by token_weights here; pass sample_weight under that name")
    check_model(model)
    _check_unquantised(model)
    inputs, outputs = _token_modules(model)
    tables = shared_tables(model, _names(modules, inputs, outputs, model))
    if n_parameters is not None and len(tables) > 1:
        names = ", ".join(table.name for table in tables)
        raise ValueError(f"n_parameters is for one table, but there are {len(tables)}: {names}; give ratio or keep")
    metric = {} if metric is None else metric
    linear = [table.name for table in tables if table.kind == "linear"]
    if other := [name for name in metric if name not in linear]:
        raise ValueError(f"metric names {other[0]!r}, which is not among the linear layers to compress: {linear}")
    left = {name for name in outputs if isinstance(model.get_submodule(name), nn.Linear)}
    left = left.difference(*(table.holders for table in tables)) if modules == EMBEDDINGS else set()
    of_tokens = [table for table in tables if table.holders.keys() & {*inputs, *outputs}]
    _check_one_vocabulary(model, of_tokens)
    if tokenizer is None:
        tokenizer = getattr(model, "tokenizer", None)
    one_budget(bits=bits, nbytes=nbytes, max_error=max_error, min_cosine=min_cosine)
    measured_on: list[str] = []
    if min_cosine is not None:
        min_cosine = fraction("min_cosine", min_cosine)
        if texts is None:
            raise ValueError("min_cosine is measured on texts, of which some are held back; give texts")
        texts, measured_on = hold_back(texts)
        texts = texts if token_weights is None else None
    with waiting("counting tokens", progress):
        rows = token_rows(
            [len(table.module.weight) for table in of_tokens], token_weights, texts, tokenizer, exact_rows
        )

    before = size(model)
    spent = {"n_parameters": n_parameters, "bits": bits, "nbytes": nbytes, "max_error": max_error}
    given = {"storage": storage, "k": k, "seed": seed, **options}
    own = [rows.first(len(table.module.weight)) if table in of_tokens else ALIKE for table in tables]
    ways: list[dict[str, Passed]] = [{"progress": progress, **spent, **given} for _ in tables]
    cosine = None
    if min_cosine is not None or (len(tables) > 1 and (bits is not None or nbytes is not None)):
        refuse_beside_bits(ratio=ratio, n_parameters=n_parameters, storage=storage, metric=metric or None)
        together = TablesInBits(tables, own, progress=progress, **given)
        if min_cosine is None:
            codes = together.within(bytes_for((together.quantizers.size, 1), bits, nbytes))
        else:
            codes, cosine = together.smallest(model, SentenceVectors(model, tokenizer, measured_on), min_cosine)
        ways = [
            {"code": code, **({"by": together.by} if table.kind == "linear" else {})}
            for table, code in zip(tables, codes, strict=True)
        ]
    layers: dict[str, nn.Module] = {}
    reports = []
    for table, weighed, way in zip(tables, own, ways, strict=True):
        more = {} if table.name not in metric else {"metric": metric[table.name]}
        layer, report = _compress_table(table, ratio, weighed, {**way, **more})
        layers.update(table.replacements(layer))
        reports.append(report)
    put(model, layers)
    take_static(model)
    for part in outer_models(model).values():
        if factored_layers(part):
            attach(part)
    if is_pipeline(type(model)):
        take_over(model)
    after = size(model)
    this = ModelReport(
        model=type(model).__name__,
        modules=tuple(reports),
        n_parameters_before=before[0],
        n_parameters=after[0],
        nbytes_before=before[1],
        nbytes=after[1],
        seconds=time.perf_counter() - begun,
        left=tuple(sorted(left)),
        options={
            name: _plain(value)
            for name, value in {"ratio": ratio, "min_cosine": min_cosine, **spent, **given}.items()
            if value is not None
        },
        cosine=cosine,
    )
    earlier: ModelReport | None = getattr(model, "compression_report", None)
    model.compression_report = this.after(earlier)  # type: ignore[assignment]
    return this


def _plain(value: object) -> str | float:
    """Something that JSON knows."""
    return value if isinstance(value, (str, int, float, bool)) else repr(value)


def _compress_table(
    table: SharedTable, ratio: float | None, rows: TokenRows, options: Mapping[str, Passed]
) -> tuple[Layer, ModuleReport]:
    begun = time.perf_counter()
    module, weights = table.module, rows.weights
    dense = module.weight.detach()
    by_columns = options.get("by") == "columns"
    values = (dense.T if by_columns else dense).to("cpu", torch.promote_types(dense.dtype, torch.float32)).numpy()
    layer: Layer
    try:
        baseline = Baseline(values, weights)
        if table.kind != "linear":
            kind = LAYERS[table.kind][1]
            layer = kind.from_embedding(module, ratio, token_weights=weights, exact_rows=rows.exact, **options)
        else:
            layer = SubspaceLinear.from_linear(module, ratio, sample_weight=weights, exact_rows=rows.exact, **options)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{table.name}: {error}") from error
    factors = layer.factors if isinstance(layer, SubspaceLinear) else layer
    report = ModuleReport(
        name=table.name,
        kind=table.kind,
        tied=table.tied,
        shape=tuple(dense.shape),
        n_parameters_before=dense.numel(),
        n_parameters=factors.n_parameters,
        nbytes_before=dense.nbytes,
        nbytes=factors.nbytes,
        weights=rows.source,
        n_exact=0 if rows.exact is None else len(rows.exact),
        dims=factors.dims,
        counts=factors.counts,
        storage=factors.storage,
        bits=factors.bits if isinstance(factors, PackedFactors) else None,
        **baseline.compare(lambda start, stop: factors.rows(start, stop).cpu().numpy(), factors.n_parameters),
        seconds=time.perf_counter() - begun,
    )
    return layer, report


def _check_unquantised(model: nn.Module) -> None:
    for name, part in outer_models(model).items():
        method = getattr(getattr(part.config, "quantization_config", None), "quant_method", None)
        if getattr(part, "is_quantized", False):
            raise ValueError(f"{name or 'model'} is quantised ({method}); compress it before that")


def _check_one_vocabulary(model: nn.Module, tables: Sequence[SharedTable]) -> None:
    """An encoder and a decoder may have vocabularies of their own, and weights are for one."""
    sizes = {table.name: len(table.module.weight) for table in tables}
    if len({*sizes.values()}) > 1 and getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        told = " and ".join(f"{name} has {n}" for name, n in sizes.items())
        raise ValueError(
            f"these are tables of several vocabularies ({told} rows); compress one at a time, modules=[name], "
            "each with the tokenizer, texts or token_weights of its own"
        )


def _token_modules(model: nn.Module) -> tuple[list[str], list[str]]:
    """Names of the input and of the output embeddings that the model's parts name."""
    parts: dict[str, AnyModule] = dict(outer_models(model)) or {"": model}
    found = []
    for getter in ("get_input_embeddings", "get_output_embeddings"):
        named = []
        for part in parts.values():
            try:
                module = getattr(part, getter)()
            except (AttributeError, NotImplementedError):
                continue
            named += [name for name, other in model.named_modules() if other is module]
        found.append(named)
    if is_pipeline(type(model)):
        found[0] += [name for name, module in model.named_modules() if isinstance(module, nn.EmbeddingBag)]
    return found[0], found[1]


def _names(modules: str | Iterable[str], inputs: list[str], outputs: list[str], model: nn.Module) -> list[str]:
    """Names of the modules that are to be compressed."""
    if isinstance(modules, str):
        if modules not in (EMBEDDINGS, WITH_HEADS):
            raise ValueError(f"modules must be {_CHOICES}, got {modules!r}; perhaps [{modules!r}]")
        holders = dict(model.named_modules(remove_duplicate=False))
        if inputs and not any(isinstance(holders[name], TABLES) for name in inputs):
            kind = type(holders[inputs[0]]).__name__
            raise ValueError(
                f"{type(model).__name__} has no table of tokens (its input is a {kind}); "
                f"name what is to be compressed, for instance modules={_examples(model)}"
            )
        if len({id(holders[name]) for name in inputs}) != 1:
            what = f"has {len(inputs)} input embeddings ({', '.join(inputs)})" if inputs else "has no input embedding"
            raise ValueError(
                f"{type(model).__name__} {what}; name what is to be compressed, for instance modules={_examples(model)}"
            )
        return [*inputs, *outputs] if modules == WITH_HEADS else inputs
    names = list(modules)
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"modules must be {_CHOICES}, got {modules!r}")
    return names


def _examples(model: nn.Module) -> list[str]:
    sizes = {
        name: module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, (nn.Embedding, nn.Linear)) and isinstance(module.weight, torch.Tensor)
    }
    return sorted(sizes, key=lambda name: -sizes[name])[:2]
