"""Conversations of LLaVA's form, and JSON of any other."""

import random
import string

import pytest

from unitok_jax.data.formats.conversations import Conversation, read
from unitok_jax.data.health import REASONS, SampleError


def said(*texts, **facts):
    turns = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]
    return {"conversations": turns} | facts


def test_turns_images_and_system():
    record = said("<image>\nwhat?", "a dog", "where?", "here", image="a/b.jpg", id=3)
    turns = (("<image>\nwhat?", "a dog"), ("where?", "here"))
    assert read(record, "x") == Conversation("x", None, turns, ("a/b.jpg",))
    record["conversations"].insert(0, {"from": "system", "value": "be brief"})
    assert read(record, "x").system == "be brief"


def test_other_names_of_roles_and_several_images():
    record = {
        "image": ["a", "b"],
        "conversations": [
            {"from": "user", "value": "<image> or <image>?"},
            {"from": "assistant", "value": "the first"},
        ],
    }
    assert read(record, "x").images == ("a", "b")


def test_a_last_question_without_an_answer_is_left_out():
    assert read(said("what?", "a", "where?"), "x").turns == (("what?", "a"),)


def test_text_alone():
    assert read(said("what?", "a"), "x").images == ()
    assert read(said("what?", "a", image=None), "x").images == ()


@pytest.mark.parametrize(
    "record, reason, message",
    [
        ({}, "bad_record", "has no list 'conversations'; expected {"),
        ({"conversations": "hello"}, "bad_record", "has no list"),
        ({"conversations": ["hello"]}, "bad_record", "'hello' is no turn"),
        ({"conversations": [{"role": "user", "content": "a"}]}, "bad_record", "is no turn"),
        ({"conversations": [{"from": "bot", "value": "a"}]}, "bad_record", "is no turn"),
        ({"conversations": [{"from": "human", "value": 3}]}, "bad_record", "is no turn"),
        ({"conversations": []}, "no_answer", "nothing is answered"),
        (said("what?"), "no_answer", "nothing is answered"),
        (said("what?", " "), "no_answer", "answer 1 is empty"),
        (said("a", "b", " ", "c"), "no_text", "question 2 is empty"),
        (said("what?", "a", image="a.png"), "image_places", "0 places <image> .* for 1 images"),
        (said("<image> what?", "a"), "image_places", "1 places <image> in the text for 0 images"),
        (said("<image> what?", "a", image=3), "bad_record", "'image' is no name"),
        (said("<image> what?", "a", image=["a", 3]), "bad_record", "'image' is no name"),
        (
            {"conversations": [{"from": "gpt", "value": "a"}, {"from": "human", "value": "b"}]},
            "bad_record",
            "do not alternate",
        ),
    ],
)
def test_what_cannot_be_used_has_its_reason(record, reason, message):
    with pytest.raises(SampleError, match=f"^x.*{message}") as caught:
        read(record, "x")
    assert caught.value.reason == reason


def test_json_of_any_shape_is_told_or_read():
    """Random values under the keys that are read: a reason, or a conversation."""
    rng = random.Random(0)

    def value(depth=0):
        kinds = ["text", "number", "none", *(["list", "object"] if depth < 4 else [])]
        kind = rng.choice(kinds)
        if kind == "list":
            return [value(depth + 1) for _ in range(rng.randrange(4))]
        if kind == "object":
            keys = ("from", "value", "image", "conversations", "x")
            return {key: value(depth + 1) for key in keys if rng.random() < 0.7}
        if kind == "text":
            return rng.choice(["human", "gpt", "<image>", "", rng.choice(string.printable) * 9])
        return rng.choice([0, -1.5, True]) if kind == "number" else None

    read_well = 0
    for _ in range(3000):
        record = {"conversations": value(1), "image": value(3)}
        try:
            read_well += isinstance(read(record, "x"), Conversation)
        except SampleError as error:
            assert error.reason in REASONS and str(error).startswith("x")
    assert read_well < 3000
