"""Losses by hand and by a second formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from unitok_jax.models.layers import l2_normalize
from unitok_jax.tokenizer import losses

pytestmark = pytest.mark.usefixtures("strict_shapes")


def test_every_term_has_its_weight_in_the_config():
    assert set(default.get_config().loss) == {*losses.TERMS, "contrastive_kind"}
    assert losses.PIXEL_TERMS == ("l1", "l2", "perceptual", "gram")


def test_pixel_losses():
    a, b = jnp.zeros((2, 4, 4, 3)), jnp.full((2, 4, 4, 3), 0.5)
    assert float(losses.l1_loss(a, b)) == 0.5 and float(losses.l2_loss(a, b)) == 0.25


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


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("hinge", (0.5 + 0.0) / 2 + (3.0 + 0.0) / 2),
        ("softplus", None),
        ("linear", (-0.5 - 2.0) / 2 + (2.0 - 4.0) / 2),
    ],
)
def test_discriminator_losses_by_hand(kind, expected):
    real, fake = jnp.array([0.5, 2.0]), jnp.array([2.0, -4.0])
    if expected is None:
        expected = np.mean(np.log1p(np.exp([-0.5, -2.0]))) + np.mean(np.log1p(np.exp([2.0, -4.0])))
    assert float(losses.discriminator_loss(kind, real, fake)) == pytest.approx(expected, rel=1e-6)


def test_generator_losses_by_hand():
    """Both fall with the logit; only the linear one goes on falling once the logit is high."""
    fake = jnp.array([2.0, -4.0, 30.0])
    assert float(losses.generator_loss("linear", fake)) == pytest.approx(-28 / 3)
    expected = np.mean(-np.log(1 / (1 + np.exp([-2.0, 4.0, -30.0]))))
    ours = losses.generator_loss("non_saturating", fake)
    assert float(ours) == pytest.approx(expected, rel=1e-6)
    slopes = jax.grad(lambda fake: 3 * losses.generator_loss("non_saturating", fake))(fake)
    np.testing.assert_allclose(slopes, [-0.119203, -0.982014, 0], atol=1e-6)


def test_adaptive_weight_is_a_ratio_within_limits():
    def weight(a, b):
        return float(losses.adaptive_weight(jnp.float32(a), jnp.float32(b), (0.1, 5.0)))

    assert weight(2.0, 1.0) == pytest.approx(2.0, rel=1e-5)
    assert weight(2.0, 0.0) == 5.0 and weight(0.0, 1.0) == pytest.approx(0.1)
