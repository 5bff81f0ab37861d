"""Losses by hand and by a second formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitok_jax import losses
from unitok_jax.models.layers import l2_normalize


def test_pixel_losses():
    a, b = jnp.zeros((2, 4, 4, 3)), jnp.full((2, 4, 4, 3), 0.5)
    assert float(losses.l1_loss(a, b)) == 0.5 and float(losses.l2_loss(a, b)) == 0.25
    np.testing.assert_allclose(losses.squared_error(a, b.at[1].set(1)), [0.25, 1])


def test_contrastive_loss_by_loops():
    rng = np.random.default_rng(0)
    image, text = (np.asarray(l2_normalize(jnp.array(rng.normal(size=(5, 8))))) for _ in range(2))
    scale, total = 7.0, 0.0
    for i in range(5):
        for row in (scale * text @ image[i], scale * image @ text[i]):
            total += np.log(np.exp(row).sum()) - row[i]
    ours = losses.contrastive_loss(jnp.array(image), jnp.array(text), jnp.float32(scale))
    assert float(ours) == pytest.approx(total / 10, rel=1e-5)


def test_contrastive_loss_of_equal_features_is_chance():
    same = jnp.ones((8, 4)) / 2
    assert float(losses.contrastive_loss(same, same, jnp.float32(14))) == pytest.approx(np.log(8))


def test_contrastive_loss_is_float32_of_full_precision():
    text = str(jax.make_jaxpr(losses.contrastive_loss)(jnp.ones((4, 8)), jnp.ones((4, 8)), 1.0))
    assert text.count("dot_general") == text.count("precision=(Precision.HIGHEST") == 1
