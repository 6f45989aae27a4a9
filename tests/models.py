"""Tiny models of transformers and sentence-transformers, compressed and compared; skips where these are missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from helpers import import_or_skip

torch = import_or_skip("torch")
transformers = import_or_skip("transformers", "5")

from ksubspaces.integrations._model_report import ModelReport  # noqa: E402
from ksubspaces.integrations.transformers import compress_model  # noqa: E402

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
