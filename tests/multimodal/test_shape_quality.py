"""Examinations during training: of a small model with random weights, spread over two devices."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import unitok_jax
from configs import multimodal
from helpers import multimodals
from unitok_jax.data.images.transforms import to_uint8
from unitok_jax.evaluation.codec import Codec
from unitok_jax.evaluation.shapes import exam
from unitok_jax.evaluation.shapes.edits import measure_edits
from unitok_jax.evaluation.shapes.measure import measure
from unitok_jax.multimodal.api import MultimodalModel
from unitok_jax.multimodal.config_checks import check
from unitok_jax.multimodal.loading import Form, Weights
from unitok_jax.multimodal.quality import ShapeQuality
from unitok_jax.multimodal.words import shape_tokenizer
from unitok_jax.runtime import sharding

GRID, COUNT = (2, 3), 2


def configured(path, tokenizer):
    codes = multimodals.keys_of_shapes(tokenizer.codebook_shape)
    config = multimodals.configured(**codes, grid=GRID)
    config.data.tokenizer, config.data.template = str(path), "plain"
    config.eval.update(shapes=COUNT, scale=1.5)
    return config


@pytest.fixture(scope="module")
def tokenizer(weights):
    return unitok_jax.load(weights, batch_size=COUNT, devices=jax.devices()[:1])


@pytest.mark.slow
def test_codec_is_the_tokenizer(tokenizer, images):
    codec = Codec(tokenizer.config, tokenizer.params)
    codes = codec.encode(images[:, :32, :48])
    expected = tokenizer.encode(images[:, :32, :48])
    np.testing.assert_array_equal(codes, expected)
    assert codes.grid == GRID and codes.dtype == np.int32
    np.testing.assert_allclose(codec.decode(codes), tokenizer.decode(expected), atol=1e-5)
    np.testing.assert_array_equal(codec.decode(np.asarray(codes), GRID), codec.decode(codes))


@pytest.mark.slow
def test_a_state_is_examined(weights, tokenizer, monkeypatch):
    monkeypatch.setattr(exam, "LEARNT", 200)
    config, mesh = configured(weights, tokenizer), sharding.make_mesh(1, 2, jax.devices()[:2])
    check(config)
    quality = ShapeQuality(config, mesh, shape_tokenizer(), tokenizer.hash)

    def placed(seed):
        def place(leaf):
            spec = PartitionSpec("fsdp") if len(leaf) % 2 == 0 else PartitionSpec()
            return jax.device_put(leaf, NamedSharding(mesh, spec))

        return jax.tree.map(place, multimodals.parameters(config.model.to_dict(), seed))

    built = []
    monkeypatch.setattr(
        "unitok_jax.multimodal.quality.MultimodalModel",
        lambda *args, **keys: built.append(MultimodalModel(*args, **keys)) or built[0],
    )
    (figures, sheet), (_, other), (again, same) = (quality(placed(seed)) for seed in (0, 1, 0))
    assert len(built) == 1  # what is compiled serves all evaluations
    assert figures == again and not np.array_equal(sheet, other)
    np.testing.assert_array_equal(sheet, same)
    config.eval.temperature = 0.0
    assert not np.array_equal(quality(placed(0))[1], sheet)
    assert sheet.dtype == np.uint8 and sheet.ndim == 3
    for pairs in exam.PAIRS:
        names = {f"{pairs}/{name}" for name in ("colour", "blind_colour", "count", "drawn_both")}
        assert names <= figures.keys()
    assert figures["held_out/blind_form"] == figures["held_out/blind_colour"] == 0
    assert all(0 <= value <= 1 for value in figures.values())


@pytest.mark.long
@pytest.mark.slow
def test_what_the_command_measures(weights, tokenizer, monkeypatch):
    """Examinations and edits ask for what a real model and a real tokenizer have."""
    monkeypatch.setattr(exam, "LEARNT", 50)
    config = configured(weights, tokenizer)
    config.model.grid = (4, 4)
    params = multimodals.parameters(config.model.to_dict())
    found = Weights(config, params, tokenizer.hash, shape_tokenizer(), Form("plain", False))
    model = MultimodalModel(found, tokenizer, COUNT, jax.devices()[:1])
    for result in measure(model, tokenizer, COUNT, (1.0,)):
        assert result.figures["released"].keys() == result.figures["drawn"].keys() == {"1"}
    edited = measure_edits(model, tokenizer, COUNT, tokenizer.image_size, (1.0,), 0.5)
    assert edited.drawn.shape == edited.before.shape == (COUNT, 64, 64, 3)
    assert edited.figures["edited"]["1"].keys() == edited.figures["unedited"].keys()
    words = [edit.words for edit in edited.edits]
    expected = model.edits(edited.before, words, temperature=0.5)
    np.testing.assert_array_equal(edited.drawn, to_uint8(tokenizer.decode(expected)))


def test_another_tokenizer_is_refused(weights, tokenizer):
    config, mesh = configured(weights, tokenizer), sharding.make_mesh(1, 1, jax.devices()[:1])
    with pytest.raises(ValueError, match="were made by 0000"):
        ShapeQuality(config, mesh, shape_tokenizer(), "0000")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"shapes": -1}, "eval.shapes=-1 must not be negative"),
        ({"scale": -1.0}, "eval.scale=-1.0 must not be negative"),
        ({"temperature": -1.0}, "eval.temperature=-1.0 must not be negative"),
        ({"shapes": 4}, "eval.shapes=4 needs data.tokenizer"),
    ],
)
def test_keys_that_do_not_fit(changes, message):
    config = multimodal.get_config()
    config.eval.update(changes)
    with pytest.raises(ValueError, match=message):
        check(config)


def test_a_model_that_draws_nothing_is_not_examined():
    """Told at the start, not at the first evaluation."""
    config = multimodal.get_config()
    config.model.projection, config.data.tokenizer, config.eval.shapes = "full", "t", 4
    with pytest.raises(ValueError, match="eval.shapes=4 has shapes drawn.*draws nothing"):
        check(config)
