"""Draws from logits: frequencies are probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitok_jax.models.sampling import Filters, choose, filter_logits

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
    codes = choose(logits, keys, jnp.int32(7), filters)
    check_frequencies(np.bincount(codes, minlength=6), expected(filters))


@FILTERS
def test_numbers_that_a_program_is_called_with(filters):
    """They filter as those that it is compiled for; powers of two share a program."""
    logits = jnp.asarray(np.random.default_rng(0).normal(0, 2, (50, 6)), jnp.float32)
    compiled, numbers = filters.split()
    assert (numbers == {}) == (filters == Filters()) and compiled.most in (0, 1, 4)
    call = jax.jit(lambda logits, n: filter_logits(logits, compiled._replace(**n)))
    np.testing.assert_allclose(call(logits, numbers), filter_logits(logits, filters), rtol=1e-6)


def test_temperature_zero_takes_the_largest():
    keys = jax.random.split(jax.random.key(0), 4)
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)), jnp.float32)
    codes = choose(logits, keys, jnp.int32(0), Filters(temperature=0.0))
    np.testing.assert_array_equal(codes, logits.argmax(-1))
