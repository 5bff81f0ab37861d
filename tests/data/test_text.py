"""Captions to CLIP's token ids."""

import html
import json
import os
import pickle
from pathlib import Path

import ftfy
import numpy as np
import pytest

from unitok_jax.data import text
from unitok_jax.data.text import END_OF_TEXT, START_OF_TEXT, TextTokenizer, clean

GOLDEN = Path(os.environ.get("UNITOK_PARITY", Path(__file__).parents[1] / "golden"))
CAPTIONS = json.loads((GOLDEN / "clip_tokens.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("golden", CAPTIONS, ids=[repr(each["text"])[:30] for each in CAPTIONS])
def test_ids_are_those_of_the_reference(golden):
    np.testing.assert_array_equal(TextTokenizer()(golden["text"])[0], golden["ids"])


def test_shape_and_dtype():
    ids = TextTokenizer()(["a cat", "a dog"])
    assert ids.shape == (2, 77)
    assert ids.dtype == np.int32
    assert TextTokenizer()([]).shape == (0, 77)
    np.testing.assert_array_equal(TextTokenizer()("a cat"), ids[:1])


def test_truncation_keeps_the_end_token():
    whole = TextTokenizer(77)("one two three four five six")[0]
    short = TextTokenizer(5)("one two three four five six")[0]
    np.testing.assert_array_equal(short, [START_OF_TEXT, *whole[1:4], END_OF_TEXT])


def test_of_a_long_caption_the_beginning_is_read(monkeypatch):
    lengths = []
    monkeypatch.setattr(text, "clean", lambda caption: lengths.append(len(caption)) or caption)
    tokenizer = TextTokenizer()
    long = tokenizer("word " * 1_000_000)
    assert np.array_equal(long, tokenizer("word " * 100))
    assert tokenizer.length("word " * 1_000_000) == 20_002
    assert lengths == [text.MAX_CHARACTERS, 500, text.MAX_CHARACTERS]


def test_spelled_out_special_tokens_are_text():
    ids = TextTokenizer()("a <end_of_text> b")[0]
    assert np.count_nonzero(ids == END_OF_TEXT) == 1


def test_escapes_case_and_white_space_do_not_matter():
    tokenize = TextTokenizer()
    np.testing.assert_array_equal(
        tokenize("  Salt &amp;amp; PEPPER\n\tmills "), tokenize("salt & pepper mills")
    )


def test_halves_of_surrogate_pairs_are_replaced():
    tokenize = TextTokenizer()
    np.testing.assert_array_equal(tokenize("a \ud83d cup \udce9"), tokenize("a \ufffd cup \ufffd"))
    np.testing.assert_array_equal(tokenize("\ud83d\ude00"), tokenize("\U0001f600"))


def test_pickled_tokenizer_gives_the_same_ids():
    tokenizer = TextTokenizer(16)
    copy = pickle.loads(pickle.dumps(tokenizer))
    np.testing.assert_array_equal(copy("a red cup"), tokenizer("a red cup"))
    assert len(pickle.dumps(tokenizer)) < 1000


@pytest.mark.parametrize(("texts", "name"), [([b"bytes"], "bytes"), (["a", None], "NoneType")])
def test_what_is_not_text_is_refused(texts, name):
    with pytest.raises(TypeError, match=f"captions must be str, got {name}"):
        TextTokenizer()(texts)


def test_context_without_room_is_refused():
    with pytest.raises(ValueError, match="data.context_length=1 leaves no room"):
        TextTokenizer(1)


def test_plain_ascii_needs_no_repair():
    """The short way of `clean` gives what the long one would."""
    rng = np.random.default_rng(0)
    alphabet = [chr(code) for code in range(128)] + ["&amp;", "&lt", "\x1b[31m", "<b>", "\r\n"]
    for _ in range(3000):
        text = "".join(rng.choice(alphabet, rng.integers(30)))
        repaired = html.unescape(html.unescape(ftfy.fix_text(text)))
        assert clean(text) == " ".join(repaired.split()).lower(), repr(text)


def squeezed(text):
    return text.replace(" ", "")


@pytest.mark.parametrize("golden", CAPTIONS, ids=[repr(each["text"])[:30] for each in CAPTIONS])
def test_decoded_ids_are_the_cleaned_text_but_for_spaces(golden):
    cleaned, tokenizer = clean(golden["text"]), TextTokenizer(4096)
    assert squeezed(tokenizer.decode(tokenizer(golden["text"]))[0]) == squeezed(cleaned)
    cut = squeezed(TextTokenizer().decode(golden["ids"])[0].rstrip("\ufffd"))
    assert squeezed(cleaned).startswith(cut)


@pytest.mark.parametrize(
    ("text", "decoded"),
    [
        ("A  red&amp;amp;blue CUP", "a red & blue cup"),
        ("don't, in 1984...", "don 't , in 1 9 8 4 ..."),
        ("<end_of_text> is text", "< end _ of _ text > is text"),
        ("</w> !", "</ w > !"),
        ("\U0001f600 größe 中文 שלום", "\U0001f600 größe 中文 שלום"),
        ("", ""),
    ],
)
def test_decoding_puts_a_space_after_every_word(text, decoded):
    assert TextTokenizer().decode(TextTokenizer()(text)) == [decoded]


def test_decoding_a_truncated_caption():
    tokenizer = TextTokenizer(5)
    assert tokenizer.decode(tokenizer("one two three four five")) == ["one two three"]
    emoji = TextTokenizer()("\U0001f9ff")[0]
    assert np.flatnonzero(emoji == END_OF_TEXT)[0] > 2  # several tokens for one character
    short = TextTokenizer(3)
    assert short.decode(short("\U0001f9ff")) == ["\ufffd"]


def test_decoding_many_and_none():
    tokenizer = TextTokenizer(8)
    ids = tokenizer(["a cat", "!", "a dog"])
    assert tokenizer.decode(ids) == ["a cat", "!", "a dog"]
    assert tokenizer.decode(ids[2].tolist()) == ["a dog"]
    assert tokenizer.decode(np.zeros((2, 8), np.int32)) == ["", ""]
    assert tokenizer.decode(ids[:0]) == []


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([START_OF_TEXT, -3, 49408, END_OF_TEXT], r"-3, 49408 are not token ids \(0 to 49407\)"),
        ([START_OF_TEXT, 320, END_OF_TEXT, 70000], "70000 are not token ids"),
        ([320, 2368, END_OF_TEXT], "not a caption between one 49406 and 49407"),
        ([START_OF_TEXT, 320, 2368], "not a caption between"),
        ([START_OF_TEXT, START_OF_TEXT, END_OF_TEXT], "not a caption between one 49406"),
        ([49406.0, 49407.0], r"token ids are integers \(n, L\) or \(L,\), got float64 \(2,\)"),
        ([[[49406]]], r"got int64 \(1, 1, 1\)"),
    ],
)
def test_ids_that_are_no_caption_are_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        TextTokenizer().decode(ids)


def test_length_counts_what_truncation_drops():
    tokenizer = TextTokenizer(5)
    assert tokenizer.length("one two three four five six") == 8
    assert tokenizer.length("") == 2
    with pytest.raises(TypeError, match="captions must be str, got bytes"):
        tokenizer.length(b"bytes")
