"""What a step holds to whatever the networks are: keys, limits, what is skipped and what is kept.

The two sides of the step are stand-ins of a few numbers, so every rule is seen by itself.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tiny_full
from unitok_jax.tokenizer.objective import Assigned
from unitok_jax.tokenizer.step import MAX_LOG_SCALE, TokenizerSteps
from unitok_jax.training.optim import Trainable

pytestmark = pytest.mark.slow


class Sides:
    """Objective and adversary of `TokenizerSteps`: their results are set, their arguments kept."""

    decode_every = 1

    def __init__(self, **values):
        self.values = {"loss": 1.0, "gradient": 0.5, "gan_norm": 1.0, "heads": 0.25} | values
        self.keys = []

    def gradients(self, trainable, fixed, heads, frozen, batches, schedule, keys):
        self.keys += list(keys)
        grads = jax.tree.map(lambda p: jnp.full_like(p, self.values["gradient"]), trainable)
        assigned = Assigned(jnp.zeros((1, 1, 1), int), None)
        return grads, assigned, None, {"loss": jnp.float32(self.values["loss"])}

    def schedule(self, step, key):
        self.keys.append(key)

    def update(self, discriminator, heads, dinov2, real, fake, schedule, step, key):
        self.keys.append(key)
        params = jax.tree.map(
            lambda p: jnp.full_like(p, self.values["heads"]), discriminator.params
        )
        return discriminator.replace(params=params), {
            "gan/grad_norm": jnp.float32(self.values["gan_norm"])
        }


def steps(frozen=(), **weights):
    config = tiny_full.get_config()
    config.model.size, config.model.quant_heads = "nano", 2
    config.loss.perceptual = 0.0
    config.optim.warmup_fraction = 0.0
    config.optim.ema_decay = 0.5
    config.optim.frozen = frozen
    config.loss.update(weights)
    return TokenizerSteps(config)


@pytest.fixture(scope="module")
def pure():
    return steps()


@pytest.fixture
def state(pure):
    params = {"logit_scale": jnp.float32(2.0), "layer": {"kernel": jnp.ones(3)}}
    return pure.start(params, Trainable({"kernel": jnp.ones(2)}, {}))


def run(pure, state, adversarial=True, **values):
    """(next state, metrics, sides) of a step; `values` as of `Sides`."""
    pure.objective = pure.adversary = sides = Sides(**values)
    batch = {"image": jnp.zeros((1, 16, 16, 3)), "text": jnp.zeros((1, 4), jnp.int32)}
    frozen = {"dinov2": None}
    after, metrics = pure.train_step(
        state, frozen, batch, adversarial=adversarial, gather=lambda params: params
    )
    return after, metrics, sides


def equal(one, other):
    return all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


@pytest.mark.parametrize(
    "values",
    [
        {"loss": np.nan},
        {"gradient": 1e30},  # whose square is infinite: clipped by its norm it would be 0
        {"gan_norm": np.inf},
        {"heads": np.nan},
    ],
    ids=str,
)
def test_each_side_alone_can_stop_a_step(pure, state, values):
    after, _, _ = run(pure, state, **values)
    assert (after.step, after.skipped, after.skipped_in_a_row) == (1, 1, 1)
    assert equal(after.generator, state.generator) and equal(after.ema, state.ema)
    assert equal(after.discriminator, state.discriminator)


def test_weights_that_are_not_finite_are_not_kept(pure, state):
    broken = state.generator.replace(
        params={"logit_scale": jnp.float32(2.0), "layer": {"kernel": jnp.full(3, np.inf)}}
    )
    after, _, _ = run(pure, state.replace(generator=broken), adversarial=False)
    assert after.skipped == 1


def test_steps_in_a_row_are_counted_from_the_last_good_one(pure, state):
    seen = []
    for loss in (np.nan, 1.0, np.inf, np.nan, 1.0):
        state, metrics, _ = run(pure, state, loss=loss)
        assert metrics["skipped"] == state.skipped
        assert metrics["skipped_in_a_row"] == state.skipped_in_a_row
        seen.append((int(state.step), int(state.skipped), int(state.skipped_in_a_row)))
    assert seen == [(1, 1, 1), (2, 1, 0), (3, 2, 1), (4, 3, 2), (5, 3, 0)]


def test_the_logit_scale_stays_within_the_limits_of_clip(pure, state):
    """From 1 to 100, as its logarithm."""
    for start, gradient, expected in ((4.7, 0.1, MAX_LOG_SCALE), (-0.3, -0.1, 0.0)):
        params = state.generator.params | {"logit_scale": jnp.float32(start)}
        late = state.replace(generator=state.generator.replace(params=params))
        after, _, _ = run(pure, late, gradient=gradient)
        assert float(after.generator.params["logit_scale"]) == pytest.approx(expected)
        assert after.skipped == 0
    after, _, _ = run(pure, state)
    rate = float(pure.learning_rate(0))
    assert float(after.generator.params["logit_scale"]) == pytest.approx(2 - rate, rel=1e-5)


def test_the_sigmoid_loss_limits_no_logit_scale(pure, state):
    """A SigLIP's is above 100, and the bias goes with it."""
    params = state.generator.params | {"logit_scale": jnp.float32(4.7), "logit_bias": jnp.zeros(())}
    after, _, _ = run(pure, pure.start(params, state.discriminator), gradient=-0.1)
    rate = float(pure.learning_rate(0))
    assert float(after.generator.params["logit_scale"]) == pytest.approx(4.7 + rate, rel=1e-6)
    moved = rate * 0.1 / (0.1 + 1e-6)  # AdamW's first update of this gradient, with its epsilon
    assert float(after.generator.params["logit_bias"]) == pytest.approx(moved, rel=1e-5)


def test_what_is_frozen_stays_bit_by_bit():
    """Also in the average, and a logit scale above the limit of those that are trained."""
    pure = steps(frozen=("text.*", "logit_scale"))
    text = {"kernel": jax.random.normal(jax.random.key(0), (1000,))}
    params = {"logit_scale": jnp.float32(4.7), "text": text, "layer": {"kernel": jnp.ones(3)}}
    before = after = pure.start(params, None)
    for _ in range(3):
        after, _, _ = run(pure, after, adversarial=False)
    for name in ("text", "logit_scale"):
        assert equal(after.generator.params[name], before.generator.params[name])
        assert equal(after.ema[name], before.ema[name])
    for params in (after.generator.params, after.ema):
        assert not equal(params["layer"], before.ema["layer"])


def test_what_no_loss_reaches_does_not_decay(pure):
    """As in PyTorch, whose optimisers leave out what has no gradient."""
    assert pure.idle == ()
    params = {part: {"kernel": jnp.ones(3)} for part in ("text_encoder", "projection", "encoder")}
    alone = steps(contrastive=0.0)
    assert set(alone.idle) == {"text_encoder", "projection", "fc_norm"}
    params["logit_scale"] = jnp.float32(2.0)
    after, _, _ = run(alone, alone.start(params, None), adversarial=False, gradient=0.0)
    assert equal(after.generator.params["text_encoder"], params["text_encoder"])
    assert equal(after.generator.params["projection"], params["projection"])
    assert (after.generator.params["encoder"]["kernel"] < 1).all()


def test_the_average_is_of_the_new_weights(pure, state):
    after, _, _ = run(pure, state)
    old, new = (s.generator.params["layer"]["kernel"] for s in (state, after))
    assert not equal(old, new)
    np.testing.assert_allclose(after.ema["layer"]["kernel"], 0.1 * old + 0.9 * new, rtol=1e-6)
    assert after.params is after.ema


def test_both_players_are_the_new_ones(pure, state):
    after, metrics, _ = run(pure, state)
    np.testing.assert_array_equal(after.discriminator.params["kernel"], 0.25)
    assert metrics["grad_norm"] == pytest.approx(1.0)  # four numbers of 0.5
    early, _, _ = run(pure, state, adversarial=False)
    assert equal(early.discriminator, state.discriminator)


def drawn(pure, state, step):
    """The keys that both sides get at a step."""
    keys = run(pure, state.replace(step=jnp.int32(step)))[2].keys
    return [tuple(jax.random.key_data(key).tolist()) for key in keys]


def test_every_step_and_every_purpose_has_a_key_of_its_own(pure, state):
    """Crop or resize, stochastic depth, the generator's augmentations and the discriminator's."""
    keys = [key for step in range(5) for key in drawn(pure, state, step)]
    assert len(keys) == len(set(keys)) == 20
    assert drawn(pure, state, 3) == keys[12:16]
    seed, pure.seed = pure.seed, pure.seed + 1
    try:
        assert not set(drawn(pure, state, 3)) & set(keys)
    finally:
        pure.seed = seed
