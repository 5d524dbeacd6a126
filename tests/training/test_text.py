from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.settings import WordEmbeddingSettings
from training.text import PADDING, UNKNOWN, TextEmbedding, encode_words, tokenize, word_numbers
from training.word2vec import fit_embedding

NOTES = ["Chest pain and cough.", "No chest pain. Cough for 3 days.", "Cough, chest pain; BP 120/80."] * 4
SMALL = WordEmbeddingSettings(dimensions=6, epochs=3, min_patients=2, max_words=50)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("Chest PAIN", ["chest", "pain"]),
        ("BP 120/80, T 36.6", ["bp", "<number>", "t", "<number>"]),
        ("Denies cough, fever. Has pain", ["denies", "not_cough", "not_fever", "has", "pain"]),
        ("no cough but fever", ["no", "not_cough", "but", "fever"]),
        ("without a b c d e f g", ["without", "not_a", "not_b", "not_c", "not_d", "not_e", "not_f", "g"]),
        ("X-ray: patient\u2019s", ["x-ray", "patient's"]),
        ("Œdème café", ["œdème", "café"]),
    ],
)
def test_tokenize_by_hand(text, words):
    assert tokenize(text) == words


@given(st.text(max_size=200))
def test_tokenize_gives_words_without_spaces_or_capitals(text):
    for word in tokenize(text):
        assert word and not any(letter.isspace() for letter in word)
        assert word == word.lower()


def test_padding_row_is_zero_and_shapes_fit():
    embedding = fit_embedding(NOTES, SMALL)
    assert embedding.vocabulary[:2] == ["", "<unknown>"]
    assert embedding.vectors.shape == (len(embedding.vocabulary), 6)
    assert embedding.vectors.dtype == np.float32
    assert not embedding.vectors[PADDING].any()
    np.testing.assert_allclose(embedding.vectors[UNKNOWN], embedding.vectors[2:].mean(axis=0), rtol=1e-5)
    assert np.sqrt(np.mean(embedding.vectors[2:] ** 2)) == pytest.approx(1, rel=1e-5)


def test_frequent_words_have_shorter_vectors():
    notes = ["the the the the the the fever", "the the the the the the fever cough rash"]
    embedding = fit_embedding(notes, SMALL)
    length = dict(zip(embedding.vocabulary, np.linalg.norm(embedding.vectors, axis=1), strict=True))
    share = {"the": 12 / 14, "fever": 2 / 14}
    expected = (1e-3 / (1e-3 + share["fever"])) / (1e-3 / (1e-3 + share["the"]))
    assert length["fever"] / length["the"] == pytest.approx(expected, rel=1e-4)


def test_a_word_of_one_patient_alone_is_unknown_however_often_it_is_repeated():
    embedding = fit_embedding([*NOTES, "Jansen coughs. Jansen, Jansen."], SMALL)
    assert "cough" in embedding.vocabulary
    assert "jansen" not in embedding.vocabulary
    assert "jansen" in fit_embedding([*NOTES, "Jansen coughs."] * 2, SMALL).vocabulary


def test_the_largest_vocabulary_holds_the_most_frequent_words():
    embedding = fit_embedding(NOTES, SMALL.model_copy(update={"max_words": 6}))
    assert set(embedding.vocabulary[2:]) == {"cough", "chest", "pain", "<number>"}


def test_word2vec_is_deterministic():
    first, second = fit_embedding(NOTES, SMALL), fit_embedding(NOTES, SMALL)
    assert first.vocabulary == second.vocabulary
    np.testing.assert_array_equal(first.vectors, second.vectors)
    other = fit_embedding(NOTES, SMALL.model_copy(update={"seed": 1}))
    assert not np.array_equal(first.vectors, other.vectors)


def test_words_seen_too_seldom_are_unknown():
    embedding = fit_embedding([*NOTES, "rarity"], SMALL)
    assert "rarity" not in embedding.vocabulary
    assert embedding.encode(["rarity"], 2).tolist() == [[UNKNOWN, PADDING]]


def test_vocabulary_stays_within_its_limit():
    notes = [f"word{chr(97 + i)} " * 3 for i in range(20)]
    assert len(fit_embedding(notes, SMALL.model_copy(update={"max_words": 10})).vocabulary) <= 10


@pytest.mark.parametrize("notes", [[], ["", " "], ["once only here"]])
def test_no_words_give_an_empty_embedding(notes):
    embedding = fit_embedding(notes, SMALL)
    assert embedding.vocabulary == ["", "<unknown>"]
    assert embedding.vectors.shape == (2, 6) and not embedding.vectors.any()


def test_encode_by_hand():
    vocabulary = ["", "<unknown>", "cough", "pain"]
    encoded = encode_words(["cough strange pain", "", "pain pain pain pain"], word_numbers(vocabulary), 3)
    assert encoded.tolist() == [[2, 1, 3], [0, 0, 0], [3, 3, 3]]
    assert encoded.dtype == np.int32


def test_save_and_load(tmp_path):
    embedding = fit_embedding(NOTES, SMALL)
    embedding.save(tmp_path)
    loaded = TextEmbedding.load(tmp_path)
    assert loaded.vocabulary == embedding.vocabulary
    np.testing.assert_array_equal(loaded.vectors, embedding.vectors)


def test_a_vocabulary_without_reserved_numbers_is_refused():
    with pytest.raises(ValueError, match="starts with"):
        TextEmbedding(["a", "b"], np.zeros((2, 3), dtype=np.float32))
    with pytest.raises(ValueError, match=r"received \(3, 3\)"):
        TextEmbedding(["", "<unknown>"], np.zeros((3, 3), dtype=np.float32))
