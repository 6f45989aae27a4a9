"""What cannot be compressed is refused by name, before anything is replaced."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from models import (
    SENTENCES,
    SMALL,
    WEIGHTS,
    D,
    N,
    bart,
    bert,
    compressed,
    gemma,
    gpt2,
    seeded,
    torch,
    transformers,
)
from torch import nn

from ksubspaces.integrations.transformers import compress_model


def _zeroing_row_7(self: Any, ids: Any) -> Any:
    rows = nn.functional.embedding(ids, self.weight) * self.embed_scale
    return torch.where((ids == 7)[..., None], 0, rows)


def encoder_and_decoder() -> Any:
    encoder = transformers.BertConfig(vocab_size=N, max_position_embeddings=32, **SMALL)
    decoder = transformers.BertConfig(vocab_size=200, max_position_embeddings=32, **SMALL)
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    return seeded(transformers.EncoderDecoderModel, config)


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
        self.refused(
            ValueError, r"ViTModel has no table of tokens \(its input is a ViTPatchEmbeddings\); .*modules=", model
        )
        self.refused(ValueError, "is of type ViTPatchEmbeddings, not an nn.Embedding, nn.EmbeddingBag or", model,
                     modules=["embeddings.patch_embeddings"], token_weights=None)  # fmt: skip

    def test_vocabularies_of_their_own(self):
        model = encoder_and_decoder()
        names = ["encoder.embeddings.word_embeddings", "decoder.bert.embeddings.word_embeddings"]
        self.refused(ValueError, r"several vocabularies \(encoder.* has 300 and decoder.* has 200 rows\)", model,
                     modules=names)  # fmt: skip
        for name, n in zip(names, (300, 200), strict=True):
            compress_model(model, 0.5, modules=[name], token_weights=WEIGHTS[:n], k=1, seed=0)
        assert [module.shape for module in model.compression_report.modules] == [(300, D), (200, D)]

    def test_compressed_already(self):
        model = gpt2()
        compressed(model)
        self.refused(ValueError, "transformer.wte is already compressed", model)
        self.refused(ValueError, "lm_head is already compressed", model, modules=["lm_head"])

    def test_names(self):
        self.refused(
            ValueError, r"'transformer.wt'.*close to it are \['transformer.wte'", gpt2(), modules=["transformer.wt"]
        )
        self.refused(
            ValueError,
            r"'embeddings', 'embeddings\+heads' or a list of names, got 'lm_head'",
            gpt2(),
            modules="lm_head",
        )
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
