"""Prompt files of benchmarks: texts and names of pictures, and what is refused."""

import json
import re

import pytest

from unitok_jax.data.formats.prompt_files import read_prompts


def read(content):
    return read_prompts(json.dumps(content).encode(), "a.json")


def test_both_benchmarks():
    genai = {
        "00000": {"id": "00000", "prompt": "A baker.", "models": {}},
        "1": {"prompt": " b\n c"},
    }
    assert read(genai) == (["A baker.", "b c"], ["00000.jpeg", "1.jpeg"])
    mjhq = {"3f2a": {"category": "people", "prompt": "a man"}}
    assert read(mjhq) == (["a man"], ["people/3f2a.png"])


@pytest.mark.parametrize(
    "content, words",
    [
        ([], "a.json: expected a JSON object, found list"),
        ({}, "a.json has no prompt"),
        ({"a": "text"}, "a.json: 'a' has no text"),
        ({"a": {"prompt": " "}}, "a.json: 'a' has no text"),
        ({"../a": {"prompt": "b"}}, "'../a' cannot name a picture"),
        ({".a": {"prompt": "b"}}, "'.a' cannot name a picture"),
        ({"": {"prompt": "b"}}, "'' cannot name a picture"),
        ({"a": {"prompt": "b", "category": ".."}}, "'..' cannot name a picture"),
        ({"a": {"prompt": "b", "category": 3}}, "3 cannot name a picture"),
        ({"a": {"prompt": "b"}, "A": {"prompt": "b"}}, "two ids differ in case alone: 'A'"),
    ],
)
def test_bad_files(content, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        read(content)


def test_no_json():
    with pytest.raises(ValueError, match=r"a\.json: no JSON that can be read"):
        read_prompts(b"{", "a.json")


def test_an_id_that_comes_twice():
    content = b'{"1": {"prompt": "a"}, "2": {"prompt": "b"}, "1": {"prompt": "c"}}'
    with pytest.raises(ValueError, match=r"^a\.json: the key '1' comes twice"):
        read_prompts(content, "a.json")
