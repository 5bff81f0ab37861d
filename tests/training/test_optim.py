"""Schedule, decay mask and optimiser against the reference's own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from configs import tiny, tiny_full
from helpers import parity
from unitok_jax import trees
from unitok_jax.models.discriminator import DiscriminatorHeads
from unitok_jax.models.unitok import abstract_model
from unitok_jax.tokenizer.step import TokenizerSteps
from unitok_jax.training import optim
from unitok_jax.weights import torch_layout

pytestmark = pytest.mark.usefixtures("strict_shapes")

KINDS = {"cos": "cosine", "lin0": "linear", "exp": "exponential"}


@pytest.mark.parametrize("name", ["generator", "discriminator", "linear", "exponential"])
def test_schedule(name):
    golden = parity.json_file("schedules.json")[name]
    config = golden["config"]
    schedule = jax.jit(
        lambda step: optim.learning_rate_schedule(
            step,
            kind=KINDS[config["type"]],
            steps=config["max_iter"],
            warmup_steps=config["warmup_iter"],
            start_fraction=config["start_factor"],
            final_fraction=config["end_factor"],
        )
    )
    ours = [float(schedule(jnp.int32(step))) for step in golden["steps"]]
    np.testing.assert_allclose(ours, golden["multiplier"], rtol=1e-5, atol=1e-7)


def test_a_constant_schedule_never_decays():
    """Neither player's rate, whatever `final_fraction` is; the warm-ups stay."""
    config = tiny_full.get_config()
    config.steps, config.optim.schedule = 100, "constant"
    config.optim.warmup_fraction, config.optim.learning_rate = 0.04, 3e-4
    config.gan.start_fraction, config.gan.warmup_fraction = 0.1, 0.02
    config.gan.learning_rate = 2e-4
    pure = TokenizerSteps(config)
    steps = jnp.array([0, 1, 4, 50, 99])
    np.testing.assert_allclose(
        jax.vmap(pure.learning_rate)(steps) / 3e-4, [0, 0.25, 1, 1, 1], rtol=1e-6
    )
    ours = jax.vmap(pure.adversary.learning_rate)(steps + 10) / 2e-4
    np.testing.assert_allclose(ours, [0, 0.5, 1, 1, 1], rtol=1e-6)


def test_ramps_of_the_adversary():
    golden = parity.json_file("schedules.json")["gan_ramps"]
    config = tiny_full.get_config()
    config.steps = golden["iters_per_epoch"]
    config.gan.start_fraction = golden["disc_start_ep"]
    config.gan.ramp_fraction = golden["disc_warmup_ep"]
    config.gan.blur_fraction = 2 * golden["disc_warmup_ep"]
    adversary = TokenizerSteps(config).adversary
    schedule = jax.vmap(adversary.schedule, (0, None))(
        jnp.array(golden["steps"]), jax.random.key(0)
    )
    weights = config.gan.weight * np.array(golden["disc_weight"])
    np.testing.assert_allclose(schedule.weight, weights, atol=1e-6)
    np.testing.assert_allclose(schedule.fade, golden["blur"], atol=1e-6)
    acts = [adversary.acts(step) for step in golden["steps"]]
    assert acts == [weight > 0 for weight in golden["disc_weight"]]


def test_a_ramp_without_length_is_a_step():
    assert [float(optim.ramp(jnp.int32(step), 3, 0)) for step in (2, 3, 4)] == [0, 1, 1]


def test_an_adversary_without_start_and_ramp_acts_from_the_first_step_on():
    config = tiny_full.get_config()
    config.steps, config.gan.weight, config.gan.adaptive = 100, 0.1, False
    config.gan.start_fraction = config.gan.ramp_fraction = config.gan.blur_fraction = 0.0
    adversary = TokenizerSteps(config).adversary
    assert adversary.adaptive_limits is None
    for step in (0, 1, 99):
        schedule = adversary.schedule(jnp.int32(step), jax.random.key(0))
        assert adversary.acts(step) and schedule.weight == np.float32(0.1) and schedule.fade == 0
    config.gan.ramp_fraction = 0.02
    adversary = TokenizerSteps(config).adversary
    weights = jax.vmap(adversary.schedule, (0, None))(jnp.arange(4), jax.random.key(0)).weight
    np.testing.assert_allclose(weights, [0, 0.05, 0.1, 0.1], rtol=1e-6)
    assert [adversary.acts(step) for step in range(4)] == [False, True, True, True]


def test_the_discriminators_schedule_begins_with_it():
    golden = parity.json_file("schedules.json")["discriminator"]
    config = tiny_full.get_config()
    config.steps, config.gan.learning_rate = 10_000, 1.0
    adversary = TokenizerSteps(config).adversary
    ours = [float(adversary.learning_rate(jnp.int32(3750 + step))) for step in golden["steps"]]
    np.testing.assert_allclose(ours, golden["multiplier"], rtol=1e-5, atol=1e-7)


def test_decay_mask_is_the_references():
    model = tiny.get_config().model
    model.text.vocab_size, model.text.context_length = 512, 16
    _, params = abstract_model(model.to_dict())
    mask = optim.decay_mask(params)
    ours = set()
    for name, entry in torch_layout.entries(params).items():
        leaf = mask
        for key in entry.path:
            leaf = leaf[key]
        if leaf:
            ours.add(name)
    assert ours == set(parity.json_file("param_groups.json")["weight_decay"])


def test_decay_mask_of_the_discriminator_is_the_references():
    params = nnx.to_pure_dict(
        nnx.state(nnx.eval_shape(lambda: DiscriminatorHeads(rngs=nnx.Rngs(0))))
    )
    mask = trees.flatten(optim.decay_mask(params))
    names = torch_layout.entries(params, torch_layout.DISCRIMINATOR_ROWS)
    ours = {name for name, e in names.items() if mask[".".join(map(str, e.path))]}
    assert ours == set(parity.json_file("param_groups.json")["disc_weight_decay"])


def test_adamw_is_optax_adamw():
    params = {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([3.0])}
    grads = {"kernel": jnp.array([[0.3, 0.1]]), "bias": jnp.array([-0.2])}
    ours = optim.adamw(betas=(0.9, 0.95), eps=1e-6, weight_decay=0.02, clip_norm=10.0)
    theirs = optax.adamw(0.1, 0.9, 0.95, 1e-6, weight_decay=0.02, mask=optim.decay_mask)
    states = ours.init(params), theirs.init(params)
    for factor in (1.0, -3.0):  # the first update has the same size whatever the decays
        given = jax.tree.map(lambda g, factor=factor: factor * g, grads)
        updates, mine = ours.update(given, states[0], params)
        expected, other = theirs.update(given, states[1], params)
        states = mine, other
        for key in params:
            np.testing.assert_allclose(-0.1 * updates[key], expected[key], rtol=1e-5)


def test_clipping_is_by_the_global_norm():
    params = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}
    optimizer = optim.adamw(betas=(0.0, 0.95), eps=1e-6, weight_decay=0.0, clip_norm=10.0)
    grads = jax.tree.map(lambda p: p + 100.0, params)
    _, state = optimizer.update(grads, optimizer.init(params), params)
    assert float(optax.tree.norm(state[1].mu)) == pytest.approx(10.0)


def test_one_update_takes_the_learning_rate_of_the_step():
    trainable = optim.Trainable({"kernel": jnp.array([1.0])}, optax.EmptyState())
    after = optim.apply(optax.identity(), trainable, {"kernel": jnp.array([2.0])}, 0.25)
    assert float(after.params["kernel"][0]) == 0.5


def test_ema_forgets_its_youth_and_then_decays():
    average, params = {"a": jnp.array([0.0])}, {"a": jnp.array([1.0])}
    first = optim.ema(average, params, 0.999, jnp.int32(0))
    late = optim.ema(average, params, 0.999, jnp.int32(10**6))
    assert float(first["a"][0]) == pytest.approx(0.9)
    assert float(late["a"][0]) == pytest.approx(0.001, rel=1e-4)
