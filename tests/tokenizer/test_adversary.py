"""The adversary's rules with networks of a few numbers: who draws what, and what is averaged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import tiny_full
from unitok_jax.tokenizer import augment, losses
from unitok_jax.tokenizer.adversary import Adversary
from unitok_jax.tokenizer.times import Times

pytestmark = pytest.mark.slow


class Features(nnx.Module):
    """In place of DINOv2: the mean colours of four rows."""

    def __init__(self, *, dtype, stream=None, remat=False, rngs):
        pass

    def __call__(self, images):
        return (images.reshape(len(images), 4, -1, 3).mean(axis=2),)


class Heads(nnx.Module):
    """In place of the heads: a logit for every row."""

    def __init__(self, *, rngs):
        self.kernel = nnx.Param(jnp.array([1.0, -2.0, 0.5]))

    def __call__(self, features):
        return jnp.sin(3 * features[0] @ self.kernel[...])


@pytest.fixture
def make(monkeypatch):
    """A function: an `Adversary` with these keys of `gan`."""
    monkeypatch.setattr("unitok_jax.tokenizer.adversary.DinoV2", Features)
    monkeypatch.setattr("unitok_jax.tokenizer.adversary.DiscriminatorHeads", Heads)

    def build(**changes):
        config = tiny_full.get_config()
        config.steps = 1000
        config.gan.update(changes)
        return Adversary(
            config.gan,
            Times.from_fractions(config.steps, config.optim, config.gan),
            schedule="cosine",
            dtype="float32",
            stream="float32",
            remat=False,
        )

    return build


def images(seed, count=4):
    return jax.random.uniform(jax.random.key(seed), (count, 28, 28, 3), minval=-1)


def logits(images):
    return Heads(rngs=nnx.Rngs(0))(Features(dtype=None, rngs=None)(images))


def late(adversary):
    """The schedule values of a step at which the blur has faded."""
    return adversary.schedule(jnp.int32(999), jax.random.key(0))


def test_every_view_is_augmented_with_a_key_of_its_own(make, monkeypatch):
    keys, draw = [], augment.draw

    def record(key, *args, **kwargs):
        keys.append(tuple(jax.random.key_data(key).tolist()))
        return draw(key, *args, **kwargs)

    monkeypatch.setattr(augment, "draw", record)
    adversary = make(augment_probability=1.0, consistency=4.0)
    heads = adversary.init(jax.random.key(0)).params
    args = heads, {}, images(1), images(2), late(adversary)
    adversary.discriminator_loss(*args, jax.random.key(1))
    assert len(keys) == len(set(keys)) == 4
    adversary.discriminator_loss(*args, jax.random.key(2))
    assert len(set(keys)) == 8


def test_losses_are_those_of_the_logits(make):
    adversary = make(augment_probability=0.0, consistency=0.0)
    heads, key = adversary.init(jax.random.key(0)).params, jax.random.key(1)
    real, fake = images(1), images(2)
    value, parts = adversary.discriminator_loss(heads, {}, real, fake, late(adversary), key)
    expected = losses.discriminator_loss("hinge", logits(real), logits(fake))
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    assert float(parts["accuracy_real"]) == pytest.approx(float(np.mean(logits(real) > 0)))
    assert float(parts["accuracy_fake"]) == pytest.approx(float(np.mean(logits(fake) < 0)))
    value = adversary.generator_loss(heads, {}, fake, late(adversary), key)
    assert float(value) == pytest.approx(-float(np.mean(logits(fake))), rel=1e-5)


def test_the_generators_loss_may_be_non_saturating(make):
    adversary = make(augment_probability=0.0, generator_loss="non_saturating")
    heads, fake = adversary.init(jax.random.key(0)).params, images(2)
    value = adversary.generator_loss(heads, {}, fake, late(adversary), jax.random.key(1))
    expected = np.mean(np.log1p(np.exp(-np.asarray(logits(fake), np.float64))))
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_the_generators_images_are_augmented(make):
    adversary = make(augment_probability=1.0)
    heads = adversary.init(jax.random.key(0)).params
    values = {
        float(adversary.generator_loss(heads, {}, images(1), late(adversary), jax.random.key(seed)))
        for seed in range(4)
    }
    assert len(values) == 4


def test_both_players_see_the_blur(make):
    adversary = make(augment_probability=0.0, consistency=0.0)
    heads, key = adversary.init(jax.random.key(0)).params, jax.random.key(1)
    real, fake = images(1), images(2)
    early = late(adversary)._replace(fade=jnp.float32(1.0))
    one, other = (augment.blur(x, jnp.float32(1.0)) for x in (real, fake))
    value, _ = adversary.discriminator_loss(heads, {}, real, fake, early, key)
    expected = losses.discriminator_loss("hinge", logits(one), logits(other))
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    value = adversary.generator_loss(heads, {}, fake, early, key)
    assert float(value) == pytest.approx(-float(np.mean(logits(other))), rel=1e-5)


def test_an_update_is_that_of_the_whole_batch(make):
    adversary = make(augment_probability=0.0, consistency=0.0)
    start, found = adversary.init(jax.random.key(0)), []
    for count in (1, 2, 4):
        real, fake = (x.reshape(count, -1, *x.shape[1:]) for x in (images(1), images(2)))
        args = real, fake, late(adversary), jnp.int32(900), jax.random.key(3)
        after, metrics = adversary.update(start, start.params, {}, *args)
        found.append(
            (after.params["kernel"], metrics["gan/grad_norm"], metrics["gan/discriminator"])
        )
        assert not np.array_equal(after.params["kernel"], start.params["kernel"])
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)


def test_consistency_is_weighted(make):
    values = []
    for weight in (1.0, 3.0):
        adversary = make(augment_probability=1.0, consistency=weight)
        args = adversary.init(jax.random.key(0)).params, {}, images(1), images(2), late(adversary)
        value, parts = adversary.discriminator_loss(*args, jax.random.key(1))
        assert parts["consistency"] > 0
        assert float(value - parts["discriminator"]) == pytest.approx(
            weight * float(parts["consistency"]), rel=1e-4
        )
        values.append(float(parts["consistency"]))
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_crop_or_resize_is_a_coin_and_a_place(make):
    adversary = make(crop_probability=0.3)
    keys = jax.random.split(jax.random.key(0), 3000)
    schedule = jax.vmap(adversary.schedule, (None, 0))(jnp.int32(999), keys)
    assert abs(np.mean(schedule.crop) - 0.3) < 0.04
    assert abs(np.corrcoef(np.asarray(schedule.offset).T)[0, 1]) < 0.1
    assert abs(np.corrcoef(schedule.crop, schedule.offset[:, 0])[0, 1]) < 0.1
    np.testing.assert_allclose(np.mean(schedule.offset, axis=0), 0.5, atol=0.03)
    assert schedule.offset.min() >= 0 and schedule.offset.max() < 1
