"""What a model's configuration may say, checked before a model is built from it."""

import inspect
import json

import numpy as np
import pytest

from configs import b16, default, l16, tiny
from unitok_jax.data.images.transforms import check_size
from unitok_jax.models import limits
from unitok_jax.models.unitok import UniTok, abstract_model

WRONG = ["64", None, [1], {"a": 1}, True, False, float("nan"), float("inf"), -1, 10**30, 1e308]


def nano():
    config = tiny.get_config()
    config.model.size, config.model.quant_heads = "nano", 2
    return config.model.to_dict()


def changed(key, value):
    model = nano()
    room = model["text"] if key.startswith("text.") else model
    room[key.removeprefix("text.")] = value
    return model


def test_every_keyword_has_a_bound_or_a_list_of_choices():
    keywords = inspect.signature(UniTok.__init__).parameters.keys() - {"self", "rngs"}
    choices = {key for key, value in nano().items() if isinstance(value, str)}
    bounded = {key.split(".")[0] for key in limits.BOUNDS}
    assert bounded | choices == keywords and not bounded & choices
    assert {f"text.{key}" for key in nano()["text"]} <= limits.BOUNDS.keys()


@pytest.mark.parametrize("config", [default, b16, l16, tiny])
def test_the_configurations_that_come_with_it_pass(config):
    limits.check(config.get_config().model.to_dict())


@pytest.mark.parametrize(
    "key, value",
    [
        (key, value)
        for key in limits.BOUNDS
        for value in WRONG
        if not (key == "quant_causal" and isinstance(value, bool))
    ],
    ids=repr,
)
def test_a_value_of_another_kind_or_size_is_one_line(key, value):
    with pytest.raises(ValueError) as error:
        abstract_model(changed(key, value))
    text = str(error.value)
    assert text.startswith(f"model.{key}=") and "\n" not in text and len(text) < 200
    assert text.endswith(f"must be {limits.BOUNDS[key]}")


@pytest.mark.parametrize("value", [64.0, 2.5, np.float32(3)])
@pytest.mark.parametrize("key", ["latent_width", "text.layers", "num_codebooks"])
def test_a_float_is_no_integer(key, value):
    with pytest.raises(ValueError, match=f"^model.{key}=.*must be an integer from"):
        abstract_model(changed(key, value))


CHOICES = ("size", "dtype", "quantizer", "quant_proj", "remat", "contrastive_kind")


@pytest.mark.parametrize("value", ["nanos", None, 7, ["nano"], True, {"nano": 1}])
@pytest.mark.parametrize("key", CHOICES)
def test_a_choice_that_is_none(key, value):
    with pytest.raises(ValueError, match=f"^model.{key}=.* is not one of ") as error:
        abstract_model(changed(key, value))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, words",
    [
        (None, "model.text=None must be an object"),
        ([1], "model.text=[1] must be an object"),
        ({}, "missing ['context_length', 'heads', 'layers', 'vocab_size', 'width']"),
        (nano()["text"] | {"depth": 3}, "missing [], unknown ['depth']"),
        (nano()["text"] | {"heads": 3}, "model.text.heads=3 does not divide model.text.width=64"),
    ],
)
def test_the_text_tower(text, words):
    with pytest.raises(ValueError) as error:
        abstract_model(nano() | {"text": text})
    assert words in str(error.value) and "\n" not in str(error.value)


def test_keys_that_are_missing_or_unknown():
    model = nano() | {"colour": 1}
    del model["embed_dim"]
    with pytest.raises(ValueError, match=r"missing \['embed_dim'\], unknown \['colour'\]"):
        abstract_model(model)


def test_heads_that_divide_nothing():
    with pytest.raises(ValueError, match="model.quant_heads=7 does not divide 64.*latent_width"):
        abstract_model(nano() | {"quant_heads": 7})


def test_levels_of_another_quantizer():
    with pytest.raises(
        ValueError, match=r"model.fsq_levels=\(4, 4\) .*multi_codebook; set .*=\(\)"
    ):
        abstract_model(nano() | {"fsq_levels": [4, 4]})


def test_numbers_that_are_too_large_together():
    model = nano() | {"vocab_size": 2**24, "num_codebooks": 1, "latent_width": 2**16}
    model["quant_heads"] = 1
    with pytest.raises(ValueError, match=r"quantizer.codebook \(1, 16777216, 65536\); at most"):
        abstract_model(model)


def test_a_value_is_shown_in_one_short_line():
    deep = json.loads("[" * 500 + "]" * 500)
    for value in ("a\n" * 1000, [1] * 10**6, deep, 10**5000, {"a" * 1000: 1}):
        assert len(limits.show(value)) < 100 and "\n" not in limits.show(value)


@pytest.mark.parametrize("size", [None, 64.0, "64", (64, None), True, (True, 64), {64: 1}, 8208])
def test_image_sizes(size):
    with pytest.raises(ValueError, match="^image_size="):
        check_size(size, key="image_size")
    assert check_size(8192) == (8192, 8192)
