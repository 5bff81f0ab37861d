"""A card measures what a tokenizer computes: one path, one precision, the same pixels."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from configs import tiny as tiny_config
from unitok_jax.data.formats.shapes import shape_source
from unitok_jax.data.images.transforms import decode_image, resize_center_crop, to_uint8
from unitok_jax.data.records import subset
from unitok_jax.data.sources import open_source
from unitok_jax.evaluation import suite
from unitok_jax.evaluation.evaluator import EvaluationResult, Evaluator
from unitok_jax.evaluation.metrics.frechet import frechet_distance
from unitok_jax.runtime import sharding
from unitok_jax.tokenizer.api import Tokenizer
from unitok_jax.tokenizer.step import init_params
from unitok_jax.weights import pretrained

pytestmark = [pytest.mark.slow, pytest.mark.long]

COUNT = 11  # no multiple of the devices or of a batch


@pytest.fixture(scope="module")
def config():
    """A nano model that is trained in bfloat16, as the recipe's are."""
    config = tiny_config.get_config()
    config.model.size, config.model.quant_heads = "nano", 2
    config.model.dtype = "bfloat16"
    config.data.image_size = (32, 48)
    config.data.num_threads = 1
    return config


@pytest.fixture(scope="module")
def params(config):
    return jax.device_get(jax.jit(lambda: init_params(config.model.to_dict(), jax.random.key(1)))())


def test_codes_and_pictures_of_a_pass_are_the_tokenizers(config, params):
    """Bit for bit, with as many images for each device as in the pass."""
    source = subset(open_source(config.data), range(COUNT))
    records = (source[index] for index in range(COUNT))
    images = np.stack(
        [resize_center_crop(decode_image(r["image"], r["name"]), (32, 48)) for r in records]
    )
    seen = {}
    for precision, devices in (("float32", 1), ("float32", 8), ("bfloat16", 8)):
        mesh = sharding.make_mesh(-1, 1, jax.devices()[:devices])
        evaluator = Evaluator(config.model.to_dict(), mesh, {}, precision)
        placed = sharding.replicate(params, mesh)
        samples = evaluator.run(placed, {}, source, config.data, 8, show=COUNT).samples
        np.testing.assert_array_equal(samples.images, images)
        tokenizer = Tokenizer(config, params, 8, jax.devices()[:devices], precision)
        codes = np.concatenate(list(tokenizer.encode_batches([images[:8], images[8:]])))
        np.testing.assert_array_equal(samples.codes, codes)
        rebuilt = to_uint8(tokenizer.decode(np.resize(codes, (16, *codes.shape[1:])), (2, 3)))
        np.testing.assert_array_equal(samples.reconstructions, rebuilt[:COUNT])
        seen[precision] = codes
    assert 0 < (seen["float32"] != seen["bfloat16"]).mean() < 0.5  # else nothing would be shown


def test_programs_of_a_pass_are_traced_in_one_precision(config, params):
    """Whatever JAX is told, float32 means all of it, in measures too."""
    mesh = sharding.make_mesh(-1, 1, jax.devices()[:1])
    evaluator = Evaluator(
        config.model.to_dict(), mesh, {"lpips": "float32", "inception": "float32"}
    )
    images = jax.ShapeDtypeStruct((1, 32, 48, 3), np.float32)
    pixels = jax.ShapeDtypeStruct((1, 32, 48, 3), np.uint8)
    codes = jax.eval_shape(evaluator._encode, params, images)
    tokens = jax.ShapeDtypeStruct((1, config.model.text.context_length), np.int32)
    batch = {
        "image": pixels,
        "mask": jax.ShapeDtypeStruct((1,), bool),
        "crc32": jax.ShapeDtypeStruct((1,), np.uint32),
    }
    networks = {kind: pretrained.abstract(kind, "float32")[1] for kind in ("lpips", "inception")}
    with jax.default_matmul_precision("default"):
        lowered = {
            "encode": evaluator._encode.lower(params, images),
            "decode": evaluator._decode.lower(params, codes, (2, 3)),
            "features": evaluator._features.lower(params, codes),
            "text": evaluator._text.lower(params, tokens),
            "measure": evaluator._measure.lower(
                networks, batch, images, codes, images, originals=True
            ),
            "pool3": evaluator._pool3.lower(networks["inception"], pixels),
        }
    for name, program in lowered.items():
        text = program.as_text()
        asked = [line for line in text.splitlines() if re.search("dot_general|convolution", line)]
        assert asked and all(line.count("HIGHEST") == 2 for line in asked), name
        assert "bf16" not in text, name


class TestFigures:
    """Conditions of figures, the same for training and for a card."""

    def pass_of(self, count):
        rng = np.random.default_rng(0)
        result = EvaluationResult(logits=np.zeros((count, 8)), positions=np.arange(count))
        for moments in (result.originals, result.rebuilt):
            moments.update(rng.normal(size=(count, 4)))
        return result

    def test_rfid_is_to_the_pass_or_to_what_is_known(self):
        result = self.pass_of(5)
        rebuilt = result.rebuilt.result()
        expected = frechet_distance(result.originals.result(), rebuilt)
        assert suite.rfid(result) == {"rfid": expected} and expected > 0.1
        assert suite.rfid(result, rebuilt)["rfid"] < 1e-6

    def test_no_rfid_without_inception_or_of_one_image(self):
        assert suite.rfid(dataclasses.replace(self.pass_of(5), logits=None)) == {}
        assert suite.rfid(self.pass_of(1)) == {}

    def test_texts_are_encoded_for_the_figures_that_are_asked_for(self):
        source = subset(shape_source("held_out"), range(4))
        captions, labels = suite.captions_of(source, 24), suite.label_set_of(source)
        empty = suite.Captions(captions.tokens[:0], captions.owner[:0])
        assert captions.owner.tolist() == sorted(captions.owner) and len(captions.tokens) >= 4
        calls = []

        def encode(tokens):
            calls.append(len(tokens))
            return np.eye(4)[np.zeros(len(tokens), int)]

        def figures(captions, labels):
            calls.clear()
            found = suite.text_figures(
                *(np.eye(4), source, encode, 24), captions=captions, labels=labels
            )
            return "image_to_text" in found, "zero_shot_top1" in found, list(calls)

        sentences = len(labels.names) * len(labels.templates)
        assert figures(captions, labels) == (True, True, [len(captions.tokens), sentences])
        assert figures(captions, None) == (True, False, [len(captions.tokens)])
        assert figures(empty, labels) == (False, True, [sentences])
        assert figures(None, None) == (False, False, [])

    def test_only_labelled_sources_bring_classes(self):
        assert suite.label_set_of(shape_source("train")) is None
