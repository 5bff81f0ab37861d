"""A card measures what a tokenizer computes: one path, one precision, the same pixels."""

import re

import jax
import numpy as np
import pytest

from configs import tiny as tiny_config
from unitok_jax import frozen, sharding
from unitok_jax.data.records import subset
from unitok_jax.data.sources import open_source
from unitok_jax.data.transforms import decode_image, resize_center_crop, to_uint8
from unitok_jax.evaluation import Evaluator
from unitok_jax.step import init_params
from unitok_jax.tokenizer import Tokenizer

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
        found = evaluator.run(placed, {}, source, config.data, 8, show=COUNT).shown
        np.testing.assert_array_equal(found.images, images)
        tokenizer = Tokenizer(config, params, 8, jax.devices()[:devices], precision)
        codes = np.concatenate(list(tokenizer.encode_batches([images[:8], images[8:]])))
        np.testing.assert_array_equal(found.codes, codes)
        rebuilt = to_uint8(tokenizer.decode(np.resize(codes, (16, *codes.shape[1:])), (2, 3)))
        np.testing.assert_array_equal(found.reconstructions, rebuilt[:COUNT])
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
    networks = {kind: frozen.abstract(kind, "float32")[1] for kind in ("lpips", "inception")}
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
