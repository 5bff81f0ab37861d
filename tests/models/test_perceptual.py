"""LPIPS against the reference's numbers, and its contract."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from helpers import parity
from unitok_jax.models.pretrained.lpips import Lpips
from unitok_jax.weights import pretrained, torch_layout

pytestmark = pytest.mark.slow


def build(dtype=jnp.float32, seed=0):
    return Lpips(dtype=dtype, rngs=nnx.Rngs(seed))


@pytest.fixture(scope="module")
def seeded():
    """(graph, parameters) with the reference's weights."""
    graph, abstract = nnx.split(nnx.eval_shape(build))
    abstract = nnx.to_pure_dict(abstract)
    state = parity.network_state("lpips")
    params = torch_layout.from_torch(state, abstract, pretrained.LPIPS_ROWS, fixed={})
    return graph, jax.tree.map(jnp.asarray, params)


@pytest.fixture(scope="module")
def fresh():
    return jax.jit(lambda x, y: build()(x, y))


def pair(size, count=2):
    make = parity.weights.reference_images
    return make(count, size, parity.SEED + 11), make(count, size, parity.SEED + 12)


@pytest.mark.parametrize("size", [64, 252, 256])
def test_parity(seeded, size):
    graph, params = seeded
    distance = jax.jit(lambda p, x, y: nnx.merge(graph, p)(x, y))(params, *pair(size))
    assert distance.shape == (2,) and distance.dtype == jnp.float32
    golden = parity.load("losses")[f"lpips_{size}"]
    assert float(distance.mean()) == pytest.approx(float(golden), rel=1e-4)


def test_names_go_both_ways(seeded):
    theirs = parity.network_state("lpips")
    ours = torch_layout.to_torch(seeded[1], pretrained.LPIPS_ROWS, fixed={})
    assert ours.keys() == theirs.keys()
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name])


def test_bfloat16_stays_near(seeded):
    graph = nnx.graphdef(nnx.eval_shape(lambda: build(jnp.bfloat16)))
    distance = jax.jit(lambda p, x, y: nnx.merge(graph, p)(x, y))(seeded[1], *pair(64))
    assert distance.dtype == jnp.float32
    assert float(distance.mean()) == pytest.approx(
        float(parity.load("losses")["lpips_64"]), rel=2e-2
    )


def test_is_a_distance_of_every_pair(fresh):
    x, y = pair(64)
    forth, back = fresh(x, y), fresh(y, x)
    np.testing.assert_array_equal(fresh(x, x), np.zeros(2))
    np.testing.assert_allclose(forth, back, rtol=1e-6)
    assert (forth > 1e-3).all()
    swapped = fresh(x[::-1], y[::-1])
    np.testing.assert_allclose(swapped, forth[::-1], rtol=1e-5)


def test_a_fresh_one_keeps_the_signal_alive():
    taps = jax.jit(lambda x: build().taps(x))(pair(64)[0])
    assert [tap.shape for tap in taps] == [
        (2, 64, 64, 64),
        (2, 32, 32, 128),
        (2, 16, 16, 256),
        (2, 8, 8, 512),
        (2, 4, 4, 512),
    ]
    for tap in taps:
        assert 0.1 < float(tap.std()) < 10


def test_gradient_is_finite_for_black_and_for_equal_images():
    gradient = jax.jit(jax.grad(lambda x, y: build()(x, y).sum()))
    x, y = pair(32)
    grey = np.zeros_like(x) + np.float32([-0.030, -0.088, -0.188])  # every feature is zero
    for a, b in ((x, y), (grey, y), (x, x)):
        assert np.isfinite(gradient(a, b)).all()
    assert np.abs(gradient(x, y)).max() > 0


@pytest.mark.parametrize("shapes", [((1, 15, 32, 3),) * 2, ((1, 32, 32, 3), (2, 32, 32, 3))])
def test_shapes_that_do_not_fit(shapes):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    with pytest.raises(ValueError, match="LPIPS"):
        jax.eval_shape(lambda x, y: build()(x, y), *arrays)
