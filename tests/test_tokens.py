"""Token weights: counts of real tokenizers and of stand-ins, the Zipf prior, and refusals."""

from __future__ import annotations

import itertools
import logging
import string
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import import_or_skip

from ksubspaces import tokens
from ksubspaces.tokens import count_tokens, token_weights, zipf_counts

SPECIALS = ["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "of", "and", "cat", "##s"]
VOCABULARY = {token: i for i, token in enumerate([*SPECIALS, *sorted(string.printable[:94] + "éß龍"), *WORDS])}


class Words:
    """Stands in for a tokenizer: words between [CLS] and [SEP], padded to the longest when asked."""

    def __init__(self, pad: bool = False) -> None:
        self.pad = pad
        self.largest_batch = 0

    def get_vocab(self) -> dict[str, int]:
        return VOCABULARY

    def __call__(self, texts: list[str]) -> dict[str, list[list[int]]]:
        self.largest_batch = max(self.largest_batch, len(texts))
        unknown = VOCABULARY["[UNK]"]
        framed = [["[CLS]", *text.split(), "[SEP]"] for text in texts]
        ids = [[VOCABULARY.get(word, unknown) for word in words] for words in framed]
        longest = max(map(len, ids)) if self.pad else 0
        return {
            "input_ids": [row + [0] * (longest - len(row)) for row in ids],
            "attention_mask": [[1] * len(row) + [0] * (longest - len(row)) for row in ids],
        }


def named(counts: np.ndarray) -> dict[str, float]:
    """The counts that are not 0, by token."""
    return {token: counts[i] for token, i in VOCABULARY.items() if counts[i]}


# Weights


def test_weights_of_counts() -> None:
    counts = [0, 3, 99]
    np.testing.assert_allclose(token_weights(counts), [1, 2, 10])
    np.testing.assert_allclose(token_weights(counts, power=1, floor=0.1), [0.1, 3.1, 99.1])
    np.testing.assert_allclose(token_weights(counts, power=0, floor=0), 1)
    assert token_weights(np.array(counts, np.int32)).dtype == np.float64


def test_rows_beyond_the_counts_count_zero() -> None:
    np.testing.assert_allclose(token_weights([3, 8], n_rows=4), [2, 3, 1, 1])


def test_counts_of_torch() -> None:
    torch = import_or_skip("torch")
    np.testing.assert_allclose(token_weights(torch.tensor([0, 3, 8])), [1, 2, 3])


def test_counts_are_left_alone() -> None:
    counts = np.array([1.0, 2.0])
    token_weights(counts)
    np.testing.assert_array_equal(counts, [1, 2])


def test_weights_of_texts() -> None:
    texts = ["the cat", "the"]
    weights = token_weights(Words(), texts, power=1, floor=0)
    np.testing.assert_array_equal(weights, count_tokens(Words(), texts))
    assert named(weights) == {"[CLS]": 2, "[SEP]": 2, "the": 2, "cat": 1}


def test_weights_of_the_prior() -> None:
    np.testing.assert_allclose(token_weights(Words()), np.sqrt(zipf_counts(Words()) + 1))


# Counts


def test_padding_is_not_counted() -> None:
    texts = ["the cat and the cat", "of"]
    np.testing.assert_array_equal(count_tokens(Words(pad=True), texts), count_tokens(Words(), texts))


@pytest.mark.parametrize("limit, value", [("_BATCH_TEXTS", 3), ("_BATCH_CHARACTERS", 20)])
def test_texts_are_read_once_in_batches(monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    monkeypatch.setattr(tokens, limit, value)
    tokenizer = Words()
    counts = count_tokens(tokenizer, (text for text in itertools.repeat("the cat", 10)))
    assert named(counts) == {"[CLS]": 10, "[SEP]": 10, "the": 10, "cat": 10}
    assert tokenizer.largest_batch == 3


def test_bare_callable_gives_lists_or_arrays() -> None:
    for kind in (list, np.array):
        counts = count_tokens(
            lambda texts, kind=kind: [kind([len(text), 1]) for text in texts], ["ab", "abc"], n_rows=5
        )
        np.testing.assert_array_equal(counts, [0, 2, 1, 1, 0])


def test_empty_texts_may_give_no_tokens() -> None:
    np.testing.assert_array_equal(count_tokens(lambda texts: [[] for _ in texts], ["", ""], n_rows=2), [0, 0])


# The prior


def test_prior_follows_the_vocabulary_but_for_alphabet_and_placeholders() -> None:
    counts = zipf_counts(Words(), total=1000)
    assert counts.sum() == pytest.approx(1000)
    order = sorted(named(counts), key=lambda token: -counts[VOCABULARY[token]])
    expected = ["[CLS]", "[SEP]", ".", "the", ",", "of", "'", "and", "a", "cat", "s", "##s", *'-ti()?:;!"']
    assert order[: len(expected)] == expected
    assert set(order[-3:]) == set("éß龍")
    assert set(VOCABULARY) - set(order) == {"[PAD]", "[unused0]", "[unused1]", "[UNK]", "[MASK]"}


def test_prior_is_zipf() -> None:
    counts = np.sort(zipf_counts(Words(), exponent=0.8))[::-1]
    np.testing.assert_allclose(counts[:50] / counts[0], np.arange(1.0, 51) ** -0.8)


def test_prior_of_a_table_with_more_or_fewer_rows() -> None:
    n = len(VOCABULARY)
    np.testing.assert_array_equal(zipf_counts(Words(), n + 3)[n:], 0)
    fewer = zipf_counts(Words(), n - 1)
    assert len(fewer) == n - 1
    assert fewer.sum() == pytest.approx(1e6)


def test_few_single_characters_are_no_alphabet() -> None:
    """A unigram vocabulary has them among its words, where they belong by frequency."""
    vocabulary = {"▁the": 0, "x": 1, ".": 2, "▁of": 3, "<unused0>": 4}
    tokenizer = SimpleNamespace(get_vocab=lambda: vocabulary, encode_batch=lambda texts: [_encoding([]) for _ in texts])
    counts = zipf_counts(tokenizer)
    assert list(np.argsort(-counts, kind="stable")) == [0, 1, 2, 3, 4]
    assert counts[4] == 0


def _encoding(ids: list[int]) -> Any:
    return SimpleNamespace(ids=ids, attention_mask=[1] * len(ids))


# Real tokenizers


@pytest.fixture
def word_piece() -> Any:
    tokenizers = import_or_skip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(VOCABULARY, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, VOCABULARY[name]) for name in ("[CLS]", "[SEP]")]
    )
    return tokenizer


def test_tokenizers_library(word_piece: Any) -> None:
    word_piece.enable_padding()
    counts = count_tokens(word_piece, ["the cats", "the cat and the cats"])
    assert named(counts) == {"[CLS]": 2, "[SEP]": 2, "the": 3, "cat": 3, "##s": 2, "and": 1}
    np.testing.assert_array_equal(zipf_counts(word_piece), zipf_counts(Words()))


def test_transformers(word_piece: Any, caplog: pytest.LogCaptureFixture) -> None:
    transformers = import_or_skip("transformers")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=word_piece, pad_token="[PAD]", model_max_length=4)
    texts = ["the cats", "the cat and the cats"]
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(count_tokens(tokenizer, texts), count_tokens(word_piece, texts))
    assert not caplog.records  # nothing of texts longer than the model reads
    np.testing.assert_array_equal(zipf_counts(tokenizer), zipf_counts(Words()))


def test_byte_level_bpe() -> None:
    tokenizers = import_or_skip("tokenizers")
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(["the cat and the dog, the end."] * 3, vocab_size=300, show_progress=False)
    vocabulary, counts = tokenizer.get_vocab(), zipf_counts(tokenizer)
    first, second, third = np.argsort(-counts, kind="stable")[:3]
    assert vocabulary["."] == first
    assert second == 256  # the first that was merged, after all bytes
    assert vocabulary[","] == third
    assert token_weights(tokenizer, ["the cat"])[vocabulary["Ġcat"]] == pytest.approx(np.sqrt(2))


# Refusals


@pytest.mark.parametrize(
    "arguments, options, error, said",
    [
        (([1, -1],), {}, ValueError, "count of row 1 is -1.0"),
        (([1, np.nan],), {}, ValueError, "count of row 1 is nan"),
        (([[1, 2]],), {}, TypeError, r"one count for each row, got list of shape \(1, 2\)"),
        ((["a"],), {}, TypeError, "must be a tokenizer or one count for each row"),
        (([],), {}, ValueError, "there are 0 counts"),
        (([1, 2, 3],), {"n_rows": 2}, ValueError, "there are 3 counts for 2 rows"),
        (([1, 2], ["text"]), {}, TypeError, "texts were given beside counts"),
        (("bert-base-uncased",), {}, TypeError, "must be a tokenizer or an array of counts, got 'bert-base-uncased'"),
        ((None,), {}, TypeError, "got None"),
        (([0, 0],), {"floor": 0}, ValueError, "every weight is 0; pass a floor above 0"),
        (([1, 2],), {"floor": -1}, ValueError, "floor must be finite and not negative, got -1"),
        (([1, 2],), {"power": np.inf}, ValueError, "power must be finite"),
        (([1, 2],), {"power": "half"}, TypeError, "power must be a number, got 'half'"),
        (([1e9, 2],), {"power": 1e3}, ValueError, "too large for a float"),
        (([1, 2],), {"n_rows": 2.5}, ValueError, "n_rows must be the table's number of rows, got 2.5"),
        ((Words(), "the cat"), {}, TypeError, r"got str; a single text goes in \[...\]"),
        ((Words(), 3), {}, TypeError, "texts must be an iterable of strings, got int"),
        ((Words(), ["the", 3]), {}, TypeError, "text 1 is of type int"),
        ((Words(), []), {}, ValueError, "texts holds no text"),
        ((Words(), ["the"]), {"n_rows": 4}, ValueError, "pass the tokenizer that belongs to this table"),
        ((lambda texts: texts,), {}, TypeError, r"list its vocabulary \(get_vocab\) for the Zipf prior"),
        ((lambda texts: texts, ["a"]), {}, ValueError, "n_rows is needed"),
        ((lambda texts: texts, ["a"]), {"n_rows": 3}, TypeError, "a list of whole numbers for each text"),
        ((lambda texts: [[0.5]], ["a"]), {"n_rows": 3}, TypeError, "a list of whole numbers for each text"),
        ((lambda texts: {"ids": []}, ["a"]), {"n_rows": 3}, TypeError, "must give input_ids, got ids"),
        ((lambda texts: [[1]], ["a", "b"]), {"n_rows": 3}, TypeError, "1 came back for 2 texts"),
        ((lambda texts: [[-1]], ["a"]), {"n_rows": 3}, ValueError, "gives token -1"),
    ],
)
def test_refusals(arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        token_weights(*arguments, **options)


def test_count_tokens_refuses_what_is_no_tokenizer() -> None:
    with pytest.raises(TypeError, match="tokenizer must be a tokenizer or a callable"):
        count_tokens(SimpleNamespace(get_vocab=dict), ["a"], n_rows=3)
    with pytest.raises(ValueError, match="exponent must be finite and not negative"):
        zipf_counts(Words(), exponent=-1)
