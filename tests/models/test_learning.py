"""How codebooks learn, beside the losses: gradients against NumPy's reading of the papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from unitok_jax.models import layers
from unitok_jax.models.quantizers import base
from unitok_jax.models.quantizers.base import Learning
from unitok_jax.models.unitok import QUANTIZERS

pytestmark = pytest.mark.slow

KINDS = ("multi_codebook", "residual")
BOOKS, ENTRIES, WIDTH = 4, 64, 32


def make(kind):
    """A quantizer with rows of about unit length."""
    module = QUANTIZERS[kind](
        BOOKS * ENTRIES, BOOKS, WIDTH, commitment_weight=0.25, rngs=nnx.Rngs(0)
    )
    table = module.codebook if kind == "multi_codebook" else module.levels
    table[...] = table[...] * 60
    return module


def normals(key, batch=2, tokens=5):
    return 2 * jax.random.normal(jax.random.key(key), (batch, tokens, WIDTH))


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


class TestRotation:
    LEARNING = Learning(gradient="rotation")

    @staticmethod
    def matrix(start, target):
        """Rodrigues' rotation of one unit vector into another, in the plane of both."""
        turn = np.outer(target, start) - np.outer(start, target)
        return np.eye(len(start)) + turn + turn @ turn / (1 + start @ target)

    @pytest.mark.parametrize("kind", KINDS)
    def test_gradient_is_the_papers(self, kind):
        """|row| R^T g at the unit vector, through its normalisation, row by row in float64."""
        module, latent, cotangent = make(kind), normals(1), normals(2)
        out, pull = jax.vjp(lambda x: module(x, learning=self.LEARNING).latent, latent)
        (ours,) = pull(cotangent)
        width = WIDTH if kind == "residual" else WIDTH // BOOKS
        rows = np.asarray(module.lookup(module.indices(latent)), np.float64).reshape(-1, width)
        np.testing.assert_allclose(out.reshape(-1, width), rows, atol=1e-6)
        vectors = np.asarray(latent, np.float64).reshape(-1, width)
        expected = []
        for x, row, g in zip(vectors, rows, np.asarray(cotangent).reshape(-1, width), strict=True):
            start, target = unit(x), unit(row)
            back = np.linalg.norm(row) * self.matrix(start, target).T @ g
            expected.append((back - start * (start @ back)) / np.linalg.norm(x))
        expected = np.reshape(expected, latent.shape)
        np.testing.assert_allclose(ours, expected, atol=1e-6)
        (straight,) = jax.vjp(lambda x: module(x).latent, latent)[1](cotangent)
        assert np.abs(straight - expected).max() > 0.1

    def test_angle_to_the_row_becomes_the_angle_to_the_vector(self):
        rng = np.random.default_rng(0)
        vector, row = unit(rng.standard_normal((2, 100, 8))).astype(np.float32)
        (back,) = jax.vjp(lambda x: base.rotation(x, 3 * row), vector)[1](3 * row)
        np.testing.assert_allclose(back, 9 * vector, atol=1e-5)

    @pytest.mark.parametrize("vector", [0.0, -1.0], ids=["no direction", "opposite"])
    def test_where_there_is_no_plane_to_turn_in(self, vector):
        row = jnp.array([0.6, 0.8])
        out, pull = jax.vjp(lambda x: base.rotation(x, row), vector * row)
        np.testing.assert_allclose(out, row, atol=1e-7)
        assert np.isfinite(pull(jnp.ones(2))[0]).all()

    @pytest.mark.parametrize("kind", KINDS)
    def test_codes_losses_and_gradients_of_the_rows_are_the_same(self, kind):
        module, latent = make(kind), normals(1)
        graph, params = nnx.split(module)

        def run(params, learning):
            out = nnx.merge(graph, params)(latent, True, learning)
            return out.loss + out.entropy_loss + out.latent.sum(), out

        for learning in (Learning(), self.LEARNING):
            grads, out = jax.grad(run, has_aux=True)(nnx.to_pure_dict(params), learning)
            if learning == Learning():
                expected = grads, out
        np.testing.assert_array_equal(out.codes, expected[1].codes)
        jax.tree.map(
            np.testing.assert_array_equal, (grads, out.loss), (expected[0], expected[1].loss)
        )


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_moving_means_have_no_loss(kind):
    """The commitment alone is left, a fifth of 1.25 errors; and what chose the codes is told."""
    module, latent = make(kind), normals(1)
    graph, params = nnx.split(module)

    def loss(params):
        out = nnx.merge(graph, params)(latent, learning=Learning(means=True))
        return out.loss, out

    grads, out = jax.grad(loss, has_aux=True)(nnx.to_pure_dict(params))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads))
    both = module(latent)
    assert float(out.loss) == pytest.approx(float(both.loss) / 5, rel=1e-5)
    np.testing.assert_array_equal(out.latent, both.latent)
    rows = np.asarray(next(iter(nnx.to_pure_dict(params).values())))
    chosen = rows[np.arange(BOOKS)[:, None], np.asarray(out.codes)]
    if kind == "residual":
        left = np.asarray(layers.l2_normalize(latent))[:, None] - np.cumsum(chosen, 1) + chosen
    else:
        left = layers.l2_normalize(base.split_chunks(latent, BOOKS))
    np.testing.assert_allclose(out.inputs, left, atol=1e-6)


@pytest.mark.parametrize("kind", ["fsq", "bsq"])
def test_a_quantizer_without_rows_learns_in_one_way(kind):
    sizes = {"fsq": (256, 4, 12), "bsq": (256, 4, 24)}[kind]
    module = QUANTIZERS[kind](*sizes, commitment_weight=0.25, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=f"model.quantizer='{kind}' has no rows"):
        module(jnp.ones((1, 2, sizes[2])), learning=Learning(gradient="rotation"))
