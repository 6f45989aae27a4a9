"""Whole models: compressed in place, saved, loaded elsewhere, exported; and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from helpers import import_or_skip

torch = import_or_skip("torch")
transformers = import_or_skip("transformers", "5")

from torch import nn  # noqa: E402

from ksubspaces.integrations import _saved  # noqa: E402
from ksubspaces.integrations._model_report import ModelReport  # noqa: E402
from ksubspaces.integrations._scaling import PLAIN  # noqa: E402
from ksubspaces.integrations.torch import SubspaceEmbedding, SubspaceLinear  # noqa: E402
from ksubspaces.integrations.transformers import compress_model, load_compressed, save_compressed  # noqa: E402

N, D = 300, 32
WEIGHTS = 1 / np.arange(1.0, N + 1)
SMALL = {"hidden_size": D, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "ran",
    "on",
    "under",
    "mat",
    "hat",
    "big",
    "small",
    "red",
    "is",
    "was",
    "very",
]
SENTENCES = ["the cat sat on the mat", "a big dog ran", "the small red hat is under the mat", "a cat was very big"] * 3


def gpt2(**options: Any) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    options = {"n_positions": 32, "bos_token_id": 0, "eos_token_id": 0} | options
    return seeded(GPT2LMHeadModel, GPT2Config(vocab_size=N, n_embd=D, n_layer=1, n_head=2, **options))


def bert(kind: str = "BertForMaskedLM", **options: Any) -> Any:
    config = transformers.BertConfig(**{"vocab_size": N, "max_position_embeddings": 32} | SMALL | options)
    return seeded(getattr(transformers, kind), config)


def t5() -> Any:
    config = transformers.T5Config(
        vocab_size=N, d_model=D, d_kv=8, num_layers=1, num_heads=2, d_ff=32, decoder_start_token_id=0
    )
    return seeded(transformers.T5ForConditionalGeneration, config)


def bart() -> Any:
    """Its embeddings multiply what they look up."""
    config = transformers.BartConfig(
        vocab_size=N,
        d_model=D,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=32,
        scale_embedding=True,
    )
    return seeded(transformers.BartForConditionalGeneration, config)


def gemma() -> Any:
    """Its embedding does so with a number rounded to the dtype."""
    config = transformers.GemmaConfig(
        vocab_size=N, num_key_value_heads=1, head_dim=16, max_position_embeddings=32, **SMALL
    )
    return seeded(transformers.GemmaForCausalLM, config)


def modernbert() -> Any:
    """It fills the weights of its own head, which is tied, before it loads them."""
    config = transformers.ModernBertConfig(
        vocab_size=N, max_position_embeddings=32, pad_token_id=0, cls_token_id=1, sep_token_id=2, **SMALL
    )
    return seeded(transformers.ModernBertForMaskedLM, config)


def seeded(kind: Any, config: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(config).eval()


def compressed(model: Any, ratio: float = 0.5, **options: Any) -> ModelReport:
    return compress_model(model, ratio, **{"token_weights": WEIGHTS, "k": 2, "seed": 0} | options)


def outputs(model: Any, shape: tuple[int, int] = (2, 7)) -> Any:
    ids = torch.arange(shape[0] * shape[1]).view(shape) * 17 % N
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), **more)[0]


def assert_same_tensors(loaded: Any, model: Any, new: tuple[str, ...] = ()) -> None:
    """All that the model keeps is there bit for bit, and nothing else but what is named as new."""
    there = {name: part for name, part in loaded.state_dict().items() if name not in new}
    torch.testing.assert_close(there, dict(model.state_dict()), rtol=0, atol=0)


def assert_same_model(loaded: Any, model: Any, new: tuple[str, ...] = ()) -> None:
    """Tensors bit for bit; outputs up to rounding, which depends on where tensors lie in memory."""
    assert_same_tensors(loaded, model, new)
    torch.testing.assert_close(outputs(loaded), outputs(model))


def dtypes(model: Any) -> dict[str, torch.dtype]:
    return {"": model.dtype} | {name: part.dtype for name, part in model.state_dict().items()}


def tokenizer(size: int = 40) -> Any:
    """WordPiece over a few words, with BERT's special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokens += [f"##{i}" for i in range(size - len(tokens))]
    made = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=32, **{f"{name}_token": token for name, token in names.items()}
    )


def sentence_model(folder: Path, size: int = 40) -> Any:
    """A pipeline of a tiny BERT, mean pooling and normalising."""
    sentence_transformers = import_or_skip("sentence_transformers")

    try:
        from sentence_transformers.sentence_transformer import modules as parts
    except ImportError:  # before 6
        from sentence_transformers import models as parts

    bert("BertModel", vocab_size=size).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    pipeline = [parts.Transformer(str(folder), max_seq_length=24), parts.Pooling(D), parts.Normalize()]
    return sentence_transformers.SentenceTransformer(modules=pipeline, device="cpu", prompts={"query": "the "})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rewrite(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


class TestTies:
    def test_of_a_gpt2(self):
        model = gpt2()
        dense = model.transformer.wte.weight.detach().clone()
        report = compressed(model)
        assert isinstance(model.lm_head, SubspaceLinear)
        assert model.lm_head.factors is model.transformer.wte is model.get_input_embeddings()
        assert report.modules[0].tied == ("lm_head",)
        x = torch.randn(3, D, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(model.lm_head(x), x @ model.transformer.wte.to_dense().T)
        assert (model.transformer.wte.to_dense() - dense).norm() < dense.norm()

    def test_of_a_bert_keep_the_decoders_bias_tied_as_well(self):
        model = bert()
        head = model.cls.predictions
        with torch.no_grad():
            head.bias.fill_(0.25)
        compressed(model)
        assert head.decoder.factors is model.bert.embeddings.word_embeddings
        assert head.decoder.bias is head.bias
        assert model.get_input_embeddings().padding_idx == 0
        model.tie_weights()  # which transformers calls where it likes: nothing is untied, nothing fails
        assert head.decoder.factors is model.bert.embeddings.word_embeddings

    def test_of_several_embeddings_and_a_head(self):
        model = t5()
        compressed(model)
        assert model.encoder.embed_tokens is model.decoder.embed_tokens is model.shared is model.lm_head.factors

    @pytest.mark.parametrize("make", [gpt2, bert, modernbert, t5, bart, gemma])
    def test_hold_after_a_step_of_training(self, make):
        model = make().train()
        compressed(model)
        assert model.training
        assert model.get_input_embeddings().training
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        before = model.get_input_embeddings().to_dense().detach().clone()
        ids = torch.arange(12).view(2, 6)
        model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
        table = model.get_input_embeddings().to_dense()
        assert not torch.equal(table, before)
        torch.testing.assert_close(model.get_output_embeddings().weight, table)
        assert len({id(p) for p in model.parameters()}) == len(list(model.parameters()))

    @pytest.mark.parametrize("make", [bart, gemma])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_what_is_looked_up_is_multiplied_as_it_was_and_heads_are_not(self, make, dtype):
        model = make().to(dtype)
        dense = model.get_input_embeddings()
        compressed(model, 0.2)
        layer = model.get_input_embeddings()
        table = layer.to_dense().detach()
        ids = torch.arange(12).view(2, 6)
        scaled, scaling, layer.scaling = layer(ids).detach(), layer.scaling, PLAIN
        assert scaling.factor > 5
        plain = layer(ids).detach()  # by the same products, so the multiplication alone is compared bit for bit
        torch.testing.assert_close(plain, table[ids])
        dense.weight = nn.Parameter(table.index_put((ids,), plain))
        torch.testing.assert_close(scaled, dense(ids).detach(), rtol=0, atol=0)
        x = torch.randn(3, D, generator=torch.Generator().manual_seed(0)).to(dtype)
        torch.testing.assert_close(model.lm_head(x), x @ table.T, rtol=1e-5, atol=10 * torch.finfo(dtype).eps)

    def test_untied_heads_are_left_alone_or_compressed_by_name(self):
        model = gpt2(tie_word_embeddings=False)
        assert compressed(model).modules[0].tied == ()
        assert type(model.lm_head) is nn.Linear
        report = compressed(model, modules=["lm_head"])
        assert (report.modules[0].kind, report.modules[0].weights) == ("linear", "given")
        assert model.lm_head.factors is not model.transformer.wte
        assert [module.name for module in model.compression_report.modules] == ["transformer.wte", "lm_head"]

    def test_other_models_of_the_same_config_are_left_alone(self, tmp_path):
        model = gpt2()
        other = type(model)(model.config)
        compressed(model)
        assert model.config is model.transformer.config is not other.config
        assert not hasattr(other.config, "quantization_config")
        other.save_pretrained(tmp_path)
        again = type(model).from_pretrained(tmp_path)
        torch.testing.assert_close(again.transformer.wte.weight, other.transformer.wte.weight)

    def test_a_head_named_means_the_table_it_shares(self):
        model = gpt2()
        report = compressed(model, modules=["lm_head", "transformer.wte"])
        assert [module.name for module in report.modules] == ["transformer.wte"]


class TestCompressing:
    def test_report_counts_everything_once(self):
        model = gpt2()
        before = sum(p.numel() for p in model.parameters())
        report = compressed(model)
        module = report.modules[0]
        assert report.n_parameters_before == before
        assert report.nbytes_before == 4 * before
        assert report.n_parameters_before - report.n_parameters == N * D - module.n_parameters
        assert module.n_parameters <= 0.5 * N * D
        assert sum(module.counts) == N
        dense = gpt2().transformer.wte.weight.detach().double()
        error = (dense - model.transformer.wte.to_dense().detach()).square().sum(1)
        assert module.relative_error == pytest.approx(float(error.sum() / dense.square().sum()), rel=1e-5)
        weights = torch.tensor(WEIGHTS)
        expected = float(weights @ error / (weights @ dense.square().sum(1)))
        assert module.weighted_error == pytest.approx(expected, rel=1e-5)
        assert module.weighted_error < module.svd_weighted_error
        assert module.most_lost[0].row == int((weights * error).argmax())
        assert module.most_distorted[0].row == int((error / dense.square().sum(1)).argmax())
        assert "transformer.wte = lm_head" in str(report)
        assert ModelReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report

    def test_weights_change_what_is_kept(self):
        frequent = slice(0, 5)
        errors = []
        for weights in (WEIGHTS**2, WEIGHTS[::-1] ** 2):
            model = gpt2()
            dense = model.transformer.wte.weight.detach()
            compressed(model, 0.8, token_weights=weights)
            errors.append(float((dense - model.transformer.wte.to_dense().detach())[frequent].norm()))
        assert errors[0] < 0.5 * errors[1]

    def test_special_tokens_without_a_name(self):
        """As those of chats: marked in the vocabulary, but in none of the tokenizer's named places."""
        from tokenizers import AddedToken

        made = tokenizer()
        made.backend_tokenizer.add_special_tokens([AddedToken("<|im_start|>", special=True)])
        made.backend_tokenizer.add_tokens(["plain"])
        marked = len(made) - 2
        assert made.convert_ids_to_tokens(marked) == "<|im_start|>"
        assert marked not in made.all_special_ids
        model = gpt2()
        before = model.get_input_embeddings().weight.detach().clone()
        report = compress_model(model, 0.5, tokenizer=made, k=2, seed=0)
        assert report.modules[0].n_exact == 6
        after = model.get_input_embeddings().to_dense()
        kept = [*range(5), marked]
        torch.testing.assert_close(after[kept], before[kept], rtol=0, atol=0)
        assert not torch.equal(after[marked + 1], before[marked + 1])

    def test_more_exact_rows_than_columns(self):
        """They are stored as coefficients are: exactly, or they are refused."""
        rows = [*range(D + 8)]
        for storage in (None, "float32"):
            model = gpt2()
            before = model.get_input_embeddings().weight.detach().clone()
            compressed(model, exact_rows=rows, storage=storage)
            torch.testing.assert_close(model.get_input_embeddings().to_dense()[rows], before[rows], rtol=0, atol=0)
        for storage in ("int8", "float16"):
            with pytest.raises(ValueError, match=f"exact_rows holds 40 rows, more than the 32 columns, and {storage}"):
                compressed(gpt2(), exact_rows=rows, storage=storage)
            compressed(gpt2(), exact_rows=rows[:D], storage=storage)

    def test_special_tokens_stay_exactly_and_are_paid_for(self):
        model = bert(vocab_size=40)
        dense = model.get_input_embeddings().weight.detach().clone()
        report = compress_model(model, 0.3, tokenizer=tokenizer(), seed=0)
        table = model.get_input_embeddings().to_dense()
        torch.testing.assert_close(table[:5], dense[:5])
        assert report.modules[0].n_exact == 5
        assert report.modules[0].n_parameters <= 0.7 * 40 * D
        again = bert(vocab_size=40)
        assert compress_model(again, 0.3, tokenizer=tokenizer(), seed=0, exact_rows=None).modules[0].n_exact == 0

    def test_weights_from_texts_from_the_prior_or_none(self):
        sources = {}
        for name, options in (("texts", {"texts": iter(SENTENCES)}), ("prior", {})):
            model = bert(vocab_size=48)  # eight rows more than the tokenizer knows
            sources[name] = compress_model(model, 0.3, tokenizer=tokenizer(), seed=0, **options).modules[0].weights
        with pytest.warns(UserWarning, match="all tokens count alike"):
            report = compress_model(bert(vocab_size=48), 0.3, seed=0)
        assert sources == {"texts": "counted in texts", "prior": "Zipf prior over the vocabulary"}
        assert report.modules[0].weights == "none: all rows alike"
        assert report.modules[0].weighted_error is None

    def test_weights_may_leave_out_rows_beyond_the_vocabulary(self):
        report = compress_model(bert(vocab_size=48), 0.3, tokenizer=tokenizer(), token_weights=np.ones(40), seed=0)
        assert report.modules[0].weights == "given"
        with pytest.raises(ValueError, match=r"48 rows, or for the 40 tokens .* got shape \(39,\)"):
            compress_model(bert(vocab_size=48), 0.3, tokenizer=tokenizer(), token_weights=np.ones(39))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_dtype_and_what_is_trained_are_kept(self, dtype):
        model = gpt2().to(dtype)
        model.transformer.wte.weight.requires_grad_(False)
        compressed(model)
        assert {p.dtype for p in model.parameters()} == {dtype}
        assert not any(p.requires_grad for p in model.transformer.wte.parameters())
        assert all(p.requires_grad for p in model.transformer.h.parameters())
        assert outputs(model).dtype == dtype

    def test_linear_layers_anywhere(self):
        model = bert(intermediate_size=64)
        names = ["bert.encoder.layer.0.intermediate.dense", "bert.encoder.layer.0.output.dense"]
        before = outputs(model)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            report = compress_model(model, 0.02, modules=names, k=1, seed=0)
        assert [(module.kind, module.n_exact) for module in report.modules] == [("linear", 0)] * 2
        assert isinstance(model.get_submodule(names[0]), SubspaceLinear)
        assert type(model.get_input_embeddings()) is nn.Embedding
        assert (outputs(model) - before).norm() < 0.1 * before.norm()

    def test_a_plain_module(self):
        class Bag(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.table = nn.Embedding(N, D)
                self.twin = self.table

            def get_input_embeddings(self) -> nn.Module:
                return self.table

        model = Bag()
        compressed(model)
        assert isinstance(model.table, SubspaceEmbedding)
        assert model.twin is model.table

    def test_equal_seeds_equal_models_and_global_random_numbers_untouched(self):
        state = torch.random.get_rng_state()
        first, second = gpt2(), gpt2()
        compressed(first)
        compressed(second)
        assert torch.equal(first.transformer.wte.to_dense(), second.transformer.wte.to_dense())
        assert torch.equal(torch.random.get_rng_state(), state)

    def test_a_failure_replaces_nothing(self):
        model = bert()
        names = ["bert.embeddings.word_embeddings", "bert.embeddings.token_type_embeddings"]
        with pytest.raises(ValueError, match=r"bert.embeddings.token_type_embeddings: ratio=0.5 leaves"):
            compressed(model, modules=names)
        assert type(model.get_input_embeddings()) is nn.Embedding
        assert not hasattr(model, "compression_report")


def _zeroing_row_7(self: Any, ids: Any) -> Any:
    rows = nn.functional.embedding(ids, self.weight) * self.embed_scale
    return torch.where((ids == 7)[..., None], 0, rows)


class TestRefusals:
    def refused(self, error: type[Exception], match: str, model: Any, *args: Any, **options: Any) -> None:
        with pytest.raises(error, match=match):
            compress_model(model, *args or (0.5,), **{"token_weights": WEIGHTS} | options)

    def test_no_module(self):
        self.refused(TypeError, "model must be a torch.nn.Module, got str", "bert")

    def test_no_embedding(self):
        self.refused(ValueError, r"Linear has no input embedding; name .* modules=", nn.Linear(8, 8))
        vit = transformers.ViTConfig(image_size=8, patch_size=4, **SMALL)
        model = seeded(transformers.ViTModel, vit)
        self.refused(ValueError, "is of type ViTPatchEmbeddings, not an nn.Embedding or nn.Linear", model)

    def test_compressed_already(self):
        model = gpt2()
        compressed(model)
        self.refused(ValueError, "transformer.wte is already compressed", model)
        self.refused(ValueError, "lm_head is already compressed", model, modules=["lm_head"])

    def test_names(self):
        self.refused(
            ValueError, r"'transformer.wt'.*close to it are \['transformer.wte'", gpt2(), modules=["transformer.wt"]
        )
        self.refused(ValueError, r"'embeddings' or a list of names, got 'lm_head'", gpt2(), modules="lm_head")
        self.refused(ValueError, "list of names, got", gpt2(), modules=[])
        name = "transformer.h.0.attn.c_attn"
        self.refused(ValueError, f"{name} is of type Conv1D", gpt2(), modules=[name])

    def test_modules_that_compute_in_their_own_way(self):
        class Scaled(nn.Embedding):
            def forward(self, ids: Any) -> Any:
                return 2 * super().forward(ids)

        model = gpt2(tie_word_embeddings=False)
        model.set_input_embeddings(Scaled(N, D))
        self.refused(ValueError, "is of type Scaled, whose own way of computing would be lost", model)
        odd = bart()
        odd.model.encoder.embed_tokens.embed_scale = 3.0
        self.refused(ValueError, "share a weight but not the embed_scale", odd)
        with_one_row_apart = type("Apart", (type(gemma().get_input_embeddings()),), {"forward": _zeroing_row_7})
        model = gemma()
        model.get_input_embeddings().__class__ = with_one_row_apart
        self.refused(ValueError, "is of type Apart, whose own way of computing would be lost", model)
        patched = gpt2()
        patched.transformer.wte.forward = lambda ids: None
        self.refused(ValueError, "whose own way of computing would be lost", patched)
        hooked = gpt2()
        hooked.get_input_embeddings().register_forward_hook(lambda *_: None)
        self.refused(ValueError, "has hooks", hooked)
        shared = gpt2(tie_word_embeddings=False)
        shared.other = nn.ParameterDict({"table": shared.transformer.wte.weight})
        self.refused(ValueError, "shares its weight with other.table", shared)

    def test_wrapped_compiled_quantised_or_empty(self):
        self.refused(ValueError, "wrapped in DataParallel; compress model.module", nn.DataParallel(gpt2()))
        self.refused(ValueError, "compiled", torch.compile(gpt2()))
        self.refused(ValueError, "no values yet", gpt2().to("meta"))
        model = gpt2(tie_word_embeddings=False)
        model.transformer.wte.weight = nn.Parameter(torch.ones(N, D, dtype=torch.int8), requires_grad=False)
        self.refused(ValueError, "weight of torch.int8; compress the model before it is quantised", model)
        quantised = gpt2()
        quantised.is_quantized = True
        self.refused(ValueError, "model is quantised", quantised)

    def test_weights_and_texts(self):
        self.refused(ValueError, "texts are counted by a tokenizer", gpt2(), texts=SENTENCES, token_weights=None)
        self.refused(ValueError, "token_weights and texts were both given", gpt2(), texts=SENTENCES)
        self.refused(ValueError, r"for each of 300 rows; got shape \(7,\)", gpt2(), token_weights=np.ones(7))
        self.refused(ValueError, "texts are for tables of tokens", bert(), texts=[], token_weights=None,
                     modules=["bert.encoder.layer.0.output.dense"])  # fmt: skip
        self.refused(ValueError, "exact_rows must be 'special'", gpt2(), exact_rows="all")
        self.refused(ValueError, "numbers of rows from 0 to 299", gpt2(), exact_rows=[300])
        self.refused(ValueError, "tells its special tokens, got function", gpt2(), tokenizer=lambda texts: texts)

    def test_numbers_that_are_none(self):
        for bad in (np.nan, np.inf, -1.0):
            weights = np.ones(N)
            weights[3] = bad
            self.refused(
                ValueError, r"token_weights must be finite .* token_weights\[3\]", gpt2(), token_weights=weights
            )
        model = gpt2()
        with torch.no_grad():
            model.transformer.wte.weight[3, 4] = np.nan
        self.refused(ValueError, r"transformer.wte: weight must be finite, but weight\[3, 4\] is nan", model)
        self.refused(TypeError, "weighted by token_weights", gpt2(), sample_weight=WEIGHTS)
        self.refused(TypeError, "token_weights must be an array of numbers, got str", gpt2(), token_weights="the")

    def test_weights_of_any_kind(self):
        expected = compressed(gpt2(), token_weights=WEIGHTS).modules[0].weighted_error
        for weights in (list(WEIGHTS), torch.tensor(WEIGHTS), torch.tensor(WEIGHTS).bfloat16()):
            found = compressed(gpt2(), token_weights=weights, tokenizer=len, exact_rows=None).modules[0].weighted_error
            assert found == pytest.approx(expected, rel=0.02)

    def test_sizes(self):
        names = ["transformer.wte", "transformer.wpe"]
        self.refused(ValueError, "n_parameters is for one table, but there are 2", gpt2(), None, n_parameters=5000,
                     modules=names)  # fmt: skip
        self.refused(ValueError, "transformer.wte: ratio is the share", gpt2(), 1.5)


class TestFolders:
    @pytest.mark.parametrize("make", [gpt2, bert, modernbert, t5, bart, gemma])
    @pytest.mark.parametrize("storage", [None, "float16", "int8"])
    def test_round_trip(self, tmp_path, make, storage):
        model = make()
        report = compressed(model, storage=storage)
        save_compressed(model, tmp_path / "model")
        loaded = load_compressed(tmp_path / "model")
        assert type(loaded) is type(model)
        assert not loaded.training
        torch.testing.assert_close(outputs(loaded), outputs(model))
        assert loaded.get_output_embeddings().factors is loaded.get_input_embeddings()
        assert loaded.get_input_embeddings().storage == storage or storage is None
        assert dtypes(loaded) == dtypes(model)
        assert loaded.compression_report == report
        save_compressed(loaded, tmp_path / "again")  # what was loaded is as good as what was compressed
        torch.testing.assert_close(outputs(load_compressed(tmp_path / "again")), outputs(model))

    def test_in_another_process(self, tmp_path):
        model = bert()
        compressed(model)
        save_compressed(model, tmp_path / "model", tokenizer())
        program = f"""
import socket, torch
def refuse(*args, **kwargs): raise OSError("no network here")
socket.socket.connect = refuse
from ksubspaces.integrations.transformers import load_compressed
model = load_compressed({str(tmp_path / "model")!r})
head = model.cls.predictions
assert head.decoder.factors is model.bert.embeddings.word_embeddings and head.decoder.bias is head.bias
ids = torch.arange(14).view(2, 7) * 17 % {N}
torch.save(model(input_ids=ids, attention_mask=torch.ones_like(ids))[0], {str(tmp_path / "out.pt")!r})
"""
        subprocess.run([sys.executable, "-c", program], check=True)
        torch.testing.assert_close(torch.load(tmp_path / "out.pt"), outputs(model))
        found = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
        assert found("the cat")["input_ids"] == tokenizer()("the cat")["input_ids"]

    def test_manifest_records_everything(self, tmp_path):
        model = bert()
        compressed(model, storage="float16")
        save_compressed(model, tmp_path / "model")
        manifest = json.loads((tmp_path / "model" / "ksubspaces.json").read_text())
        embedding = manifest["modules"]["bert.embeddings.word_embeddings"]
        layer = model.get_input_embeddings()
        assert (manifest["library"], manifest["class"], manifest["version"]) == ("transformers", "BertForMaskedLM", 2)
        assert embedding["counts"] == list(layer.counts)
        assert embedding["dims"] == list(layer.dims)
        assert (embedding["shape"], embedding["storage"], embedding["padding_idx"]) == ([N, D], "float16", 0)
        assert manifest["modules"]["cls.predictions.decoder"]["tied_to"] == "bert.embeddings.word_embeddings"
        assert manifest["report"]["modules"][0]["relative_error"] > 0
        assert {"ksubspaces", "torch", "transformers"} <= set(manifest["packages"])

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_dtypes(self, tmp_path, dtype):
        model = gpt2().to(dtype)
        compressed(model)
        save_compressed(model, tmp_path / "model")
        assert {p.dtype for p in load_compressed(tmp_path / "model").parameters()} == {dtype}
        wide = load_compressed(tmp_path / "model", dtype=torch.float32)
        assert {p.dtype for p in wide.parameters()} == {torch.float32}
        torch.testing.assert_close(outputs(wide), outputs(model.float()))

    def test_what_is_loaded_trains_and_casts(self, tmp_path):
        model = gpt2()
        compressed(model)
        save_compressed(model, tmp_path / "model")
        loaded = load_compressed(tmp_path / "model").train()
        ids = torch.arange(12).view(2, 6)
        loaded(input_ids=ids, labels=ids).loss.backward()
        assert all(p.grad is not None for p in loaded.get_input_embeddings().parameters())
        assert loaded.half().dtype == torch.float16

    def test_its_own_save_pretrained_and_from_pretrained(self, tmp_path):
        model = gpt2()
        compressed(model)
        model.save_pretrained(tmp_path / "model")
        loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        assert loaded.lm_head.factors is loaded.transformer.wte
        torch.testing.assert_close(outputs(loaded), outputs(model))

    def test_a_plain_from_pretrained_finds_no_weights(self, tmp_path):
        model = gpt2()
        compressed(model)
        save_compressed(model, tmp_path / "model")
        with pytest.raises(OSError, match=r"model\.safetensors"):
            transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")

    def test_a_head_without_its_embedding(self, tmp_path):
        model = gpt2(tie_word_embeddings=False)
        compressed(model, modules=["lm_head"])
        save_compressed(model, tmp_path / "model")
        loaded = load_compressed(tmp_path / "model")
        assert isinstance(loaded.lm_head, SubspaceLinear)
        torch.testing.assert_close(outputs(loaded), outputs(model))

    def test_classes_of_ones_own(self, tmp_path):
        class Own(transformers.GPT2LMHeadModel):
            pass

        model = seeded(Own, gpt2().config)
        compressed(model)
        save_compressed(model, tmp_path / "model")
        with pytest.raises(ValueError, match=r"holds a Own, which is no class of transformers; import it and give it"):
            load_compressed(tmp_path / "model")
        loaded = load_compressed(tmp_path / "model", model_class=Own)
        assert type(loaded) is Own
        torch.testing.assert_close(outputs(loaded), outputs(model))

    @pytest.mark.parametrize(
        ("make", "other"),
        [
            (bert, "AutoModel"),
            (bert, "BertForSequenceClassification"),
            (lambda: bert("BertModel"), "AutoModelForTokenClassification"),
            (lambda: bert("BertModel"), "BertForMaskedLM"),
            (gpt2, "GPT2Model"),
            (lambda: gpt2().transformer, "AutoModelForCausalLM"),
            (t5, "T5EncoderModel"),
            (bart, "AutoModel"),
            (lambda: bart().model, "BartForConditionalGeneration"),
        ],
    )
    def test_as_another_class(self, tmp_path, make, other):
        """Equal factors and a body that computes the same; heads are gone or new, and tied if the class ties them."""
        model = make()
        compressed(model)
        save_compressed(model, tmp_path / "model")
        loaded = load_compressed(tmp_path / "model", model_class=getattr(transformers, other))
        assert not loaded.training
        own, found = (
            part.get_encoder() if part.config.is_encoder_decoder else part.base_model for part in (model, loaded)
        )
        assert_same_tensors(found.get_input_embeddings(), own.get_input_embeddings())
        ids = torch.arange(14).view(2, 7)
        with torch.no_grad():
            torch.testing.assert_close(found(ids)[0], own(ids)[0])
        head = loaded.get_output_embeddings()
        assert head is None or head.factors is loaded.get_input_embeddings()
        assert all(torch.isfinite(part).all() for part in loaded.parameters())
        save_compressed(loaded, tmp_path / "again")
        again = load_compressed(tmp_path / "again")
        assert type(again) is type(loaded)
        assert_same_tensors(again, loaded)

    def test_options_of_the_class(self, tmp_path):
        model = bert("BertModel")
        compressed(model)
        save_compressed(model, tmp_path / "model")
        kind = transformers.AutoModelForSequenceClassification
        loaded = load_compressed(tmp_path / "model", model_class=kind, num_labels=5)
        assert loaded.classifier.out_features == 5
        assert isinstance(loaded.get_input_embeddings(), SubspaceEmbedding)

    def test_a_head_of_its_own_where_the_config_says_tied(self, tmp_path):
        """As transformers does, which ties nothing that has weights of its own."""

        def untied() -> Any:
            model = gpt2()
            assert model.config.tie_word_embeddings
            model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().flip(0).clone())
            return model

        for modules in ("embeddings", ["lm_head"], ["lm_head", "transformer.wte"]):
            model = untied()
            compressed(model, modules=modules)
            save_compressed(model, tmp_path / "model", overwrite=True)
            for kind in (None, transformers.AutoModelForCausalLM):
                loaded = load_compressed(tmp_path / "model", model_class=kind)
                assert [type(part) for part in loaded.modules()] == [type(part) for part in model.modules()]
                assert_same_model(loaded, model)

    def test_an_embedding_dense_again(self, tmp_path):
        model = gpt2()
        dense = nn.Embedding.from_pretrained(model.get_input_embeddings().weight.detach().clone())
        compressed(model)
        model.set_input_embeddings(dense)
        save_compressed(model, tmp_path / "model")
        loaded = load_compressed(tmp_path / "model")
        assert type(loaded.get_input_embeddings()) is nn.Embedding
        assert_same_model(loaded, model)

    def test_a_layer_of_the_same_name_is_not_the_same_layer(self, tmp_path):
        config = transformers.RobertaConfig(vocab_size=N, num_labels=40, max_position_embeddings=32, **SMALL)
        model = seeded(transformers.RobertaForTokenClassification, config)
        compressed(model)
        compressed(model, modules=["classifier"], token_weights=None)
        save_compressed(model, tmp_path / "model")
        loaded = load_compressed(tmp_path / "model", model_class=transformers.RobertaForSequenceClassification)
        assert type(loaded.classifier).__name__ == "RobertaClassificationHead"
        assert isinstance(loaded.get_input_embeddings(), SubspaceEmbedding)
        kind = transformers.RobertaForTokenClassification
        with pytest.raises(
            ValueError, match=r"classifier has a weight of shape \(3, 32\) .* \(40, 32\) was compressed"
        ):
            load_compressed(tmp_path / "model", model_class=kind, num_labels=3)

    @pytest.mark.parametrize("by", ["rows", "columns"])
    def test_linear_layers_that_share_a_weight(self, tmp_path, by):
        """Each keeps its bias; the longer side is not the same by rows as by columns."""

        class Own(transformers.BertPreTrainedModel):
            _tied_weights_keys: ClassVar = {"second.weight": "first.weight"}

            def __init__(self, config):
                super().__init__(config)
                self.bert = transformers.BertModel(config)
                self.first, self.second = nn.Linear(D, 60), nn.Linear(D, 60)
                self.post_init()

        model = seeded(Own, bert().config)
        assert model.first.weight is model.second.weight
        with torch.no_grad():
            model.first.bias.fill_(1)
            model.second.bias.fill_(2)
        compressed(model, modules=["first"], by=by, token_weights=None)
        save_compressed(model, tmp_path / "model")
        loaded = load_compressed(tmp_path / "model", model_class=Own)
        assert loaded.first.factors is loaded.second.factors
        assert_same_tensors(loaded, model)
        x = torch.linspace(-1, 1, D)
        for layer in ("first", "second"):
            torch.testing.assert_close(getattr(loaded, layer)(x), getattr(model, layer)(x))

    def test_a_dense_model_with_the_config_of_a_compressed_one(self, tmp_path):
        model = gpt2()
        compressed(model)
        seeded(type(model), model.config).save_pretrained(tmp_path / "dense")
        with pytest.raises(ValueError, match=r"dense in the weights; .* take quantization_config out of config\.json"):
            type(model).from_pretrained(tmp_path / "dense")
        config = json.loads((tmp_path / "dense" / "config.json").read_text())
        del config["quantization_config"]
        (tmp_path / "dense" / "config.json").write_text(json.dumps(config))
        type(model).from_pretrained(tmp_path / "dense")

    def test_classes_that_do_not_fit(self, tmp_path):
        model = gpt2(tie_word_embeddings=False)
        compressed(model, modules=["lm_head"])
        save_compressed(model, tmp_path / "model")
        with pytest.raises(ValueError, match=r"could not be loaded as GPT2Model: .* nothing of what was compressed"):
            load_compressed(tmp_path / "model", model_class=transformers.GPT2Model)
        with pytest.raises(ValueError, match="could not be loaded as AutoModelForImageClassification: "):
            load_compressed(tmp_path / "model", model_class=transformers.AutoModelForImageClassification)
        compressed(model)
        save_compressed(model, tmp_path / "model", overwrite=True)
        with pytest.raises(ValueError, match="could not be loaded as T5Model: "):
            load_compressed(tmp_path / "model", model_class=transformers.T5Model)
        with pytest.raises(ValueError, match=r"BertModel has no transformer\.wte, which was compressed"):
            load_compressed(tmp_path / "model", model_class=transformers.BertModel)
        for kind in ("GPT2Model", nn.Linear, model, transformers.AutoTokenizer, transformers.BertConfig):
            with pytest.raises(TypeError, match="model_class must be a class of transformers or sentence-transformers"):
                load_compressed(tmp_path / "model", model_class=kind)

    def test_what_cannot_be_saved(self, tmp_path):
        with pytest.raises(ValueError, match="no factored layers"):
            save_compressed(gpt2(), tmp_path / "model")
        with pytest.raises(TypeError, match="only models of transformers and sentence-transformers"):
            save_compressed(nn.Linear(2, 2), tmp_path / "model")
        assert not list(tmp_path.iterdir())


class TestTargets:
    @pytest.fixture
    def model(self) -> Any:
        model = gpt2()
        compressed(model)
        return model

    def test_a_folder_in_use_is_replaced_only_when_told(self, tmp_path, model):
        target = tmp_path / "model"
        save_compressed(model, target)
        (target / "notes.txt").write_text("of the model there was")
        before = contents(target)
        with pytest.raises(FileExistsError, match="is not empty; overwrite it"):
            save_compressed(model, target)
        assert contents(target) == before
        save_compressed(model, target, overwrite=True)
        assert "notes.txt" not in contents(target)
        load_compressed(target)
        assert [path.name for path in tmp_path.iterdir()] == ["model"]

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_a_folder_with_anything_else_is_never_replaced(self, tmp_path, monkeypatch, model, overwrite):
        target = tmp_path / "papers"
        target.mkdir()
        (target / "precious.txt").write_text("mine")
        (tmp_path / "link").symlink_to(target)
        for path in (target, tmp_path / "link"):
            with pytest.raises(FileExistsError, match="holds something else than a compressed model"):
                save_compressed(model, path, overwrite=overwrite)
        assert contents(target) == {"precious.txt": b"mine"}
        save_compressed(model, tmp_path / "model")
        monkeypatch.chdir(tmp_path / "model")
        for path in (".", "", tmp_path / "model"):
            with pytest.raises(FileExistsError, match=r"is the working folder|is not empty"):
                save_compressed(model, path, overwrite=overwrite)
        assert "ksubspaces.json" in contents(tmp_path / "model")

    def test_an_empty_folder_will_do(self, tmp_path, model):
        (tmp_path / "model").mkdir()
        save_compressed(model, tmp_path / "model")
        load_compressed(tmp_path / "model")

    def test_a_file_or_a_missing_folder(self, tmp_path, model):
        (tmp_path / "file").write_text("")
        with pytest.raises(FileExistsError, match="is a file; name a folder"):
            save_compressed(model, tmp_path / "file")
        with pytest.raises(FileNotFoundError, match="no such folder to save in"):
            save_compressed(model, tmp_path / "nowhere" / "model")

    def test_read_only(self, model):
        with pytest.raises(OSError):
            save_compressed(model, "/proc/model")  # read-only for root too

    def test_full(self, tmp_path, model):
        """A real one: the process may write no file past a few bytes."""
        save_compressed(model, tmp_path / "model")
        before = contents(tmp_path)
        program = f"""
import resource, signal
from ksubspaces.integrations.transformers import load_compressed, save_compressed
model = load_compressed({str(tmp_path / "model")!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
try:
    save_compressed(model, {str(tmp_path / "model")!r}, overwrite=True)
except OSError as error:
    raise SystemExit(f"refused: {{error}}")
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert "refused: " in done.stderr
        assert contents(tmp_path) == before

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_an_interruption_leaves_what_was_there(self, tmp_path, monkeypatch, model, overwrite):
        target = tmp_path / "model"
        if overwrite:
            save_compressed(model, target)
        before = contents(tmp_path)

        def interrupt(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(_saved, "_versions", interrupt)
        with pytest.raises(KeyboardInterrupt):
            save_compressed(model, target, overwrite=overwrite)
        assert contents(tmp_path) == before
        assert len(list(tmp_path.iterdir())) == overwrite


def test_what_the_model_never_had_is_not_damage(tmp_path):
    model = seeded(lambda config: transformers.BertModel(config, add_pooling_layer=False), bert().config)
    compressed(model)
    save_compressed(model, tmp_path / "model")
    assert_same_model(load_compressed(tmp_path / "model"), model, ("pooler.dense.weight", "pooler.dense.bias"))


class TestDamage:
    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        model = gpt2()
        compressed(model)
        save_compressed(model, tmp_path / "model")
        return tmp_path / "model"

    def refused(self, folder: Path, match: str, error: type[Exception] = ValueError, verify: bool = True) -> None:
        with pytest.raises(error, match=match):
            load_compressed(folder, verify=verify)

    def test_dtypes(self, folder):
        for bad in ("foo", torch.int8, 16):
            with pytest.raises(ValueError, match="dtype must be a floating point dtype of Torch, or its name, got"):
                load_compressed(folder, dtype=bad)
        assert load_compressed(folder, dtype="bfloat16").dtype == torch.bfloat16
        assert load_compressed(folder, dtype="auto").dtype == torch.float32

    def test_no_folder_or_no_model(self, tmp_path):
        self.refused(tmp_path / "none", "no such folder", FileNotFoundError)
        (tmp_path / "file").write_text("")
        self.refused(tmp_path / "file", "is a file", NotADirectoryError)
        self.refused(tmp_path, "is not a compressed model: it has no ksubspaces.json")
        gpt2().save_pretrained(tmp_path / "dense")
        self.refused(tmp_path / "dense", "is not a compressed model")

    def test_manifests(self, folder):
        path = folder / "ksubspaces.json"
        whole = path.read_text()
        rewrite(path, version=99)
        self.refused(folder, "later version of ksubspaces; upgrade")
        rewrite(path, version="x")
        self.refused(folder, "is not a compressed model, or damaged")
        rewrite(path, version=1, format="something")
        self.refused(folder, "is not a compressed model, or damaged")
        path.write_text(whole[: len(whole) // 2])
        self.refused(folder, "is not a compressed model, or damaged")
        path.write_text(whole)
        rewrite(path, **{"class": "NoSuchModel"})
        self.refused(folder, "is damaged: ksubspaces.json is not what was written")
        self.refused(folder, "holds a NoSuchModel, which is no class of transformers", verify=False)

    def test_weights(self, folder):
        path = folder / "model.ksubspaces.safetensors"
        whole = path.read_bytes()
        path.write_bytes(whole[:-100])
        self.refused(folder, r"damaged: model.ksubspaces.safetensors has \d+ bytes, expected")
        path.write_bytes(b"\xff" * len(whole))
        self.refused(folder, "is damaged")
        path.write_bytes(whole[:-50] + b"\x7f" * 50)
        self.refused(folder, "is damaged: model.ksubspaces.safetensors is not what was written")
        path.unlink()
        self.refused(folder, "damaged: model.ksubspaces.safetensors is missing")

    def test_configs_that_do_not_fit_the_weights(self, folder):
        config = json.loads((folder / "config.json").read_text())
        layers = config["quantization_config"]["modules"]
        for name in ("dims", "tied_to"):
            changed = json.loads(json.dumps(layers))
            if name == "dims":
                changed["transformer.wte"]["dims"][0] += 1
            else:
                changed["lm_head"]["tied_to"] = "transformer.nothing"
            rewrite(folder / "config.json", quantization_config={**config["quantization_config"], "modules": changed})
            self.refused(folder, "is damaged: config.json")
            self.refused(folder, "is damaged", verify=False)
        model = gpt2()
        compressed(model, storage="int8")
        save_compressed(model, folder, overwrite=True)
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"]["modules"]["transformer.wte"]["storage"] = None
        rewrite(folder / "config.json", **config)
        self.refused(folder, "is damaged: config.json")
        self.refused(folder, r"is damaged", verify=False)
        rewrite(folder / "config.json", quantization_config={**config["quantization_config"], "version": 99})
        self.refused(folder, "later version of ksubspaces", verify=False)


class TestSentenceTransformers:
    def test_round_trip_of_the_whole_pipeline(self, tmp_path):
        model = sentence_model(tmp_path / "dense")
        before = model.encode(SENTENCES)
        report = compress_model(model, 0.1, texts=SENTENCES, seed=0)
        assert (report.modules[0].weights, report.modules[0].n_exact) == ("counted in texts", 5)
        vectors = model.encode(SENTENCES)
        assert (vectors * before).sum(1).min() > 0.9
        save_compressed(model, tmp_path / "model")
        loaded = load_compressed(tmp_path / "model")
        assert type(loaded) is type(model)
        np.testing.assert_allclose(loaded.encode(SENTENCES), vectors, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(loaded.encode(SENTENCES), axis=1), 1, atol=1e-5)
        assert [type(part) for part in loaded] == [type(part) for part in model]
        assert (loaded.prompts["query"], loaded.max_seq_length) == ("the ", 24)
        assert loaded.compression_report == report
        save_compressed(loaded, tmp_path / "model", overwrite=True)
        np.testing.assert_allclose(load_compressed(tmp_path / "model").encode(SENTENCES), vectors, atol=1e-6)

    def test_a_plain_load_finds_no_weights(self, tmp_path):
        sentence_transformers = import_or_skip("sentence_transformers")
        model = sentence_model(tmp_path / "dense")
        compress_model(model, 0.1, seed=0)
        save_compressed(model, tmp_path / "model")
        with pytest.raises(OSError, match=r"model\.safetensors"):
            sentence_transformers.SentenceTransformer(str(tmp_path / "model"), device="cpu")

    def test_as_another_class(self, tmp_path):
        """A pipeline's transformer alone, a transformer as a pipeline, and a pipeline of one's own class."""
        sentence_transformers = import_or_skip("sentence_transformers")

        class Own(sentence_transformers.SentenceTransformer):
            pass

        model = sentence_model(tmp_path / "dense")
        compress_model(model, 0.1, seed=0)
        save_compressed(model, tmp_path / "model")
        kinds = (Own, transformers.AutoModel, sentence_transformers.SentenceTransformer)
        own, encoder = (load_compressed(tmp_path / "model", model_class=kind) for kind in kinds[:2])
        assert type(own) is Own
        assert type(encoder) is transformers.BertModel
        np.testing.assert_allclose(own.encode(SENTENCES), model.encode(SENTENCES), atol=1e-6)
        ids = torch.arange(10).view(2, 5)
        with torch.no_grad():
            torch.testing.assert_close(encoder(ids)[0], model[0].auto_model(ids)[0])
        assert_same_tensors(encoder, model[0].auto_model)
        for name, saved in (("own", own), ("encoder", encoder)):
            save_compressed(saved, tmp_path / name, None if saved is own else model.tokenizer)
        with pytest.raises(ValueError, match="holds a Own, which is no class of sentence_transformers"):
            load_compressed(tmp_path / "own")
        pipeline = load_compressed(tmp_path / "encoder", model_class=kinds[2])
        table = pipeline[0].auto_model.get_input_embeddings()
        torch.testing.assert_close(table.to_dense(), encoder.get_input_embeddings().to_dense())

    def test_layers_outside_of_the_transformer_cannot_be_saved(self, tmp_path):
        model = sentence_model(tmp_path / "dense")
        model.append(nn.Linear(D, D))
        compress_model(model, 0.05, modules=["3"], k=1, seed=0)
        with pytest.raises(ValueError, match="3 is outside of the transformers model"):
            save_compressed(model, tmp_path / "model")


class Plain(nn.Module):
    """What the older exporter can trace: plain arguments, one output."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


class TestONNX:
    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("dynamo", [True, False])
    def test_parity_with_any_batch_and_length(self, tmp_path, dynamo):
        import_or_skip("onnxscript")
        runtime = import_or_skip("onnxruntime")
        model = bert("BertModel")
        compressed(model, k=3)
        names = ["input_ids", "attention_mask"]
        example = torch.arange(14).view(2, 7), torch.ones(2, 7, dtype=torch.int64)
        path = str(tmp_path / "model.onnx")
        if dynamo:
            axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
            shapes = {"dynamic_shapes": dict.fromkeys(names, axes)}
            torch.onnx.export(model, example, path, input_names=names, dynamo=True, verbose=False, **shapes)
        else:
            axes = {0: "batch", 1: "length"}
            shapes = {"dynamic_axes": dict.fromkeys(names, axes)}
            torch.onnx.export(Plain(model).eval(), example, path, input_names=names, dynamo=False, **shapes)
        session = runtime.InferenceSession(path)
        for shape in ((2, 7), (1, 3), (5, 16)):
            ids = torch.arange(shape[0] * shape[1]).view(shape) * 13 % N
            mask = torch.ones_like(ids)
            mask[0, -1] = 0
            with torch.no_grad():
                expected = model(input_ids=ids, attention_mask=mask).last_hidden_state
            found = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]
            assert np.abs(found - expected.numpy()).max() < 1e-4


@pytest.mark.parametrize(
    "before, told",
    [
        ("sys.modules['transformers'] = None", 'needs transformers: pip install "ksubspaces[transformers]"'),
        ("import transformers; transformers.__version__ = '4.57.6'", "transformers 5 or later, and this is 4.57.6"),
    ],
)
def test_what_is_missing_or_too_old_is_named(before, told):
    program = f"import sys; {before}; import ksubspaces.integrations.transformers"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ImportError" in done.stderr
    assert told in done.stderr
