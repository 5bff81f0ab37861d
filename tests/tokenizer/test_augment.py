"""DiffAug and the fading blur against the reference, and what must hold for any image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import parity
from unitok_jax.tokenizer import augment


def check(ours, name):
    theirs = parity.load("diffaug")[name]
    error = np.abs(np.asarray(ours) - theirs).max()
    assert error <= 1e-4 * theirs.std(), f"{name}: {error}"


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(parity.load("diffaug")["images"])


@pytest.fixture(scope="module")
def uniform():
    return jnp.asarray(parity.load("diffaug")["rand01"][..., 0, 0])


@pytest.mark.parametrize(
    "name, coins",
    [
        ("translate", (True, False, False)),
        ("color", (False, True, False)),
        ("cutout", (False, False, True)),
        ("all", (True, True, True)),
    ],
)
def test_every_transform_equals_the_reference(images, uniform, name, coins):
    check(augment.diff_aug(images, augment.Draws(jnp.array(coins), uniform)), name)


@pytest.mark.parametrize("coins", [(False,) * 3, (True, False, True), (False, True, False)])
def test_coins_decide_which_transforms_images_and_gradients_pass(images, uniform, coins):
    """To the bit, as if the others were not there."""
    u = uniform

    def chosen(images):
        images = augment.translate(images, u[0], u[1]) if coins[0] else images
        images = augment.colour(images, u[2], u[3], u[4]) if coins[1] else images
        return augment.cutout(images, u[5], u[6]) if coins[2] else images

    def value_and_gradient(function):
        out, back = jax.jit(lambda images: jax.vjp(function, images))(images)
        return out, *back(jnp.cos(7 * images))

    draws = augment.Draws(jnp.array(coins), uniform)
    found = [value_and_gradient(f) for f in (lambda x: augment.diff_aug(x, draws), chosen)]
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_transform_that_is_not_chosen_spoils_nothing(images, uniform):
    """Though it is computed: an image too large for the mean of its pixels stays as it is."""
    draws = augment.Draws(jnp.array([True, False, True]), jnp.full_like(uniform, 0.5))
    huge = jnp.full_like(images, 3e38)
    assert not jnp.isfinite(augment.colour(huge, *draws.uniform[2:5])).any()
    out, back = jax.vjp(lambda x: augment.diff_aug(x, draws), huge)
    assert jnp.isfinite(out).all() and (out.max() == huge).any()
    assert jnp.isfinite(back(jnp.ones_like(out))[0]).all()


@pytest.mark.parametrize("fade", [1.0, 0.6, 0.2, 0.05])
def test_the_blur_equals_the_reference(images, fade):
    check(augment.blur(images, jnp.float32(fade)), f"blur_{fade}")


def test_a_blur_that_has_faded_is_the_identity(images):
    np.testing.assert_array_equal(augment.blur(images, jnp.float32(0.0)), images)


def test_a_blur_keeps_a_constant_image_of_any_shape():
    image = jnp.full((1, 48, 16, 3), 0.3)
    np.testing.assert_allclose(augment.blur(image, jnp.float32(1.0)), image, rtol=1e-6)


def test_tall_and_wide_images_blur_alike(images):
    tall = images[:, :, : images.shape[2] // 2]
    wide = augment.blur(tall.swapaxes(1, 2), jnp.float32(0.7)).swapaxes(1, 2)
    np.testing.assert_allclose(augment.blur(tall, jnp.float32(0.7)), wide, atol=1e-6)


def test_the_blur_does_not_recompile_while_it_fades(images):
    blur = jax.jit(augment.blur)
    for fade in np.linspace(1, 0, 7):
        blur(images, jnp.float32(fade))
    assert blur._cache_size() == 1


def test_draws_follow_their_key_and_probability():
    key = jax.random.key(0)
    always, never = augment.draw(key, 3, 1.0), augment.draw(key, 3, 0.0)
    assert always.coins.all() and not never.coins.any()
    np.testing.assert_array_equal(always.uniform, never.uniform)
    other = augment.draw(jax.random.key(1), 3, 1.0)
    assert not np.array_equal(always.uniform, other.uniform)


def test_gradients_reach_the_image_through_everything(images, uniform):
    draws = augment.Draws(jnp.array([True] * 3), uniform)

    def total(images):
        return jnp.sum(augment.diff_aug(augment.blur(images, jnp.float32(0.5)), draws) ** 2)

    gradient = jax.grad(total)(images)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0
