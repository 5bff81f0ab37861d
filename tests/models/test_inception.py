"""FID's Inception-v3 against the reference's numbers, and its contract."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from helpers import parity
from unitok_jax.models.pretrained import inception
from unitok_jax.weights import pretrained, torch_layout

pytestmark = pytest.mark.slow

TAPS = {
    "pool1": "features_64",
    "pool2": "features_192",
    "mixed6": "features_768",
    "pool3": "features_2048",
    "logits_unbiased": "features_logits_unbiased",
    "logits": "features_logits",
}


def build(dtype=jnp.float32):
    return inception.Inception(dtype=dtype, rngs=nnx.Rngs(0))


def pictures():
    images = parity.weights.reference_images(2, 256, parity.SEED + 31)
    return ((images + 1) * np.float32(127.5)).round().astype(np.uint8)


@pytest.fixture(scope="module")
def seeded():
    """(graph, parameters) with the reference's weights."""
    graph, abstract = nnx.split(nnx.eval_shape(build))
    abstract = nnx.to_pure_dict(abstract)
    state = parity.network_state("inception")
    params = torch_layout.from_torch(state, abstract, pretrained.INCEPTION_ROWS, fixed={})
    return graph, jax.tree.map(jnp.asarray, params)


def first_branch(model, images):
    """(B, 17, 17, 192): what TensorFlow calls mixed_6/conv, the third block of 17 x 17."""
    x = (inception.resize(images.astype(jnp.float32)) - 128) / 128
    x = model.Conv2d_2b_3x3(model.Conv2d_2a_3x3(model.Conv2d_1a_3x3(x)))
    x = inception._max_pool(x)
    x = inception._max_pool(model.Conv2d_4a_3x3(model.Conv2d_3b_1x1(x)))
    for name in ("5b", "5c", "5d", "6a", "6b", "6c"):
        x = getattr(model, f"Mixed_{name}")(x)
    return model.Mixed_6d.branch1x1(x)


@pytest.fixture(scope="module")
def outputs(seeded):
    """The features, and the output of `first_branch`, of one program."""

    def both(params, images):
        model = nnx.merge(seeded[0], params)
        return model(images), first_branch(model, images)

    return jax.jit(both)(seeded[1], pictures())


@pytest.fixture(scope="module")
def features(outputs):
    return outputs[0]


def test_spatial_features_are_rows_columns_channels(outputs):
    """As NumPy flattens ADM's array [..., :7]; its statistics are in this order."""
    found = np.asarray(outputs[0].spatial)
    assert found.shape == (2, inception.SPATIAL) == (2, 2023) and found.std() > 0
    wanted = np.asarray(outputs[1])[..., :7].reshape(2, -1)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tap", TAPS)
def test_parity(features, tap):
    ours, theirs = getattr(features, tap), parity.load("inception")[TAPS[tap]]
    assert ours.shape == theirs.shape and ours.dtype == jnp.float32
    assert np.abs(ours - theirs).max() <= 1e-4 * theirs.std()


def test_every_golden_tap_is_compared():
    names = {name for name in parity.load("inception") if name.startswith("features_")}
    assert names == set(TAPS.values())
    assert {*TAPS, "spatial"} == set(inception.Features._fields)


def test_names_go_both_ways(seeded):
    ours = torch_layout.to_torch(seeded[1], pretrained.INCEPTION_ROWS, fixed={})
    theirs = parity.network_state("inception")
    assert ours.keys() == theirs.keys()
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name])


class TestResize:
    def test_size_of_the_network_is_left_alone(self):
        images = np.random.default_rng(0).uniform(0, 255, (1, 299, 299, 3)).astype(np.float32)
        np.testing.assert_allclose(inception.resize(images), images, rtol=1e-6)

    def test_pixels_are_taken_from_corners(self):
        """Twice as many: every second pixel is an original one, the others lie between."""
        side = 2 * inception.SIDE
        ramp = np.broadcast_to(np.arange(side, dtype=np.float32)[:, None, None], (side, side, 3))
        out = inception.resize(jnp.asarray(ramp[None]))
        np.testing.assert_allclose(out[0, :, 0, 0], np.arange(0, side, 2), rtol=1e-6)

    @pytest.mark.parametrize("shape", [(1, 1), (64, 256), (300, 31)])
    def test_constant_stays(self, shape):
        out = inception.resize(jnp.full((1, *shape, 3), 7.0))
        assert out.shape == (1, 299, 299, 3)
        np.testing.assert_allclose(out, 7, rtol=1e-6)


@pytest.mark.parametrize(
    "shape, dtype", [((1, 32, 32, 3), "float32"), ((1, 32, 32, 1), "uint8"), ((32, 32, 3), "uint8")]
)
def test_images_that_do_not_fit(shape, dtype):
    with pytest.raises(ValueError, match="uint8 images"):
        jax.eval_shape(lambda x: build()(x), jax.ShapeDtypeStruct(shape, dtype))
