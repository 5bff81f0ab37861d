"""Schedule, decay mask and optimiser against the reference's own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import parity
from configs import tiny
from unitok_jax import optim, torch_layout
from unitok_jax.models.unitok import abstract_model


@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_schedule(player):
    golden = parity.json_file("schedules.json")[player]
    config = golden["config"]
    schedule = jax.jit(
        lambda step: optim.warmup_cosine(
            step,
            steps=config["max_iter"],
            warmup_fraction=config["warmup_iter"] / config["max_iter"],
            final_fraction=config["end_factor"],
        )
    )
    ours = [float(schedule(jnp.int32(step))) for step in golden["steps"]]
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


def test_adamw_is_optax_adamw():
    params = {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([3.0])}
    grads = {"kernel": jnp.array([[0.3, 0.1]]), "bias": jnp.array([-0.2])}
    ours = optim.adamw(betas=(0.9, 0.95), eps=1e-6, weight_decay=0.02, clip_norm=10.0)
    theirs = optax.adamw(0.1, 0.9, 0.95, 1e-6, weight_decay=0.02, mask=optim.decay_mask)
    expected, _ = theirs.update(grads, theirs.init(params), params)
    updates, _ = ours.update(grads, ours.init(params), params)
    for key in params:
        np.testing.assert_allclose(-0.1 * updates[key], expected[key], rtol=1e-6)


def test_clipping_is_by_the_global_norm():
    params = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}
    optimizer = optax.clip_by_global_norm(10.0)
    grads = jax.tree.map(lambda p: p + 100.0, params)
    updates, _ = optimizer.update(grads, optimizer.init(params))
    assert float(optax.tree.norm(updates)) == pytest.approx(10.0)
