"""Captions to CLIP's token ids."""

import html
import json
import os
import pickle
from pathlib import Path

import ftfy
import numpy as np
import pytest

from unitok_jax.data.text import END_OF_TEXT, START_OF_TEXT, Tokenizer, clean

GOLDEN = Path(os.environ.get("UNITOK_PARITY", Path(__file__).parent / "golden"))
CAPTIONS = json.loads((GOLDEN / "clip_tokens.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("golden", CAPTIONS, ids=[repr(each["text"])[:30] for each in CAPTIONS])
def test_ids_are_those_of_the_reference(golden):
    np.testing.assert_array_equal(Tokenizer()(golden["text"])[0], golden["ids"])


def test_shape_and_dtype():
    ids = Tokenizer()(["a cat", "a dog"])
    assert ids.shape == (2, 77)
    assert ids.dtype == np.int32
    assert Tokenizer()([]).shape == (0, 77)
    np.testing.assert_array_equal(Tokenizer()("a cat"), ids[:1])


def test_truncation_keeps_the_end_token():
    whole = Tokenizer(77)("one two three four five six")[0]
    short = Tokenizer(5)("one two three four five six")[0]
    np.testing.assert_array_equal(short, [START_OF_TEXT, *whole[1:4], END_OF_TEXT])


def test_spelled_out_special_tokens_are_text():
    ids = Tokenizer()("a <end_of_text> b")[0]
    assert np.count_nonzero(ids == END_OF_TEXT) == 1


def test_escapes_case_and_white_space_do_not_matter():
    tokenize = Tokenizer()
    np.testing.assert_array_equal(
        tokenize("  Salt &amp;amp; PEPPER\n\tmills "), tokenize("salt & pepper mills")
    )


def test_pickled_tokenizer_gives_the_same_ids():
    tokenizer = Tokenizer(16)
    copy = pickle.loads(pickle.dumps(tokenizer))
    np.testing.assert_array_equal(copy("a red cup"), tokenizer("a red cup"))
    assert len(pickle.dumps(tokenizer)) < 1000


@pytest.mark.parametrize(("texts", "name"), [([b"bytes"], "bytes"), (["a", None], "NoneType")])
def test_what_is_not_text_is_refused(texts, name):
    with pytest.raises(TypeError, match=f"captions must be str, got {name}"):
        Tokenizer()(texts)


def test_context_without_room_is_refused():
    with pytest.raises(ValueError, match="data.context_length=1 leaves no room"):
        Tokenizer(1)


def test_plain_ascii_needs_no_repair():
    """The short way of `clean` gives what the long one would."""
    rng = np.random.default_rng(0)
    alphabet = [chr(code) for code in range(128)] + ["&amp;", "&lt", "\x1b[31m", "<b>", "\r\n"]
    for _ in range(3000):
        text = "".join(rng.choice(alphabet, rng.integers(30)))
        repaired = html.unescape(html.unescape(ftfy.fix_text(text)))
        assert clean(text) == " ".join(repaired.split()).lower(), repr(text)
