"""Wrong codes: which tokens get them, which rows they are of, and what they leave alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from unitok_jax.models.quantizers import wrong_codes
from unitok_jax.models.quantizers.base import Learning
from unitok_jax.models.quantizers.wrong_codes import Wrong, near_rows, replace_codes
from unitok_jax.models.unitok import QUANTIZERS

pytestmark = pytest.mark.slow

ROWS = np.random.default_rng(0).standard_normal((2, 40, 5)).astype(np.float32)
CODES = np.random.default_rng(1).integers(0, 40, (64, 2, 128)).astype(np.int32)


def replaced(share, near=4, key=3):
    wrong = Wrong(jax.random.key(key), jnp.float32(share), near)
    return np.asarray(jax.jit(lambda codes: replace_codes(codes, ROWS, wrong))(CODES))


@pytest.mark.parametrize("block", [1024, 16], ids=["one block", "blocks and a rest"])
def test_near_rows_by_brute_force(block, monkeypatch):
    monkeypatch.setattr(wrong_codes, "_BLOCK", block)
    distance = np.linalg.norm(ROWS[:, :, None] - ROWS[:, None], axis=-1)
    expected = distance.argsort(axis=-1)[..., 1:8]  # the first is the row itself
    np.testing.assert_array_equal(near_rows(jnp.asarray(ROWS), 7), expected)


def test_a_share_of_the_tokens_gets_near_rows_in_all_codes():
    """Within four standard deviations of what the share and an even draw say."""
    found, near = replaced(0.3), np.asarray(near_rows(jnp.asarray(ROWS), 4))
    other = found != CODES
    assert (other[:, 0] == other[:, 1]).all()  # all codes of a token, or none
    tokens = other[:, 0]
    assert abs(tokens.mean() - 0.3) < 4 * (0.3 * 0.7 / tokens.size) ** 0.5
    draws = near[np.arange(2)[:, None], CODES] == found[..., None]  # (B, K, N, near)
    assert (draws.sum(-1) == other).all()
    count = tokens.sum()
    for book in range(2):
        share = draws[:, book].sum((0, 1)) / count
        assert np.abs(share - 0.25).max() < 4 * (0.25 * 0.75 / count) ** 0.5
    both = draws[:, 0].argmax(-1)[tokens] == draws[:, 1].argmax(-1)[tokens]
    assert abs(both.mean() - 0.25) < 4 * (0.25 * 0.75 / count) ** 0.5  # each book draws by itself


def test_the_key_says_it_all():
    np.testing.assert_array_equal(replaced(0.3), replaced(0.3))
    assert (replaced(0.3) != replaced(0.3, key=4)).mean() > 0.3
    np.testing.assert_array_equal(replaced(0.0), CODES)
    assert (replaced(1.0) != CODES).all()


def test_without_a_share_no_near_rows_are_sought(monkeypatch):
    """As of the last steps of a run, in the very program of those before them."""
    sought = []

    def counted(rows, count):
        jax.debug.callback(lambda: sought.append(count))
        return near_rows(rows, count)

    monkeypatch.setattr(wrong_codes, "near_rows", counted)
    replace = jax.jit(lambda share: replace_codes(CODES, ROWS, Wrong(jax.random.key(0), share, 4)))
    for share, times in ((0.0, 0), (0.3, 1), (0.0, 1)):
        replace(jnp.float32(share)).block_until_ready()
        jax.effects_barrier()
        assert len(sought) == times


@pytest.mark.parametrize("kind", ["multi_codebook", "residual"])
def test_only_the_output_is_of_wrong_codes(kind):
    module = QUANTIZERS[kind](256, 4, 32, commitment_weight=0.25, rngs=nnx.Rngs(0))
    latent = jax.random.normal(jax.random.key(1), (2, 50, 32))
    wrong = Wrong(jax.random.key(2), jnp.float32(0.5), 3)

    def run(latent, learning):
        out = module(latent, learning=learning)
        return out.latent, (out.codes, out.loss)

    sent, pull, (codes, loss) = jax.vjp(
        lambda x: run(x, Learning(wrong=wrong)), latent, has_aux=True
    )
    plain, straight, expected = jax.vjp(lambda x: run(x, Learning()), latent, has_aux=True)
    np.testing.assert_array_equal(codes, expected[0])
    assert loss == expected[1]
    np.testing.assert_allclose(pull(latent)[0], straight(latent)[0], atol=1e-6)
    rows = module.rows() if kind == "multi_codebook" else module.levels[...]
    np.testing.assert_allclose(sent, module.lookup(replace_codes(codes, rows, wrong)), atol=1e-6)
    share = (np.abs(sent - plain).max(-1) > 1e-5).mean()
    assert 0.3 < share < 0.7
