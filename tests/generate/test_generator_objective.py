"""Loss of a generator: the memory of its logits and of its blocks."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from helpers import arrays, generators
from helpers.jaxprs import equations
from unitok_jax.generate import objective
from unitok_jax.generate.step import abstract_model

B, K, N, V = 3, 2, 6, 11


def loss_of(chunk=2, **changes):
    """(function of parameters, with dropout, and the parameters)."""
    weights = generators.weights(vocab_size=K * V, dropout=0.1, **changes)
    graph, _ = abstract_model(weights.config.model.to_dict())
    codes = jnp.asarray(np.random.default_rng(0).integers(0, V, (B, K, N)))

    def loss(params):
        model = nnx.merge(graph, params)
        prompt = model.prompt(jnp.arange(B))
        return objective.losses(model, codes, prompt, key=jax.random.key(0), chunk=chunk).mean()

    return loss, weights.params


@pytest.mark.parametrize("chunk", [1, 2, 6])
def test_logits_of_a_chunk_exist_at_a_time(chunk):
    """In the backward pass too; those of the head are the only arrays with an axis of V and none of
    the width."""
    loss, params = loss_of(chunk)
    found = equations(jax.make_jaxpr(jax.grad(loss))(params))
    shapes = [variable.aval.shape for e in found for variable in e.outvars]
    sizes = [math.prod(shape) for shape in shapes if V in shape and 64 not in shape]
    assert max(sizes) == B * chunk * K * V


def test_blocks_of_trunk_and_head_are_computed_again():
    """And the logits, whether the blocks are or not."""
    counts = []
    for remat in ("blocks", "none"):
        loss, params = loss_of(remat=remat)
        names = [e.primitive.name for e in equations(jax.make_jaxpr(loss)(params))]
        counts.append(sum(name in ("remat2", "checkpoint", "remat") for name in names))
    assert counts == [3, 1]


@pytest.mark.slow
def test_what_is_computed_again_changes_no_gradient():
    (loss, params), (again, _) = (loss_of(remat=remat) for remat in ("none", "blocks"))
    ours, theirs = (jax.device_get(jax.jit(jax.grad(each))(params)) for each in (loss, again))
    assert all(map(np.any, jax.tree.leaves(ours)))
    assert arrays.error(ours, theirs) < 1e-6
