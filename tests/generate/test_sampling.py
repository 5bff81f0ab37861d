"""Sampling: guidance is the equation's, of each token and codebook."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from helpers import generators
from helpers.jaxprs import equations, products
from unitok_jax.generate import objective, sampling
from unitok_jax.generate.model import Generator
from unitok_jax.generate.step import abstract_model
from unitok_jax.models.layers import Keys
from unitok_jax.models.sampling import Filters
from unitok_jax.models.transformer import grid_rope


def traced(weights, count, *, guided=False, until=None, known=None):
    """The jaxpr of sampling for `count` labels, of which nothing is computed."""
    graph, _ = abstract_model(weights.config.model.to_dict())
    labels = jnp.zeros(count * (1 + guided), int)

    def draw(params):
        model = nnx.merge(graph, params)
        tokens, books = np.prod(model.grid), model.num_codebooks
        more = {} if known is None else {"known": jnp.asarray(known)}
        return sampling.sample(
            model,
            model.prompt(labels),
            jax.random.split(jax.random.key(0), count),
            filters=Filters(),
            scale=jnp.ones((tokens, books)) if guided else None,
            until=until,
            given=jnp.zeros((count, books, tokens), int) if more else None,
            **more,
        )

    return jax.make_jaxpr(draw)(weights.params)


def run(weights, labels, scale=None, until=None, seed=0):
    """(codes, logits that they were drawn from, logits (2, B, K, N, V) of a whole pass)."""
    graph, _ = abstract_model(weights.config.model.to_dict())
    null = weights.config.model.classes

    @jax.jit
    def both(params, labels, scale):
        model = nnx.merge(graph, params)
        pair = jnp.concatenate([labels, jnp.full_like(labels, null)])
        keys = jax.random.split(jax.random.key(seed), len(labels))
        prompt = model.prompt(labels if scale is None else pair)
        more = dict(filters=Filters(), scale=scale, until=until, keep_logits=True)
        codes, logits = sampling.sample(model, prompt, keys, **more)
        b, books, tokens = codes.shape
        hidden = model.hidden(jnp.concatenate([codes, codes]), model.prompt(pair))
        rows = jnp.concatenate([codes, codes]).transpose(0, 2, 1).reshape(-1, books)
        whole = model.logits(hidden.reshape(2 * b * tokens, -1), rows)
        whole = whole.reshape(2, b, tokens, books, -1).transpose(0, 1, 3, 2, 4)
        return codes, logits, whole

    return jax.device_get(both(weights.params, labels, scale))


@pytest.fixture(scope="module")
def weights():
    return generators.weights()


@pytest.mark.slow
@pytest.mark.parametrize("head", [{"head_depth": 0}, {}, {"head_width": 32}], ids=str)
def test_guidance_of_each_codebook_and_token(head):
    """null + scale (given - null), of the scale at that place; and 1 where it is not guided."""
    weights = generators.weights(**head)
    scale = np.random.default_rng(0).uniform(0, 4, (6, 2)).astype(np.float32)
    _, logits, (given, null) = run(weights, np.array([0, 1, 2, 2]), scale, until=4)
    assert np.abs(given - null).max() > 0.1
    scale[4:] = 1
    np.testing.assert_allclose(
        logits, null + scale.T[:, :, None] * (given - null), rtol=1e-4, atol=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("until", [1, 3, 5])
def test_an_interval_is_a_scale_of_one_behind_it(weights, until):
    labels = np.arange(16) % 3
    scale = np.full((6, 2), 3.0, np.float32)
    codes, logits, _ = run(weights, labels, scale, until)
    scale[until:] = 1
    again, same, _ = run(weights, labels, scale)
    np.testing.assert_array_equal(codes, again)
    np.testing.assert_allclose(logits, same, atol=1e-5)


@pytest.mark.slow
def test_unguided_logits_are_of_the_prompt_alone(weights):
    _, logits, (given, null) = run(weights, np.array([0, 1, 2, 1]))
    np.testing.assert_allclose(logits, given, rtol=1e-5, atol=1e-5)
    assert np.abs(given - null).max() > 0.1


@pytest.mark.parametrize("head_depth", [0, 1])
def test_logits_of_a_bfloat16_model_are_float32(head_depth):
    """Products of bfloat16 are not rounded to it, in drawing and in training. (XLA may leave that
    rounding out: numbers tell nothing.)"""
    weights = generators.weights(head_depth=head_depth, dtype="bfloat16")
    graph, _ = abstract_model(weights.config.model.to_dict())
    codes = jnp.zeros((3, 2, 6), int)

    def loss(params):
        model = nnx.merge(graph, params)
        return objective.losses(model, codes, model.prompt(jnp.arange(3)), chunk=3).mean()

    for jaxpr in (traced(weights, 3), jax.make_jaxpr(loss)(weights.params)):
        found = [e for e in equations(jaxpr) if e.primitive.name == "dot_general"]
        last = [e for e in found if e.outvars[0].aval.shape[-1] == 8]
        assert last
        for product in last:
            dtypes = [v.aval.dtype for v in (*product.invars, *product.outvars)]
            assert dtypes == [jnp.bfloat16, jnp.bfloat16, jnp.float32]


def test_behind_the_guided_tokens_half_the_batch_is_left(weights):
    """A scan of the prompts and null prompts, and one of the prompts alone."""
    jaxpr = traced(weights, 3, guided=True, until=2)
    scans = [e for e in jaxpr.eqns if e.primitive.name == "scan"]
    rows = [{left[0] for left, _ in products(e.params["jaxpr"])} for e in scans]
    assert [e.params["length"] for e in scans] == [2, 4]
    assert rows == [{6}, {3}]


@pytest.mark.parametrize("head_depth", [0, 1])
def test_the_head_is_not_run_for_known_tokens(head_depth):
    weights = generators.weights(head_depth=head_depth)
    jaxpr = traced(weights, 3, known=np.arange(6) < 2)
    (choice,) = (e for e in equations(jaxpr) if e.primitive.name == "cond")
    drawn, kept = (products(branch) for branch in choice.params["branches"])
    assert not kept and len(drawn) == 1 + 7 * head_depth  # the logits; and those of a block
    assert sorted(products(jaxpr)) == sorted(products(traced(weights, 3)))


@pytest.mark.slow
def test_texts_in_bfloat16():
    """The stream is float32 from the prompt on, as in training; no `valid`: all tokens are."""
    found = generators.weights(prompt="text", text_tokens=3, text_features=5, dtype="bfloat16")
    graph, _ = abstract_model(found.config.model.to_dict())
    features = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3, 5)), jnp.float32)

    @jax.jit
    def draw(params):
        model = nnx.merge(graph, params)
        prompt = model.prompt(features, jnp.zeros(4, bool))
        keys = jax.random.split(jax.random.key(0), 4)
        both = [
            sampling.sample(model, prompt, keys, filters=Filters(), valid=valid)[0]
            for valid in (None, jnp.ones((4, 3), bool))
        ]
        return prompt, *both

    prompt, codes, same = draw(found.params)
    assert prompt.dtype == jnp.float32 and len(np.unique(codes)) > 2
    np.testing.assert_array_equal(codes, same)


@pytest.mark.parametrize("kind, cosine", [("zero", 0), ("identity", 1)])
def test_positions_of_the_prompt_stand_before_those_of_the_grid(kind, cosine):
    keys = generators.model_keys(
        grid=(3, 5), prompt="text", text_tokens=2, text_features=4, prompt_rope=kind
    )
    model = Generator(**keys, rngs=Keys(0))
    assert model.rope.shape == (2 + 15, 8, 2)
    assert (model.rope[:2, :, 0] == cosine).all() and (model.rope[:2, :, 1] == 0).all()
    np.testing.assert_array_equal(model.rope[2:], grid_rope(3, 5, 16))
