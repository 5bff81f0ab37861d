"""DINOv2 against the reference's numbers, and its contract."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from helpers import parity
from unitok_jax.models import layers
from unitok_jax.models.pretrained import dinov2, vit
from unitok_jax.weights import pretrained, torch_layout

pytestmark = pytest.mark.slow


def build(dtype=jnp.float32, stream=jnp.float32):
    return dinov2.DinoV2(dtype=dtype, stream=stream, rngs=nnx.Rngs(0))


def state():
    # Entries of the file that features before the final norm do not need.
    unused = {"mask_token", "norm.weight", "norm.bias"}
    names = parity.network_state("dino")
    assert unused < names.keys()
    return {name: array for name, array in names.items() if name not in unused}


@pytest.fixture(scope="module")
def seeded():
    """(graph, parameters) with the reference's weights."""
    graph, abstract = nnx.split(nnx.eval_shape(build))
    abstract = nnx.to_pure_dict(abstract)
    params = torch_layout.from_torch(state(), abstract, pretrained.DINOV2_ROWS, fixed={})
    return graph, jax.tree.map(jnp.asarray, params)


def test_parity_of_every_tap(seeded):
    graph, params = seeded
    # The reference's taps were taken behind the conversion to ImageNet's statistics: undo ours.
    images = parity.weights.reference_images(2, 252, parity.SEED + 11)
    images = 2 * (images * np.float32(dinov2.STD) + np.float32(dinov2.MEAN)) - 1

    @jax.jit
    def forward(params, images):
        model = nnx.merge(graph, params)
        return model.taps(images), model(images)

    taps, features = forward(params, images)
    golden = parity.load("losses")
    for block, tap, feature in zip(dinov2.TAPS, taps, features, strict=True):
        assert tap.shape == (2, 1 + 18 * 18, 384) and tap.dtype == jnp.float32
        for key, token in (("cls", 0), ("patch0", 1)):
            theirs = golden[f"dino_depth{block}_{key}"]
            assert np.abs(tap[:, token] - theirs).max() <= 1e-4 * theirs.std(), (block, key)
        np.testing.assert_array_equal(feature, tap[:, 1:] + tap[:, :1])


def test_names_go_both_ways(seeded):
    ours = torch_layout.to_torch(seeded[1], pretrained.DINOV2_ROWS, fixed={})
    theirs = state()
    assert ours.keys() == theirs.keys()
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name])


def test_bfloat16_stays_near_and_nearer_with_a_float32_stream(seeded):
    images = parity.weights.reference_images(2, 56, parity.SEED + 11)
    forward = jax.jit(lambda graph, p, x: nnx.merge(graph, p)(x), static_argnums=0)
    exact = forward(seeded[0], seeded[1], images)
    errors = []
    for stream in (jnp.float32, jnp.bfloat16):
        graph = nnx.graphdef(nnx.eval_shape(lambda s=stream: build(jnp.bfloat16, s)))
        half = forward(graph, seeded[1], images)
        assert all(b.dtype == jnp.float32 for b in half)
        errors.append([np.abs(a - b).max() / a.std() for a, b in zip(exact, half, strict=True)])
    for wide, narrow in zip(*errors, strict=True):
        assert wide < narrow < 0.1


def test_images_are_converted_to_imagenets_statistics():
    """The mean colour is zero behind the conversion: only the bias of the embedding is left."""
    model = jax.jit(lambda: nnx.state(build()))
    graph = nnx.graphdef(nnx.eval_shape(build))
    grey = 2 * np.broadcast_to(np.float32(dinov2.MEAN), (1, 28, 28, 3)) - 1
    bright = grey + 2 * np.float32(dinov2.STD)

    def embedded(params, images):
        model = nnx.merge(graph, params)
        tokens = model.tokens(images)[:, 1:]
        table = vit.resample(model.pos_embed[0, 1:].reshape(37, 37, -1), 2, 2, 0.1)
        return tokens - table.reshape(1, 4, -1)

    params = model()
    kernel = params["patch_embed"]["proj"]["kernel"][...]
    np.testing.assert_allclose(embedded(params, grey), 0, atol=1e-5)
    expected = np.broadcast_to(kernel.sum((0, 1, 2)), (1, 4, 384))
    np.testing.assert_allclose(embedded(params, bright), expected, atol=1e-4)


class TestPositionTable:
    @pytest.mark.parametrize("size", [1, 4, 16, 18, 36, 38, 50])
    def test_rows_sum_to_one(self, size):
        matrix = layers.bicubic_matrix(37, size, 37 / (size + 0.1))
        np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-6)

    @pytest.mark.parametrize("rows, columns", [(4, 4), (18, 18), (16, 40), (37, 18)])
    def test_equals_pytorch(self, rows, columns):
        torch = pytest.importorskip("torch")
        table = np.random.default_rng(0).standard_normal((37, 37, 8)).astype(np.float32)
        theirs = torch.nn.functional.interpolate(
            torch.tensor(table.transpose(2, 0, 1))[None],
            scale_factor=((rows + 0.1) / 37, (columns + 0.1) / 37),
            mode="bicubic",
        )[0]
        ours = vit.resample(jnp.asarray(table), rows, columns, 0.1)
        np.testing.assert_allclose(ours, theirs.numpy().transpose(1, 2, 0), atol=2e-5)

    def test_trained_size_is_left_alone(self):
        table = jnp.arange(37 * 37 * 2.0).reshape(37, 37, 2)
        np.testing.assert_array_equal(vit.resample(table, 37, 37, 0.1), table)


def test_a_fresh_one_keeps_the_signal_alive():
    images = parity.weights.reference_images(2, 28, 0)
    features = jax.jit(lambda x: build()(x))(images)
    assert all(f.shape == (2, 4, 384) and 0.05 < float(f.std()) < 10 for f in features)
    # tokens and images still differ at the last depth
    assert float(features[-1].std(axis=1).mean()) > 0.05
    assert float(np.abs(features[-1][0] - features[-1][1]).mean()) > 0.05


@pytest.mark.parametrize("shape", [(1, 13, 14, 3), (1, 28, 30, 3), (1, 0, 14, 3), (1, 28, 28, 1)])
def test_sizes_that_do_not_fit(shape):
    with pytest.raises(ValueError, match="multiples of 14"):
        jax.eval_shape(lambda x: build()(x), jax.ShapeDtypeStruct(shape, jnp.float32))


def test_sides_may_differ():
    shapes = jax.eval_shape(lambda x: build()(x), jax.ShapeDtypeStruct((3, 28, 56, 3), jnp.float32))
    assert [s.shape for s in shapes] == [(3, 8, 384)] * 5
