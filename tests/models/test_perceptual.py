"""LPIPS against the reference's numbers, and its contract."""

import types

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


class TestGramDistance:
    def both(self, seeded, size=32):
        """(graph, parameters, two pairs of images, the distance by NumPy in float64)."""
        x, y = pair(size)
        taps = jax.jit(lambda p, x: nnx.merge(seeded[0], p).taps(x))
        expected = np.zeros(2)
        for a, b in zip(taps(seeded[1], x), taps(seeded[1], y), strict=True):
            for image in range(2):
                grams = []
                for features in (a[image], b[image]):
                    rows = np.asarray(features, np.float64).reshape(-1, features.shape[-1])
                    grams.append(rows.T @ rows / rows.size)
                expected[image] += np.linalg.norm(grams[0] - grams[1]) ** 2
        return *seeded, x, y, expected

    @staticmethod
    def distance(model, x, y):
        return model.gram_distance(model.features(x), model.features(y))

    def test_is_that_of_numpy(self, seeded):
        graph, params, x, y, expected = self.both(seeded)
        ours = jax.jit(lambda p, x, y: self.distance(nnx.merge(graph, p), x, y))
        np.testing.assert_allclose(ours(params, x, y), expected, rtol=1e-5)
        assert (expected > 0).all()
        np.testing.assert_array_equal(ours(params, x, x), np.zeros(2))

    def test_nearly_equal_features_keep_their_digits(self):
        """A difference of both matrices in float32 would be wrong by more than the tolerance."""
        rng = np.random.default_rng(0)
        x = rng.uniform(size=(1, 16, 16, 8)).astype(np.float32)
        y = x + np.float32(1e-6) * rng.uniform(size=x.shape).astype(np.float32)
        ours = Lpips.gram_distance(types.SimpleNamespace(remat="none"), [x], [y])
        rows = [z.astype(np.float64).reshape(-1, 8) for z in (x, y)]
        grams = [z.T @ z / z.size for z in rows]
        expected = np.linalg.norm(grams[0] - grams[1]) ** 2
        np.testing.assert_allclose(ours, [expected], rtol=1e-4)
        grams = [(z.T @ z / np.float32(z.size)) for z in (x.reshape(-1, 8), y.reshape(-1, 8))]
        assert abs(np.linalg.norm(grams[0] - grams[1]) ** 2 / expected - 1) > 1e-3

    def test_recomputed_it_has_the_same_gradient(self):
        rng = np.random.default_rng(0)
        x, y = ([rng.normal(size=(2, n, n, 3)).astype(np.float32) for n in (8, 4)] for _ in "xy")
        grads, recomputed = [], []
        for remat in ("none", "blocks"):
            model = types.SimpleNamespace(remat=remat)
            gradient = jax.grad(lambda x, m=model: Lpips.gram_distance(m, x, y).sum())
            text = str(jax.make_jaxpr(gradient)(x))
            recomputed.append("remat" in text or "checkpoint" in text)
            grads.append(gradient(x))
        assert recomputed == [False, True]
        for one, other in zip(*grads, strict=True):
            assert np.abs(one).max() > 0
            np.testing.assert_allclose(one, other, rtol=1e-5)


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
