"""The model against the reference's numbers, every array of every file."""

import jax
import numpy as np
import pytest
from flax import nnx

from helpers import parity

pytestmark = pytest.mark.slow

TOLERANCE = 1e-4  # of the reference's standard deviation; relative for scalars


def outputs(model, images, text, entropy):
    """Everything that the reference files hold, computed from the public methods."""

    graph, params = nnx.split(model)

    def forward(params, images, text):
        # An argument: weights that a program closes over are constants in it, twice in memory.
        model = nnx.merge(graph, params)
        latent = model.latent(images)
        quantized = model.quantizer(latent, entropy)
        output = model(images, text, entropy=entropy)
        return {
            "encoder_tokens": model.encoder(images),
            "quant_proj": latent,
            "codes": model.encode(images),
            "quantized": quantized.latent,
            "post_quant_proj": model.tokens(output.codes),
            "reconstruction": output.reconstruction,
            "vq_loss": output.vq_loss,
            "entropy_loss": output.entropy_loss,
            "clip_image_features": output.image_features,
            "clip_text_features": output.text_features,
            "logit_scale": output.logit_scale,
            "features_by_encode_image": model.encode_image(images),
            "features_by_encode_text": model.encode_text(text),
        }

    return jax.device_get(jax.jit(forward)(params, images, text))


@pytest.mark.parametrize("name", ["tiny", "tiny_linear", "tiny_entropy", "base"])
def test_every_array(reference, name):
    config, model = reference(name)
    golden = parity.load(name)
    side = config.data.image_size[0]
    count = golden["codes"].shape[0]
    images = parity.weights.reference_images(count, side, parity.SEED)
    text = parity.weights.reference_text(
        count, config.model.text.context_length, config.model.text.vocab_size, parity.SEED
    )
    ours = outputs(model, images, text, entropy="entropy" in name)
    # the methods that users call give what training sees
    for key, method in (("clip_image_features", "image"), ("clip_text_features", "text")):
        np.testing.assert_allclose(ours.pop(f"features_by_encode_{method}"), ours[key], atol=1e-5)

    books, rows = model.quantizer.codebook.shape[:2]
    used = sum(len(np.unique(ours["codes"][:, k])) for k in range(books))
    ours["codebook_usage_percent"] = 100 * used / (books * rows)
    certain = golden["code_margin"] > 1e-4
    assert certain.mean() > 0.99
    assert np.array_equal(ours["codes"][certain], golden["codes"][certain])
    assert ours["codes"].dtype == np.int32
    for key in golden.keys() - {"codes", "code_margin"}:
        ours_, theirs = np.asarray(ours[key]), golden[key]
        assert ours_.shape == theirs.shape, key
        scale = theirs.std() if theirs.ndim else abs(theirs)
        assert np.abs(ours_ - theirs).max() <= TOLERANCE * scale, key
