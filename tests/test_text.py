"""CharacterModel: what bits a character are, sampling, files, what is refused."""

import numpy as np
import pytest
from conftest import assert_close, assert_same_bits

import clstm
from clstm import nn
from clstm.text import CharacterModel

TEXT = "she sells sea shells by the sea shore. " * 12


@pytest.fixture(scope="module")
def model():
    made = CharacterModel(8, 2, embedding_dim=4, dropout=0.2, dtype=np.float64, rng=0)
    made.fit(TEXT, epochs=6, streams=3, steps=10, lr=0.02)
    return made


def test_bits_are_those_of_each_character_after_all_before_it(model, monkeypatch):
    text = TEXT[:50]
    codes = np.array([model.vocabulary.index(letter) for letter in text])
    logits = model.model(codes[None])[0, :-1]
    expected = -np.mean(np.log2(nn.softmax(logits)[np.arange(49), codes[1:]]))
    assert_close(np.array([model.bits_per_character(text)]), np.array([expected]), "forward")
    monkeypatch.setattr("clstm.text._PIECE", 7)  # the state goes on from piece to piece
    assert_close(np.array([model.bits_per_character(text)]), np.array([expected]), "forward")


def test_training_lowers_the_bits_of_the_part_that_was_held_out(model):
    untrained = CharacterModel(8, 2, embedding_dim=4, rng=0)
    untrained.fit(TEXT, epochs=1, streams=3, steps=10, lr=1e-9)
    rest = TEXT[-len(TEXT) // 10 :]
    assert model.bits_per_character(rest) < 0.9 * untrained.bits_per_character(rest)


def test_same_generator_same_text(model):
    first, again, other = (model.sample(40, "sea ", rng=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert len(first) == 40


def test_temperature_of_0_takes_the_likeliest(model):
    text = model.sample(20, "she ", temperature=0)
    codes = np.array([model.vocabulary.index(letter) for letter in "she " + text])
    likeliest = model.model(codes[None])[0].argmax(axis=-1)
    assert "".join(model.vocabulary[n] for n in likeliest[3:-1]) == text


def test_text_begins_without_a_prompt_as_after_the_end_of_a_line():
    model = CharacterModel(4, rng=0)
    model.fit(TEXT.replace(". ", ".\n"), epochs=1, streams=2, steps=10)
    assert model.sample(10, rng=3) == model.sample(10, "\n", rng=3)


def test_file_holds_all_that_is_needed(model, tmp_path):
    model.save(tmp_path / "a.safetensors")
    loaded = clstm.load(tmp_path / "a.safetensors")
    assert isinstance(loaded, CharacterModel)
    assert repr(loaded) == repr(model) == f"<CharacterModel of {len(set(TEXT))} characters, 2 x 8 units>"
    assert loaded.vocabulary == model.vocabulary
    assert loaded.sample(30, rng=0) == model.sample(30, rng=0)
    for ours, theirs in zip(loaded.model.layers, model.model.layers, strict=True):
        assert_same_bits(ours.flat_params, theirs.flat_params)


@pytest.mark.parametrize(
    ("name", "value"),
    [("vocabulary", ""), ("vocabulary", "ba"), ("vocabulary", "abc"), ("vocabulary", 3), ("parameters", [])],
)
def test_damaged_file_is_refused(model, tmp_path, name, value):
    arguments, tensors = model.file_content()
    clstm.files.write(
        tmp_path / "a.safetensors", "CharacterModel", arguments | {name: value}, tensors, "0.2.0"
    )
    with pytest.raises(clstm.FileFormatError, match=r"a\.safetensors"):
        CharacterModel.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("characters", ["äöü€", "\U0001f600\U0001f601", "\n\t\0"])
def test_every_character_is_one(characters):
    model = CharacterModel(4, rng=0)
    model.fit(characters * 30, epochs=1, streams=2, steps=5)
    assert model.vocabulary == "".join(sorted(characters))
    assert set(model.sample(50, rng=0)) <= set(characters)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda model: model.fit("aaaa"), ValueError, "text: expected at least 2 different characters"),
        (
            lambda model: model.fit("abc", validation=0.9),
            ValueError,
            "text: expected at least 2 characters to learn",
        ),
        (lambda model: model.fit(3), TypeError, "text: expected str"),
        (lambda model: model.fit(TEXT, streams=0), ValueError, "streams: expected at least 1"),
        (
            lambda model: model.fit(TEXT, validation=1),
            ValueError,
            r"validation: expected a number in \[0, 1\)",
        ),
        (lambda model: model.fit(TEXT, resume=True), ValueError, "resume: expected a checkpoint with it"),
        (lambda model: model.sample(0), ValueError, "length: expected at least 1"),
        (lambda model: model.sample(5, temperature=-1), ValueError, "temperature: expected"),
        (
            lambda model: model.sample(5, "X"),
            ValueError,
            "prompt: expected characters .* got 'X' at position 0",
        ),
        (
            lambda model: model.bits_per_character("s"),
            ValueError,
            "text: expected at least 2 characters, got 1",
        ),
        (lambda model: model.bits_per_character("sX"), ValueError, "got 'X' at position 1"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(model, call, error, message):
    before = model.model, model.vocabulary
    with pytest.raises(error, match=message):
        call(model)
    assert (model.model, model.vocabulary) == before


@pytest.mark.parametrize("method", ["sample", "bits_per_character", "save"])
def test_nothing_is_done_before_fit(method):
    with pytest.raises(RuntimeError, match=f"{method}: expected a call of fit before it"):
        getattr(CharacterModel(), method)({"sample": 3}.get(method, "text"))
