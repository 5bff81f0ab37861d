"""Randomness that no loss shows: who draws, how often, and from which distribution.

Statistics over many draws of fixed seeds; each bound is more than four deviations away.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from unitok_jax.data.images.crops import random_box
from unitok_jax.models import layers
from unitok_jax.tokenizer import augment


class Rate(nnx.Module):
    """A block whose output is its drop-path rate and whether it has a key."""

    def __init__(self, rngs):
        self.bias = nnx.Param(jnp.zeros(()))

    def __call__(self, x, rate, key):
        return jnp.stack([rate, 0.0 if key is None else jax.random.uniform(key)]) + 0 * x


class TestStochasticDepth:
    def test_rates_grow_linearly_and_every_block_draws_for_itself(self):
        stack = layers.Stack(Rate, 5, rngs=nnx.Rngs(0), drop_path=0.4, remat="none")
        rates, draws = stack.outputs(jnp.zeros(2), jax.random.key(0)).T
        np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3, 0.4], rtol=1e-6)
        assert len(set(draws.tolist())) == 5
        np.testing.assert_array_equal(stack.outputs(jnp.zeros(2))[:, 1], 0)

    def test_a_sample_is_dropped_whole_and_what_is_kept_is_scaled(self):
        x = jnp.ones((4000, 3, 2))
        out = layers.drop_path(x, jnp.float32(0.2), jax.random.key(0))
        assert (out == out[:, :1, :1]).all()
        kept = np.asarray(out[:, 0, 0])
        np.testing.assert_allclose(np.unique(kept), [0, 1.25])
        assert abs(np.mean(kept > 0) - 0.8) < 0.03

    def test_attention_and_mlp_are_dropped_independently(self):
        """Equal samples come out in four ways: with both residuals, either, or none."""
        block = layers.Block(8, 1, dtype=jnp.float32, stream=jnp.float32, rngs=nnx.Rngs(0))
        x = jnp.broadcast_to(jax.random.normal(jax.random.key(1), (1, 2, 8)), (2000, 2, 8))
        out = block(x, jnp.float32(0.5), jax.random.key(2)).reshape(2000, -1)
        _, counts = np.unique(np.round(out, 4), axis=0, return_counts=True)
        assert len(counts) == 4 and (abs(counts / 2000 - 0.25) < 0.05).all(), counts


class TestAugmentations:
    def test_every_transform_has_a_coin_of_its_own(self):
        keys = jax.random.split(jax.random.key(0), 4000)
        coins = jax.vmap(lambda key: augment.draw(key, 1, 0.5).coins)(keys)
        counts = np.bincount(coins @ np.array([1, 2, 4]), minlength=8)
        assert (abs(counts / 4000 - 1 / 8) < 0.025).all(), counts
        shares = jax.vmap(lambda key: augment.draw(key, 1, 0.2).coins)(keys).mean(axis=0)
        assert (abs(shares - 0.2) < 0.03).all(), shares

    def test_every_image_and_every_transform_draws_for_itself(self):
        draws = np.asarray(augment.draw(jax.random.key(0), 2000, 1.0).uniform)
        assert draws.shape == (7, 2000) and len(np.unique(draws)) > 0.99 * draws.size
        assert 0 <= draws.min() and draws.max() < 1
        correlation = np.corrcoef(draws) - np.eye(7)
        assert abs(correlation).max() < 0.1
        np.testing.assert_allclose(draws.mean(axis=1), 0.5, atol=0.03)
        np.testing.assert_allclose(draws.std(axis=1), 12**-0.5, atol=0.02)

    def test_a_batch_of_equal_images_becomes_different_ones(self):
        images = jnp.broadcast_to(
            jax.random.normal(jax.random.key(1), (1, 16, 16, 3)), (32, 16, 16, 3)
        )
        for number in range(3):  # each transform alone
            draws = augment.draw(jax.random.key(number), 32, 1.0)
            only = draws._replace(coins=jnp.arange(3) == number)
            out = np.asarray(augment.diff_aug(images, only)).reshape(32, -1)
            assert len(np.unique(np.round(out, 5), axis=0)) > 8, number


def boxes(shape, size, scale, ratio, count):
    """(count, 4): top, left, height, width of boxes of as many seeds."""
    return np.array(
        [random_box(shape, size, np.random.default_rng(i), scale, ratio) for i in range(count)]
    )


class TestCrops:
    def test_areas_are_uniform_over_the_whole_range(self):
        _, _, height, width = boxes((1000, 1000), (64, 64), (0.2, 0.6), (1, 1), 3000).T
        area = height * width / 1000**2
        counts, _ = np.histogram(area, bins=8, range=(0.2, 0.6))
        assert counts.sum() > 2980  # sides are whole pixels
        assert (abs(counts / 3000 - 1 / 8) < 0.025).all(), counts

    @pytest.mark.parametrize("size", [(64, 64), (32, 64)])
    def test_aspects_are_uniform_in_their_logarithm(self, size):
        _, _, height, width = boxes((4000, 4000), size, (0.05, 0.05), (1 / 4, 4), 3000).T
        aspect = np.log(width / height * size[0] / size[1])
        counts, _ = np.histogram(aspect, bins=8, range=(-np.log(4.02), np.log(4.02)))
        assert counts.sum() == 3000
        assert (abs(counts / 3000 - 1 / 8) < 0.025).all(), counts

    def test_every_place_comes_equally_often(self):
        """The first and the last row and column included."""
        top, left, height, width = boxes((8, 9), (64, 64), (0.25, 0.25), (1, 1), 5000).T
        assert (height == 4).all() and (width == 4).all()
        for start, places in ((top, 5), (left, 6)):
            counts = np.bincount(start)
            assert len(counts) == places
            assert (abs(counts / 5000 - 1 / places) < 0.025).all(), counts

    def test_rows_and_columns_are_drawn_apart(self):
        top, left, _, _ = boxes((100, 100), (64, 64), (0.25, 0.25), (1, 1), 2000).T
        assert abs(np.corrcoef(top, left)[0, 1]) < 0.1
