"""Sampling: frequencies of draws are probabilities, and guidance is the equation's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from helpers import generators
from unitok_jax.generate import sampling
from unitok_jax.generate.sampling import Filters
from unitok_jax.generate.step import abstract_model

LOGITS = np.array([1.0, 2.0, 0.5, -1.0, 1.5, 0.0], np.float32)
DRAWS = 20_000


def expected(filters):
    """Probabilities of the draws from `LOGITS`, by the words of the definitions."""
    p = np.exp(LOGITS / filters.temperature)
    ranked = np.argsort(-p)
    if filters.top_k:
        p[ranked[filters.top_k :]] = 0
    p /= p.sum()
    kept, mass = [], 0.0
    for entry in ranked:
        if mass > filters.top_p:
            break
        kept.append(entry)
        mass += p[entry]
    p[np.setdiff1d(ranked, kept)] = 0
    return p / p.sum()


def check_frequencies(counts, p):
    """Within five deviations of what so many draws give; what cannot be drawn never is."""
    draws = counts.sum()
    assert (counts[p == 0] == 0).all()
    assert (np.abs(counts / draws - p) <= 5 * np.sqrt(p * (1 - p) / draws) + 1e-12).all()


FILTERS = pytest.mark.parametrize(
    "filters",
    [
        Filters(),
        Filters(temperature=0.5),
        Filters(temperature=3.0),
        Filters(top_k=1),
        Filters(top_k=3),
        Filters(top_p=0.5),
        Filters(top_p=0.8),
        Filters(temperature=2.0, top_k=4, top_p=0.6),
    ],
)


@FILTERS
def test_frequencies_of_draws(filters):
    keys = jax.random.split(jax.random.key(0), DRAWS)
    logits = jnp.tile(LOGITS, (DRAWS, 1))
    codes = sampling.choose(logits, keys, jnp.int32(7), filters)
    check_frequencies(np.bincount(codes, minlength=6), expected(filters))


@FILTERS
def test_numbers_that_a_program_is_called_with(filters):
    """They filter as those that it is compiled for; powers of two share a program."""
    logits = jnp.asarray(np.random.default_rng(0).normal(0, 2, (50, 6)), jnp.float32)
    compiled, numbers = filters.split()
    assert (numbers == {}) == (filters == Filters()) and compiled.most in (0, 1, 4)
    call = jax.jit(lambda logits, n: sampling.filter_logits(logits, compiled._replace(**n)))
    np.testing.assert_allclose(
        call(logits, numbers), sampling.filter_logits(logits, filters), rtol=1e-6
    )


def test_temperature_zero_takes_the_largest():
    keys = jax.random.split(jax.random.key(0), 4)
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)), jnp.float32)
    codes = sampling.choose(logits, keys, jnp.int32(0), Filters(temperature=0.0))
    np.testing.assert_array_equal(codes, logits.argmax(-1))


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
@pytest.mark.parametrize("head_depth", [0, 1])
def test_guidance_of_each_codebook_and_token(head_depth):
    """null + scale (given - null), of the scale at that place; and 1 where it is not guided."""
    weights = generators.weights(head_depth=head_depth)
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
