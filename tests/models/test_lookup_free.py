"""FSQ and BSQ: every code, and each against brute force."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from unitok_jax.models import layers
from unitok_jax.models.quantizers import lookup_free
from unitok_jax.models.quantizers.base import split_chunks
from unitok_jax.models.unitok import QUANTIZERS

# vocab_size, num_codebooks, latent_width: 64 entries for 4 books
SIZES = {"fsq": (256, 4, 12), "bsq": (256, 4, 24)}


def make(kind, *sizes):
    return QUANTIZERS[kind](*sizes or SIZES[kind], commitment_weight=0.25, rngs=nnx.Rngs(0))


def latents(kind, batch=2):
    return 2 * jax.random.normal(jax.random.key(1), (batch, 5, SIZES[kind][2]))


class TestFiniteScalar:
    @pytest.mark.parametrize(
        "entries, channels, levels",
        [
            (240, 3, (8, 6, 5)),
            (1000, 4, (8, 5, 5, 5)),
            (4096, 4, (8, 8, 8, 8)),
            (4096, 8, (4, 4, 4, 4, 2, 2, 2, 2)),
            (4375, 5, (7, 5, 5, 5, 5)),
            (15360, 5, (8, 8, 8, 6, 5)),
            (64000, 6, (8, 8, 8, 5, 5, 5)),
            (2**18, 18, (2,) * 18),
            (7, 1, (7,)),
            (7, 2, None),
            (1, 1, None),
        ],
    )
    def test_levels(self, entries, channels, levels):
        assert lookup_free.choose_levels(entries, channels) == levels

    @pytest.mark.parametrize("entries, channels", [(60, 3), (96, 2), (64, 6), (30, 3), (5, 1)])
    def test_every_code_and_back(self, entries, channels):
        module = make("fsq", 2 * entries, 2, 2 * channels)
        codes = jnp.tile(jnp.arange(entries, dtype=jnp.int32), (1, 2, 1))
        values = module.lookup(codes)
        assert np.abs(values).max() == 1
        assert len(np.unique(values[0], axis=0)) == entries
        latent = jnp.arctanh(values * (1 - 1e-4))
        np.testing.assert_array_equal(module.indices(latent), codes)

    def test_nearest_value_by_brute_force(self):
        module, latent = make("fsq"), latents("fsq")
        assert module.levels == (4, 4, 4)
        every = module.lookup(jnp.tile(jnp.arange(64), (1, 4, 1)))
        values = np.asarray(split_chunks(every, 4))[0]  # (K, V, C)
        chunks = np.tanh(np.asarray(split_chunks(latent, 4)))
        square = ((chunks[:, :, :, None] - values[None, :, None]) ** 2).sum(-1)
        np.testing.assert_array_equal(module.indices(latent), square.argmin(-1))

    def test_the_first_channel_is_the_lowest_digit(self):
        module = make("fsq", 30, 1, 3)  # levels 5, 3, 2
        low = module.lookup(jnp.zeros((1, 1, 1), jnp.int32))
        np.testing.assert_array_equal(low, [[[-1, -1, -1]]])
        np.testing.assert_allclose(module.lookup(jnp.array([[[1]]])), [[[-0.5, -1, -1]]])
        np.testing.assert_allclose(module.lookup(jnp.array([[[5]]])), [[[-1, 0, -1]]])
        np.testing.assert_allclose(module.lookup(jnp.array([[[15]]])), [[[-1, -1, 1]]])

    def test_levels_that_are_told(self):
        """AToken's groups of channels, and digits in the order that is told."""
        shape = dict(commitment_weight=0.25, rngs=nnx.Rngs(0))
        groups = QUANTIZERS["fsq"](8 * 4096, 8, 48, levels=[4] * 6, **shape)
        assert (groups.levels, groups.num_codebooks, groups.entries) == ((4,) * 6, 8, 4096)
        codes = jnp.tile(jnp.arange(4096), (1, 8, 1))
        latent = jnp.arctanh(groups.lookup(codes) * (1 - 1e-4))
        np.testing.assert_array_equal(groups(latent).codes, codes)
        uneven = QUANTIZERS["fsq"](30, 1, 2, levels=(2, 15), **shape)
        np.testing.assert_allclose(uneven.lookup(jnp.array([[[3]]])), [[[1, -1 + 2 / 14]]])

    @pytest.mark.parametrize("levels", [(4, 4), (4, 4, 8), (2, 2, 2, 8)], ids=str)
    def test_levels_that_do_not_fit(self, levels):
        words = r"3 levels, model\.latent_width=12 .* multiply to 64, model\.vocab_size=256"
        with pytest.raises(ValueError, match=rf"model\.fsq_levels=\({levels[0]}, .* {words}"):
            QUANTIZERS["fsq"](*SIZES["fsq"], commitment_weight=0.0, rngs=nnx.Rngs(0), levels=levels)

    def test_nothing_to_learn(self):
        module = make("fsq")
        assert not jax.tree.leaves(nnx.state(module, nnx.Param))
        assert module(latents("fsq")).loss == 0

    def test_entropy_is_refused(self):
        with pytest.raises(ValueError, match="'fsq' has no entropy loss; set loss.entropy=0"):
            make("fsq")(latents("fsq"), entropy=True)

    @pytest.mark.parametrize(
        "sizes, words",
        [
            ((256, 4, 28), ["vocab_size=256", "latent_width=28", "at most 24", "6 per chunk"]),
            ((28, 4, 8), ["vocab_size=28", "7 codes", "2 levels", "at most 4"]),
            ((4, 4, 8), ["vocab_size=4", "1 codes", "larger model.vocab_size"]),
            ((256, 4, 30), ["num_codebooks=4", "latent_width=30"]),
        ],
    )
    def test_sizes_that_do_not_fit(self, sizes, words):
        with pytest.raises(ValueError) as error:
            make("fsq", *sizes)
        assert all(word in str(error.value) for word in words), error.value


class TestBinarySpherical:
    @pytest.mark.parametrize("channels", [1, 5, 12])
    def test_every_code_and_back(self, channels):
        entries = 2**channels
        module = make("bsq", 2 * entries, 2, 2 * channels)
        codes = jnp.tile(jnp.arange(entries, dtype=jnp.int32), (1, 2, 1))
        values = module.lookup(codes)
        np.testing.assert_allclose(np.abs(values), channels**-0.5, rtol=1e-6)
        assert len(np.unique(values[0], axis=0)) == entries
        np.testing.assert_array_equal(module.indices(values), codes)

    def test_nearest_corner_by_brute_force(self):
        module, latent = make("bsq"), latents("bsq")
        corners = np.array(list(itertools.product((-1, 1), repeat=6)))[:, ::-1] / 6**0.5
        chunks = np.asarray(layers.l2_normalize(split_chunks(latent, 4)))
        square = ((chunks[..., None, :] - corners) ** 2).sum(-1)
        out = module(latent)
        np.testing.assert_array_equal(out.codes, square.argmin(-1))
        # (B, K, N, V) -> the commitment: a quarter of the mean over all values
        assert float(out.loss) == pytest.approx(0.25 * square.min(-1).mean() / 6, rel=1e-5)

    def test_entropy_by_brute_force(self):
        """Over all 64 corners a sample's entropy is the same; that of the mean is at most ours."""
        module, latent = make("bsq"), latents("bsq", batch=3)
        ours = float(module(latent, entropy=True).entropy_loss)
        corners = np.array(list(itertools.product((-1, 1), repeat=6))) / 6**0.5
        chunks = np.asarray(layers.l2_normalize(split_chunks(latent, 4)), np.float64)
        logits = -((chunks[..., None, :] - corners) ** 2).sum(-1) / 0.01
        p = np.exp(logits - logits.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)  # (B, K, N, 64)
        sample = -(p * np.log(p + 1e-300)).sum(-1).mean()
        mean = p.mean((0, 2))
        bits = (mean[:, :, None] * (corners > 0)).sum(1)  # (K, C): part of positive bits
        of_bits = -(bits * np.log(bits) + (1 - bits) * np.log(1 - bits)).sum(-1).mean()
        joint = -(mean * np.log(mean + 1e-300)).sum(-1).mean()
        assert ours == pytest.approx(sample - of_bits, rel=1e-4)
        assert joint < of_bits <= 6 * np.log(2)

    @pytest.mark.parametrize(
        "sizes, words",
        [
            ((256, 4, 32), ["64 codes", "latent_width=32", "set model.latent_width=24", "=1024"]),
            ((240, 4, 24), ["60 codes", "not 2^6", "set model.vocab_size=256"]),
            ((64, 4, 2**18), ["not 2^65536", "set model.latent_width=16 or a smaller"]),
            ((256, 4, 30), ["num_codebooks=4", "latent_width=30"]),
        ],
    )
    def test_sizes_that_do_not_fit(self, sizes, words):
        with pytest.raises(ValueError) as error:
            make("bsq", *sizes)
        assert all(word in str(error.value) for word in words), error.value
